"""Convex losses of one number, each with its derivatives: the laboratory of stability."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tiebreak.design.descent_axes import Loss


def value(loss: Loss, x: Tensor) -> Tensor:
    """f(x), elementwise."""
    size = x.abs()
    match loss:
        case Loss.ABS:
            return size
        case Loss.HUBER:
            return torch.where(size <= 1, x * x / 2, size - 0.5)
        case Loss.LOGCOSH:
            return size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
        case Loss.SQRT1:
            # sqrt(1 + x^2) - 1 without the cancellation
            return x * x / (torch.sqrt(1 + x * x) + 1)
        case Loss.QUADRATIC:
            return x * x / 2
        case Loss.KINKED_BOWL:
            return torch.where(size <= 1, x * x / 2, 2 * size - 1.5)


def slope(loss: Loss, x: Tensor, *, derivative_at_zero: float = 0.0) -> Tensor:
    """f'(x), elementwise; of abs at 0 it is an argument. On the kinks of the bowl it is the inner one."""
    match loss:
        case Loss.ABS:
            return x.sign() if not derivative_at_zero else torch.where(x == 0, derivative_at_zero, x.sign())
        case Loss.HUBER:
            return x.clamp(-1, 1)
        case Loss.LOGCOSH:
            return torch.tanh(x)
        case Loss.SQRT1:
            return x / torch.sqrt(1 + x * x)
        case Loss.QUADRATIC:
            return x
        case Loss.KINKED_BOWL:
            return torch.where(x.abs() <= 1, x, 2 * x.sign())


def curvature(loss: Loss, x: Tensor) -> Tensor:
    """f''(x), elementwise, where it exists; the one from inside at |x| = 1."""
    match loss:
        case Loss.ABS:
            return torch.zeros_like(x)
        case Loss.HUBER | Loss.KINKED_BOWL:
            return (x.abs() <= 1).to(x.dtype)
        case Loss.LOGCOSH:
            return 1 - torch.tanh(x) ** 2
        case Loss.SQRT1:
            return (1 + x * x) ** -1.5
        case Loss.QUADRATIC:
            return torch.ones_like(x)
