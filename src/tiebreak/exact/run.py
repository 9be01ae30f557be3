"""One run over a batch with one set of primes: decisions, the difference of derivatives, and the evidence.

The batch is taken in parts. A part is decided (`decide`), its images with a tie through which a gradient may
pass are differentiated (`residues`), and what both found is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from tiebreak.exact import primes as prime_numbers
from tiebreak.exact.certificate import Certificate, Evidence, Mode, PoolTruth, Verdict
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Windows
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.graph import Graph, MaxPool2d
from tiebreak.exact.heights import Heights
from tiebreak.exact.memory import images_at_a_time
from tiebreak.exact.residues import Adjoint, Residues
from tiebreak.exact.rules import TieRule
from tiebreak.numerics.selection import has_entry

Progress = Callable[[str], None]
"""Told what is about to be done; an exception that it raises ends the work."""


def silent(_: str) -> None:
    """Say nothing."""


@dataclass
class _Pool:
    """Counts of one pool, over the parts of the batch."""

    tied: int = 0
    dead: int = 0
    in_floats: int = 0
    only_by_rounding: int = 0
    missed: int = 0
    other: int = 0


@dataclass(kw_only=True)
class Run:
    """A batch with one set of primes, part by part.

    Attributes:
        graph: the network.
        cotangent: (N, classes) float64.
        rules: compared with PyTorch's.
        mode: what the number of primes was chosen for.
        heights: of the graph.
        num_primes: how many.
        seed: from which they are drawn.
        chunk: images at a time; None chooses by memory.
        progress: told what comes next.
        equalities: number of equalities that zero residues stand for, by node.
        comparisons: number of pairs that residues were asked about, by node.
        escalated: neurons and windows that float64 left open and that are not ties.
        width: most digits that fixed point needed.
    """

    graph: Graph
    cotangent: Tensor
    rules: Sequence[TieRule]
    mode: Mode
    heights: Heights
    num_primes: int
    seed: int
    chunk: int | None = None
    progress: Progress = silent
    equalities: dict[int, int] = field(default_factory=dict, init=False)
    comparisons: dict[int, int] = field(default_factory=dict, init=False)
    escalated: int = field(default=0, init=False)
    width: int = field(default=0, init=False)

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
        for name, shape in self.graph.parameters.items():
            found = [lane[name] != 0 for lane in lanes if name in lane]
            if found:
                entries[name] = torch.stack(found).any(0)
            elif keep_entries:
                entries[name] = self.cotangent.new_zeros(shape, dtype=torch.bool)
        counts = {name: int(entry.sum()) for name, entry in entries.items()}
        counts = {name: count for name, count in counts.items() if count}
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
