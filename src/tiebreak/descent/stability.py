"""Where constant steps stop settling: losses of one number, regression, networks at the edge of stability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tiebreak.data.streams import normals, stream, uniforms
from tiebreak.descent.losses import curvature, slope, value
from tiebreak.descent.mlp import Networks
from tiebreak.descent.sharpness import Sharpness, sharpness
from tiebreak.descent.steps import Rule
from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Loss, Method


def draw_starts(*, num: int, reach: float = 5.0, seed: int = 0) -> Float64[Tensor, " n"]:
    """Starting points, uniform in [-reach, reach]."""
    drawn = uniforms(stream("descent/starts", seed=seed), shape=(num,))
    return torch.from_numpy(drawn * 2 * reach - reach)


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """What descent on a loss of one number does in the long run, for A learning rates and n starts.

    Even losses have a constant loss on a 2-cycle, so everything here but the gaps looks at x. Where a run
    overflowed there is inf or NaN.

    Args:
        amplitude: largest |x| over the window, (A, n).
        best_gap: least f of the whole run (f* is 0), (A, n).
        worst_gap: largest f over the window, (A, n).
        curvature: f'' at the last iterate, (A, n).
        secant: f'(x)/x at the last iterate, NaN at 0, (A, n).
        rose: whether |x| ever grew, (A, n).
        last: the last iterate, (A, n).
    """

    amplitude: Tensor
    best_gap: Tensor
    worst_gap: Tensor
    curvature: Tensor
    secant: Tensor
    rose: Tensor
    last: Tensor


def descend(
    loss: Loss,
    *,
    starts: Float[Tensor, " n"],
    lr: Float64[Tensor, " A"],
    steps: int,
    window: int = 100,
    derivative_at_zero: float = 0.0,
) -> Limits:
    """x <- x - a f'(x) from every start with every learning rate, in the dtype of the starts.

    Args:
        loss: f.
        starts: n of them.
        lr: A of them.
        steps: of each run.
        window: how many of the last are looked at, 1 to `steps`.
        derivative_at_zero: of abs.

    Raises:
        UserError: a window that is not in the run.

    Example:
        >>> limits = descend(Loss.SQRT1, starts=torch.tensor([3.0], dtype=torch.float64),
        ...                  lr=torch.tensor([2.5], dtype=torch.float64), steps=500)
        >>> round(float(limits.amplitude), 9), round(float(limits.secant) * 2.5 / 2, 9)
        (0.75, 1.0)
    """
    if not 1 <= window <= steps:
        raise UserError(f"a window lies in the run: 1 to {steps} steps, got {window}.")
    rate = lr.to(starts.dtype).unsqueeze(1)
    x = starts.repeat(len(lr), 1)
    best = value(loss, x)
    amplitude, worst = torch.zeros_like(x), torch.zeros_like(x)
    rose = torch.zeros_like(x, dtype=torch.bool)
    for step in range(steps):
        moved = x - rate * slope(loss, x, derivative_at_zero=derivative_at_zero)
        rose |= moved.abs() > x.abs()
        x = moved
        gap = value(loss, x)
        best = torch.minimum(best, gap)
        if step >= steps - window:
            amplitude, worst = torch.maximum(amplitude, x.abs()), torch.maximum(worst, gap)
    return Limits(
        amplitude=amplitude,
        best_gap=best,
        worst_gap=worst,
        curvature=curvature(loss, x),
        secant=slope(loss, x) / x,
        rose=rose,
        last=x,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionLimits:
    """What descent on a regression does in the long run, for S problems and C multiples of the stable step.

    Args:
        gap: median over the window of f less the least f of all runs of the problem, (S, C).
        sharpness: mean over the window of the Hessian's largest eigenvalue times a/2, (S, C); 1 is the edge.
        diverged: whether the run left the range of fp64 or grew a millionfold, (S, C).
    """

    gap: Float64[Tensor, "S C"]
    sharpness: Float64[Tensor, "S C"]
    diverged: Tensor


def descend_regression(
    loss: Loss,
    *,
    seeds: tuple[int, ...],
    multiples: tuple[float, ...],
    steps: int,
    window: int = 50,
    num_points: int = 50,
    num_features: int = 5,
    device: torch.device | str = "cpu",
) -> RegressionLimits:
    """f(b) = mean of loss(x_i . b - y_i) at steps a = c 2/L with L the largest eigenvalue of X'X/N.

    Args:
        loss: of the residuals.
        seeds: a problem each; y = X b + N(0, 1) with normal X and b.
        multiples: the c; 1 is where the quadratic stops being stable.
        steps: of each run.
        window: how many of the last are looked at, 1 to `steps`.
        num_points: N.
        num_features: P.
        device: where to compute; the problems are drawn on the CPU.

    Raises:
        UserError: a window that is not in the run.
    """
    if not 1 <= window <= steps:
        raise UserError(f"a window lies in the run: 1 to {steps} steps, got {window}.")

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        names = [stream(f"descent/stability/{name}", seed=seed) for seed in seeds]
        return torch.stack([normals(bits, shape=shape).double() for bits in names]).to(device)

    x = draw("x", (num_points, num_features))
    y = (x @ draw("b", (num_features, 1))).squeeze(-1) + draw("noise", (num_points,))
    largest = torch.linalg.eigvalsh(x.mT @ x / num_points)[:, -1]
    rate = torch.tensor(multiples, dtype=torch.float64, device=device) * 2 / largest[:, None]
    points = x.new_zeros(len(seeds), len(multiples), num_features)
    losses, sharp = [], []
    for step in range(steps):
        residual = points @ x.mT - y.unsqueeze(1)
        losses.append(value(loss, residual).mean(-1))
        if step >= steps - window:
            weighted = x.unsqueeze(1) * curvature(loss, residual).unsqueeze(-1)
            hessian = weighted.mT @ x.unsqueeze(1) / num_points
            finite = torch.isfinite(hessian).all(-1).all(-1)
            top = torch.linalg.eigvalsh(torch.where(finite[..., None, None], hessian, 0.0))[..., -1]
            sharp.append(torch.where(finite, top, torch.nan))
        points = points - rate.unsqueeze(-1) * (slope(loss, residual) @ x / num_points)
    seen = torch.stack(losses)
    last = seen[-window:]
    reference = torch.where(torch.isfinite(seen), seen, torch.inf).amin(0).amin(1, keepdim=True)
    return RegressionLimits(
        gap=last.median(0).values - reference,
        sharpness=torch.stack(sharp).mean(0) * rate / 2,
        diverged=~torch.isfinite(last).all(0) | (last > 1e6 * (seen[0] + 1)).any(0),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """How sharpness went along a training.

    Args:
        steps: at which it was looked at.
        losses: before each step, (steps, R).
        sharpness: one for each of `steps`.
    """

    steps: tuple[int, ...]
    losses: Tensor
    sharpness: tuple[Sharpness, ...]


def follow(
    networks: Networks,
    *,
    lr: Float[Tensor, " R"],
    steps: int,
    look_at: tuple[int, ...],
    num_products: int = 40,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Train by full-batch gradient descent and look at the sharpness on the way.

    Args:
        networks: R of them, trained in place.
        lr: of each run; 2/lr is its edge of stability.
        steps: how many.
        look_at: numbers of steps taken at which to look, 0 to `steps`, in order.
        num_products: see `sharpness`.
        progress: is told how many of how many steps are taken.

    Raises:
        UserError: steps to look at that are not in the training.
    """
    if list(look_at) != sorted(set(look_at)) or (look_at and not 0 <= look_at[0] <= look_at[-1] <= steps):
        raise UserError(f"steps to look at go up from 0 to {steps}, got {look_at}.")
    losses, found = [], []
    trained = networks.train(lr=lr, rule=Rule(method=Method.GD), steps=steps)
    for taken in range(steps + 1):
        if taken in look_at:
            found.append(sharpness(networks.losses, networks.points, num_products=num_products))
        if taken < steps:
            losses.append(next(trained))
            progress(taken + 1, steps)
    return Path(steps=look_at, losses=torch.stack(losses), sharpness=tuple(found))
