"""What kinks and ties ask of a direction in parameter space, layer by layer.

AD takes a side at each ReLU whose argument is 0 (off) and at each tied window (its first entry). Its gradient
is a limit of derivatives if the parameters can be moved so that every one of them goes to that side. Let the
movement of a later layer be much larger than that of an earlier one. Then the argument of a ReLU, or an entry
of a window, follows the last layer before it: to first order it changes by <patch, movement of the weights> +
movement of the bias, a linear form of that layer's own movement, one for each channel apart from the others.
So what is asked is that some linear forms be positive, for each layer and channel by itself.

Source:
    S. Park, S. Chun and W. Lee, "What does automatic differentiation compute for neural networks?", ICLR
    2024, algorithm 1; that forms of a channel can be looked at alone, and windows of zeros left out, is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.exact.bounds import UNIT, Ball
from tiebreak.exact.evaluation import Decision, Windows, pixel_numbers
from tiebreak.exact.graph import (
    Affine,
    Conv2d,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    Parameter,
    ReLU,
    Reshape,
)


@dataclass(frozen=True)
class Layer:
    """A layer whose parameters are moved.

    Attributes:
        node: a convolution or a linear layer.
        affine: the batch norm that alone reads it, and through which it is seen; None without one.
    """

    node: int
    affine: int | None


@dataclass(frozen=True, eq=False)
class Demands:
    """Forms of one layer that have to be positive: value at `above` minus value at `below`.

    Attributes:
        image: (number,) int64, in its part of the batch.
        above: (number,) int64, places in the layer's flattened output; -1 for none.
        below: as `above`.
    """

    image: Tensor
    above: Tensor
    below: Tensor

    def at(self, which: Tensor) -> Demands:
        """Some of them."""
        return Demands(self.image[which], self.above[which], self.below[which])


class Layers:
    """The layers of a network as directions see them.

    Args:
        graph: the network.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._readers = Counter(source for node in graph.nodes for source in node.inputs)
        self._uses = Counter(name for node in graph.nodes for name in _names(node))

    def follow(
        self, node: int, image: Tensor, place: Tensor, decisions: dict[int, Decision]
    ) -> tuple[Layer, Tensor] | None:
        """The layer that places of a node follow, and where in its output they come from.

        Args:
            node: where the places are.
            image: (number,) int64.
            place: (number,) int64, in the flattened value of the node; a ReLU on the way lets them through.
            decisions: of every pool.

        Returns:
            None where an operation is on the way that is not followed.
        """
        affine = None
        while True:
            current = self.graph.nodes[node]
            match current.operation:
                case Conv2d() | Linear():
                    return Layer(node, affine), place
                case Affine():
                    source = self.graph.nodes[current.inputs[0]].operation
                    if not isinstance(source, Conv2d | Linear) or self._readers[current.inputs[0]] > 1:
                        return None
                    affine = node
                case MaxPool2d():
                    windows = decisions[node]
                    assert isinstance(windows, Windows)
                    before, after = self.graph.nodes[current.inputs[0]].shape[2:], current.shape[2:]
                    channel = place // (after[0] * after[1])
                    place = channel * (before[0] * before[1]) + windows.chosen.flatten(1)[image, place]
                case ReLU() | Reshape():
                    pass
                case _:
                    return None
            node = current.inputs[0]

    def channels(self, layer: Layer, place: Tensor) -> Tensor:
        """The channels that places of a layer's output are in."""
        shape = self.graph.nodes[layer.node].shape
        return place if len(shape) == 2 else place // (shape[2] * shape[3])

    def moves_constant(self, layer: Layer, place: Tensor) -> Tensor:
        """Whether a parameter of its own adds the same to all of a channel, for the channel of each place."""
        constants = self._constants(layer)
        if constants == layer.node and layer.affine is not None:
            return self._scale(layer)[self.channels(layer, place)] != 0
        return torch.full_like(place, constants is not None, dtype=torch.bool)

    def rows(self, layer: Layer, value: Tensor, image: Tensor, place: Tensor) -> Tensor:
        """What the channel's weights, and the constant 1 last, are multiplied with at some places.

        Args:
            layer: which.
            value: (images, ...), the value of what the layer reads: residues, float64, or radii of it.
            image: (number,) int64.
            place: (number,) int64 in the flattened output.

        Returns:
            (number, weights of a channel + 1); 0 for parameters that are not the layer's own to move.
        """
        node = self.graph.nodes[layer.node]
        operation = node.operation
        assert isinstance(operation, Conv2d | Linear)
        weight = operation.weight
        if not self._is_own(weight):
            patch = value.new_zeros(len(place), weight.value[0].numel())
        elif isinstance(operation, Conv2d):
            patch = _patches(value, node, operation, image, place)
        else:
            patch = value[image]
        if layer.affine is not None:  # what a batch norm multiplies by 0 moves nothing behind it
            patch = patch.where((self._scale(layer)[self.channels(layer, place)] != 0)[:, None], 0.0)
        constant = self.moves_constant(layer, place).to(patch.dtype)
        return torch.cat([patch, constant[:, None]], 1)

    def forms(self, layer: Layer, value: Ball, demands: Demands) -> Ball:
        """The linear forms of a layer's demands: (number, weights of a channel + 1).

        Args:
            layer: which.
            value: of what the layer reads.
            demands: of one channel or several, each form in its own channel's weights.
        """
        total = radius = None
        for place, sign in ((demands.above, 1.0), (demands.below, -1.0)):
            exists = (place >= 0)[:, None]
            one = self._scaled(layer, value, demands.image, place.clamp(min=0))
            part = Ball(sign * one.value.where(exists, 0.0), one.radius.where(exists, 0.0))
            if total is None or radius is None:
                total, radius = part.value, part.radius
                continue
            total = total + part.value
            radius = (radius + part.radius) * (1 + 4 * UNIT) + 2 * UNIT * total.abs()
        assert total is not None
        assert radius is not None
        return Ball(total, radius)

    def _scaled(self, layer: Layer, value: Ball, image: Tensor, place: Tensor) -> Ball:
        """Rows of places as the batch norm shows them."""
        rows, radius = (self.rows(layer, part, image, place) for part in (value.value, value.radius))
        radius[:, -1] = 0.0
        if layer.affine is None:
            return Ball(rows, radius)
        scale = self._scale(layer)[self.channels(layer, place)][:, None]
        scaled = rows * scale
        radius = radius * scale.abs() * (1 + 4 * UNIT) + 2 * UNIT * scaled.abs() + 2.0**-1074
        if self._constants(layer) == layer.affine:
            scaled[:, -1], radius[:, -1] = 1.0, 0.0
        return Ball(scaled, radius)

    def _scale(self, layer: Layer) -> Tensor:
        assert layer.affine is not None
        operation = self.graph.nodes[layer.affine].operation
        assert isinstance(operation, Affine)
        return operation.scale

    def _constants(self, layer: Layer) -> int | None:
        """The node that adds a parameter of its own to every channel; None if there is none."""
        if layer.affine is not None:
            operation = self.graph.nodes[layer.affine].operation
            assert isinstance(operation, Affine)
            if operation.bias is not None and self._is_free(operation.bias):
                return layer.affine
        operation = self.graph.nodes[layer.node].operation
        assert isinstance(operation, Conv2d | Linear)
        return layer.node if self._is_own(operation.bias) else None

    def _is_own(self, parameter: Parameter | None) -> bool:
        """Whether this is a parameter that asks for a derivative, and of no second node."""
        return parameter is not None and parameter.name is not None and self._is_free(parameter.name)

    def _is_free(self, name: str) -> bool:
        return name in self.graph.parameters and self._uses[name] == 1


