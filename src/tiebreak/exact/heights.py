"""How large the whole numbers behind the rationals of a network can be, before any of them is known.

Every value of a node is N / (Q 2**E): E adds up the places of the weights, Q the divisors of average pools
and of shares at ties. With a bound of the value's size this bounds |N|, and so how many primes can divide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.design.axes import Selection
from tiebreak.exact import primes as prime_numbers
from tiebreak.exact.certificate import Mode
from tiebreak.exact.dyadic import last_place, log2_largest
from tiebreak.exact.graph import (
    Affine,
    AveragePool2d,
    Conv2d,
    Graph,
    Linear,
    MaxPool2d,
    Node,
)
from tiebreak.exact.rules import TieRule


@dataclass(frozen=True)
class Height:
    """Numbers below 2**magnitude in size that are whole multiples of 2**-places (apart from Q)."""

    magnitude: float
    places: int

    @property
    def bits(self) -> float:
        """Logarithm of the size of the whole number."""
        return max(0.0, self.magnitude + self.places)

    def times(self, other: Height) -> Height:
        """Of a product."""
        return Height(self.magnitude + other.magnitude, self.places + other.places)

    def plus(self, other: Height) -> Height:
        """Of a sum."""
        return Height(_log2_sum(self.magnitude, other.magnitude), max(self.places, other.places))


def of(x: Tensor) -> Height:
    """Of the entries of a tensor."""
    return Height(log2_largest(x), last_place(x))


@dataclass(frozen=True)
class Heights:
    """Of a network at a point.

    Attributes:
        equality: for each node, bits of the difference of two of its values.
        difference: bits of every entry of the difference that a rule makes to the derivative.
    """

    equality: tuple[float, ...]
    difference: float


def heights(graph: Graph, cotangent: Tensor, *, rules: Sequence[TieRule]) -> Heights:
    """Bounds for every node and for the derivative.

    Args:
        graph: the network.
        cotangent: (N, classes) float64.
        rules: compared with PyTorch's.
    """
    nodes, values, divisors = graph.nodes, _values(graph), _divisors(graph)
    shares, factor = _at_ties(rules)
    ties = sum(
        math.log2(math.lcm(*range(1, node.operation.geometry.num_entries + 1)) * shares)
        for node in nodes
        if isinstance(node.operation, MaxPool2d)
    )
    worst = _derivative(graph, of(cotangent), values, factor)
    return Heights(_equality(values, divisors), worst + 1 + 2 * divisors + ties)


def equality_bits(graph: Graph) -> tuple[float, ...]:
    """For each node, bits of the difference of two of its values.

    Args:
        graph: the network.
    """
    return _equality(_values(graph), _divisors(graph))


def _equality(values: Sequence[Height], divisors: float) -> tuple[float, ...]:
    return tuple(value.magnitude + 1 + value.places + divisors for value in values)


def _divisors(graph: Graph) -> float:
    """Logarithm of what all average pools divide by."""
    return sum(
        math.log2(math.lcm(*map(int, node.operation.divisor.unique().tolist())))
        for node in graph.nodes
        if isinstance(node.operation, AveragePool2d)
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


def _values(graph: Graph) -> list[Height]:
    found: list[Height] = [of(graph.batch)]
    for node in graph.nodes[1:]:
        inputs = [found[source] for source in node.inputs]
        match node.operation:
            case Conv2d() | Linear() as operation:
                weight, bias = operation.weight.value, operation.bias
                gain = Height(_log2_of_sums(weight.flatten(1), (1,)), last_place(weight))
                result = inputs[0].times(gain)
                found.append(result if bias is None else result.plus(of(bias.value)))
            case Affine() as operation:
                found.append(inputs[0].times(of(operation.scale)).plus(of(operation.shift)))
            case AveragePool2d(rows, columns, divisor):  # divisors of the whole numbers are counted apart
                sums = torch.outer(rows.sum(1), columns.sum(1)) / divisor
                found.append(inputs[0].times(Height(max(0.0, _log2_of_sums(sums, ())), 0)))
            case _:  # sums and selections
                result = inputs[0]
                for other in inputs[1:]:
                    result = result.plus(other)
                found.append(result)
    return found


def _derivative(graph: Graph, cotangent: Height, values: list[Height], factor: float) -> float:
    """Bits of the largest entry of a derivative, ties and divisors apart."""
    adjoints: dict[int, Height] = {graph.output: cotangent}
    totals: dict[str, Height] = {}
    for index in range(graph.output, 0, -1):
        node = graph.nodes[index]
        adjoint = adjoints.pop(index, None)
        if adjoint is None:
            continue
        source = values[node.inputs[0]]
        terms = math.log2(max(1, math.prod(node.shape) // max(1, node.shape[1])))
        for name, parameter in _parameters(node, source):
            entry = adjoint.times(parameter).times(Height(terms, 0))
            totals[name] = totals[name].plus(entry) if name in totals else entry
        passed = adjoint.times(_gain(node, factor))
        for target in node.inputs:
            before = adjoints.get(target)
            adjoints[target] = passed if before is None else before.plus(passed)
    return max((total.bits for total in totals.values()), default=0.0)


def _parameters(node: Node, source: Height) -> Iterable[tuple[str, Height]]:
    """The node's parameters, and what the adjoint is multiplied with in the derivative of each."""
    one = Height(0.0, 0)
    match node.operation:
        case Conv2d(weight, bias) | Linear(weight, bias):
            names = [None if parameter is None else parameter.name for parameter in (weight, bias)]
            heights = (source, one)
        case Affine(mean=mean, weight=weight, bias=bias):
            names, heights = [weight, bias], (source.plus(of(mean)), one)
        case _:
            return
    for name, height in zip(names, heights, strict=True):
        if name is not None:
            yield name, height


