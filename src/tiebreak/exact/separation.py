"""Batch norm in training mode: two derivatives that intervals prove to be different.

Forward and backward pass are computed in float64 with a bound on the error of every number, through the
statistics of the batch too. An entry of D whose ball does not hold 0 proves that D is not 0. Nothing is
followed that is not known:

* A ReLU whose sign is open passes its adjoint times a number between 0 and 1: a ball that holds both.
* A window whose largest entries float64 does not tell apart must be *proved* tied. Its entries are equal if
  they see equal patches (`structure`), or if the numbers that they came from are equal: where a pool's input
  is made of rational numbers by steps that treat all places of a channel alike (batch norm, ReLU), equal
  rationals stay equal, and residues tell them. A window for which neither holds makes everything `undecided`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact import primes as prime_numbers
from tiebreak.exact.bounds import UNIT, Ball, Balls, candidates, entries
from tiebreak.exact.certificate import Mode, Separation
from tiebreak.exact.classes import Classes, log2_collision, num_hashes, of_several_classes
from tiebreak.exact.evaluation import Decision, Evaluation, patches
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
    Node,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.exact.heights import heights
from tiebreak.exact.residues import Residues
from tiebreak.exact.rules import TieRule
from tiebreak.exact.structure import TrainingBalls, standardised, zeros_are_dead
from tiebreak.numerics.geometry import PoolGeometry

_TINY = 2.0**-1074
_SMOOTH = (Input, Conv2d, Linear, Affine, AveragePool2d, Add, Concat, Reshape)


@dataclass(frozen=True)
class Draw:
    """How many random primes the two kinds of equality need, and what each may miss.

    Attributes:
        hashes: primes for equal patches.
        residues: primes for equal rationals; 0 where no pool has any.
        hash_error: bound of log2 of the probability that different patches are taken for equal.
        residue_error: the same for rationals; -inf where they are proved.
    """

    hashes: int
    residues: int
    hash_error: float
    residue_error: float

    @classmethod
    def of(cls, graph: Graph, cotangent: Tensor, *, mode: Mode, log2_error: float, seed: int) -> Draw:
        """For a network, at most `log2_error` together in random mode."""
        hashes = num_hashes(graph, log2_error=log2_error)
        hash_error = log2_collision(graph, num_primes=hashes)
        roots = {index: rational_root(graph, graph.nodes[index].inputs[0]) for index in graph.pools}
        pairs = sum(
            math.prod(graph.nodes[index].shape) * _geometry(graph.nodes[index]).num_entries
            for index, root in roots.items()
            if root is not None
        )
        if not pairs:
            return cls(hashes, 0, hash_error, -math.inf)
        sizes = heights(graph, cotangent, rules=[TieRule(Fraction(0))]).equality
        bits = max(sizes[root] for root in roots.values() if root is not None)
        number = prime_numbers.primes_for_proof(bits)
        if mode is Mode.PROOF:
            return cls(hashes, number, hash_error, -math.inf)
        for fewer in range(1, number):
            error = prime_numbers.log2_error(bits, primes=prime_numbers.draw_primes(fewer, seed=seed))
            if error + math.log2(pairs) <= log2_error - 1:
                return cls(hashes, fewer, hash_error, error + math.log2(pairs))
        return cls(hashes, number, hash_error, -math.inf)

    def error(self, *, by_hashes: bool, by_residues: bool) -> float:
        """Bound of log2 of the probability that one of those used is wrong."""
        terms = [self.hash_error] * by_hashes + [self.residue_error] * by_residues
        terms = [term for term in terms if term > -math.inf]
        return (
            math.log2(sum(2.0 ** (term - max(terms)) for term in terms)) + max(terms) if terms else -math.inf
        )


@dataclass(eq=False)
class Ties:
    """Which entries of each window share its gradient, over the reals.

    Attributes:
        values: enclosure of every node.
        shared: for each pool (entries, N, C, rows, columns) bool; none in a window where no gradient passes.
        open: windows whose largest entries are not proved equal, by the place of the pool.
        by_hashes: whether a tie rests on equal hashes.
        by_residues: whether a tie rests on equal residues.
    """

    values: dict[int, Ball]
    shared: dict[int, Tensor] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    by_hashes: bool = False
    by_residues: bool = False


def ties(graph: Graph, *, draw: Draw, mode: Mode, seed: int) -> Ties:
    """Enclose every number of a network, and prove which entries of its windows are tied.

    Args:
        graph: the network, with batch norm in training mode somewhere.
        draw: how many primes.
        mode: in proof mode hashes prove nothing.
        seed: of the primes.

    Raises:
        NotCertifiableError: a pool behind an operation through which places cannot be followed.
    """
    drawn = prime_numbers.draw_primes(max(draw.hashes, draw.residues), seed=seed)
    every = frozenset(range(len(graph.nodes)))
    balls = Evaluation(TrainingBalls(), graph, graph.batch, keep=every)
    lanes = [
        Evaluation(Classes(prime, seed), graph, graph.batch, keep=frozenset())
        for prime in drawn[: draw.hashes]
    ]
    fields = [Residues(prime) for prime in drawn[: draw.residues]]
    found = Ties(balls.values)
    none: dict[int, Decision] = {}
    for index in graph.pools:
        node = graph.nodes[index]
        source = node.inputs[0]
        ball = balls.advance(source, none)
        largest, _ = candidates(*entries(ball, node))
        if zeros_are_dead(graph, source):
            largest &= patches(~((ball.value == 0) & (ball.radius == 0)), node, fill=0)
        found.shared[index] = largest
        waiting = largest.sum(0) > 1
        if mode is Mode.RANDOM and bool(waiting.any()):
            differ = of_several_classes([lane.advance(source, none) for lane in lanes], node, largest)
            found.by_hashes |= bool((waiting & ~differ).any())
            waiting &= differ
        root = rational_root(graph, source)
        if root is not None and bool(waiting.any()):
            differ = torch.zeros_like(waiting)
            for numbers in fields:
                lane = Evaluation(numbers, graph, graph.batch, keep=frozenset())
                residues = numbers.reduce(lane.advance(root, none).clone())
                differ |= of_several_classes([residues], node, largest)
            found.by_residues |= bool((waiting & ~differ).any())
            waiting &= differ
        if bool(waiting.any()):
            found.open[node.where] = found.open.get(node.where, 0) + int(waiting.sum())
    balls.advance(graph.output, none)
    return found


def rational_root(graph: Graph, source: int) -> int | None:
    """The node of rational numbers from which every channel of `source` is made place by place, or None.

    Only where everything before it is sums of products, so that no branch has to be known.
    """
    while isinstance(graph.nodes[source].operation, ReLU | BatchNorm2d):
        source = graph.nodes[source].inputs[0]
    if all(isinstance(node.operation, _SMOOTH) for node in graph.nodes[: source + 1]):
        return source
    return None


def difference(graph: Graph, cotangent: Tensor, found: Ties, rule: TieRule) -> dict[str, Ball]:
    """A ball round every entry of D, by parameter; a parameter that cannot differ is missing.

    Args:
        graph: the network.
        cotangent: (N, classes) float64, exact.
        found: from `ties`, with no window open.
        rule: compared with PyTorch's.
    """
    return _Backward(graph, found, rule).run(Ball(cotangent, torch.zeros_like(cotangent)))


def is_apart(ball: Ball) -> Tensor:
    """Where a number is proved not to be 0."""
    return ball.value.abs() > ball.radius


def interval(ball: Ball, index: tuple[int, ...]) -> tuple[float, float]:
    """The ends of one entry's ball, rounded outwards."""
    value, radius = float(ball.value[index]), float(ball.radius[index])
    return math.nextafter(value - radius, -math.inf), math.nextafter(value + radius, math.inf)