def tied_entries(
    node: Node, size: tuple[int, int], windows: Windows, where: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Marked entries of a pool's windows, each with the chosen one.

    Args:
        node: the pool.
        size: rows and columns of what it reads.
        windows: its decision.
        where: (entries, N, C, rows, columns) bool.

    Returns:
        Image, place of the chosen entry and place of the marked entry in what the pool reads, int64 each.
    """
    pixels = pixel_numbers(node, size, device=where.device).flatten(1)
    entry, image, channel, window = where.flatten(3).nonzero(as_tuple=True)
    first = channel * (size[0] * size[1])
    return image, first + windows.chosen[image, channel, window], first + pixels[entry, window]


def _patches(value: Tensor, node: Node, operation: Conv2d, image: Tensor, place: Tensor) -> Tensor:
    """What a convolution multiplies with the weights of a channel: (number, weights of a channel)."""
    weight = operation.weight.value
    _, _, height, width = node.shape
    channel, pixel = place // (height * width), place % (height * width)
    rows, columns = operation.padding
    padded = functional.pad(value, (columns, columns, rows, rows))

    def taps(first: Tensor, axis: int) -> Tensor:
        steps = torch.arange(weight.shape[2 + axis], device=place.device) * operation.dilation[axis]
        return first[:, None] * operation.stride[axis] + steps

    inputs = weight.shape[1]
    group = channel // (len(weight) // operation.groups)
    source = group[:, None] * inputs + torch.arange(inputs, device=place.device)
    at_rows, at_columns = taps(pixel // width, 0), taps(pixel % width, 1)
    found = padded[
        image[:, None, None, None],
        source[:, :, None, None],
        at_rows[:, None, :, None],
        at_columns[:, None, None, :],
    ]
    return found.flatten(1)


def _names(node: Node) -> Iterator[str]:
    """The parameters that a node uses."""
    match node.operation:
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            for parameter in (weight, bias):
                if parameter is not None and parameter.name is not None:
                    yield parameter.name
        case Affine(weight=weight, bias=bias):
            for name in (weight, bias):
                if name is not None:
                    yield name
        case _:
            pass
