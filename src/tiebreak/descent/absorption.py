"""The bridge to the study of max-pooling: kinks that are hit exactly, because numbers are few.

In the reals descent on |x| hits 0 exactly from a null set of starts, so the derivative at 0 does not matter.
In 16 bits it does: x and the step lie on one coarse grid near 0, and far away a step can be smaller than
half the distance to the next number, and nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.descent.losses import slope
from tiebreak.descent.stability import descend
from tiebreak.design.axes import Precision, UserError
from tiebreak.design.descent import STORED
from tiebreak.design.descent_axes import Loss


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """Which runs another step would leave where they are.

    Args:
        at_zero: those at 0 exactly, for good.
        stuck: those elsewhere: the step is lost in rounding, or the slope is 0.
    """

    at_zero: Tensor
    stuck: Tensor


def standing(loss: Loss, points: Tensor, *, lr: Tensor, derivative_at_zero: float = 0.0) -> Standing:
    """Take one more step from each point, in its dtype, and see which do not move.

    Args:
        loss: what is descended on.
        points: any shape.
        lr: broadcasts to it.
        derivative_at_zero: of abs.
    """
    moved = points - lr.to(points) * slope(loss, points, derivative_at_zero=derivative_at_zero)
    still = moved == points
    return Standing(at_zero=still & (points == 0), stuck=still & (points != 0))


@dataclass(frozen=True, kw_only=True)
class Absorption:
    """Where descent on |x| ends in one precision.

    Args:
        precision: of x and of the step.
        lr: the step as asked for; it is rounded to the precision.
        derivative_at_zero: of |x|.
        num_starts: runs.
        share_at_zero: at 0 exactly, for good.
        share_stuck: elsewhere, but not moving: the step is lost in rounding.
        share_moving: the rest, which goes on around the kink.
    """

    precision: Precision
    lr: float
    derivative_at_zero: float
    num_starts: int
    share_at_zero: float
    share_stuck: float
    share_moving: float


def absorb(
    precision: Precision, *, starts: Tensor, lr: float, steps: int, derivative_at_zero: float = 0.0
) -> Absorption:
    """Descend on |x| from every start, rounding as the precision does.

    Args:
        precision: fp64, fp32, fp16 or bf16.
        starts: fp64, rounded to the precision first.
        lr: the step.
        steps: of each run; the farthest start needs |x|/lr.
        derivative_at_zero: 0 is PyTorch's.

    Raises:
        UserError: a precision that is not one format.

    Example:
        >>> starts = torch.tensor([1.0, 1.1], dtype=torch.float64)
        >>> absorb(Precision.FP64, starts=starts, lr=0.5, steps=100).share_at_zero
        0.5
    """
    if precision not in STORED:
        raise UserError(f"absorption is about {', '.join(STORED)}, got {precision}.")
    rate = torch.tensor([lr], dtype=torch.float64)
    limits = descend(
        Loss.ABS,
        starts=starts.to(getattr(torch, precision.storage)),
        lr=rate,
        steps=steps,
        window=1,
        derivative_at_zero=derivative_at_zero,
    )
    found = standing(Loss.ABS, limits.last[0], lr=rate, derivative_at_zero=derivative_at_zero)
    at_zero, stuck = float(found.at_zero.double().mean()), float(found.stuck.double().mean())
    return Absorption(
        precision=precision,
        lr=lr,
        derivative_at_zero=derivative_at_zero,
        num_starts=len(starts),
        share_at_zero=at_zero,
        share_stuck=stuck,
        share_moving=1 - at_zero - stuck,
    )
