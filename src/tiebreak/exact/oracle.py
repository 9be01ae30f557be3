"""The judge: a network and its derivative in exact rationals, one product at a time.

Slow and obvious on purpose; of the fast way it shares only the descriptions of graph and rules. What a node
holds is a dictionary from places to numbers, `x[n, c, i, j]`, and a place that is not in it is padding. The
derivative follows the same lists of products as the value, read the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from math import isfinite

from torch import Tensor

from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    Concat,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    ReLU,
    Reshape,
)
from tiebreak.exact.rules import TieRule

Place = tuple[int, ...]
"""Indices of one number of a tensor: (n, c, i, j), (n, k) and so on."""

Value = dict[Place, Fraction]
"""The numbers of a tensor by place, in row-major order."""


def evaluate(graph: Graph) -> tuple[Value, ...]:
    """The value of every node over the reals.

    Args:
        graph: all of its numbers finite.

    Returns:
        For each node its numbers by place, in the order of `graph.nodes`.

    Raises:
        NotCertifiableError: a number that is not finite, an operation that is not rational, or a window
            of a max pool with no pixel in it.

    Example:
        >>> import torch
        >>> from tiebreak.exact.record import record
        >>> graph, _ = record(torch.nn.Linear(2, 1, bias=False).requires_grad_(False), torch.ones(1, 2))
        >>> weight = graph.nodes[1].operation.weight.value[0].tolist()
        >>> evaluate(graph)[1] == {(0, 0): Fraction(weight[0]) + Fraction(weight[1])}
        True
    """
    values: list[Value] = []
    for node in graph.nodes:
        values.append(_value(graph, node, [values[index] for index in node.inputs]))
    return tuple(values)


def tied(graph: Graph, values: Sequence[Value]) -> dict[int, list[tuple[int, ...]]]:
    """Which entries attain the maximum over the reals, in every window of every max pool.

    Args:
        graph: the network.
        values: of its nodes, from `evaluate`.

    Returns:
        For the position of each pool a list with a tuple a window, windows in row-major order of (N, C, rows,
        columns): the numbers of the entries, counted row by row over the whole kernel; never a padded one.
    """
    found = {}
    for index in graph.pools:
        node = graph.nodes[index]
        x = values[node.inputs[0]]
        found[index] = [
            tuple(entry for entry, source in window if x[source] == values[index][place])
            for place, window in _windows(node, x)
        ]
    return found


def derivative(
    graph: Graph, values: Sequence[Value], cotangent: Tensor, rule: TieRule
) -> dict[str, list[Fraction]]:
    """sum of cotangent times d output / d parameter over the reals, by reverse mode under a rule at ties.

    ReLU'(0) is 0. Uses of one parameter in several places add up. For the weight of an `Affine` the
    derivative is given times the deviation sqrt(variance + eps), which is irrational: it is the derivative
    with respect to the scale less the mean times that with respect to the shift.

    Args:
        graph: the network.
        values: of its nodes, from `evaluate`.
        cotangent: finite float64, of the shape of the output.
        rule: what tied entries get.

    Returns:
        For every name in `graph.parameters` the derivative, row-major; zeros where nothing depends on it.

    Raises:
        NotCertifiableError: a cotangent that is not finite.
    """
    of_weights = {
        name: dict.fromkeys(_places(shape), Fraction(0)) for name, shape in graph.parameters.items()
    }
    of_nodes = [dict.fromkeys(value, Fraction(0)) for value in values]
    of_nodes[graph.output] = _exact(cotangent)
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        inputs = [values[source] for source in node.inputs]
        for operand, place, amount in _sent(node, inputs, values[index], of_nodes[index], rule):
            if not amount:
                continue
            if isinstance(operand, int):
                of_nodes[node.inputs[operand]][place] += amount
            elif operand in of_weights:
                of_weights[operand][place] += amount
    return {name: list(value.values()) for name, value in of_weights.items()}


def difference(graph: Graph, cotangent: Tensor, first: TieRule, second: TieRule) -> dict[str, list[Fraction]]:
    """The derivative under the first rule less that under the second.

    Args:
        graph: the network.
        cotangent: as for `derivative`.
        first: a rule.
        second: a rule.

    Returns:
        As `derivative`.
    """
    values = evaluate(graph)
    one, other = (derivative(graph, values, cotangent, rule) for rule in (first, second))
    return {name: [a - b for a, b in zip(one[name], other[name], strict=True)] for name in one}


def _value(graph: Graph, node: Node, inputs: list[Value]) -> Value:
    match node.operation:
        case Input():
            return _exact(graph.batch)
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            w, b, x = _exact(weight.value), None if bias is None else _exact(bias.value), inputs[0]
            y = {place: Fraction(0) if b is None else b[place[1],] for place in _places(node.shape)}
            for target, source, entry in _products(node, x):
                y[target] += w[entry] * x[source]
            return y
        case Affine(scale=scale, shift=shift):
            s, t = _exact(scale), _exact(shift)
            return {place: s[place[1],] * number + t[place[1],] for place, number in inputs[0].items()}
        case ReLU():
            return {place: max(number, Fraction(0)) for place, number in inputs[0].items()}
        case MaxPool2d():
            return {
                place: max(inputs[0][source] for _, source in window)
                for place, window in _windows(node, inputs[0])
            }
        case AveragePool2d():
            y = dict.fromkeys(_places(node.shape), Fraction(0))
            for target, source, share in _averaged(node, inputs[0]):
                y[target] += share * inputs[0][source]
            return y
        case Reshape():
            return dict(zip(_places(node.shape), inputs[0].values(), strict=True))
        case Add():
            return {place: inputs[0][place] + inputs[1][place] for place in inputs[0]}
        case Concat():
            return {target: inputs[operand][source] for target, operand, source in _pieces(node, inputs)}
        case _:
            raise NotCertifiableError(
                f"{type(node.operation).__name__} at {node.where} has no value in rational numbers."
            )


def _sent(
    node: Node, inputs: list[Value], y: Value, g: Value, rule: TieRule
) -> Iterator[tuple[int | str | None, Place, Fraction]]:
    """What the cotangent g of a node adds to those of its operands: (operand, place in it, amount).

    An operand is the number of an input, or the name of a parameter (None for a constant).
    """
    match node.operation:
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            w, x = _exact(weight.value), inputs[0]
            for target, source, entry in _products(node, x):
                if g[target]:
                    yield 0, source, w[entry] * g[target]
                    yield weight.name, entry, x[source] * g[target]
            if bias is not None:
                for target, amount in g.items():
                    yield bias.name, (target[1],), amount
        case Affine(scale=scale, mean=mean, weight=weight, bias=bias):
            s, m = _exact(scale), _exact(mean)
            for place, amount in g.items():
                channel = (place[1],)
                yield 0, place, s[channel] * amount
                yield weight, channel, (inputs[0][place] - m[channel]) * amount
                yield bias, channel, amount
        case ReLU():
            for place, amount in g.items():
                if inputs[0][place] > 0:
                    yield 0, place, amount
        case MaxPool2d():
            for place, window in _windows(node, inputs[0]):
                maxima = [source for _, source in window if inputs[0][source] == y[place]]
                for source, share in zip(maxima, _shares(rule, len(maxima)), strict=True):
                    yield 0, source, share * g[place]
        case AveragePool2d():
            for target, source, share in _averaged(node, inputs[0]):
                yield 0, source, share * g[target]
        case Reshape():
            for source, amount in zip(inputs[0], g.values(), strict=True):
                yield 0, source, amount
        case Add():
            for place, amount in g.items():
                yield 0, place, amount
                yield 1, place, amount
        case Concat():
            for target, operand, source in _pieces(node, inputs):
                yield operand, source, g[target]
        case Input():
            pass


def _products(node: Node, x: Value) -> Iterator[tuple[Place, Place, Place]]:
    """What a convolution or linear layer multiplies: places in the result, in x and in the weight."""
    match node.operation:
        case Linear(weight=weight):
            for n, k in _places(node.shape):
                for c in range(weight.value.shape[1]):
                    yield (n, k), (n, c), (k, c)
        case Conv2d(weight=weight, stride=stride, padding=padding, dilation=dilation, groups=groups):
            num_outputs, depth, rows, columns = weight.value.shape
            for n, o, i, j in _places(node.shape):
                start = o // (num_outputs // groups) * depth
                for d, a, b in _places((depth, rows, columns)):
                    row = i * stride[0] - padding[0] + a * dilation[0]
                    column = j * stride[1] - padding[1] + b * dilation[1]
                    if (n, start + d, row, column) in x:
                        yield (n, o, i, j), (n, start + d, row, column), (o, d, a, b)


def _windows(node: Node, x: Value) -> Iterator[tuple[Place, list[tuple[int, Place]]]]:
    """For each place of a max pool's result the entries of its window: (number in the kernel, place in x)."""
    assert isinstance(node.operation, MaxPool2d)
    geometry = node.operation.geometry
    for n, c, i, j in _places(node.shape):
        window = []
        for entry, (a, b) in enumerate(_places(geometry.kernel)):
            row = i * geometry.stride[0] - geometry.padding[0] + a * geometry.dilation[0]
            column = j * geometry.stride[1] - geometry.padding[1] + b * geometry.dilation[1]
            if (n, c, row, column) in x:
                window.append((entry, (n, c, row, column)))
        if not window:
            raise NotCertifiableError(f"a window of the pool at {node.where} has no pixel in it.")
        yield (n, c, i, j), window


