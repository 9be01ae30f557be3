"""Float64 with a bound on its error: decides most signs and orders at the price of two forward passes.

A value v stands for a real number x with |x - v| <= e. A sum of K products of numbers that are known this
way is computed with an error of at most

    sum |w| (e + gamma |v|) + 2 K 2**-1074,    gamma = K u / (1 - K u),    u = 2**-53,

in whatever order it is added, with or without fused multiplication (N. Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1; the last term is what underflow can add); a bias adds one rounding
more. The bound itself is computed in float64, so gamma is taken for K + 4 roundings and every product and sum
is enlarged by a relative margin that covers its own rounding. A value that overflowed has a bound of infinity
or NaN, with which no comparison takes it for decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.evaluation import Numbers, Windows, gather, patches
from tiebreak.exact.graph import Affine, AveragePool2d, Conv2d, Linear, Node

UNIT = 2.0**-53
_TINY = 2.0**-1074


@dataclass(frozen=True, eq=False)
class Ball:
    """A real number within `radius` of `value`, entry by entry; float64 of one shape."""

    value: Tensor
    radius: Tensor


class Balls(Numbers[Ball]):
    """Float64 with a bound on its error."""

    def batch(self, x: Tensor) -> Ball:
        """The batch is exact."""
        return Ball(x, torch.zeros_like(x))

    def conv(self, x: Ball, operation: Conv2d) -> Ball:
        """Convolution with bias."""
        weight = operation.weight.value
        spread = self._spread(x, products=weight[0].numel())
        value = contraction.conv(x.value, weight, operation)
        radius = contraction.conv(spread, weight.abs(), operation)
        bias = None if operation.bias is None else operation.bias.value[:, None, None]
        return self._finish(value, radius, bias, products=weight[0].numel())

    def linear(self, x: Ball, operation: Linear) -> Ball:
        """Product with a matrix, with bias."""
        weight = operation.weight.value
        spread = self._spread(x, products=weight.shape[1])
        bias = None if operation.bias is None else operation.bias.value
        return self._finish(x.value @ weight.t(), spread @ weight.abs().t(), bias, products=weight.shape[1])

    def affine(self, x: Ball, operation: Affine) -> Ball:
        """Scale and shift a channel: a sum of one product."""
        shape = (-1,) + (1,) * (x.value.dim() - 2)
        scale, shift = (part.reshape(shape) for part in (operation.scale, operation.shift))
        spread = self._spread(x, products=1)
        return self._finish(x.value * scale, spread * scale.abs(), shift, products=1)

    def average(self, x: Ball, operation: AveragePool2d) -> Ball:
        """Average pool: two sums and a quotient."""
        for matrix, along_rows in ((operation.rows, True), (operation.columns, False)):
            products = int(matrix.sum(1).max())  # the others are products with 0, which add nothing
            spread = self._spread(x, products=products)
            if along_rows:
                value, radius = matrix @ x.value, matrix @ spread
            else:
                value, radius = x.value @ matrix.t(), spread @ matrix.t()
            x = self._finish(value, radius, None, products=products)
        value = x.value / operation.divisor
        radius = x.radius / operation.divisor + 2 * UNIT * value.abs()
        return Ball(value, radius * (1 + 4 * UNIT) + 4 * _TINY)

    def add(self, first: Ball, second: Ball) -> Ball:
        """Sum."""
        value = first.value + second.value
        radius = (first.radius + second.radius) * (1 + 4 * UNIT) + 2 * UNIT * value.abs()
        return Ball(value, radius)

    def concat(self, values: Sequence[Ball], axis: int) -> Ball:
        """One after the other."""
        return Ball(
            torch.cat([ball.value for ball in values], axis),
            torch.cat([ball.radius for ball in values], axis),
        )

    def masked(self, x: Ball, mask: Tensor) -> Ball:
        """x where the mask is true, exactly 0 elsewhere, also in the place of infinity and NaN."""
        return Ball(x.value.where(mask, 0.0), x.radius.where(mask, 0.0))

    def gathered(self, x: Ball, windows: Windows) -> Ball:
        """The chosen entry of each window."""
        return Ball(gather(x.value, windows), gather(x.radius, windows))

    def reshaped(self, x: Ball, shape: tuple[int, ...]) -> Ball:
        """Another shape."""
        return Ball(x.value.reshape(shape), x.radius.reshape(shape))

    def _spread(self, x: Ball, *, products: int) -> Tensor:
        """What each input adds to the bound, by |w|: its own error and the rounding of its product."""
        gamma = (products + 4) * UNIT / (1 - (products + 4) * UNIT)
        return torch.add(x.radius, x.value.abs(), alpha=gamma).mul_(1 + 4 * UNIT).add_(_TINY)

    def _finish(self, value: Tensor, radius: Tensor, bias: Tensor | None, *, products: int) -> Ball:
        """Add the bias, and cover the rounding of the bound's own sum and of underflow."""
        # Each product of the bound may round down, lose up to 2**-1074, and the sum lose K u of itself.
        radius = radius.mul_(1 + 2 * (products + 4) * UNIT).add_(8 * (products + 1) * _TINY)
        if bias is not None:
            value = value.add_(bias)
        # Also without a bias: a sum that overflowed on its way must not keep a finite bound.
        return Ball(value, radius.add_(value.abs(), alpha=2 * UNIT).mul_(1 + 8 * UNIT))


def entries(ball: Ball, node: Node) -> tuple[Ball, Tensor]:
    """The entries of each window, and which of them exist."""
    value = patches(ball.value, node, fill=-torch.inf)
    exists = patches(torch.ones_like(ball.value[:1, :1]), node, fill=0.0) > 0  # a value may be -inf itself
    return Ball(value, patches(ball.radius, node, fill=0.0)), exists


def candidates(values: Ball, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Entries that may attain the maximum, and windows in which it is open which of them do."""
    slack = 2 * UNIT * (values.value.abs() + values.radius)
    slack = torch.where(exists, slack, 0.0)
    low = (values.value - values.radius - slack).masked_fill_(~exists, -torch.inf).amax(0)
    loses = values.value + values.radius + slack < low
    candidate = exists & ~loses
    several = candidate.sum(0) > 1
    # Numbers that are known exactly are compared as they are.
    value, radius = values.value, values.radius
    top = torch.where(candidate, value, -torch.inf).amax(0)
    exact = ((radius == 0) | ~candidate).all(0) & several
    candidate = candidate & (~exact | (value == top))
    return candidate, several & ~exact