def separation(entries: dict[str, Ball]) -> Separation | None:
    """The entry of D that is furthest from 0 in units of its ball, or None if every ball holds 0."""
    best, chosen = 1.0, None
    for name, ball in entries.items():
        ratio = torch.where(is_apart(ball), ball.value.abs() / ball.radius.clamp(min=_TINY), 0.0)
        at = int(ratio.argmax()) if ratio.numel() else -1
        if at >= 0 and float(ratio.flatten()[at]) > best:
            best, chosen = float(ratio.flatten()[at]), (name, at)
    if chosen is None:
        return None
    name, at = chosen
    index = tuple(int(place) for place in torch.unravel_index(torch.tensor(at), entries[name].value.shape))
    low, high = interval(entries[name], index)
    if low <= 0 <= high:  # rounding outwards took what there was
        return None
    return Separation(tensor=name, index=index, low=low, high=high)


class _Backward(Balls):
    """Reverse mode with balls: PyTorch's adjoint a, and the difference d that a rule makes to it."""

    def __init__(self, graph: Graph, found: Ties, rule: TieRule) -> None:
        self.graph, self.found, self.rule = graph, found, rule
        self.total: dict[str, Ball] = {}

    def run(self, cotangent: Ball) -> dict[str, Ball]:
        """D, summed over the batch."""
        native: dict[int, Ball] = {self.graph.output: cotangent}
        others: dict[int, Ball] = {}
        matter = [index for index, shared in self.found.shared.items() if bool((shared.sum(0) > 1).any())]
        lowest = min(matter, default=len(self.graph.nodes))
        for index in range(self.graph.output, 0, -1):
            node = self.graph.nodes[index]
            a, d = native.pop(index, None), others.pop(index, None)
            if isinstance(node.operation, MaxPool2d):
                if d is not None:
                    self._into(others, node.inputs[0], self._pool(index, d, self.rule, difference=False))
                if a is not None and index in matter:
                    self._into(others, node.inputs[0], self._pool(index, a, self.rule, difference=True))
                if a is not None and index > lowest:
                    self._into(native, node.inputs[0], self._pool(index, a, _NATIVE, difference=False))
                continue
            if d is not None:
                self._parameters(node, d)
                self._inputs(node, d, others)
            if a is not None and index > lowest:
                self._inputs(node, a, native)
        return self.total

    def _into(self, adjoints: dict[int, Ball], node: int, part: Ball) -> None:
        if node != 0:
            adjoints[node] = self.add(adjoints[node], part) if node in adjoints else part

    def _inputs(self, node: Node, g: Ball, adjoints: dict[int, Ball]) -> None:
        """Pass an adjoint on to what the node reads."""
        source = node.inputs[0]
        shape = self.graph.nodes[source].shape
        match node.operation:
            case Add():
                for target in node.inputs:
                    self._into(adjoints, target, g)
                return
            case Concat(axis):
                sizes = [self.graph.nodes[target].shape[axis] for target in node.inputs]
                parts = zip(g.value.split(sizes, axis), g.radius.split(sizes, axis), strict=True)
                for target, (value, radius) in zip(node.inputs, parts, strict=True):
                    self._into(adjoints, target, Ball(value, radius))
                return
            case _ if source == 0:
                return
            case Conv2d() as operation:
                result = self._conv_input(g, operation, shape)
            case Linear(weight=weight):
                products = len(weight.value)
                spread = self._spread(g, products=products)
                value, radius = g.value @ weight.value, spread @ weight.value.abs()
                result = self._finish(value, radius, None, products=products)
            case Affine(scale=scale):
                result = times(g, _exact(scale.reshape((-1,) + (1,) * (g.value.dim() - 2))))
            case AveragePool2d() as operation:
                result = self._average_input(g, operation)
            case BatchNorm2d() as operation:
                result = self._batch_norm_input(g, self.found.values[source], operation)
            case ReLU():
                result = _branch(g, self.found.values[source])
            case Reshape():
                result = self.reshaped(g, shape)
            case _:
                raise AssertionError(f"{node.operation} is no operation of a graph")
        self._into(adjoints, source, result)

    def _conv_input(self, g: Ball, operation: Conv2d, shape: tuple[int, ...]) -> Ball:
        weight = operation.weight.value
        products = len(weight) // operation.groups * weight.shape[2] * weight.shape[3]

        def transposed(gradient: Tensor, kernel: Tensor) -> Tensor:
            leaf = gradient.new_zeros(shape).requires_grad_()
            with torch.enable_grad():
                result = contraction.conv(leaf, kernel, operation)
            return torch.autograd.grad(result, leaf, gradient)[0]

        value = transposed(g.value, weight)
        radius = transposed(self._spread(g, products=products), weight.abs())
        return self._finish(value, radius, None, products=products)

    def _average_input(self, g: Ball, operation: AveragePool2d) -> Ball:
        value = g.value / operation.divisor
        radius = (g.radius / operation.divisor) * (1 + 4 * UNIT) + 2 * UNIT * value.abs() + 8 * _TINY
        g = Ball(value, radius)
        for matrix, along_rows in ((operation.rows, True), (operation.columns, False)):
            products = int(matrix.sum(0).max())
            spread = self._spread(g, products=products)
            if along_rows:
                value, radius = matrix.t() @ g.value, matrix.t() @ spread
            else:
                value, radius = g.value @ matrix, spread @ matrix
            g = self._finish(value, radius, None, products=products)
        return g

    def _batch_norm_input(self, g: Ball, x: Ball, operation: BatchNorm2d) -> Ball:
        """s (h - mean h - z mean(h z)) with h = weight * g, z the standardised input and s its factor."""
        centred, factor = standardised(x, operation.eps)
        z = times(centred, factor)
        if operation.weight is not None:
            g = times(g, _exact(_per_channel(operation.weight.value, g.value)))
        axes = _all_but_channels(g.value)
        inner = self.add(g, _negative(mean(g, axes)))
        inner = self.add(inner, _negative(times(z, mean(times(g, z), axes))))
        return times(inner, factor)

    def _parameters(self, node: Node, d: Ball) -> None:
        """Add the difference of the derivative with respect to the node's own parameters."""
        x = self.found.values[node.inputs[0]]
        match node.operation:
            case Conv2d(weight=weight, bias=bias) as operation:
                if weight.name is not None:
                    self._add(weight, self._conv_weight(x, d, operation))
                self._add(bias, sums(d, (0, 2, 3)))
            case Linear(weight=weight, bias=bias):
                if weight.name is not None:
                    self._add(weight, self._bilinear(lambda g, v: g.t() @ v, d, x, products=len(d.value)))
                self._add(bias, sums(d, (0,)))
            case BatchNorm2d(weight=weight, bias=bias, eps=eps):
                axes = _all_but_channels(d.value)
                if weight is not None and weight.name is not None:
                    z = times(*standardised(x, eps))
                    self._add(weight, sums(times(d, z), axes))
                self._add(bias, sums(d, axes))
            case Affine(bias=name):  # the derivative of its weight is known up to a factor only
                if name is not None:
                    self._total(name, sums(d, _all_but_channels(d.value)))
            case _:
                return

    def _conv_weight(self, x: Ball, d: Ball, operation: Conv2d) -> Ball:
        shape = operation.weight.value.shape

        def weighed(gradient: Tensor, values: Tensor) -> Tensor:
            leaf = gradient.new_zeros(shape).requires_grad_()
            with torch.enable_grad():
                result = contraction.conv(values, leaf, operation)
            return torch.autograd.grad(result, leaf, gradient)[0]

        products = len(d.value) * d.value.shape[2] * d.value.shape[3]
        return self._bilinear(weighed, d, x, products=products)

    def _bilinear(
        self, product: Callable[[Tensor, Tensor], Tensor], g: Ball, x: Ball, *, products: int
    ) -> Ball:
        """Sums of products of two numbers that are known with a bound each."""
        value = product(g.value, x.value)
        radius = product(self._spread(g, products=products), x.value.abs())
        radius = radius + product((g.value.abs() + g.radius) * (1 + 8 * UNIT) + _TINY, x.radius + _TINY)
        return self._finish(value, radius, None, products=2 * products)

    def _add(self, parameter: Parameter | None, part: Ball) -> None:
        if parameter is not None and parameter.name is not None:
            self._total(parameter.name, part)

    def _total(self, name: str, part: Ball) -> None:
        self.total[name] = self.add(self.total[name], part) if name in self.total else part

    def _pool(self, index: int, g: Ball, rule: TieRule, *, difference: bool) -> Ball:
        """The transposed Jacobian of a pool under a rule, or its difference to PyTorch's."""
        node, shared = self.graph.nodes[index], self.found.shared[index]
        number = shared.sum(0)
        first, middle, last = (
            times(g, Ball(share.value[number], share.radius[number]))
            for share in _shares(rule, most=len(shared), difference=difference, like=g.value)
        )
        size = self.graph.nodes[node.inputs[0]].shape
        value, radius = g.value.new_zeros(size), g.value.new_zeros(size)
        rank = torch.zeros_like(number)
        for tap in _geometry(node).taps((size[2], size[3])):
            at, pixels = (..., *tap.windows), (..., *tap.pixels)
            here = shared[tap.entry][at]
            is_first, is_last = rank[at] == 0, rank[at] == number[at] - 1
            part = [
                torch.where(is_first, one[at], torch.where(is_last, three[at], two[at])).where(here, 0.0)
                for one, two, three in (
                    (first.value, middle.value, last.value),
                    (first.radius, middle.radius, last.radius),
                )
            ]
            summed = self.add(Ball(value[pixels], radius[pixels]), Ball(*part))
            value[pixels], radius[pixels] = summed.value, summed.radius
            rank[at] += here
        return Ball(value, radius)


