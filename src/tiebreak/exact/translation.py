"""From an operation of PyTorch, as it ran, to one of a graph: the strict list.

Each reader takes one call with its arguments by name and notes the node that it stands for, or refuses.
Operations that are not in `READERS` and derivatives that are not in `DERIVATIVES` are not certifiable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Linear,
    MaxPool2d,
    Operation,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.numerics import kernels
from tiebreak.numerics.geometry import PoolGeometry

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor of the pass that is the value of a node."""

    node: int


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that is a parameter, or its transpose."""

    tensor: Tensor
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Unknown:
    """A tensor that nothing is known about, with the reason."""

    reason: str


class Tracing(Protocol):
    """What a reader sees of the pass that is traced.

    Attributes:
        known: what the tensors of the pass are, by the address of each.
        names: of the module's parameters, likewise.
        deviations: of each batch norm in evaluation mode, by the name of its weight.
        layout: where the entries lay in memory before an operation that changes only that.
    """

    known: dict[int, Traced | Weight | Unknown]
    names: dict[int, str]
    deviations: dict[str, Tensor]
    layout: tuple[Any, ...]

    def add(self, operation: Operation, inputs: tuple[int, ...], result: Tensor) -> Traced:
        """A new node."""
        ...


class RefusedError(Exception):
    """Why an operation cannot be certified."""

    def __init__(self, reason: str, *, placed: bool = False) -> None:
        super().__init__(reason)
        self.placed = placed


@dataclass(frozen=True, eq=False)
class Call:
    """One operation with its arguments by name.

    Attributes:
        tracing: the pass.
        func: PyTorch's operation.
        given: its arguments.
        result: what it returned.
    """

    tracing: Tracing
    func: Any
    given: dict[str, Any]
    result: Tensor

    def traced(self, name: str) -> int:
        """The node of an argument."""
        return self.node(self.given[name])

    def node(self, tensor: Any) -> int:
        """The node that a tensor is the value of."""
        known = self.tracing.known.get(id(tensor))
        if isinstance(known, Traced):
            return known.node
        if isinstance(known, Unknown):
            raise RefusedError(known.reason, placed=True)
        raise RefusedError(f"{self.func} takes a tensor that does not come from the batch")

    def nodes(self, tensors: Any) -> tuple[int, ...]:
        """The nodes of several tensors."""
        return tuple(self.node(tensor) for tensor in tensors)

    def weight(self, name: str, *, transposed: bool = False) -> Parameter | None:
        """A parameter or constant, or None where none is given."""
        tensor = self.given[name]
        if tensor is None:
            return None
        known = self.tracing.known.get(id(tensor))
        if known is None:
            if tensor.requires_grad:
                raise RefusedError(f"{self.func} takes a tensor that is computed, not a parameter")
            known = Weight(tensor)
        if isinstance(known, Unknown):
            raise RefusedError(known.reason, placed=True)
        if isinstance(known, Traced):
            raise RefusedError(f"{self.func} takes a {name} that is made of the batch")
        root = known.tensor.detach()
        if known.transposed != transposed:
            if known.tensor.requires_grad:
                raise RefusedError(f"{self.func} takes a transposed {name}")
            root = root.t()
        name_of = self.tracing.names.get(id(known.tensor)) if known.tensor.requires_grad else None
        return Parameter(root.double().clone(), name_of)

    def must(self, condition: bool, what: str) -> None:
        """Refuse an option that has no exact meaning here."""
        if not condition:
            raise RefusedError(f"{self.func} with {what} is not an operation that can be certified")

    def add(self, operation: Operation, *inputs: int) -> Traced:
        """Note the node."""
        return self.tracing.add(operation, inputs, self.result)


def layout_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where the entries lie in memory; the stride of an axis with a single entry says nothing."""
    strides = [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return tuple(tensor.shape), strides, tensor.storage_offset()


def _restrided(call: Call) -> Traced:
    """How a global average is marked as channels-last: the same entries in their places."""
    call.must(layout_of(call.result) == call.tracing.layout, "another layout")
    return Traced(call.traced("self"))


def _same(call: Call) -> Traced | Weight:
    """A conversion between formats, or a copy."""
    tensor = call.given[call.func._schema.arguments[0].name]
    known = call.tracing.known.get(id(tensor))
    call.must(call.result.is_floating_point(), "a result that is not floating point")
    if isinstance(known, Weight):
        return known
    return Traced(call.node(tensor))


def _convolution(call: Call) -> Traced:
    given = call.given
    weight = call.weight("weight")
    call.must(weight is not None and weight.value.dim() == 4, "a kernel that is not two-dimensional")
    call.must(not given["transposed"], "transposed=True")
    assert weight is not None
    pair = lambda name: _two(given[name])  # noqa: E731
    return call.add(
        Conv2d(
            weight=weight,
            bias=call.weight("bias"),
            stride=pair("stride"),
            padding=pair("padding"),
            dilation=pair("dilation"),
            groups=given["groups"],
        ),
        call.traced("input"),
    )


def _transpose(call: Call) -> Weight:
    known = call.tracing.known.get(id(call.given["self"]))
    if not isinstance(known, Weight) or known.transposed:
        raise RefusedError(f"{call.func} of a tensor that is not a parameter")
    return Weight(known.tensor, transposed=True)


def _product(call: Call) -> Traced:
    """x W^T, or x W^T + b."""
    has_bias = "mat1" in call.given
    call.must(
        call.given.get("beta", 1) == 1 and call.given.get("alpha", 1) == 1, "beta or alpha other than 1"
    )
    source, other = ("mat1", "mat2") if has_bias else ("self", "mat2")
    weight = call.weight(other, transposed=True)
    bias = call.weight("self") if has_bias else None
    assert weight is not None
    if bias is not None:
        call.must(bias.value.dim() == 1, "a bias that is not a vector")
    return call.add(Linear(weight=weight, bias=bias), call.traced(source))


def _linear(call: Call) -> Traced:
    weight = call.weight("weight")
    assert weight is not None
    return call.add(Linear(weight=weight, bias=call.weight("bias")), call.traced("input"))


def _relu(call: Call) -> Traced:
    return call.add(ReLU(), call.traced("self"))


def _max_pool(call: Call) -> Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    geometry = PoolGeometry.of(
        _two(call.given["kernel_size"]),
        stride=_two(call.given["stride"] or call.given["kernel_size"]),
        padding=_two(call.given["padding"]),
        dilation=_two(call.given["dilation"]),
        ceil_mode=bool(call.given["ceil_mode"]),
    )
    mask = kernels.forward(source.detach(), geometry=geometry)[1]
    return call.add(MaxPool2d(geometry, mask), call.traced("self"))


def _average_pool(call: Call) -> Traced:
    given = call.given
    source: Tensor = given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    kernel, padding = _two(given["kernel_size"]), _two(given["padding"])
    stride = _two(given["stride"] or given["kernel_size"])
    size = (source.shape[2], source.shape[3])
    matrices, inside, padded = [], [], []
    for axis in range(2):
        starts = [place * stride[axis] - padding[axis] for place in range(call.result.shape[2 + axis])]
        ends = [min(start + kernel[axis], size[axis] + padding[axis]) for start in starts]
        matrices.append(_spans(starts, ends, size[axis]))
        inside.append(matrices[-1].sum(1))
        lengths = [float(end - start) for start, end in zip(starts, ends, strict=True)]
        padded.append(torch.tensor(lengths, dtype=torch.float64, device="cpu"))
    divisor = torch.outer(*(padded if given["count_include_pad"] else inside))
    if given["divisor_override"] is not None:
        divisor = torch.full_like(divisor, float(given["divisor_override"]))
    return _average(call, matrices[0], matrices[1], divisor)


def _adaptive_average_pool(call: Call) -> Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    matrices = [_adaptive(source.shape[axis], call.result.shape[axis]) for axis in (2, 3)]
    return _average(call, matrices[0], matrices[1], torch.outer(matrices[0].sum(1), matrices[1].sum(1)))


def _adaptive(size: int, number: int) -> Tensor:
    starts = [place * size // number for place in range(number)]
    ends = [-(-(place + 1) * size // number) for place in range(number)]
    return _spans(starts, ends, size)


def _adaptive_max_pool(call: Call) -> Traced:
    source: Tensor = call.given["self"]
    call.must(source.dim() == 4, "an input that is not (N, C, H, W)")
    size, number = source.shape[2:], call.result.shape[2:]
    call.must(
        all(length % count == 0 for length, count in zip(size, number, strict=True)),
        "windows of several sizes",
    )
    geometry = PoolGeometry.of([length // count for length, count in zip(size, number, strict=True)])
    mask = kernels.forward(source.detach(), geometry=geometry)[1]
    return call.add(MaxPool2d(geometry, mask), call.traced("self"))


def _mean(call: Call) -> Traced:
    source: Tensor = call.given["self"]
    axes = sorted(axis % source.dim() for axis in call.given["dim"] or ())
    call.must(source.dim() == 4 and axes == [2, 3], "axes other than rows and columns")
    rows, columns = source.shape[2:]
    node = call.traced("self")
    shape = (*source.shape[:2], 1, 1)
    kind: Any = {"dtype": torch.float64, "device": source.device}
    ones = (torch.ones(1, rows, **kind), torch.ones(1, columns, **kind))
    operation = AveragePool2d(*ones, torch.full((1, 1), float(rows * columns), **kind))
    pooled = call.tracing.add(operation, (node,), call.result.reshape(shape))
    return pooled if call.result.dim() == 4 else call.add(Reshape(), pooled.node)


def _average(call: Call, rows: Tensor, columns: Tensor, divisor: Tensor) -> Traced:
    device = call.result.device
    operation = AveragePool2d(rows.to(device), columns.to(device), divisor.to(device))
    return call.add(operation, call.traced("self"))


def _spans(starts: list[int], ends: list[int], size: int) -> Tensor:
    """Row i is 1 from starts[i] to ends[i], as far as that lies in [0, size)."""
    places = torch.arange(size, device="cpu")
    first, last = (torch.tensor(bounds, device="cpu")[:, None] for bounds in (starts, ends))
    return ((places >= first) & (places < last)).double()


def _reshape(call: Call) -> Traced:
    return call.add(Reshape(), call.traced(call.func._schema.arguments[0].name))


def _add(call: Call) -> Traced:
    first, second = call.given["self"], call.given["other"]
    call.must(call.given["alpha"] == 1, "alpha other than 1")
    call.must(isinstance(second, Tensor), "a number")
    call.must(first.shape == second.shape, "shapes that are not the same")
    return call.add(Add(), *call.nodes((first, second)))


def _concat(call: Call) -> Traced:
    axis = call.given["dim"] % call.result.dim()
    call.must(axis != 0, "axis 0, that of the images,")
    tensors = [tensor for tensor in call.given["tensors"] if tensor.numel()]
    return call.add(Concat(axis), *call.nodes(tensors))


def _batch_norm(call: Call) -> Traced:
    given = call.given
    if given.get("training", False):
        weight, bias = call.weight("weight"), call.weight("bias")
        return call.add(BatchNorm2d(weight, bias, float(given["eps"])), call.traced("input"))
    mean, variance = (given[name] for name in ("running_mean", "running_var"))
    call.must(isinstance(mean, Tensor) and isinstance(variance, Tensor), "no running statistics")
    weight, bias = call.weight("weight"), call.weight("bias")
    mean = mean.detach().double()
    deviation = (variance.detach().double() + float(given["eps"])).sqrt()
    if weight is not None and weight.name is not None:
        # The derivative is certified times the deviation, which must then be one.
        first = call.tracing.deviations.setdefault(weight.name, deviation)
        call.must(torch.equal(first, deviation), "a weight that it shares with one of another variance")
    scale = 1.0 / deviation
    scale = scale if weight is None else weight.value * scale
    shift = -(mean * scale) if bias is None else bias.value - mean * scale
    return call.add(
        Affine(
            scale=scale,
            shift=shift,
            mean=mean.clone(),
            weight=weight.name if weight is not None else None,
            bias=bias.name if bias is not None else None,
        ),
        call.traced("input"),
    )


READERS: dict[Any, Callable[[Call], Traced | Weight]] = {
    _aten.convolution.default: _convolution,
    _aten.t.default: _transpose,
    _aten.addmm.default: _product,
    _aten.mm.default: _product,
    _aten.linear.default: _linear,
    _aten.relu.default: _relu,
    _aten.relu_.default: _relu,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    _aten.avg_pool2d.default: _average_pool,
    _aten._adaptive_avg_pool2d.default: _adaptive_average_pool,
    _aten.mean.dim: _mean,
    _aten.as_strided_.default: _restrided,
    _aten.view.default: _reshape,
    _aten._unsafe_view.default: _reshape,
    _aten._reshape_alias.default: _reshape,
    _aten.squeeze.dim: _reshape,
    _aten.squeeze.dims: _reshape,
    _aten.unsqueeze.default: _reshape,
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _add,
    _aten.cat.default: _concat,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.cudnn_batch_norm.default: _batch_norm,
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten._to_copy.default: _same,
    _aten.clone.default: _same,
    _aten.contiguous.default: _same,
}
"""What each operation is read by."""

DERIVATIVES = frozenset(
    {
        "torch::autograd::AccumulateGrad",
        "ConvolutionBackward",
        "AddmmBackward",
        "MmBackward",
        "LinearBackward",
        "TBackward",
        "TransposeBackward",
        "ReluBackward",
        "MaxPool2DWithIndicesBackward",
        "AdaptiveMaxPool2DBackward",
        "AvgPool2DBackward",
        "AdaptiveAvgPool2DBackward",
        "MeanBackward",
        "AsStridedBackward",
        "ViewBackward",
        "UnsafeViewBackward",
        "ReshapeAliasBackward",
        "SqueezeBackward",
        "UnsqueezeBackward",
        "AddBackward",
        "CatBackward",
        "NativeBatchNormBackward",
        "CudnnBatchNormBackward",
        "ToCopyBackward",
        "CloneBackward",
    }
)
"""Derivatives of these operations, as automatic differentiation names them, without the number behind."""


def _two(value: Any) -> tuple[int, int]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    return int(items[0]), int(items[-1])
