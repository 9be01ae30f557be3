"""One linear layer with the activation at its output: convex for the ReLU, and its minimiser is a corner.

    f(b) = 1/(2N) sum_i (y_i - s(x_i . b))^2   with every y_i < 0

With y < 0 the ReLU's loss is convex, and where {b : X b <= 0} is {0} its only minimiser is b = 0: the kink
of all N units at once, where f rises linearly. Constant steps cannot settle there (T2), and leave a floor
that is proportional to the step. Rounding the corner leaves the minimiser and removes the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from scipy.optimize import linprog
from torch import Tensor

from tiebreak.data.streams import normals, stream
from tiebreak.descent.activations import Activation
from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Responses:
    """Regression problems of one size with negative responses, and where descent starts; one a seed.

    Args:
        x: features, fp64 (S, N, P).
        y: responses, negative, fp64 (S, N).
        start: fp64 (S, P).
    """

    x: Float64[Tensor, "S N P"]
    y: Float64[Tensor, "S N"]
    start: Float64[Tensor, "S P"]

    def to(self, device: torch.device | str) -> Responses:
        """The same on a device."""
        return Responses(x=self.x.to(device), y=self.y.to(device), start=self.start.to(device))

    @property
    def least_loss(self) -> Float64[Tensor, " S"]:
        """f* of the ReLU and of every c1relu: all outputs are 0 at b = 0, and none can be negative."""
        return (self.y**2).mean(-1) / 2


def draw_responses(*, seeds: tuple[int, ...], num_points: int = 200, num_features: int = 10) -> Responses:
    """Problems with normal features, y = -|N(0, 1)| and a normal start.

    A seed gives the same problem beside any others.

    Raises:
        UserError: no seed, or sizes below 1.
    """
    if not seeds or min(num_points, num_features) < 1:
        raise UserError(
            f"a regression needs a seed, a point and a feature, got {len(seeds)} seeds, {num_points} points, "
            f"{num_features} features."
        )

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.stack(
            [normals(stream(f"descent/rates/{name}", seed=seed), shape=shape).double() for seed in seeds]
        )

    return Responses(
        x=draw("x", (num_points, num_features)),
        y=-draw("y", (num_points,)).abs(),
        start=draw("start", (num_features,)),
    )


def smoothness_bound(responses: Responses, *, delta: float) -> Float64[Tensor, " S"]:
    """L of the regression with c1relu: at no point does its Hessian have a larger eigenvalue.

    Unit i contributes ((s - y_i) s'' + s'^2) x_i x_i'/N. On its corner, with t = z/delta in [0, 1], that
    factor is |y_i|/delta + 3 t^2/2, beyond it 1 and before it 0, so X' diag(|y_i|/delta + 3/2) X/N lies above
    the Hessian everywhere. The loss is convex, so every step a < 2/L converges.

    Args:
        responses: S problems.
        delta: width of the corner.
    """
    weight = responses.y.abs() / delta + 1.5
    bound = responses.x.mT @ (responses.x * weight.unsqueeze(-1)) / responses.x.shape[1]
    return torch.linalg.eigvalsh(bound)[:, -1]


def only_zero_is_flat(x: Float64[Tensor, "N P"]) -> bool:
    """Whether {b : X b <= 0} is {0}, so that b = 0 is the only minimiser: 2 P linear programs.

    The set is a cone, so it is {0} exactly if no coordinate of it can be moved off 0 inside the unit box.

    Args:
        x: features of one problem.
    """
    num_points, num_features = x.shape
    for coordinate in range(num_features):
        for sign in (-1.0, 1.0):
            direction = [0.0] * num_features
            direction[coordinate] = sign
            found = linprog(direction, A_ub=x.numpy(), b_ub=[0.0] * num_points, bounds=(-1, 1))
            if found.fun < -1e-9:
                return False
    return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Floors:
    """Where a batch of runs came to rest, or did not. Where a run overflowed there is inf or NaN.

    Args:
        floor: median of f - f* over the window, (S, R).
        best: the least f - f* of the whole run, (S, R).
        share_rising: share of the steps of the window at which the loss rose, (S, R).
        first_below: the first step k at which f_k - f* is at most the target, -1 for never and where there
            are no targets, (S, R).
        largest_gradient: G, the largest norm of the gradient on the way; NaN where there are no targets, for
            which alone it is looked at, (S, R).
        seen: f - f* at the steps that were asked for, (K, S, R).
        reference: f*, (S,): the closed form for relu and c1relu, else the least loss of all runs of the
            problem (so their `floor` is relative to what was seen, and 0 at best).
    """

    floor: Float64[Tensor, "S R"]
    best: Float64[Tensor, "S R"]
    share_rising: Float64[Tensor, "S R"]
    first_below: Tensor
    largest_gradient: Float64[Tensor, "S R"]
    seen: Float64[Tensor, "K S R"]
    reference: Float64[Tensor, " S"]


class Descent:
    """Gradient descent at constant steps on S problems with R learning rates each.

    Args:
        responses: S problems.
        activation: s.
        lr: the learning rates, (R,) or, where each problem has its own, (S, R).

    Raises:
        UserError: a learning rate that is not positive and finite.
    """

    def __init__(self, responses: Responses, *, activation: Activation, lr: Float64[Tensor, "*S R"]) -> None:
        if not bool(torch.isfinite(lr).all() & (lr > 0).all()):
            raise UserError(f"a learning rate must be positive and finite, got {lr.tolist()}.")
        self._x, self._y = responses.x, responses.y.unsqueeze(1)
        self._activation = activation
        self._scale = lr.to(responses.x).reshape(-1, lr.shape[-1], 1) / responses.x.shape[1]
        self.points = responses.start.unsqueeze(1).repeat(1, lr.shape[-1], 1)
        self._num_points = responses.x.shape[1]

    @property
    def gradient(self) -> Float64[Tensor, "S R P"]:
        """The gradient at the point that the last step left."""
        return self._gradient / self._num_points

    def step(self) -> Float64[Tensor, "S R"]:
        """One step of every run; the loss is that of the point it leaves."""
        z = self.points @ self._x.mT
        excess = self._activation(z) - self._y
        loss = (excess * excess).mean(-1) / 2
        self._gradient = (excess * self._activation.slope(z)) @ self._x
        self.points -= self._scale * self._gradient
        return loss


def descend(
    responses: Responses,
    *,
    activation: Activation,
    lr: Float64[Tensor, "*S R"],
    steps: int,
    window: int,
    targets: Float64[Tensor, "*S R"] | None = None,
    look_at: tuple[int, ...] = (),
) -> Floors:
    """Run gradient descent and say where it came to rest.

    Args:
        responses: S problems.
        activation: s.
        lr: R learning rates, (R,) or (S, R).
        steps: of each run.
        window: how many of the last are looked at, 2 to `steps`.
        targets: the gap of each run whose first step is asked for, (R,) or (S, R).
        look_at: steps, from 0, whose gaps are kept.

    Raises:
        UserError: a window that is not in the run, or a learning rate that is none.

    Example:
        >>> from tiebreak.descent.activations import RELU, c1relu
        >>> problem, lr = draw_responses(seeds=(0,)), torch.tensor([0.3], dtype=torch.float64)
        >>> floors = [descend(problem, activation=s, lr=lr, steps=3000, window=500).floor.item()
        ...           for s in (RELU, c1relu(1.0))]
        >>> floors[0] > 1e-3, floors[1] < 1e-12
        (True, True)
    """
    if not 2 <= window <= steps:
        raise UserError(f"a window lies in the run: 2 to {steps} steps, got {window}.")
    runs = Descent(responses, activation=activation, lr=lr)
    seen, largest = [], torch.full_like(runs.points[..., 0], 0.0 if targets is not None else torch.nan)
    for _ in range(steps):
        seen.append(runs.step())
        if targets is not None:
            largest = torch.maximum(largest, runs.gradient.norm(dim=-1))
    losses = torch.stack(seen)
    best = losses.amin(0)
    known = activation.shape in (Shape.RELU, Shape.C1RELU)
    lowest = torch.where(best.isfinite(), best, torch.inf).amin(1)
    reference = responses.least_loss if known else lowest
    gaps = losses - reference[:, None]
    below = torch.zeros_like(gaps, dtype=torch.bool) if targets is None else gaps <= targets
    first = torch.where(below.any(0), below.int().argmax(0), -1)
    last = gaps[-window:]
    return Floors(
        floor=last.median(0).values,
        best=best - reference[:, None],
        share_rising=(last[1:] > last[:-1]).double().mean(0),
        first_below=first,
        largest_gradient=largest,
        seen=gaps[list(look_at)],
        reference=reference,
    )


def floor_exponent(lr: Float64[Tensor, " R"], floor: Float64[Tensor, "S R"]) -> float:
    """The power of the step in the floor: the slope of log(median floor over problems) on log lr.

    NaN where a floor is 0, infinite or missing: such a floor follows no power law.
    """
    level = floor.median(0).values.log()
    x = lr.log() - lr.log().mean()
    return float((x * (level - level.mean())).sum() / (x * x).sum())
