"""Whether the operations of a graph fit each other: what one that was read from a file must show first."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError
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
    Parameter,
    ReLU,
    Reshape,
)

Shape = tuple[int, ...]


def check_shapes(graph: Graph) -> Iterator[tuple[str, str]]:
    """Every place at which a graph cannot be evaluated, as (field, what is wrong).

    Args:
        graph: its nodes read earlier ones only.
    """
    if not graph.nodes or not isinstance(graph.nodes[0].operation, Input):
        yield "nodes", "the first node must be the batch"
        return
    if graph.batch.dim() < 2 or 0 in graph.batch.shape:
        yield "batch", f"a batch of the shape {tuple(graph.batch.shape)}"
    if graph.nodes[0].shape != tuple(graph.batch.shape):
        yield "nodes.0.shape", f"the batch has the shape {tuple(graph.batch.shape)}"
    if graph.output >= len(graph.nodes) or len(graph.nodes[graph.output].shape) != 2:
        yield "output", "it must be the place of a node of the shape (N, classes)"
        return
    for index, node in enumerate(graph.nodes[1:], start=1):
        inputs = [graph.nodes[source].shape for source in node.inputs]
        found = _shape(node, inputs)
        if found is None:
            yield f"nodes.{index}", f"its options do not fit its inputs of the shapes {inputs}"
        elif found != node.shape:
            yield f"nodes.{index}.shape", f"the result has the shape {found}"
        for name, part in vars(node.operation).items():
            if isinstance(part, Parameter):
                yield from _named(graph, part.name, tuple(part.value.shape), f"nodes.{index}.options.{name}")
        if isinstance(node.operation, Affine):
            channels = tuple(node.operation.scale.shape)
            for name in ("weight", "bias"):
                yield from _named(
                    graph, getattr(node.operation, name), channels, f"nodes.{index}.options.{name}"
                )


def _named(graph: Graph, name: str | None, shape: Shape, path: str) -> Iterator[tuple[str, str]]:
    if name is not None and graph.parameters.get(name) != shape:
        yield path, f"the parameter {name} is not one of the graph's of the shape {shape}"


def _shape(node: Node, inputs: list[Shape]) -> Shape | None:
    """Of a node's result; None where its options and its inputs do not fit."""
    if len(inputs) != {Add: 2, Concat: len(inputs), Input: 0}.get(type(node.operation), 1) or not inputs:
        return None
    x = inputs[0]
    if len(x) < 2:
        return None
    match node.operation:
        case Conv2d():
            return _convolution(node.operation, x)
        case Linear(weight, bias):
            w = tuple(weight.value.shape)
            fits = len(x) == 2 and len(w) == 2 and w[1] == x[1] and _is_vector(bias, w[0])
            return (x[0], w[0]) if fits else None
        case Affine(scale, shift, mean):
            return x if all(tuple(part.shape) == (x[1],) for part in (scale, shift, mean)) else None
        case ReLU():
            return x
        case MaxPool2d(geometry, mask):
            if len(x) != 4:
                return None
            try:
                result = (x[0], x[1], *geometry.output_size((x[2], x[3])))
            except DesignError:
                return None
            fits = mask.dtype is torch.uint8 and tuple(mask.shape) == (geometry.num_planes, *result)
            return result if fits else None
        case AveragePool2d(rows, columns, divisor):
            if len(x) != 4 or rows.dim() != 2 or columns.dim() != 2:
                return None
            return (x[0], x[1], len(rows), len(columns)) if _is_average(rows, columns, divisor, x) else None
        case Reshape():
            same = node.shape[:1] == x[:1] and math.prod(node.shape) == math.prod(x)
            return node.shape if same else None
        case Add():
            return x if inputs[1] == x else None
        case Concat(axis):
            others = [shape[:axis] + shape[axis + 1 :] for shape in inputs]
            if not 0 < axis < len(x) or others.count(others[0]) < len(others):
                return None
            return (*x[:axis], sum(shape[axis] for shape in inputs), *x[axis + 1 :])
        case Input():
            return None
        case _:  # one number a channel
            parts = [part for part in vars(node.operation).values() if isinstance(part, Parameter)]
            return x if all(tuple(part.value.shape) == (x[1],) for part in parts) else None


def _convolution(operation: Conv2d, x: Shape) -> Shape | None:
    w = tuple(operation.weight.value.shape)
    groups = operation.groups
    if len(x) != 4 or len(w) != 4 or groups < 1 or w[0] % groups or w[1] * groups != x[1] or 0 in w:
        return None
    if min(*operation.stride, *operation.dilation) < 1 or not _is_vector(operation.bias, w[0]):
        return None
    sizes = [
        (length + 2 * pad - step * (size - 1) - 1) // jump + 1
        for length, pad, step, size, jump in zip(
            x[2:], operation.padding, operation.dilation, w[2:], operation.stride, strict=True
        )
    ]
    return (x[0], w[0], *sizes) if min(sizes) > 0 else None


def _is_vector(bias: Parameter | None, length: int) -> bool:
    return bias is None or tuple(bias.value.shape) == (length,)


def _is_average(rows: Tensor, columns: Tensor, divisor: Tensor, x: Shape) -> bool:
    """0 and 1, over the image's rows and columns, divided by whole numbers other than 0."""
    marks = all(bool(((matrix == 0) | (matrix == 1)).all()) for matrix in (rows, columns))
    wholes = bool(((divisor != 0) & (divisor == divisor.round())).all())
    return (
        marks
        and wholes
        and (rows.shape[1], columns.shape[1]) == x[2:]
        and tuple(divisor.shape) == (len(rows), len(columns))
    )
