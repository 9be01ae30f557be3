"""The exact pool as operators of PyTorch's dispatcher, for `torch.compile`, `torch.export` and fake tensors.

A compiler sees one opaque operator forward and one backward; what they run is decided in
`tiebreak.numerics.kernels` when the graph is called. Arguments are the numbers of a geometry and of a
Jacobian, because an operator takes no Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.numerics import kernels
from tiebreak.numerics.geometry import PoolGeometry, memory_format_of


def max_pool2d(x: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> tuple[Tensor, Tensor]:
    """Value and mask of the exact pool, differentiable any number of times.

    Args:
        x: (N, C, H, W) or (C, H, W).
        geometry: the windows.
        jacobian: the rule at ties; its numbers are constants of the compiled graph.
    """
    return torch.ops.tiebreak.max_pool2d(x, *_flat(geometry, jacobian))


def scatter(
    gradient: Tensor,
    mask: Tensor,
    size: torch.Size,
    memory_format: torch.memory_format,
    *,
    geometry: PoolGeometry,
    jacobian: PoolJacobian,
) -> Tensor:
    """The transposed Jacobian applied to the gradient of the output, as an operator.

    Args:
        gradient: of the output.
        mask: from `max_pool2d`.
        size: shape of the input.
        memory_format: of the input.
        geometry: the windows.
        jacobian: the rule at ties.
    """
    channels_last = memory_format == torch.channels_last
    numbers = _flat(geometry, jacobian)
    return torch.ops.tiebreak.max_pool2d_scatter(gradient, mask, size, channels_last, *numbers)


def gather(vector: Tensor, mask: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> Tensor:
    """The Jacobian applied forward, as an operator.

    Args:
        vector: in the space of the input.
        mask: from `max_pool2d`.
        geometry: the windows.
        jacobian: the rule at ties.
    """
    return torch.ops.tiebreak.max_pool2d_gather(vector, mask, *_flat(geometry, jacobian))


def _flat(geometry: PoolGeometry, jacobian: PoolJacobian) -> tuple[Any, ...]:
    windows = [*geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation]
    return windows, geometry.ceil_mode, jacobian.beta, str(jacobian.selection), jacobian.seed


def _geometry(windows: Sequence[int], ceil_mode: bool) -> PoolGeometry:
    kernel, stride, padding, dilation = ((windows[at], windows[at + 1]) for at in range(0, 8, 2))
    return PoolGeometry(kernel, stride, padding, dilation, ceil_mode)


def _jacobian(beta: float, selection: str, seed: int) -> PoolJacobian:
    return PoolJacobian(beta=beta, selection=Selection(selection), seed=seed)


@torch.library.custom_op("tiebreak::max_pool2d", mutates_args=())
def _forward(
    x: Tensor, windows: Sequence[int], ceil_mode: bool, beta: float, selection: str, seed: int
) -> tuple[Tensor, Tensor]:
    output, mask = kernels.forward(x, geometry=_geometry(windows, ceil_mode))
    return output, mask.contiguous()


@_forward.register_fake
def _(
    x: Tensor, windows: Sequence[int], ceil_mode: bool, beta: float, selection: str, seed: int
) -> tuple[Tensor, Tensor]:
    geometry = _geometry(windows, ceil_mode)
    shape = (*x.shape[:-2], *geometry.output_size((x.shape[-2], x.shape[-1])))
    output = x.new_empty(shape).contiguous(memory_format=memory_format_of(x))
    return output, x.new_empty((geometry.num_planes, *shape), dtype=torch.uint8)


@torch.library.custom_op("tiebreak::max_pool2d_scatter", mutates_args=())
def _scatter(
    gradient: Tensor,
    mask: Tensor,
    size: Sequence[int],
    channels_last: bool,
    windows: Sequence[int],
    ceil_mode: bool,
    beta: float,
    selection: str,
    seed: int,
) -> Tensor:
    return kernels.scatter(
        gradient,
        mask,
        size=torch.Size(size),
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        geometry=_geometry(windows, ceil_mode),
        jacobian=_jacobian(beta, selection, seed),
    )


@_scatter.register_fake
def _(gradient: Tensor, mask: Tensor, size: Sequence[int], channels_last: bool, *numbers: Any) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    return gradient.new_empty(tuple(size)).contiguous(memory_format=order)


@torch.library.custom_op("tiebreak::max_pool2d_gather", mutates_args=())
def _gather(
    vector: Tensor,
    mask: Tensor,
    windows: Sequence[int],
    ceil_mode: bool,
    beta: float,
    selection: str,
    seed: int,
) -> Tensor:
    geometry = _geometry(windows, ceil_mode)
    return kernels.gather(vector, mask, geometry=geometry, jacobian=_jacobian(beta, selection, seed))


@_gather.register_fake
def _(vector: Tensor, mask: Tensor, *numbers: Any) -> Tensor:
    return vector.new_empty(mask.shape[1:])


def _layout(x: Tensor) -> tuple[torch.Size, bool]:
    return x.shape, memory_format_of(x) == torch.channels_last


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.numbers = inputs
    ctx.layout = _layout(x)
    ctx.save_for_backward(output[1])


def _forward_backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    result = torch.ops.tiebreak.max_pool2d_scatter(gradient, mask, *ctx.layout, *ctx.numbers)
    return result, *(None for _ in ctx.numbers)


def _keep_scatter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, size, channels_last, *ctx.numbers = inputs
    ctx.layout = (size, channels_last)
    ctx.save_for_backward(mask)


def _scatter_backward(ctx: Any, vector: Tensor) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    result = torch.ops.tiebreak.max_pool2d_gather(vector, mask, *ctx.numbers)
    return result, None, None, None, *(None for _ in ctx.numbers)


def _keep_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    vector, mask, *ctx.numbers = inputs
    ctx.layout = _layout(vector)
    ctx.save_for_backward(mask)


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    result = torch.ops.tiebreak.max_pool2d_scatter(gradient, mask, *ctx.layout, *ctx.numbers)
    return result, None, *(None for _ in ctx.numbers)


_forward.register_autograd(_forward_backward, setup_context=_keep_forward)
_scatter.register_autograd(_scatter_backward, setup_context=_keep_scatter)
_gather.register_autograd(_gather_backward, setup_context=_keep_gather)
