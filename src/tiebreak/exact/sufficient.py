"""Conditions under which AD's gradient is the derivative, or a limit of derivatives, over the reals.

A ReLU whose argument is exactly 0, or a window of a max pool whose maximum is attained several times,
*matters* if its value may have an adjoint other than 0, or decides what a window chooses (`liveness`), and it
is not trivial. A window is *trivial* if its maximal entries are one function of the parameters near the point
(`nearby`: their patches are equal where it counts), or if all of them are 0 because the ReLUs before them are
off, and stay 0. AD gives the derivative where nothing matters.

Elsewhere AD's gradient is a limit of derivatives if the parameters can be moved so that each ReLU that
matters goes off, and the first entry of each window that matters comes to be ahead of the others. That asks
for linear forms of each layer's own parameters (`layer_forms`) to be positive along some direction (`sides`).
If no window matters and, for each layer and channel, the patches of all ReLUs that do are linearly
independent, every choice of sides can be reached, and not only AD's: AD is right wherever there is a
derivative, whatever it takes at 0.

All are sufficient and not necessary. A statement is wrong only if two different patches or two different
numbers were taken for equal, with a probability of at most 2**`Sufficient.log2_error`; whatever else is not
certain counts against it.

Source:
    The first condition is T9 of docs/theory.md, with entries that are identical or off; the last is T10.
    The direction is algorithm 1 of S. Park, S. Chun and W. Lee, "What does automatic differentiation compute
    for neural networks?", ICLR 2024, and T10 their theorem on independent inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tiebreak.exact import primes as prime_numbers
from tiebreak.exact.certify import nonfinite_place
from tiebreak.exact.classes import log2_collision, num_hashes, other_classes
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Windows, patches
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.graph import BatchNorm2d, Graph, NotCertifiableError
from tiebreak.exact.heights import equality_bits
from tiebreak.exact.liveness import liveness
from tiebreak.exact.memory import images_at_a_time
from tiebreak.exact.preconditions import (
    require_arithmetic,
    require_divisors,
    require_options,
    require_pixels,
)
from tiebreak.exact.residues import Residues
from tiebreak.exact.run import Progress, silent
from tiebreak.exact.sides import Places, Sides, WholeBatch

_NUM_RESIDUES = 3
LOG2_ERROR = -40.0


@dataclass(frozen=True, kw_only=True)
class Sufficient:
    """What is certain of AD's gradient at a point, image by image and for the batch.

    Attributes:
        images: of the batch.
        derivative: images at which AD gives the derivative.
        limit: further images, at which it gives a limit of derivatives.
        independent: of these, images at which any choice at the ReLUs gives one.
        whole_derivative: 1 if AD gives the derivative of a loss of the whole batch, else 0.
        whole_limit: 1 if it does not, but gives a limit of derivatives of it, else 0.
        neurons: ReLUs of all images.
        touched: those whose argument is exactly 0, whether or not they matter.
        windows: of all max pools and images.
        tied: those whose maximum is attained several times.
        equal: tied windows, apart from dead ones, whose maximal entries are of equal patches.
        dead: tied windows whose maximal entries are ReLUs that are off.
        log2_error: bound of log2 of the probability that a statement is wrong; -inf if none rests on chance.
    """

    images: int
    derivative: int
    limit: int
    independent: int
    whole_derivative: int
    whole_limit: int
    neurons: int
    touched: int
    windows: int
    tied: int
    equal: int
    dead: int
    log2_error: float


def sufficient(
    graph: Graph,
    *,
    log2_error: float = LOG2_ERROR,
    seed: int,
    chunk: int | None = None,
    progress: Progress = silent,
) -> Sufficient:
    """Look for the conditions at each image of a batch, and for the batch as one.

    Args:
        graph: the network at its point, from `record`.
        log2_error: bound of log2 of the probability of a wrong statement; below 0.
        seed: of primes and hashes.
        chunk: images at a time; None chooses by memory.
        progress: told what comes next.

    Raises:
        NotCertifiableError: an infinity or NaN, batch norm in training mode, a window without a pixel, an
            average pool with a divisor that the bounds are not made for, a device whose sums are not plain
            ones, or a max pool behind an operation through which patches cannot be followed.
        UserError: an error bound that is no probability, parts of a batch without an image, or a process that
            replaces subnormal numbers by 0.

    Example:
        >>> from torch import nn
        >>> from tiebreak.exact.record import record
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten())
        >>> sufficient(record(model, torch.ones(1, 1, 2, 2))[0], seed=0).equal
        1
    """
    require_options(log2_error=log2_error, chunk=chunk)
    if (place := nonfinite_place(graph, torch.zeros(0))) is not None:
        raise NotCertifiableError(f"not certifiable, because there is an infinity or a NaN at {place}.")
    for node in graph.nodes:
        if isinstance(node.operation, BatchNorm2d):
            raise NotCertifiableError(
                f"not certifiable, because batch norm at {node.where} is in training mode, where images act "
                "on each other. Put the network into evaluation mode."
            )
    require_pixels(graph)
    require_divisors(graph)
    require_arithmetic(graph.batch.device)
    more = 0
    while True:
        search = _Search(graph, more_primes=more, log2_error=log2_error, seed=seed)
        with torch.no_grad(), torch.autocast(graph.batch.device.type, enabled=False):
            found = search.run(chunk, progress)
        if found.log2_error <= log2_error:
            return found
        more += 1  # more numbers or patches were taken for equal than so few primes bear out


class _Search:
    """One way through the batch with one set of primes, part by part."""

    def __init__(self, graph: Graph, *, more_primes: int, log2_error: float, seed: int) -> None:
        self.graph, self.seed = graph, seed
        self.primes = prime_numbers.draw_primes(_NUM_RESIDUES + more_primes, seed=seed)
        # `num_hashes` leaves half of what may go wrong to the residues.
        hashes = num_hashes(graph, log2_error=log2_error) + more_primes
        self.hashes = prime_numbers.draw_primes(hashes, seed=seed)
        self.fields = [Residues(prime) for prime in self.primes]
        names = (
            "derivative",
            "limit",
            "independent",
            "neurons",
            "touched",
            "windows",
            "tied",
            "equal",
            "dead",
        )
        self.counts: dict[str, int] = dict.fromkeys(names, 0)
        self.comparisons: Counter[int] = Counter()
        self.equalities: Counter[int] = Counter()
        self.pairs, self.merged = 0, 0
        self.whole: WholeBatch | None = WholeBatch()

    def run(self, chunk: int | None, progress: Progress) -> Sufficient:
        """Look at all images."""
        graph, total = self.graph, len(self.graph.batch)
        images = chunk or images_at_a_time(graph, len(self.fields) + len(self.hashes))
        wide = cache(FixedPoint)
        for start in range(0, total, images):
            batch = graph.batch[start : start + images]
            progress(f"images {start + 1} to {start + len(batch)} of {total}")
            walk = Walk(graph, batch, fields=self.fields, wide=wide)
            walk.run()
            self.comparisons.update(walk.comparisons)
            self.equalities.update({i: n for i, n in walk.equalities.items() if i not in graph.pools})
            self._part(walk, Places(walk, primes=self.hashes, seed=self.seed))
        is_derivative = self.counts["derivative"] == total
        is_limit = not is_derivative and self.whole is not None and self.whole.is_limit()
        return Sufficient(
            images=total,
            **self.counts,
            whole_derivative=int(is_derivative),
            whole_limit=int(is_limit),
            log2_error=self._error(),
        )

    def _part(self, walk: Walk, places: Places) -> None:
        sides, live = Sides(walk, places), liveness(walk)
        is_open = walk.images.new_zeros(len(walk.images), dtype=torch.bool)
        is_touched = is_open.clone()
        for index in self.graph.pools:
            is_open |= self._pool(index, walk, places, sides, live.get(index))
        for index, zeros in walk.zeros.items():
            self.counts["neurons"] += zeros.numel()
            self.counts["touched"] += int(zeros.sum())
            if index in live:
                matters = zeros & live[index]
                is_touched |= matters.flatten(1).any(1)
                sides.ask_to_go_off(index, matters)
        is_smooth = ~is_open & ~is_touched
        found = sides.judge(~is_smooth)
        self.pairs += sides.pairs
        self.merged += sides.merged
        self.counts["derivative"] += int(is_smooth.sum())
        self.counts["limit"] += int(found.is_limit.sum())
        self.counts["independent"] += int(found.is_independent.sum())
        if not bool((is_smooth | found.is_limit).all()):
            self.whole = None  # what serves all images serves each
        elif self.whole is not None:
            self.whole.add(found.forms)

    def _pool(self, index: int, walk: Walk, places: Places, sides: Sides, live: Tensor | None) -> Tensor:
        """Count the windows of a pool, ask for those that matter; images with one that does."""
        node, decision = self.graph.nodes[index], walk.decisions[index]
        assert isinstance(decision, Windows)
        source = node.inputs[0]
        is_tied = decision.number > 1
        stays_zero = walk.dead_zeros(index) & is_tied  # as long as the ReLUs at 0, if there are any, go off
        is_dead = stays_zero
        touched = walk.zeros.get(source)
        if touched is not None:
            is_dead = stays_zero & ~(patches(touched, node, fill=0) & decision.tied).any(0)
        elif any(bool(zeros.any()) for zeros in walk.zeros.values()):
            # One of these may be further up: neither on nor off, and not followed here.
            is_dead = torch.zeros_like(is_tied)
        is_equal = is_tied & ~is_dead
        others = torch.zeros_like(decision.tied)
        if bool(is_equal.any()):
            others = other_classes(places.classes(source), node, decision.tied)
            is_equal &= ~others.any(0)
        self.counts["windows"] += is_tied.numel()
        for name, found in (("tied", is_tied), ("dead", is_dead), ("equal", is_equal)):
            self.counts[name] += int(found.sum())
        self.equalities[index] += int((is_tied & ~is_dead & ~is_equal).sum())
        matters = is_tied & ~is_dead & ~is_equal & (False if live is None else live)
        sides.ask_for_first(index, others & matters & ~stays_zero)
        sides.mark_dependent(matters & stays_zero)
        return matters.flatten(1).any(1)

    def _error(self) -> float:
        """Union bound over what hashes and residues may have taken for equal, where something rests on it.

        A window of equal patches is tied whatever residues say, and dead ones are no matter of residues.
        """
        terms: list[float] = []
        if self.counts["equal"] or self.merged:
            terms.append(log2_collision(self.graph, num_primes=len(self.hashes), more_pairs=self.pairs))
        if self.counts["limit"] or self.counts["derivative"]:
            bits = equality_bits(self.graph)
            terms += [
                math.log2(number)
                + prime_numbers.log2_error(bits[self.graph.nodes[node].inputs[0]], primes=self.primes)
                for node, number in self.comparisons.items()
                if number and self.equalities[node]
            ]
        largest = max(terms, default=-math.inf)
        if largest == -math.inf:
            return largest
        return min(0.0, largest + math.log2(sum(2 ** (term - largest) for term in terms)))
