"""What a certificate is about: a network of a few known operations, with the numbers in it.

Every number is a float and therefore a dyadic rational, so a graph is a definite function over the reals at
a definite point. Nothing here computes; `exact.record` makes a graph of a module, `exact.oracle` evaluates it
slowly and obviously, `exact.certify` fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.numerics.geometry import PoolGeometry


class NotCertifiableError(UserError):
    """A network, or a point of it, about which nothing can be proved; the message says why and where."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """A tensor of the network.

    Attributes:
        value: float64, exact whatever its own format was, detached.
        name: of the parameter of the module; None for a constant, which has no derivative.
    """

    value: Tensor
    name: str | None


@dataclass(frozen=True, eq=False)
class Input:
    """The batch."""


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Cross-correlation. Weight (out, in / groups, rows, columns), bias (out,)."""

    weight: Parameter
    bias: Parameter | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class Linear:
    """x W^T + b for x (N, in). Weight (out, in), bias (out,)."""

    weight: Parameter
    bias: Parameter | None


@dataclass(frozen=True, eq=False)
class Affine:
    """scale * x + shift a channel: batch norm in evaluation mode, folded.

    The folded numbers are float64, `scale = fl(weight * fl(1 / sqrt(var + eps)))` and
    `shift = fl(bias - fl(mean * scale))`; the network with them is the one that a certificate is about. With
    scale = weight / deviation and shift = bias - mean * scale the derivative with respect to `weight` is
    (that of scale - mean * that of shift) / deviation, and with respect to `bias` that of shift.

    Attributes:
        scale: (C,) float64.
        shift: (C,) float64.
        mean: (C,) float64, the running mean.
        weight: name of the parameter, or None.
        bias: name of the parameter, or None.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    weight: str | None
    bias: str | None


@dataclass(frozen=True, eq=False)
class BatchNorm2d:
    """Batch norm in training mode, with the mean and variance of the batch; `exact.structure` is about it."""

    weight: Parameter | None
    bias: Parameter | None
    eps: float


@dataclass(frozen=True, eq=False)
class ReLU:
    """max(x, 0) with the derivative 0 at 0."""


@dataclass(frozen=True, eq=False)
class MaxPool2d:
    """Maximum over windows; its derivative at ties is what a certificate asks about.

    Attributes:
        geometry: the windows.
        float_mask: uint8 of shape (planes, N, C, rows, columns): bit j % 8 of plane j // 8 says that entry j
            of the window attained the maximum in the floating-point program, as it ran.
    """

    geometry: PoolGeometry
    float_mask: Tensor


@dataclass(frozen=True, eq=False)
class AveragePool2d:
    """rows x columns^T / divisor for each image and channel: any average pool, adaptive or over everything.

    Attributes:
        rows: (rows of the output, rows of the input) of 0 and 1, float64.
        columns: as rows.
        divisor: (rows, columns) of the output, whole numbers as float64.
    """

    rows: Tensor
    columns: Tensor
    divisor: Tensor


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same numbers in row-major order in another shape (the node's); the batch stays the first axis."""


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of two tensors of one shape."""


@dataclass(frozen=True, eq=False)
class Concat:
    """Inputs one after the other along an axis other than the first."""

    axis: int


Operation = (
    Input | Conv2d | Linear | Affine | BatchNorm2d | ReLU | MaxPool2d | AveragePool2d | Reshape | Add | Concat
)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation in its place.

    Attributes:
        operation: what is done.
        inputs: positions of the nodes it reads, all earlier.
        shape: of its result, the batch first.
        where: module path and the line of code that called it.
    """

    operation: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    where: str


@dataclass(frozen=True, eq=False)
class Graph:
    """A network at a point.

    Attributes:
        nodes: in an order in which each reads earlier ones only; the first is the batch.
        output: position of the node whose value is the network's output, (N, classes).
        batch: (N, ...) float64, exact.
        parameters: name and shape of every parameter of the module that asks for a derivative, whether or
            not the output depends on it.
        nonfinite: where the floating-point program first met an infinity or a NaN, or None.
    """

    nodes: tuple[Node, ...]
    output: int
    batch: Tensor
    parameters: dict[str, tuple[int, ...]]
    nonfinite: str | None = field(default=None)

    @property
    def multiplied(self) -> frozenset[int]:
        """Positions of the nodes that parameters multiply: a derivative needs their values."""
        return frozenset(
            node.inputs[0] for node in self.nodes if isinstance(node.operation, Conv2d | Linear | Affine)
        )

    @property
    def pools(self) -> tuple[int, ...]:
        """Positions of the max pools, in the order in which they ran."""
        return tuple(index for index, node in enumerate(self.nodes) if isinstance(node.operation, MaxPool2d))