_NATIVE = TieRule(Fraction(0))


def times(a: Ball, b: Ball) -> Ball:
    """Product, entry by entry."""
    value = a.value * b.value
    radius = a.value.abs() * b.radius + b.value.abs() * a.radius + a.radius * b.radius
    return Ball(value, radius * (1 + 16 * UNIT) + 2 * UNIT * value.abs() + 8 * _TINY)


def sums(x: Ball, axes: tuple[int, ...]) -> Ball:
    """Sum over axes, in whatever order it is added."""
    number = math.prod(x.value.shape[axis] for axis in axes)
    spread = x.radius.sum(axes) + 2 * number * UNIT * x.value.abs().sum(axes)
    return Ball(x.value.sum(axes), spread * (1 + 4 * (number + 4) * UNIT))


def mean(x: Ball, axes: tuple[int, ...]) -> Ball:
    """Mean over axes, which stay with one entry."""
    number = math.prod(x.value.shape[axis] for axis in axes)
    total = sums(x, axes)
    value, radius = total.value / number, total.radius / number
    radius = radius * (1 + 4 * UNIT) + 2 * UNIT * value.abs() + 8 * _TINY
    shape = [1 if axis in axes else size for axis, size in enumerate(x.value.shape)]
    return Ball(value.reshape(shape), radius.reshape(shape))


