"""A recorded graph as a network of scalars, so that the oracle of `theory` can judge it."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    Concat,
    Conv2d,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    Reshape,
)
from tiebreak.exact.record import record
from tiebreak.theory.activations import RELU
from tiebreak.theory.network import Sketch, Wire


def as_network(model, images):
    """The sum of a module's outputs over all images, as a function of its parameters.

    Args:
        model: what `record` takes; batch norm in evaluation mode with a variance of 1 and eps = 0.
        images: (N, ...) of small whole numbers.

    Returns:
        The network, and the point: the parameters that ask for a derivative, in their order.
    """
    graph, _ = record(model, images)
    sketch = Sketch("module")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    wires = {name: sketch.parameters(*(f"{name} {place}" for place in range(p.numel()))) for name, p in named}
    outputs = []
    for image in graph.batch:
        values = []
        for node in graph.nodes:
            sources = [(values[index], graph.nodes[index].shape[1:]) for index in node.inputs]
            values.append(_values(sketch, wires, image, node, sources))
        outputs += values[graph.output]
    point = tuple(Fraction(entry.item()) for _, p in named for entry in p.detach().flatten())
    return sketch.network(sketch.total(outputs)), point


def _values(sketch, wires, image, node, sources):
    """The entries of a node for one image, in row-major order, as wires."""

    def constant(number):
        return Wire(sketch, {}, Fraction(float(number)))

    def numbers(parameter):
        if parameter is None:
            return None
        return wires.get(parameter.name) or [constant(entry) for entry in parameter.value.flatten()]

    def product(one, other):
        if not one.terms or not other.terms:
            return one * other.constant if one.terms else other * one.constant
        return one * other

    operation, shape = node.operation, node.shape[1:]
    x, before = sources[0] if sources else ([], ())
    match operation:
        case Input():
            return [constant(pixel) for pixel in image.flatten()]
        case Linear():
            weight, bias = numbers(operation.weight), numbers(operation.bias)
            rows = [weight[k * len(x) : (k + 1) * len(x)] for k in range(shape[0])]
            sums = [sketch.total([product(w, v) for w, v in zip(row, x, strict=True)]) for row in rows]
            return sums if bias is None else [one + b for one, b in zip(sums, bias, strict=True)]
        case Conv2d():
            weight, bias = numbers(operation.weight), numbers(operation.bias)
            outputs, inputs, *kernel = operation.weight.value.shape
            found = []
            for channel, i, j in _places(shape):
                first = channel // (outputs // operation.groups) * inputs
                terms = [] if bias is None else [bias[channel]]
                for c, (entry, pixel) in _pairs(range(inputs), _taps(operation, kernel, (i, j), before[1:])):
                    at = (channel * inputs + c) * math.prod(kernel) + entry
                    terms.append(product(weight[at], x[(first + c) * math.prod(before[1:]) + pixel]))
                found.append(sketch.total(terms))
            return found
        case MaxPool2d(geometry):
            taps = [_taps(geometry, geometry.kernel, place[1:], before[1:]) for place in _places(shape)]
            channels = [place[0] * math.prod(before[1:]) for place in _places(shape)]
            return [
                sketch.largest([x[c + pixel] for _, pixel in tap])
                for c, tap in zip(channels, taps, strict=True)
            ]
        case AveragePool2d():
            found = []
            for channel, i, j in _places(shape):
                inside = [
                    x[(channel * before[1] + row) * before[2] + column]
                    for row, column in _places(before[1:])
                    if operation.rows[i, row] and operation.columns[j, column]
                ]
                divisor = operation.divisor.expand(shape[1:])[i, j]
                found.append(sketch.total(inside) * (1 / Fraction(float(divisor))))
            return found
        case Affine():
            area, found = math.prod(shape[1:]), []
            for place, one in enumerate(x):
                c = place // area
                mean = Fraction(float(operation.mean[c]))
                scale = (
                    wires[operation.weight][c] if operation.weight in wires else constant(operation.scale[c])
                )
                shift = constant(operation.shift[c] + operation.mean[c] * operation.scale[c])
                shift = wires[operation.bias][c] if operation.bias in wires else shift
                found.append(product(scale, one - mean) + shift)
            return found
        case ReLU():
            return [one.through(RELU) for one in x]
        case Reshape():
            return x
        case Add():
            return [one + other for one, other in zip(x, sources[1][0], strict=True)]
        case Concat(axis):
            entries, parts = [], []
            for values, size in sources:
                parts.append(torch.arange(len(values)).reshape(size) + len(entries))
                entries += values
            return [entries[place] for place in torch.cat(parts, axis - 1).flatten().tolist()]
        case _:
            raise AssertionError(f"{operation} is no operation of a graph")


def _places(shape):
    return [tuple(place.tolist()) for place in torch.ones(tuple(shape)).nonzero()]


def _pairs(ones, others):
    return [(one, other) for one in ones for other in others]


def _taps(spec, kernel, window, size):
    """Entries of a window that lie in the image, each with its pixel."""
    found = []
    for entry, step in enumerate(_places(kernel)):
        row, column = (
            window[axis] * spec.stride[axis] - spec.padding[axis] + step[axis] * spec.dilation[axis]
            for axis in (0, 1)
        )
        if 0 <= row < size[0] and 0 <= column < size[1]:
            found.append((entry, row * size[1] + column))
    return found
