"""Norm pooling: the second operation of the study that is not differentiable, at windows of zeros."""
# A node names its arguments; PyTorch declares them as *args, which no fixed signature matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError
from tiebreak.numerics.geometry import PoolGeometry, Size


def norm_pool2d(
    x: Tensor, *, kernel: Size, stride: Size | None = None, gradient_at_zero: float = 0.0
) -> Tensor:
    """Euclidean norm of each window, with a chosen gradient where the whole window is 0.

    The derivative of the norm is x / ||x||. At 0 every entry of the window gets gradient_at_zero times the
    incoming gradient. With a window of n entries this is a Clarke subgradient up to 1 / sqrt(n) in absolute
    value; the published second program takes 1, whose norm is 2 for a 2x2 window.

    Args:
        x: (N, C, H, W) or (C, H, W), floating point.
        kernel: entries of a window, one number or (rows, columns).
        stride: pixels from a window to the next; None for the kernel.
        gradient_at_zero: finite.

    Returns:
        (N, C, rows, columns) or (C, rows, columns) in the dtype of x.

    Raises:
        DesignError: a geometry, shape or gradient that cannot be.

    Source:
        R. Boustany, TMLR 2024 (NormPool).

    Example:
        >>> norm_pool2d(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), kernel=2).item()
        5.0
    """
    geometry = PoolGeometry.of(kernel, stride=stride)
    if isinstance(gradient_at_zero, bool) or not isinstance(gradient_at_zero, int | float):
        raise DesignError(f"gradient_at_zero of a norm pool must be a number, got {gradient_at_zero!r}.")
    if not math.isfinite(gradient_at_zero):
        raise DesignError(
            f"gradient_at_zero of a norm pool must be finite, got {gradient_at_zero}. Use 0 for PyTorch's."
        )
    if x.dim() not in (3, 4) or not x.is_floating_point():
        raise DesignError(
            "norm_pool2d takes floating-point (N, C, H, W) or (C, H, W), got "
            f"{x.dtype} of shape {tuple(x.shape)}."
        )
    geometry.output_size((x.shape[-2], x.shape[-1]))
    windows = x.unfold(-2, geometry.kernel[0], geometry.stride[0])
    windows = windows.unfold(-2, geometry.kernel[1], geometry.stride[1])
    return _WindowNorm.apply(windows, float(gradient_at_zero))  # pyright: ignore[reportReturnType]


class _WindowNorm(torch.autograd.Function):
    """Norm over the last two dimensions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(windows: Tensor, gradient_at_zero: float) -> Tensor:
        return torch.linalg.vector_norm(windows, dim=(-2, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        windows, ctx.gradient_at_zero = inputs
        ctx.save_for_backward(windows, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        windows, norm = ctx.saved_tensors
        norm = norm[..., None, None]
        # The quotient is not 0 / 0 where it is left out, or its own derivative would be NaN there.
        quotient = windows / torch.where(norm == 0, 1.0, norm)
        direction = torch.where(norm == 0, ctx.gradient_at_zero, quotient)
        return direction * gradient[..., None, None], None
