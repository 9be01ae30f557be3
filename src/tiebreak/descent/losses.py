"""Convex losses of one number, each with its derivatives and constants: the laboratory of stability."""

from __future__ import annotations

import math
from enum import StrEnum

import torch
from torch import Tensor


class Loss(StrEnum):
    """A convex, even loss whose minimum is 0 at 0.

    | name | formula | smoothness |
    |---|---|---|
    | abs | abs(x) | a kink at its minimiser |
    | huber | x^2/2 up to 1, abs(x) - 1/2 beyond | C1, not C2 |
    | logcosh | log cosh x | analytic, Lipschitz |
    | sqrt1 | sqrt(1 + x^2) - 1 | analytic, Lipschitz |
    | quadratic | x^2/2 | analytic, not Lipschitz |
    | kinked_bowl | x^2/2 up to 1, 2 abs(x) - 3/2 beyond | kinks at -1 and 1, smooth at its minimiser |
    """

    ABS = "abs"
    HUBER = "huber"
    LOGCOSH = "logcosh"
    SQRT1 = "sqrt1"
    QUADRATIC = "quadratic"
    KINKED_BOWL = "kinked_bowl"

    @property
    def lipschitz(self) -> float:
        """G, the largest slope; inf for the quadratic."""
        return {Loss.QUADRATIC: math.inf, Loss.KINKED_BOWL: 2.0}.get(self, 1.0)

    @property
    def smoothness(self) -> float:
        """L, the Lipschitz constant of the slope; inf where there is a kink."""
        return math.inf if self in (Loss.ABS, Loss.KINKED_BOWL) else 1.0

    @property
    def sharpness_of_minimum(self) -> float:
        """The largest mu with f(x) >= mu |x| near 0: 1 for abs and 0 for all that are flat there."""
        return 1.0 if self is Loss.ABS else 0.0

    def at(self, x: Tensor) -> Tensor:
        """f(x), elementwise."""
        size = x.abs()
        match self:
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

    def slope(self, x: Tensor, *, derivative_at_zero: float = 0.0) -> Tensor:
        """f'(x), elementwise; of abs at 0 it is an argument. On the kinks of the bowl it is the inner one."""
        match self:
            case Loss.ABS:
                return (
                    x.sign() if not derivative_at_zero else torch.where(x == 0, derivative_at_zero, x.sign())
                )
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

    def curvature(self, x: Tensor) -> Tensor:
        """f''(x), elementwise, where it exists; the one from inside at |x| = 1."""
        match self:
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