def _branch(g: Ball, x: Ball) -> Ball:
    """What a ReLU lets through: all, nothing, or, where its sign is open, anything between the two."""
    positive = x.value > x.radius
    negative = (x.value < -x.radius) | ((x.value == 0) & (x.radius == 0))
    half = g.value / 2
    value = torch.where(positive, g.value, torch.where(negative, 0.0, half))
    wide = (half.abs() + g.radius) * (1 + 8 * UNIT) + 8 * _TINY
    return Ball(value, torch.where(positive, g.radius, torch.where(negative, 0.0, wide)))


def _shares(rule: TieRule, *, most: int, difference: bool, like: Tensor) -> list[Ball]:
    """Shares of the first, of each middle and of the last of n tied entries, for n = 0, 1, ... `most`."""
    rows: list[list[Fraction]] = []
    for number in range(most + 1):
        shares = rule.shares(number) if number else (Fraction(0),) * 3
        if difference and number:
            shares = [one - other for one, other in zip(shares, _NATIVE.shares(number), strict=True)]
        rows.append(list(shares))
    found = []
    for column in zip(*rows, strict=True):
        values = [_rounded(share) for share in column]
        errors = [_above(abs(Fraction(value) - share)) for value, share in zip(values, column, strict=True)]
        found.append(Ball(like.new_tensor(values), like.new_tensor(errors)))
    return found


def _rounded(share: Fraction) -> float:
    try:
        return float(share)
    except OverflowError:
        return math.copysign(torch.finfo(torch.float64).max, share)


def _above(error: Fraction) -> float:
    """A float that is not below it."""
    try:
        return math.nextafter(float(error), math.inf) if error else 0.0
    except OverflowError:
        return math.inf


def _exact(x: Tensor) -> Ball:
    return Ball(x, torch.zeros_like(x))


def _negative(x: Ball) -> Ball:
    return Ball(-x.value, x.radius)


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return tuple(axis for axis in range(x.dim()) if axis != 1)


def _per_channel(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape([1, -1, *[1] * (like.dim() - 2)])


def _geometry(node: Node) -> PoolGeometry:
    assert isinstance(node.operation, MaxPool2d)
    return node.operation.geometry
