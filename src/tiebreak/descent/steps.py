"""Rules of descent, a step of a whole batch of runs at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Decay, Method

MOMENTUM = 0.9
ALPHA = 0.99
BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A method with its schedule.

    Args:
        method: how a gradient becomes a step.
        decay: what becomes of the learning rate.

    Example:
        >>> Rule(method=Method.GD, decay=Decay.INVERSE).label
        'gd/inverse'
    """

    method: Method
    decay: Decay = Decay.NONE

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.method}/{self.decay}" if self.decay is not Decay.NONE else str(self.method)


class Stepper:
    """Takes the steps of a batch of runs that share a rule and differ in learning rate, data or start.

    Runs never meet: every operation is elementwise over the leading dimensions, so the path of a run is the
    one it has alone. In fp64 it is that of the `torch.optim` class of the same name up to rounding (each
    operation is theirs, in their order; a library may fuse two of them).

    Args:
        points: tensors of all runs, changed in place by `step`; the leading dimensions count runs.
        lr: learning rates, over those leading dimensions.
        rule: the method and its schedule.

    Raises:
        UserError: a learning rate that is not positive and finite, or shaped like no leading dimensions.
    """

    def __init__(self, points: Sequence[Tensor], *, lr: Tensor, rule: Rule) -> None:
        if not bool(torch.isfinite(lr).all() & (lr > 0).all()):
            raise UserError(f"a learning rate must be positive and finite, got {lr.flatten().tolist()}.")
        self._points = points
        self._rule = rule
        self._num_taken = 0
        self._lr = [_over(lr, point) for point in points]
        held = {Method.MOMENTUM: 1, Method.RMSPROP: 1, Method.ADAM: 2}.get(rule.method, 0)
        self._held = [[torch.zeros_like(point) for _ in range(held)] for point in points]

    def step(self, gradients: Sequence[Tensor], *, thresholds: Sequence[Tensor | None] | None = None) -> None:
        """One step of every run.

        Args:
            gradients: one a point, of its shape.
            thresholds: for `proximal`, one a point: lambda over its leading dimensions, or None for a point
                without a penalty. After a step with learning rate a each coordinate is moved towards 0 by
                a lambda, and stops there.

        Raises:
            UserError: a threshold for another method, or none for `proximal`.
        """
        if (thresholds is None) == (self._rule.method is Method.PROXIMAL):
            raise UserError(
                f"a threshold belongs to proximal steps and to no others, got {self._rule.method}."
            )
        factor = self._rule.decay.factor(self._num_taken)
        self._num_taken += 1
        cuts = [None] * len(self._points) if thresholds is None else thresholds
        for point, gradient, lr, held, cut in zip(
            self._points, gradients, self._lr, self._held, cuts, strict=True
        ):
            rate = lr if factor == 1.0 else lr * factor
            self._move(point, gradient, rate, held)
            if cut is not None:
                point.copy_(soft_threshold(point, rate * _over(cut, point)))

    def _move(self, point: Tensor, gradient: Tensor, rate: Tensor, held: list[Tensor]) -> None:
        match self._rule.method:
            case Method.GD | Method.PROXIMAL:
                point.sub_(rate * gradient)
            case Method.MOMENTUM:
                held[0].mul_(MOMENTUM).add_(gradient)
                point.sub_(rate * held[0])
            case Method.RMSPROP:
                held[0].mul_(ALPHA).addcmul_(gradient, gradient, value=1 - ALPHA)
                point.sub_(rate * (gradient / held[0].sqrt().add_(EPS)))
            case Method.ADAM:
                first, second = BETAS
                held[0].lerp_(gradient, 1 - first)
                held[1].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                correction = (1 - second**self._num_taken) ** 0.5
                scale = (held[1].sqrt() / correction).add_(EPS)
                point.sub_(rate / (1 - first**self._num_taken) * (held[0] / scale))


def soft_threshold(point: Tensor, cut: Tensor) -> Tensor:
    """sign(x) max(|x| - c, 0): the minimiser over u of (u - x)^2/2 + c |u|, elementwise.

    Exactly 0 wherever |x| <= c.
    """
    return point - point.clamp(-cut, cut)


def _over(values: Tensor, point: Tensor) -> Tensor:
    """Per-run values with dimensions of size 1 behind, to broadcast over the coordinates of a point."""
    runs = values.dim()
    if runs > point.dim() or any(
        own not in (1, there) for own, there in zip(values.shape, point.shape, strict=False)
    ):
        raise UserError(
            f"values of shape {tuple(values.shape)} are not over the leading dimensions of points of shape "
            f"{tuple(point.shape)}. Give one value a run."
        )
    return values.to(point).reshape(*values.shape, *([1] * (point.dim() - runs)))
