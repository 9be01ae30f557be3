"""Norm pooling: the second operation of the study that is not differentiable, at windows of zeros."""
# A node names its arguments; PyTorch declares them as *args, which no fixed signature matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError, finite_number
from tiebreak.numerics.geometry import PoolGeometry, Size
from tiebreak.numerics.selection import arithmetic_dtype


def norm_pool2d(
    x: Tensor,
    *,
    kernel: Size,
    stride: Size | None = None,
    gradient_at_zero: float = 0.0,
    plain_squares: bool = False,
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
        plain_squares: take the root of the sum of squares in the dtype of x, as published. In fp16 the norm
            of entries below about 2**-12 is then 0, and they get gradient_at_zero too.

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
    gradient_at_zero = finite_number(
        gradient_at_zero, key="gradient_at_zero of a norm pool", advice="Use 0 for PyTorch's."
    )
    if x.dim() not in (3, 4) or not x.is_floating_point():
        raise DesignError(
            "norm_pool2d takes floating-point (N, C, H, W) or (C, H, W), got "
            f"{x.dtype} of shape {tuple(x.shape)}."
        )
    geometry.output_size((x.shape[-2], x.shape[-1]))
    windows = x.unfold(-2, geometry.kernel[0], geometry.stride[0])
    windows = windows.unfold(-2, geometry.kernel[1], geometry.stride[1])
    kind = _WindowNorm if torch.compiler.is_compiling() else _TwoModeWindowNorm
    return kind.apply(windows, gradient_at_zero, plain_squares)  # pyright: ignore[reportReturnType]


class _WindowNorm(torch.autograd.Function):
    """Norm over the last two dimensions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(windows: Tensor, gradient_at_zero: float, plain_squares: bool) -> Tensor:
        if plain_squares:
            return windows.square().sum((-2, -1)).sqrt()
        norm = torch.linalg.vector_norm(windows, dim=(-2, -1))
        largest = windows.abs().amax((-2, -1))
        unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        in_units = torch.linalg.vector_norm(windows / unit[..., None, None], dim=(-2, -1)) * unit
        # Below this the squares lose digits, and at last all; at infinity they had none left to lose.
        limits = torch.finfo(arithmetic_dtype(windows.dtype))
        astray = (norm < 2 * (limits.tiny / limits.eps) ** 0.5) | norm.isinf()
        return torch.where(astray, in_units, norm)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: Tensor) -> None:
        windows, ctx.gradient_at_zero, _ = inputs
        ctx.save_for_backward(windows, output)
        ctx.save_for_forward(windows, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _direction(ctx) * gradient[..., None, None], None, None


class _TwoModeWindowNorm(_WindowNorm):
    """`_WindowNorm` with forward mode, which `torch.compile` does not take."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return (_direction(ctx) * tangent).sum((-2, -1))


def _direction(ctx: Any) -> Tensor:
    """The gradient of each norm by its window."""
    windows, norm = ctx.saved_tensors
    norm = norm[..., None, None]
    # The quotient is not 0 / 0 where it is left out, or its own derivative would be NaN there.
    quotient = windows / torch.where(norm == 0, 1.0, norm)
    return torch.where(norm == 0, ctx.gradient_at_zero, quotient)
