"""A certificate computed again from its own numbers: as it was, and in a second way that owes it nothing.

First the recorded seed must give the recorded evidence: primes, error bound and counts. Then every statement
is derived once more, from primes of a seed that is not the recorded one, or by the oracle in exact rationals.
What is compared is compared field by field, so that an edited one is named.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

import torch

from tiebreak.design.axes import UserError
from tiebreak.exact import oracle
from tiebreak.exact.certificate import Certificate, Mode, PoolTruth, Verdict
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.files import Stored, Unpacked, answer_tree, evidence_tree, labels_of
from tiebreak.exact.gap_relations import broken_relations
from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    Reshape,
)
from tiebreak.exact.memory import images_that_fit
from tiebreak.exact.primes import draw_primes
from tiebreak.exact.rules import TieRule, label_of
from tiebreak.exact.separation import Draw, Ties, difference, interval, ties
from tiebreak.numerics.selection import has_entry

MOST_PRODUCTS = 100_000_000
"""Products of rationals that the oracle is asked for: a few minutes at a microsecond or two each."""

_RATIONAL = (Input, Conv2d, Linear, Affine, ReLU, MaxPool2d, AveragePool2d, Reshape, Add, Concat)
_WORK = frozenset({"evidence.num_escalated", "evidence.digits"})
_ERROR = "evidence.log2_error"
_BY_FILTER = frozenset({"evidence.num_equalities", "evidence.primes", _ERROR})
_BOUNDS = frozenset({_ERROR, "evidence.bits"})
_SAME_BOUND = 2.0**-20
"""Bounds are logarithms of sums in float64, which machines add in different orders. What float64 leaves open,
and so has to be compared modulo primes, may differ as well: by a bit in the error bound at the very most."""


class Standing(StrEnum):
    """What a comparison found: the same; another value; one that may differ between machines; nothing.

    `OPEN`: what is recorded can be true and could not be derived here.
    """

    SAME = "ok"
    OTHER = "WRONG"
    NOTED = "noted"
    OPEN = "open"


@dataclass(frozen=True)
class Finding:
    """One field compared.

    Attributes:
        field: the way to it in the certificate.
        standing: what was found.
        text: the values, and how they were found.
        recorded: the value in the certificate, where there are two.
        found: the other.
    """

    field: str
    standing: Standing
    text: str
    recorded: Any = None
    found: Any = None


def recheck(
    unpacked: Unpacked,
    *,
    slow: bool = False,
    seed: int | None = None,
    mode: Mode | None = None,
    chunk: int | None = None,
) -> Iterator[Finding | Certificate]:
    """Compute a certificate again, field by field.

    Args:
        unpacked: the certificate.
        slow: derive every statement in exact rationals, in place of fresh primes.
        seed: of the fresh primes; None draws one.
        mode: of the second derivation; None takes that of the certificate.
        chunk: images at a time; None chooses by memory.

    Yields:
        A finding for every field; last the certificate of the second derivation.

    Raises:
        UserError: the recorded seed for fresh primes; a network that the oracle would take hours for, or that
            does not fit into memory.
    """
    stored = unpacked.stored
    recorded = stored.certificate
    if seed == recorded.evidence.seed:
        raise UserError(
            f"the seed {seed} is the one of the certificate, and its primes prove nothing new. Give another."
        )
    if slow:
        _refuse_slow(stored)
    for section in unpacked.altered:
        yield Finding(section, Standing.OTHER, "its SHA-256 is another: it was edited")
    again = _certify(stored, seed=recorded.evidence.seed, mode=recorded.evidence.mode, chunk=chunk)
    found, said = (evidence_tree(certificate) for certificate in (again, recorded))
    yield from _settled(stored, _compare({"evidence": said}, {"evidence": found}, "recorded seed"))
    if stored.mode is not recorded.evidence.mode:
        yield Finding("question.mode", Standing.OTHER, f"{stored.mode}, and the evidence is of another mode")
    if recorded.nonfinite is None and slow:
        second, how = _by_oracle(stored), "exact rationals"
    else:
        fresh = seed
        while fresh is None or fresh == recorded.evidence.seed:
            fresh = secrets.randbits(63)
        second = _certify(stored, seed=fresh, mode=mode or stored.mode, chunk=chunk)
        how = f"fresh primes of the seed {fresh}" if second.evidence.primes else "signs and orders alone"
    yield from _settled(
        stored, _compare({"answer": answer_tree(recorded)}, {"answer": answer_tree(second)}, how)
    )
    if _has_batch_statistics(stored.graph) and recorded.nonfinite is None:
        with torch.no_grad():
            yield from list(_separations(stored))
    for field, problem in broken_relations(stored.gaps, parameters=stored.graph.parameters):
        yield Finding(f"floats.{field}", Standing.OTHER, problem)
    judged = recorded if _has_batch_statistics(stored.graph) else second
    for rule, label in labels_of(stored.gaps, judged).items():
        recorded_label = {"label": str(unpacked.labels[rule])}
        yield from _compare(
            {"floats": {rule: recorded_label}}, {"floats": {rule: {"label": str(label)}}}, "gap and verdict"
        )
    yield second


def _settled(stored: Stored, found: Iterator[Finding]) -> Iterator[Finding]:
    """Findings about batch norm in training mode, where float64 decides, weighed as what they are.

    Which windows its filter leaves open, and how wide an interval is, depends on how a machine rounds. So
    two runs may truly say `no` and `undecided`, name primes and no primes, and prove D != 0 in other entries;
    they can never truly say `yes` and `no`. What is recorded of a separation is judged by `_separations`.
    """
    for finding in found:
        if finding.standing is not Standing.OTHER or not _has_batch_statistics(stored.graph):
            yield finding
            continue
        standing = finding.standing
        if finding.field == "answer.reason" or (finding.field in _BY_FILTER and _is_of_a_filter(stored)):
            standing = Standing.NOTED
        for verdict in stored.certificate.verdicts:
            within = finding.field.removeprefix(f"answer.verdicts.{verdict.rule}.")
            if within == "different" and None in (finding.recorded, finding.found):
                standing = Standing.NOTED if finding.recorded is None else Standing.OPEN
            elif within.startswith("separation.") or _is_a_count(stored, verdict, within):
                standing = Standing.NOTED
        text = finding.text
        if standing is not Standing.OTHER:
            text = f"{text}: what float64 leaves open of batch norm in training mode is the machine's"
        yield replace(finding, standing=standing, text=text)


def _is_a_count(stored: Stored, verdict: Verdict, within: str) -> bool:
    """Whether a field is a number of entries that could have been found on another machine."""
    if not within.startswith("num_nonzero."):
        return False
    name = within.removeprefix("num_nonzero.")
    recorded = verdict.num_nonzero.get(name, 0)
    most = math.prod(stored.graph.parameters.get(name, (0,)))
    return recorded <= (most if verdict.different else 0)


def _separations(stored: Stored) -> Iterator[Finding]:
    """The entry that a certificate says to be away from 0, enclosed once more."""
    seed = stored.certificate.evidence.seed
    asked = {"mode": stored.certificate.evidence.mode, "seed": seed}
    draw = Draw.of(stored.graph, stored.cotangent, log2_error=stored.log2_error, **asked)
    found: Ties | None = None
    for verdict, jacobian in zip(stored.certificate.verdicts, stored.jacobians, strict=True):
        proof = verdict.separation
        path = f"answer.verdicts.{verdict.rule}.separation"
        if (proof is not None) != bool(verdict.different):
            yield Finding(path, Standing.OTHER, "it goes with a verdict that D is not 0, and with no other")
            continue
        if proof is None:
            continue
        shape = stored.graph.parameters.get(proof.tensor, ())
        if len(shape) != len(proof.index) or not all(
            at < size for at, size in zip(proof.index, shape, strict=True)
        ):
            yield Finding(path, Standing.OTHER, f"there is no entry {list(proof.index)} of {proof.tensor}")
            continue
        if not (proof.low <= proof.high and (proof.low > 0 or proof.high < 0)):
            yield Finding(path, Standing.OTHER, f"[{proof.low}, {proof.high}] is no interval without 0")
            continue
        found = found or ties(stored.graph, draw=draw, **asked)
        entries = (
            {} if found.open else difference(stored.graph, stored.cotangent, found, TieRule.of(jacobian))
        )
        if proof.tensor not in entries:
            yield Finding(path, Standing.OPEN, "the windows that it rests on are open on this machine")
            continue
        low, high = interval(entries[proof.tensor], proof.index)
        text = f"[{proof.low:.9g}, {proof.high:.9g}] recorded, [{low:.9g}, {high:.9g}] here"
        standing = Standing.OTHER if low > proof.high or high < proof.low else Standing.SAME
        if standing is Standing.SAME and low <= 0 <= high:
            standing = Standing.OPEN
        yield Finding(path, standing, text)


def _has_batch_statistics(graph: Graph) -> bool:
    return any(isinstance(node.operation, BatchNorm2d) for node in graph.nodes)


def _is_of_a_filter(stored: Stored) -> bool:
    """Whether primes and error bound are those that go together, whichever windows were left open."""
    evidence = stored.certificate.evidence
    draw = Draw.of(
        stored.graph, stored.cotangent, mode=evidence.mode, log2_error=stored.log2_error, seed=evidence.seed
    )
    return any(
        evidence.primes
        == draw_primes(max(draw.hashes * hashes, draw.residues * residues), seed=evidence.seed)
        and (
            evidence.log2_error == (bound := draw.error(by_hashes=hashes, by_residues=residues))
            or _are_close(evidence.log2_error, bound, _SAME_BOUND)
        )
        for hashes in (False, True)
        for residues in (False, True)
    )


def num_products(stored: Stored) -> int:
    """Products of rationals that the oracle takes: one way forward, two ways back a rule."""
    forward = 0
    for node in stored.graph.nodes:
        match node.operation:
            case Conv2d(weight=weight) | Linear(weight=weight):
                forward += math.prod(node.shape) * weight.value[0].numel()
            case MaxPool2d(geometry):
                forward += math.prod(node.shape) * geometry.num_entries
            case _:
                forward += math.prod(node.shape)
    return forward * (1 + 2 * (1 + len(stored.jacobians)))


def _refuse_slow(stored: Stored) -> None:
    """Say so where the oracle has no rationals for an operation, or too many products to take."""
    for node in stored.graph.nodes:
        if not isinstance(node.operation, _RATIONAL):
            raise UserError(
                f"the slow path has no exact rationals for {type(node.operation).__name__} at {node.where}. "
                "Leave --slow out: fresh primes check the same fields."
            )
    number = num_products(stored)
    if number > MOST_PRODUCTS:
        raise UserError(
            f"the slow path would take {number:.2g} products of rationals, and it is meant for "
            f"{MOST_PRODUCTS:.2g} at most. Leave --slow out: fresh primes check the same fields. Or certify "
            "a smaller batch."
        )


def _certify(stored: Stored, *, seed: int, mode: Mode, chunk: int | None) -> Certificate:
    fitting = images_that_fit(
        stored.graph,
        stored.cotangent,
        jacobians=stored.jacobians,
        mode=mode,
        log2_error=stored.log2_error,
        chunk=chunk,
    )
    return certify_graph(
        stored.graph,
        stored.cotangent,
        jacobians=stored.jacobians,
        mode=mode,
        log2_error=stored.log2_error,
        seed=seed,
        chunk=fitting,
    )


def _by_oracle(stored: Stored) -> Certificate:
    """The answer in exact rationals; no primes, no bounds, no error."""
    graph = stored.graph
    values = oracle.evaluate(graph)
    native = oracle.derivative(graph, values, stored.cotangent, TieRule(Fraction(0)))
    verdicts = []
    for jacobian in stored.jacobians:
        other = oracle.derivative(graph, values, stored.cotangent, TieRule.of(jacobian))
        counts = {
            name: sum(one != two for one, two in zip(entries, other[name], strict=True))
            for name, entries in native.items()
        }
        counts = {name: count for name, count in counts.items() if count}
        verdicts.append(Verdict(rule=label_of(jacobian), different=bool(counts), num_nonzero=counts))
    tied = oracle.tied(graph, values)
    return Certificate(
        verdicts=tuple(verdicts),
        pools=tuple(_truth(graph, index, tied[index], values[index]) for index in graph.pools),
        evidence=replace(
            stored.certificate.evidence, mode=Mode.PROOF, primes=(), log2_error=-math.inf, num_equalities=0
        ),
        nonfinite=None,
    )


def _truth(graph: Graph, index: int, tied: Sequence[tuple[int, ...]], value: oracle.Value) -> PoolTruth:
    """The counts of a pool, window by window."""
    node = graph.nodes[index]
    operation = node.operation
    assert isinstance(operation, MaxPool2d)
    bits = [
        has_entry(operation.float_mask, entry).flatten() for entry in range(operation.geometry.num_entries)
    ]
    floats = [
        tuple(entry for entry, held in enumerate(window) if held)
        for window in zip(*(bit.tolist() for bit in bits), strict=True)
    ]
    pairs = list(zip(tied, floats, strict=True))
    dead = _is_behind_relu(graph, node.inputs[0])
    return PoolTruth(
        where=node.where,
        windows=len(pairs),
        tied=sum(len(real) > 1 for real, _ in pairs),
        tied_at_dead_zero=sum(
            dead and len(real) > 1 and top == 0 for real, top in zip(tied, value.values(), strict=True)
        ),
        tied_in_floats=sum(len(found) > 1 for _, found in pairs),
        tied_only_by_rounding=sum(len(found) > 1 == len(real) for real, found in pairs),
        missed_by_rounding=sum(len(real) > 1 and len(found) < 2 for real, found in pairs),
        other_maxima=sum(real != found for real, found in pairs),
    )


def _is_behind_relu(graph: Graph, index: int) -> bool:
    """Whether a 0 at a node can only be one that a ReLU lets no gradient through."""
    node = graph.nodes[index]
    match node.operation:
        case ReLU():
            return True
        case Reshape() | MaxPool2d() | Concat():
            return all(_is_behind_relu(graph, source) for source in node.inputs)
        case _:
            return False


def _compare(recorded: Any, found: Any, how: str) -> Iterator[Finding]:
    """Leaf by leaf; a leaf that is in one tree only is compared with nothing."""
    said, now = (dict(_leaves(tree, "")) for tree in (recorded, found))
    for field in [*said, *(field for field in now if field not in said)]:
        one, other = (tree.get(field, "absent") for tree in (said, now))
        if one == other or (field in _BOUNDS and _are_close(one, other, _SAME_BOUND)):
            yield Finding(field, Standing.SAME, f"{_shown(one)} ({how})")
        elif field in _WORK or (field == _ERROR and _are_close(one, other, 1.0)):
            text = (
                f"recorded {_shown(one)}, here {_shown(other)}: the filter leaves open what its rounding does"
            )
            yield Finding(field, Standing.NOTED, text)
        else:
            text = f"recorded {_shown(one)}, found {_shown(other)} ({how})"
            yield Finding(field, Standing.OTHER, text, recorded=one, found=other)


def _are_close(one: Any, other: Any, tolerance: float) -> bool:
    numbers = [value for value in (one, other) if isinstance(value, int | float)]
    return len(numbers) == 2 and abs(numbers[0] - numbers[1]) <= tolerance


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every field with the way to it; a list of plain values is one."""
    match tree:
        case dict():
            children = list(tree.items())
        case [dict(), *_]:
            children = list(enumerate(tree))
        case _:
            yield path, tree
            return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value)
