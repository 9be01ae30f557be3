"""Certificates: is the derivative that automatic differentiation takes at ties a matter of rounding or not?

For a network at floating-point parameters, a batch and a cotangent g at its output, let

    D = backprop with one rule at ties - backprop with PyTorch's rule,

over the reals, one entry a parameter. A certificate says whether D = 0. It is about this g, which both rules
share because they share the forward pass.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, PoolJacobian, Selection, UserError, member
from tiebreak.exact import primes as prime_numbers
from tiebreak.exact import separation as separate
from tiebreak.exact.certificate import Certificate, Evidence, Mode, PoolTruth, Verdict
from tiebreak.exact.contraction import require_exact
from tiebreak.exact.decide import Walk
from tiebreak.exact.dyadic import subnormal_numbers_are_kept
from tiebreak.exact.evaluation import Windows, pixel_numbers
from tiebreak.exact.graph import (
    Affine,
    AveragePool2d,
    BatchNorm2d,
    Graph,
    MaxPool2d,
    NotCertifiableError,
    Operation,
    Parameter,
)
from tiebreak.exact.heights import Heights, heights
from tiebreak.exact.record import record, require_trained
from tiebreak.exact.residues import Adjoint, Residues
from tiebreak.exact.rules import MOST_DIVISOR, Rule, label_of, require_rules
from tiebreak.exact.slices import FixedPoint
from tiebreak.exact.structure import structure
from tiebreak.numerics.selection import has_entry

LOG2_ERROR = -40.0
"""Default bound of log2 of the probability that a certificate in random mode is wrong."""


Loss = Callable[[Tensor, Tensor], Tensor]

Progress = Callable[[str], None]
"""Told what is about to be done; an exception that it raises ends the work."""


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss = functional.cross_entropy,
    jacobians: Sequence[PoolJacobian | Fraction] = (MINIMAL,),
    mode: Mode = Mode.RANDOM,
    log2_error: float = LOG2_ERROR,
    seed: int | None = None,
) -> Certificate:
    """Whether rules at ties change the derivative of a network's loss over the reals, at this very point.

    The network is the module's parameters and the batch as they are, in whatever format, taken for the
    numbers that they hold; it is left as it was. The verdict is about the cotangent `cotangent_of(loss)`.

    Args:
        model: any module of convolutions, linear layers, ReLUs, max and average pools, sums, concatenations
            and batch norm in evaluation mode.
        images: (N, ...), floating point, on the module's device.
        labels: what the loss takes as its second argument.
        loss: scalar from the output (N, classes) and the labels.
        jacobians: rules to compare with PyTorch's.
        mode: random primes up to `log2_error`, or proof.
        log2_error: bound of log2 of the probability of a wrong statement in random mode.
        seed: of the primes; None draws one.

    Raises:
        NotCertifiableError: an operation that is not on the list, with its place.
        UserError: no parameter that asks for a derivative, images without numbers, or no rule to compare.

    Example:
        >>> import torch
        >>> head = (nn.Flatten(), nn.Linear(36, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
        >>> images = torch.zeros(5, 1, 8, 8)  # flat: every window ties, between equal patches
        >>> certificate = certify(net, images, torch.zeros(5, dtype=torch.long))
        >>> certificate.verdicts[0].different
        False
    """
    jacobians = require_rules(jacobians)
    require_trained(model)
    graph, output = record(model, images)
    return certify_graph(
        graph,
        cotangent_of(loss, output, labels),
        jacobians=jacobians,
        mode=mode,
        log2_error=log2_error,
        seed=seed,
    )


def cotangent_of(loss: Loss, output: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the loss with respect to the network's output, in float64 at the output as computed.

    Args:
        loss: scalar from output and labels.
        output: (N, classes) as the program computed it.
        labels: of the batch.

    Returns:
        (N, classes) float64; from here on these numbers are exact.

    Raises:
        UserError: a loss that raises, is not one number, or does not depend on the output.
    """
    leaf = output.detach().double().requires_grad_()
    with torch.enable_grad(), torch.autocast(output.device.type, enabled=False):
        try:
            value = loss(leaf, labels)
        except UserError:
            raise
        except Exception as error:  # the loss may be the user's own, and raise anything
            raise UserError(
                f"the loss cannot take an output of the shape {tuple(output.shape)} and these labels: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise UserError(f"the loss must be one number that depends on the output, got {got}.")
        (cotangent,) = torch.autograd.grad(value, leaf)
    return cotangent


def certify_graph(
    graph: Graph,
    cotangent: Tensor,
    *,
    jacobians: Sequence[PoolJacobian | Fraction] = (MINIMAL,),
    mode: Mode = Mode.RANDOM,
    log2_error: float = LOG2_ERROR,
    seed: int | None = None,
    chunk: int | None = None,
    keep_entries: bool = False,
    progress: Progress | None = None,
) -> Certificate:
    """Whether each rule gives another derivative than PyTorch's, over the reals.

    Args:
        graph: the network at its point, from `record`.
        cotangent: (N, classes) floating point: the derivative of the loss with respect to the output, taken
            as the exact numbers that it holds.
        jacobians: rules to compare with PyTorch's, as Jacobians or as any rational beta.
        mode: `random` for as many random primes as `log2_error` asks for, `proof` for as many as prove it.
        log2_error: in random mode, bound of log2 of the probability of any wrong statement; below 0.
        seed: of the primes; None draws one. A network made by someone who knows the seed can deceive it.
        chunk: images at a time; None chooses by memory.
        keep_entries: keep where D is not 0.
        progress: told which images and which layer come next; None for silence.

    Returns:
        The certificate. A network, batch or cotangent with an infinity or NaN gets no verdict, and says so.

    Raises:
        NotCertifiableError: a sum too long to be exact, a rule without a meaning over the reals, or a library
            whose float64 convolutions are not plain sums of products.
        UserError: a cotangent of another shape, an error bound that is no probability, another mode or seed,
            or no rule to compare.
    """
    jacobians = require_rules(jacobians)
    rules = [Rule.of(jacobian) for jacobian in jacobians]
    labels = [label_of(jacobian) for jacobian in jacobians]
    _check(graph, cotangent, log2_error, chunk)
    mode = member(Mode, mode, key="mode")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise UserError(f"seed must be a whole number, 0 or more, or None to draw one, got {seed!r}.")
    seed = secrets.randbits(63) if seed is None else seed
    cotangent = cotangent.detach().double()
    nonfinite = _nonfinite(graph, cotangent)
    if nonfinite is not None:
        return _without_verdict(labels, mode, seed, nonfinite)
    _require_pixels(graph)
    if not subnormal_numbers_are_kept():
        raise UserError(
            "this process replaces subnormal numbers by 0, and then nothing computed is certain. Call "
            "torch.set_flush_denormal(False) first; threads that were started while it was on keep flushing, "
            "so if this does not help, call it before anything else is computed."
        )
    require_exact(graph.batch.device)
    if any(isinstance(node.operation, BatchNorm2d) for node in graph.nodes):
        return _by_structure(graph, cotangent, rules, labels, mode, log2_error, seed, progress or _silent)
    sizes = heights(graph, cotangent, rules=rules)
    number = num_primes(graph, sizes, mode, log2_error)
    while True:
        run = _Run(graph, cotangent, rules, mode, sizes, number, seed, chunk, progress or _silent)
        with torch.no_grad(), torch.autocast(graph.batch.device.type, enabled=False):
            run.all_parts()
        certificate = run.certificate(labels, keep_entries=keep_entries)
        if certificate.evidence.log2_error <= log2_error:
            return certificate
        number += 1  # more numbers had to be compared than was expected


def _by_structure(
    graph: Graph,
    cotangent: Tensor,
    rules: Sequence[Rule],
    labels: Sequence[str],
    mode: Mode,
    log2_error: float,
    seed: int,
    progress: Progress,
) -> Certificate:
    """What can be said with batch norm in training mode: equal, different by intervals, or undecided."""
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


def _by_intervals(graph: Graph, cotangent: Tensor, ties: separate.Ties, rule: Rule, label: str) -> Verdict:
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


@dataclass
class _Pool:
    """Counts of one pool, over the parts of the batch."""

    tied: int = 0
    dead: int = 0
    in_floats: int = 0
    only_by_rounding: int = 0
    missed: int = 0
    other: int = 0


@dataclass
class _Run:
    """A batch with one set of primes, part by part."""

    graph: Graph
    cotangent: Tensor
    rules: Sequence[Rule]
    mode: Mode
    heights: Heights
    num_primes: int
    seed: int
    chunk: int | None
    progress: Progress
    pools: dict[int, _Pool] = field(default_factory=dict)
    equalities: dict[int, int] = field(default_factory=dict)
    comparisons: dict[int, int] = field(default_factory=dict)
    escalated: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        drawn = prime_numbers.draw_primes(self.num_primes, seed=self.seed)
        self.fields = [Residues(prime) for prime in drawn]
        self.pools = {index: _Pool() for index in self.graph.pools}
        self.totals: list[list[dict[str, Tensor]]] = [[{} for _ in self.rules] for _ in self.fields]
        self.used_primes = False

    def all_parts(self) -> None:
        """Decide and differentiate, one part after the other."""
        images = self.chunk or images_at_a_time(self.graph, len(self.fields))
        # One filter a width serves all parts, so that the weights are split into digits once.
        wide = cache(FixedPoint)
        for start in range(0, len(self.graph.batch), images):
            part = slice(start, start + images)
            batch = self.graph.batch[part]
            shown = f"images {start + 1} to {start + len(batch)} of {len(self.graph.batch)}"

            def told(step: str, shown: str = shown) -> None:
                self.progress(f"{shown}: {step}")

            walk = Walk(self.graph, batch, fields=self.fields, wide=wide, progress=told)
            walk.run()
            self._count(walk, part)
            self._derivative(walk, part, told)

    def _count(self, walk: Walk, part: slice) -> None:
        """Add a part's evidence."""
        self.escalated += walk.escalated
        self.width = max(self.width, walk.width)
        for node, number in walk.equalities.items():
            self.equalities[node] = self.equalities.get(node, 0) + number
            self.comparisons[node] = self.comparisons.get(node, 0) + walk.comparisons[node]
        for index, pool in self.pools.items():
            windows, operation = walk.decisions[index], self.graph.nodes[index].operation
            assert isinstance(windows, Windows)
            assert isinstance(operation, MaxPool2d)
            mask = operation.float_mask[:, part]
            floats = torch.stack([has_entry(mask, entry).bool() for entry in range(len(windows.tied))])
            real_tie, float_tie = windows.number > 1, floats.sum(0) > 1
            pool.tied += int(real_tie.sum())
            pool.dead += int((walk.dead_zeros(index) & real_tie).sum())
            pool.in_floats += int(float_tie.sum())
            pool.only_by_rounding += int((float_tie & ~real_tie).sum())
            pool.missed += int((real_tie & ~float_tie).sum())
            pool.other += int((floats != windows.tied).any(0).sum())

    def _derivative(self, walk: Walk, part: slice, told: Progress) -> None:
        """Add a part's share of D, from the images with a tie through which a gradient may pass."""
        cotangent = self.cotangent[part]
        live = {}
        for index in self.pools:
            windows = walk.decisions[index]
            assert isinstance(windows, Windows)
            live[index] = ((windows.number > 1) & ~walk.dead_zeros(index)).flatten(1).any(1)
        affected = torch.stack([*live.values(), cotangent.new_zeros(len(cotangent), dtype=torch.bool)]).any(0)
        affected &= (cotangent != 0).any(1)
        if not bool(affected.any()):
            return
        self.used_primes = True
        images = affected.nonzero().flatten()
        decisions = {
            index: decision.of(images) if isinstance(decision, Windows) else decision[images]
            for index, decision in walk.decisions.items()
        }
        pools = frozenset(index for index, where in live.items() if bool(where[images].any()))
        for numbers, lane, totals in zip(self.fields, walk.lanes(), self.totals, strict=True):
            told(f"the derivative modulo {numbers.prime}")
            lane.advance(max(lane.keep, default=0), walk.decisions)
            values = {index: lane.values[index][images] for index in lane.keep}
            adjoint = Adjoint(numbers, self.graph, values=values, decisions=decisions, rules=self.rules)
            found = adjoint.run(numbers.encode(cotangent[images]), live=pools)
            for total, some in zip(totals, found, strict=True):
                for name, one in some.items():
                    # Kept until the last part, modulo every prime: in half the memory, and zeros not at all.
                    if bool(one.any()):
                        before = total.get(name, 0)
                        total[name] = numbers.reduce(one.add_(before)).int()

    def certificate(self, labels: Sequence[str], *, keep_entries: bool) -> Certificate:
        """What the parts prove together."""
        verdicts = tuple(
            self._verdict(label, [lane[place] for lane in self.totals], keep_entries)
            for place, label in enumerate(labels)
        )
        # Pairs that residues told apart were put in order by fixed point: nothing rests on primes there.
        used = any(self.equalities.values()) or self.used_primes
        chosen = tuple(numbers.prime for numbers in self.fields) if used else ()
        vacuous = not bool((self.cotangent != 0).any())
        return Certificate(
            verdicts=verdicts,
            pools=tuple(self._truth(index, pool) for index, pool in self.pools.items()),
            evidence=Evidence(
                mode=self.mode,
                seed=self.seed,
                primes=chosen,
                log2_error=self._error(chosen, verdicts),
                bits=self.heights.difference,
                num_equalities=sum(self.equalities.values()),
                num_escalated=self.escalated,
                digits=self.width,
                vacuous=vacuous,
            ),
            nonfinite=None,
        )

    def _verdict(self, label: str, lanes: Sequence[dict[str, Tensor]], keep_entries: bool) -> Verdict:
        """An entry of D is not 0 if it is not 0 modulo any prime."""
        entries = {}
        for name in self.graph.parameters:
            found = [lane[name] != 0 for lane in lanes if name in lane]
            if found:
                entries[name] = torch.stack(found).any(0)
        counts = {name: int(entry.sum()) for name, entry in entries.items()}
        counts = {name: count for name, count in counts.items() if count}
        if keep_entries:
            for name, shape in self.graph.parameters.items():
                entries.setdefault(name, self.cotangent.new_zeros(shape, dtype=torch.bool))
        return Verdict(
            rule=label,
            different=bool(counts),
            num_nonzero=counts,
            entries=entries if keep_entries else None,
        )

    def _error(self, chosen: tuple[int, ...], verdicts: Sequence[Verdict]) -> float:
        """Union bound over every pair that was compared and D for every rule; -inf if no zero residue counts.

        Pairs that turned out to differ count as well, and so do rules: each might have been taken for equal.
        To leave out those for which that did not happen would be a choice made after the primes were drawn.
        """
        is_zero = self.used_primes and not all(verdict.different for verdict in verdicts)
        if not (is_zero or any(self.equalities.values())):
            return -math.inf
        terms = [
            math.log2(number)
            + prime_numbers.log2_error(self.heights.equality[self.graph.nodes[node].inputs[0]], primes=chosen)
            for node, number in self.comparisons.items()
            if number
        ]
        if self.used_primes:
            zero = prime_numbers.log2_error(self.heights.difference, primes=chosen)
            terms += [zero] * len(verdicts)
        largest = max(terms, default=-math.inf)
        if largest == -math.inf:
            return -math.inf
        return min(0.0, largest + math.log2(sum(2 ** (term - largest) for term in terms)))

    def _truth(self, index: int, pool: _Pool) -> PoolTruth:
        node = self.graph.nodes[index]
        return PoolTruth(
            where=node.where,
            windows=math.prod(node.shape),
            tied=pool.tied,
            tied_at_dead_zero=pool.dead,
            tied_in_floats=pool.in_floats,
            tied_only_by_rounding=pool.only_by_rounding,
            missed_by_rounding=pool.missed,
            other_maxima=pool.other,
        )


def num_primes(graph: Graph, sizes: Heights, mode: Mode, log2_error: float) -> int:
    """Primes that prove everything, or in random mode enough for D and to compare a quarter of all windows.

    How many numbers have to be compared is not known before; the certificate adds up what was.
    """
    compared = [
        (sizes.equality[node.inputs[0]], math.log2(math.prod(node.shape)) - 2)
        for node in graph.nodes
        if isinstance(node.operation, MaxPool2d)
    ]
    if mode is Mode.PROOF:
        return prime_numbers.primes_for_proof(max([sizes.difference, *sizes.equality]))
    number = 1
    while True:
        primes = (2**20,) * number
        terms = [prime_numbers.log2_error(sizes.difference, primes=primes) + 1]
        terms += [prime_numbers.log2_error(bits, primes=primes) + log2 for bits, log2 in compared]
        if max(terms) + math.log2(len(terms)) <= log2_error:
            return number
        number += 1


def _check(graph: Graph, cotangent: Tensor, log2_error: float, chunk: int | None) -> None:
    shape = graph.nodes[graph.output].shape
    if tuple(cotangent.shape) != shape or not cotangent.is_floating_point():
        raise UserError(
            f"the cotangent must be floating point of the output's shape {shape}, got "
            f"{tuple(cotangent.shape)} of {cotangent.dtype}."
        )
    if not -math.inf < log2_error < 0:
        raise UserError(f"log2_error must be a finite number below 0, got {log2_error}. Use -40.")
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk must be 1 image or more, or None, got {chunk}.")
    for node in graph.nodes:
        if isinstance(node.operation, AveragePool2d):
            smallest, largest = (float(end) for end in torch.aminmax(node.operation.divisor))
            if not 1 <= smallest <= largest < MOST_DIVISOR:
                raise NotCertifiableError(
                    f"not certifiable, because the average pool at {node.where} divides by a number outside "
                    f"1 to {MOST_DIVISOR}."
                )


def _require_pixels(graph: Graph) -> None:
    for index in graph.pools:
        node = graph.nodes[index]
        size = graph.nodes[node.inputs[0]].shape[2:]
        if not bool((pixel_numbers(node, (size[0], size[1]), device=torch.device("cpu")) >= 0).any(0).all()):
            raise NotCertifiableError(
                f"not certifiable, because a window of the pool at {node.where} has no pixel in it."
            )


def _nonfinite(graph: Graph, cotangent: Tensor) -> str | None:
    """Where an infinity or a NaN stands."""
    for node in graph.nodes:
        for tensor in vars(node.operation).values():
            value = tensor.value if isinstance(tensor, Parameter) else tensor
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                return f"{_name_of(tensor, node.operation)} at {node.where}"
    if not bool(graph.batch.isfinite().all()):
        return "the batch"
    if graph.nonfinite is not None:
        return graph.nonfinite
    return None if bool(cotangent.isfinite().all()) else "the cotangent"


def _name_of(tensor: Parameter | Tensor, operation: Operation) -> str:
    """A number of an operation, as its user knows it."""
    if isinstance(tensor, Parameter) and tensor.name is not None:
        return f"the parameter {tensor.name}"
    if isinstance(operation, Affine):
        named = " and ".join(name for name in (operation.weight, operation.bias) if name is not None)
        return f"the batch norm of {named}" if named else "the batch norm"
    return "a constant"


def _silent(_: str) -> None:
    """Say nothing."""


def _without_verdict(labels: Sequence[str], mode: Mode, seed: int, nonfinite: str) -> Certificate:
    return Certificate(
        verdicts=tuple(Verdict(rule=label, different=None, num_nonzero={}) for label in labels),
        pools=(),
        evidence=Evidence(
            mode=mode,
            seed=seed,
            primes=(),
            log2_error=-math.inf,
            bits=0.0,
            num_equalities=0,
            num_escalated=0,
            digits=0,
            vacuous=False,
        ),
        nonfinite=nonfinite,
        reason=f"an infinity or a NaN at {nonfinite}",
    )


def images_at_a_time(graph: Graph, num_primes: int) -> int:
    """Images whose residues modulo all primes take about as much memory as a backward pass of the batch.

    That holds every activation, and a gradient as large as the network.
    """
    number = len(graph.batch)
    every = sum(math.prod(node.shape[1:]) for node in graph.nodes)
    weights = sum(math.prod(shape) for shape in graph.parameters.values())
    lanes = num_primes * sum(math.prod(graph.nodes[index].shape[1:]) for index in graph.multiplied)
    return max(1, min(number, math.ceil((weights + number * every) / (every + lanes))))