def _gain(node: Node, factor: float) -> Height:
    """By what an adjoint grows on the way through a node."""
    match node.operation:
        case Conv2d() as operation:
            weight = operation.weight.value
            groups = weight.reshape(operation.groups, -1, *weight.shape[1:])
            return Height(_log2_of_sums(groups, (1, 3, 4)), last_place(weight))
        case Linear() as operation:
            weight = operation.weight.value
            return Height(_log2_of_sums(weight, (0,)), last_place(weight))
        case Affine() as operation:
            return of(operation.scale)
        case MaxPool2d(geometry):
            windows = math.prod(
                -(-size * step // jump)
                for size, step, jump in zip(geometry.kernel, geometry.dilation, geometry.stride, strict=True)
            )
            return Height(math.log2(windows) + factor, 0)
        case AveragePool2d() as operation:
            windows = float(operation.rows.sum(0).max() * operation.columns.sum(0).max())
            return Height(math.log2(max(1.0, windows)), 0)
        case _:
            return Height(0.0, 0)


def _at_ties(rules: Sequence[TieRule]) -> tuple[int, float]:
    """Common denominator of all beta, and log2 of the largest share."""
    largest = Fraction(1)
    for rule in rules:
        if rule.selection is Selection.BETA:
            largest = max(largest, abs(1 - rule.beta) + abs(rule.beta))
    shares = math.lcm(*(rule.beta.denominator for rule in rules))
    return shares, math.log2(largest) if largest < 2**1000 else float(largest.numerator.bit_length())


def _log2_of_sums(x: Tensor, axes: tuple[int, ...]) -> float:
    """Upper bound of log2 of the largest sum of sizes over some axes."""
    sums = x.abs().sum(axes) if axes else x.abs()
    largest = float(sums.max()) if x.numel() else 0.0
    if largest == 0:
        return -math.inf
    return 1024 + math.log2(x.numel()) if math.isinf(largest) else math.log2(largest) + 2.0**-20


def _log2_sum(first: float, second: float) -> float:
    if min(first, second) == -math.inf:
        return max(first, second)
    return max(first, second) + math.log2(1 + 2 ** -abs(first - second)) + 2.0**-40
