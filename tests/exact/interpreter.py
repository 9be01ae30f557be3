"""A graph run as a floating-point program, by PyTorch's own operations: what a recorded module did."""

import torch
from torch.nn import functional

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


def run(graph, *, dtype=torch.float64):
    """The value of every node in one format."""
    values = []
    for node in graph.nodes:
        inputs = [values[index] for index in node.inputs]
        value = apply(node.operation, inputs or [graph.batch.to(dtype)], shape=node.shape)
        assert tuple(value.shape) == node.shape, f"{node.where}: {tuple(value.shape)} is not {node.shape}"
        values.append(value)
    return values


def apply(operation, inputs, *, shape=None):
    """One operation; only `Reshape` needs the shape of its result."""
    x = inputs[0]
    match operation:
        case Input():
            return x
        case Conv2d(weight, bias, stride, padding, dilation, groups):
            return functional.conv2d(x, weight.value.to(x), _cast(bias, x), stride, padding, dilation, groups)
        case Linear(weight, bias):
            return functional.linear(x, weight.value.to(x), _cast(bias, x))
        case Affine(scale, shift):
            per_channel = (1, -1) + (1,) * (x.dim() - 2)
            return x * scale.to(x).view(per_channel) + shift.to(x).view(per_channel)
        case ReLU():
            return functional.relu(x)
        case MaxPool2d(geometry):
            return functional.max_pool2d(
                x,
                geometry.kernel,
                geometry.stride,
                geometry.padding,
                geometry.dilation,
                ceil_mode=geometry.ceil_mode,
            )
        case AveragePool2d(rows, columns, divisor):
            return rows.to(x) @ x @ columns.to(x).T / divisor.to(x)
        case Reshape():
            return x.reshape(shape)
        case Add():
            return x + inputs[1]
        case Concat(axis):
            return torch.cat(inputs, axis)
    raise AssertionError(operation)


def _cast(bias, like):
    return None if bias is None else bias.value.to(like)
