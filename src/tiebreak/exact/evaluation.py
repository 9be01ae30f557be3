"""One way through a graph for every kind of number.

A `Numbers` says how to do each operation with its own kind of value: residues modulo a prime, float64 with a
bound on its error, fixed point with a bound. Where a network is not smooth, the step does not look at the
value: it follows a decision that was made before, so all kinds take the same branch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

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
    ReLU,
    Reshape,
)

V = TypeVar("V")

MOST_KEPT = 2**18
"""Numbers in a tensor of the graph of which each kind of number keeps its own copy.

A larger one is encoded anew whenever it is used, which costs little beside the products and saves a copy of
the network for every prime and every digit.
"""


@dataclass(frozen=True, eq=False)
class Windows:
    """Which entries of each window of a pool attain its maximum over the reals.

    Attributes:
        tied: (entries, N, C, rows, columns) bool; at least one entry of each window.
        number: (N, C, rows, columns) int64, how many.
        chosen: (N, C, rows * columns) int64, the pixel of the first one in its flattened image.
    """

    tied: Tensor
    number: Tensor
    chosen: Tensor

    def of(self, images: Tensor) -> Windows:
        """Those of some images."""
        return Windows(self.tied[:, images], self.number[images], self.chosen[images])


Decision = Tensor | Windows
"""Of a ReLU: where its input is above 0, bool. Of a max pool: its windows."""


class Numbers(ABC, Generic[V]):
    """How to compute with one kind of number."""

    @abstractmethod
    def batch(self, x: Tensor) -> V:
        """The batch, exactly."""

    @abstractmethod
    def conv(self, x: V, operation: Conv2d) -> V:
        """Convolution with bias."""

    @abstractmethod
    def linear(self, x: V, operation: Linear) -> V:
        """Product with a matrix, with bias."""

    @abstractmethod
    def affine(self, x: V, operation: Affine) -> V:
        """Scale and shift a channel."""

    @abstractmethod
    def average(self, x: V, operation: AveragePool2d) -> V:
        """Average pool."""

    @abstractmethod
    def add(self, first: V, second: V) -> V:
        """Sum."""

    @abstractmethod
    def concat(self, values: Sequence[V], axis: int) -> V:
        """One after the other."""

    @abstractmethod
    def masked(self, x: V, mask: Tensor) -> V:
        """x where the mask is true, 0 elsewhere."""

    @abstractmethod
    def gathered(self, x: V, windows: Windows) -> V:
        """The chosen entry of each window."""

    @abstractmethod
    def reshaped(self, x: V, shape: tuple[int, ...]) -> V:
        """Another shape."""

    def step(self, node: Node, inputs: Sequence[V], decision: Decision | None, *, num_images: int) -> V:
        """The value of a node other than the batch."""
        match node.operation:
            case Conv2d() as operation:
                return self.conv(inputs[0], operation)
            case Linear() as operation:
                return self.linear(inputs[0], operation)
            case Affine() as operation:
                return self.affine(inputs[0], operation)
            case AveragePool2d() as operation:
                return self.average(inputs[0], operation)
            case ReLU():
                assert isinstance(decision, Tensor)
                return self.masked(inputs[0], decision)
            case MaxPool2d():
                assert isinstance(decision, Windows)
                return self.gathered(inputs[0], decision)
            case Reshape():
                return self.reshaped(inputs[0], (num_images, *node.shape[1:]))
            case Add():
                return self.add(inputs[0], inputs[1])
            case Concat() as operation:
                return self.concat(inputs, operation.axis)
            case Input() | BatchNorm2d():
                raise AssertionError(f"{type(node.operation).__name__} is no step with numbers of this kind")


class Evaluation(Generic[V]):
    """A walk through a graph that keeps what is still needed.

    Args:
        numbers: the kind of number.
        graph: what to evaluate.
        batch: the images, float64.
        keep: nodes whose values stay to the end.
    """

    def __init__(self, numbers: Numbers[V], graph: Graph, batch: Tensor, *, keep: frozenset[int]) -> None:
        self.numbers, self.graph, self.keep = numbers, graph, keep
        self.num_images = len(batch)
        self.values: dict[int, V] = {0: numbers.batch(batch)}
        self.reached = 0
        self._last_use = last_uses(graph)

    def advance(self, node: int, decisions: dict[int, Decision]) -> V:
        """Evaluate up to `node` and return its value; every decision before it must be there."""
        while self.reached < node:
            self.reached += 1
            current = self.graph.nodes[self.reached]
            inputs = [self.values[source] for source in current.inputs]
            self.values[self.reached] = self.numbers.step(
                current, inputs, decisions.get(self.reached), num_images=self.num_images
            )
            for source in set(current.inputs):
                if self._last_use[source] <= self.reached and source not in self.keep:
                    del self.values[source]
        return self.values[node]


def last_uses(graph: Graph) -> tuple[int, ...]:
    """For each node the last one that reads it; the output is read after all."""
    last = list(range(len(graph.nodes)))
    for index, node in enumerate(graph.nodes):
        for source in node.inputs:
            last[source] = index
    last[graph.output] = len(graph.nodes)
    return tuple(last)


def gather(x: Tensor, windows: Windows) -> Tensor:
    """The chosen entries of a tensor (..., N, C, H, W)."""
    flat = x.flatten(-2)
    chosen = windows.chosen.expand(*flat.shape[:-1], -1)
    return flat.gather(-1, chosen).reshape(*x.shape[:-2], *windows.number.shape[-2:])


def patches(x: Tensor, node: Node, *, fill: float) -> Tensor:
    """The entries of every window of a pool: (entries, N, C, rows, columns), `fill` where one lies outside.

    Args:
        x: (N, C, H, W).
        node: the pool.
        fill: for padded entries.
    """
    operation = node.operation
    assert isinstance(operation, MaxPool2d)
    geometry = operation.geometry
    result = x.new_full((geometry.num_entries, *x.shape[:2], *node.shape[2:]), fill)
    for tap in geometry.taps((x.shape[2], x.shape[3])):
        result[(tap.entry, ..., *tap.windows)] = x[(..., *tap.pixels)]
    return result


def pixel_numbers(node: Node, size: tuple[int, int], *, device: torch.device) -> Tensor:
    """For each entry of each window the pixel of the flattened image, -1 outside.

    Returns:
        (entries, rows, columns) int64.
    """
    operation = node.operation
    assert isinstance(operation, MaxPool2d)
    geometry = operation.geometry
    image = torch.arange(size[0] * size[1], device=device).reshape(size)
    result = image.new_full((geometry.num_entries, *node.shape[2:]), -1)
    for tap in geometry.taps(size):
        result[(tap.entry, *tap.windows)] = image[tap.pixels]
    return result
