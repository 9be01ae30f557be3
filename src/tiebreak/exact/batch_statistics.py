"""Certificates with batch norm in training mode: D = 0 by `structure`, D != 0 by `separation`, or open."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tiebreak.design.axes import Selection
from tiebreak.exact import primes as prime_numbers
from tiebreak.exact import separation as separate
from tiebreak.exact.certificate import Certificate, Evidence, Mode, Verdict
from tiebreak.exact.graph import Graph
from tiebreak.exact.rules import TieRule
from tiebreak.exact.run import Progress
from tiebreak.exact.structure import structure


def certify_batch_statistics(
    graph: Graph,
    cotangent: Tensor,
    *,
    rules: Sequence[TieRule],
    labels: Sequence[str],
    mode: Mode,
    log2_error: float,
    seed: int,
    progress: Progress,
) -> Certificate:
    """What can be said with batch norm in training mode: equal, different by intervals, or undecided.

    Args:
        graph: the network.
        cotangent: (N, classes) float64.
        rules: compared with PyTorch's.
        labels: of the rules.
        mode: random or proof.
        log2_error: bound of log2 of the probability of a wrong statement in random mode.
        seed: of the primes and of the random weights.
        progress: told what comes next.

    Raises:
        NotCertifiableError: a pool behind an operation through which places cannot be followed.
    """
    draw = separate.Draw.of(graph, cotangent, mode=mode, log2_error=log2_error, seed=seed)
    drawn = prime_numbers.draw_primes(max(draw.hashes, draw.residues), seed=seed)
    with torch.no_grad(), torch.autocast(graph.batch.device.type, enabled=False):
        progress("which patches are equal")
        found = structure(graph, primes=drawn[: draw.hashes], seed=seed)
        verdicts: list[Verdict] = []
        ties: separate.Ties | None = None
        for label, rule in zip(labels, rules, strict=True):
            needs_more = found.live and (mode is Mode.PROOF or rule.selection is Selection.ALL_ONES)
            if not found.open and not needs_more:
                verdicts.append(Verdict(rule=label, different=False, num_nonzero={}))
                continue
            progress(f"intervals for {label}")
            ties = ties or separate.ties(graph, draw=draw, mode=mode, seed=seed)
            verdicts.append(_by_intervals(graph, cotangent, ties, rule, label))
    by_hashes, by_residues = bool(found.live), False
    if ties is not None and any(verdict.different for verdict in verdicts):
        is_equal = any(verdict.different is False for verdict in verdicts)
        by_hashes = ties.by_hashes or (by_hashes and is_equal)
        by_residues = ties.by_residues
    used = max(draw.hashes * by_hashes, draw.residues * by_residues)
    return Certificate(
        verdicts=tuple(verdicts),
        pools=(),
        evidence=Evidence(
            mode=mode,
            seed=seed,
            primes=drawn[:used],
            log2_error=draw.error(by_hashes=by_hashes, by_residues=by_residues),
            bits=0.0,
            num_equalities=found.live,
            num_escalated=0,
            digits=0,
            vacuous=not bool((cotangent != 0).any()),
        ),
        nonfinite=None,
        reason=_undecided(verdicts, ties, mode),
    )


def _by_intervals(graph: Graph, cotangent: Tensor, ties: separate.Ties, rule: TieRule, label: str) -> Verdict:
    """Different, if an interval proves it."""
    undecided = Verdict(rule=label, different=None, num_nonzero={})
    if ties.open:
        return undecided
    entries = separate.difference(graph, cotangent, ties, rule)
    proof = separate.separation(entries)
    if proof is None:
        return undecided
    counts = {name: int(separate.is_apart(ball).sum()) for name, ball in entries.items()}
    counts = {name: counts[name] for name in graph.parameters if counts.get(name)}
    return Verdict(rule=label, different=True, num_nonzero=counts, separation=proof)


def _undecided(verdicts: Sequence[Verdict], ties: separate.Ties | None, mode: Mode) -> str | None:
    """Why a verdict is missing, or None where none is."""
    missing = [verdict.rule for verdict in verdicts if verdict.different is None]
    if ties is None or not missing:
        return None
    begin = "undecided, because batch norm in training mode is not rational"
    if not ties.open:
        equal = "equal patches are told by random hashes, which is no proof" if mode is Mode.PROOF else ""
        return (
            f"{begin}: float64's intervals keep no entry of the derivatives apart for {', '.join(missing)}, "
            f"and {equal or 'nothing says that all are equal'}."
        )
    places = ", ".join(f"{count} window{'s' * (count > 1)} at {where}" for where, count in ties.open.items())
    if mode is Mode.PROOF:
        return (
            f"{begin}: the largest entries of {places} lie within the rounding of float64, and equal patches "
            "are told by random hashes, which is no proof."
        )
    return (
        f"{begin} and the largest entries of {places} come from different patches and lie within the "
        "rounding of float64."
    )
