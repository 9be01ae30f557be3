"""ReLU whose derivative at 0 is an argument."""
# A node names its arguments; PyTorch declares them as *args, which no fixed signature matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tiebreak.design.axes import finite_number


def relu(x: Tensor, *, derivative_at_zero: float = 0.0) -> Tensor:
    """max(x, 0) with a chosen derivative where x is 0 (or -0).

    The value is that of `torch.relu` bit for bit. The incoming gradient g becomes 0 where x < 0, g where
    x > 0 or x is NaN, and fl(derivative_at_zero * g) where x is 0. Values in [0, 1] are the Clarke
    subdifferential; others are selections that agree with the derivative almost everywhere.

    Args:
        x: any shape, floating point.
        derivative_at_zero: finite; 0 is PyTorch's own rule and runs PyTorch's own kernels.

    Returns:
        Shape and dtype of x.

    Raises:
        DesignError: a derivative that is not a finite number.

    Source:
        D. Bertoin, J. Bolte, S. Gerchinovitz, E. Pauwels, Numerical influence of ReLU'(0) on
        backpropagation, NeurIPS 2021.

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        >>> relu(x, derivative_at_zero=0.5).sum().backward()
        >>> x.grad.tolist()
        [0.0, 0.5, 1.0]
    """
    derivative = _checked(derivative_at_zero)
    if derivative == 0.0:
        return torch.relu(x)
    kind = _ReLU if torch.compiler.is_compiling() else _TwoModeReLU
    return kind.apply(x, derivative)  # pyright: ignore[reportReturnType]


class ReLU(nn.Module):
    """Module of `relu`.

    Args:
        derivative_at_zero: finite.

    Raises:
        DesignError: a derivative that is not a finite number.
    """

    def __init__(self, derivative_at_zero: float = 0.0) -> None:
        super().__init__()
        self.derivative_at_zero = _checked(derivative_at_zero)

    def forward(self, x: Tensor) -> Tensor:
        """Applies `relu`."""
        return relu(x, derivative_at_zero=self.derivative_at_zero)

    def extra_repr(self) -> str:
        """The derivative, for printing."""
        return f"derivative_at_zero={self.derivative_at_zero}"


def _checked(derivative: float) -> float:
    return finite_number(derivative, key="derivative_at_zero of a ReLU", advice="Use 0 for PyTorch's.")


class _ReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, derivative: float) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.derivative = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x == 0, ctx.derivative * gradient, gradient).masked_fill(x < 0, 0.0), None


class _TwoModeReLU(_ReLU):
    """`_ReLU` with forward mode, which `torch.compile` does not take."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _ReLU.backward(ctx, tangent)[0]  # the Jacobian is diagonal