def _averaged(node: Node, x: Value) -> Iterator[tuple[Place, Place, Fraction]]:
    """What an average pool adds up: place in the result, place in x, and its share."""
    assert isinstance(node.operation, AveragePool2d)
    rows, columns = _exact(node.operation.rows), _exact(node.operation.columns)
    divisor = _exact(node.operation.divisor)
    reach: dict[Place, list[Place]] = defaultdict(list)
    for (i, row), (j, column) in product(_marked(rows), _marked(columns)):
        reach[i, j].append((row, column))
    for n, c, i, j in _places(node.shape):
        for row, column in reach[i, j]:
            yield (n, c, i, j), (n, c, row, column), 1 / divisor[i, j]


def _pieces(node: Node, inputs: list[Value]) -> Iterator[tuple[Place, int, Place]]:
    """Where a concatenation takes each number from: place in the result, number of the input, place in it."""
    assert isinstance(node.operation, Concat)
    axis = node.operation.axis
    origin = {}
    start = 0
    for operand, x in enumerate(inputs):
        for place in x:
            origin[*place[:axis], place[axis] + start, *place[axis + 1 :]] = (operand, place)
        start += 1 + max(place[axis] for place in x)
    for target in _places(node.shape):
        yield target, *origin[target]


def _shares(rule: TieRule, num_tied: int) -> list[Fraction]:
    first, middle, last = rule.shares(num_tied)
    return [first] if num_tied == 1 else [first, *[middle] * (num_tied - 2), last]


def _exact(tensor: Tensor) -> Value:
    """The rational numbers that the floats are."""
    numbers = tensor.flatten().tolist()
    if not all(map(isfinite, numbers)):
        raise NotCertifiableError("the network has no value over the reals, because a number is not finite.")
    return dict(zip(_places(tensor.shape), map(Fraction, numbers), strict=True))


def _places(shape: Sequence[int]) -> Iterable[Place]:
    """All indices of a tensor, row-major."""
    return product(*map(range, shape))


def _marked(matrix: Value) -> list[Place]:
    return [place for place, number in matrix.items() if number]
