"""Single-sided controls of the published operator: its error in the value only, or in the gradient only."""
# A node names its arguments; PyTorch declares them as *args, which no fixed signature matches.
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def with_value(output: Tensor, *, value: Tensor) -> Tensor:
    """`value` forward, and the derivative of `output` backward, bit for bit.

    Adding the difference of the two to `output` would round once more.

    Args:
        output: differentiable.
        value: of the same shape and dtype, a constant.

    Source:
        Ours.
    """
    return _WithValue.apply(output, value)


def with_rounded_gradient(output: Tensor, *, beta: float) -> Tensor:
    """`output` forward; backward its gradient g as beta * g + (1 - beta) * g, each step rounded.

    Over the reals that is g. In floating point it is what the published operator sends to the maximum of a
    window without a tie.

    Args:
        output: differentiable.
        beta: finite.

    Source:
        Ours; the error is that of R. Boustany, TMLR 2024.
    """
    return _WithRoundedGradient.apply(output, beta)


class _WithValue(torch.autograd.Function):
    @staticmethod
    def forward(output: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _WithRoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(output: Tensor, beta: float) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.beta = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.beta * gradient + (1 - ctx.beta) * gradient, None
