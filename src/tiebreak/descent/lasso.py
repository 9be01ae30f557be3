"""L1-penalised least squares: gradient methods, batched, beside a solution that carries its certificate.

    F(b) = ||y - X b||^2 / (2N) + lambda ||b||_1

which is scikit-learn's `Lasso(alpha=lambda)`; a sum of squares instead of their mean has N lambda, and a mean
without the 1/2 has 2 lambda. Above lambda_max = ||X'y||_inf / N the solution is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from tiebreak.data.streams import normals, stream
from tiebreak.descent.steps import Rule, Stepper, soft_threshold
from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Columns, Method

TRUE_COEFFICIENTS = (3.0, -2.0, 1.5, -1.0, 0.5)
"""The first coefficients of the drawn problems; the others are 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problems:
    """Least-squares problems of one size, one a seed.

    Args:
        x: features, fp64 (S, N, P).
        y: responses, fp64 (S, N).
    """

    x: Float64[Tensor, "S N P"]
    y: Float64[Tensor, "S N"]

    def to(self, device: torch.device | str) -> Problems:
        """The same on a device."""
        return Problems(x=self.x.to(device), y=self.y.to(device))

    @property
    def gram(self) -> Float64[Tensor, "S P P"]:
        """X'X/N."""
        return self.x.mT @ self.x / self.x.shape[1]

    @property
    def moment(self) -> Float64[Tensor, "S P"]:
        """z = X'y/N."""
        return (self.x.mT @ self.y.unsqueeze(-1)).squeeze(-1) / self.x.shape[1]

    @property
    def largest_penalty(self) -> Float64[Tensor, " S"]:
        """lambda_max, the least penalty whose solution is 0."""
        return self.moment.abs().amax(-1)

    @property
    def unpenalised(self) -> Float64[Tensor, "S P"]:
        """The least-squares coefficients."""
        return torch.linalg.lstsq(self.x, self.y.unsqueeze(-1)).solution.squeeze(-1)

    def objective(self, points: Float64[Tensor, "S R P"], *, penalty: Tensor) -> Float64[Tensor, "S R"]:
        """F of each point; `penalty` is (S, R) or broadcasts to it."""
        residual = self.y.unsqueeze(1) - points @ self.x.mT
        return (residual**2).mean(-1) / 2 + penalty * points.abs().sum(-1)


def draw_problems(
    *,
    seeds: tuple[int, ...],
    columns: Columns = Columns.IID,
    num_points: int = 100,
    num_features: int = 20,
    noise: float = 0.5,
) -> Problems:
    """Problems with `TRUE_COEFFICIENTS` and normal noise; a seed gives the same one beside any others.

    Args:
        seeds: one problem each.
        columns: how X is drawn.
        num_points: N.
        num_features: P, at least as many as the true coefficients and at most N.
        noise: standard deviation of the responses around X b.

    Raises:
        UserError: no seed, or sizes that do not fit.
    """
    if not seeds or not len(TRUE_COEFFICIENTS) <= num_features <= num_points:
        raise UserError(
            f"a problem needs a seed and {len(TRUE_COEFFICIENTS)} to num_points features, got {len(seeds)} "
            f"seeds, num_features={num_features}, num_points={num_points}."
        )
    truth = torch.zeros(num_features, dtype=torch.float64)
    truth[: len(TRUE_COEFFICIENTS)] = torch.tensor(TRUE_COEFFICIENTS, dtype=torch.float64)
    drawn = []
    for seed in seeds:
        x = normals(stream("descent/lasso/x", seed=seed), shape=(num_points, num_features)).double()
        if columns is Columns.CORRELATED:
            index = torch.arange(num_features)
            correlation = 0.5 ** (index[:, None] - index[None, :]).abs().double()
            x = x @ torch.linalg.cholesky(correlation).mT
        elif columns is Columns.ORTHONORMAL:
            x = torch.linalg.qr(x).Q * num_points**0.5
        errors = normals(stream("descent/lasso/noise", seed=seed), shape=(num_points,)).double()
        drawn.append((x, x @ truth + noise * errors))
    return Problems(x=torch.stack([x for x, _ in drawn]), y=torch.stack([y for _, y in drawn]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A minimiser with its evidence.

    Args:
        points: coefficients, (S, R, P).
        certificate: the largest violation of the optimality conditions (S, R), see `violation`.
    """

    points: Float64[Tensor, "S R P"]
    certificate: Float64[Tensor, "S R"]


def solve(problems: Problems, *, penalty: Float64[Tensor, "S R"], max_steps: int = 200_000) -> Solution:
    """The minimiser, by accelerated proximal gradient and then exactly on the support it finds.

    On a support A with signs s the conditions are linear, b_A = (X_A'X_A/N)^-1 (z_A - lambda s), which takes
    the rounding of an iteration out of the answer. The certificate is computed from the answer alone, so it
    holds whatever way led there.

    Args:
        problems: S of them.
        penalty: lambda, 0 or more, (S, R).
        max_steps: of the iteration.

    Raises:
        UserError: a negative penalty.

    Source:
        Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009, for the iteration; the
        certificate and the restart where the objective would rise are textbook.
    """
    if bool((penalty < 0).any()):
        raise UserError(f"a penalty must be 0 or more, got {float(penalty.min())}.")
    gram, moment = problems.gram, problems.moment.unsqueeze(1)
    lr = (1 / torch.linalg.eigvalsh(gram)[:, -1])[:, None, None]
    cut = lr * penalty.unsqueeze(-1)
    points = gram.new_zeros(*penalty.shape, gram.shape[-1])
    ahead, age = points, gram.new_ones(*penalty.shape, 1)
    for _ in range(max_steps):
        moved = soft_threshold(ahead - lr * (ahead @ gram - moment), cut)
        change = moved - points
        # momentum that points uphill is dropped
        restart = ((ahead - moved) * change).sum(-1, keepdim=True) > 0
        older = torch.where(restart, torch.ones_like(age), age)
        age = (1 + (1 + 4 * older**2).sqrt()) / 2
        points, ahead = moved, moved + (older - 1) / age * change
        if float(change.abs().max()) < 1e-15:
            break
    points = _polished(points, gram=gram, moment=moment.squeeze(1), penalty=penalty)
    return Solution(points=points, certificate=violation(problems, points, penalty=penalty))


def violation(
    problems: Problems, points: Float64[Tensor, "S R P"], *, penalty: Float64[Tensor, "S R"]
) -> Float64[Tensor, "S R"]:
    """By how much points miss the optimality conditions of the penalised problem; 0 at a minimiser.

    With r = X'(y - X b)/N: the largest over j of |r_j - lambda sign b_j| where b_j is not 0, and of
    max(|r_j| - lambda, 0) where it is. The conditions are sufficient, F being convex.

    Args:
        problems: S of them.
        points: of R runs each.
        penalty: lambda of each run.
    """
    correlation = (problems.y.unsqueeze(1) - points @ problems.x.mT) @ problems.x / problems.x.shape[1]
    level = penalty.unsqueeze(-1)
    at_zero = (correlation.abs() - level).clamp_min(0.0)
    return torch.where(points == 0, at_zero, (correlation - level * points.sign()).abs()).amax(-1)


def _polished(points: Tensor, *, gram: Tensor, moment: Tensor, penalty: Tensor) -> Tensor:
    polished = points.clone()
    for seed, run in ((s, r) for s in range(points.shape[0]) for r in range(points.shape[1])):
        support = points[seed, run] != 0
        if not bool(support.any()):
            continue
        signs = points[seed, run, support].sign()
        right = moment[seed, support] - penalty[seed, run] * signs
        solved = torch.linalg.solve(gram[seed][support][:, support], right)
        if bool((solved.sign() == signs).all()):
            polished[seed, run, support] = solved
    return polished


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """What a batch of runs left behind; means are over a window of last steps, never the last iterate alone.

    A last iterate shows the phase of a cycle. Where a run overflowed there is inf or NaN.

    Args:
        last: the last iterates, (S, R, P).
        mean_point: the average iterate over the window, (S, R, P).
        mean_norm: mean of ||b||_1, (S, R).
        mean_zeros: mean number of coefficients that are exactly 0, (S, R).
        mean_small: mean number of coefficients with |b_j| < `small`, (S, R).
        mean_gap: mean of F - F* where F* was given, else of F, (S, R).
    """

    last: Float64[Tensor, "S R P"]
    mean_point: Float64[Tensor, "S R P"]
    mean_norm: Float64[Tensor, "S R"]
    mean_zeros: Float64[Tensor, "S R"]
    mean_small: Float64[Tensor, "S R"]
    mean_gap: Float64[Tensor, "S R"]


class Descent:
    """A batch of runs of one rule on S problems, R runs on each, from b = 0.

    The derivative of |.| at 0 is an argument: 0 is PyTorch's. Gradients come from X'X/N and X'y/N, which is
    the same derivative in fewer operations.

    Args:
        problems: S of them.
        rule: the method and its schedule.
        penalty: lambda of each run, (S, R).
        lr: learning rate of each run, (S, R).
        derivative_at_zero: of |.|.
        dtype: the arithmetic, fp64 unless a study of precision asks for another.

    Example:
        >>> problems = draw_problems(seeds=(0,))
        >>> penalty = problems.largest_penalty[:, None] * torch.tensor([[0.1, 1.0]])
        >>> runs = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty,
        ...                lr=torch.full_like(penalty, 0.1)).run(steps=200, window=100)
        >>> runs.mean_zeros.tolist()
        [[0.0, 0.0]]
    """

    def __init__(
        self,
        problems: Problems,
        *,
        rule: Rule,
        penalty: Float64[Tensor, "S R"],
        lr: Float64[Tensor, "S R"],
        derivative_at_zero: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._problems = problems
        self._penalty = penalty
        self._level = penalty.unsqueeze(-1).to(dtype)
        self._gram = problems.gram.to(dtype)
        self._moment = problems.moment.unsqueeze(1).to(dtype)
        self._at_zero = derivative_at_zero
        self._proximal = rule.method is Method.PROXIMAL
        self.points = penalty.new_zeros(*penalty.shape, problems.x.shape[-1], dtype=dtype)
        self._stepper = Stepper([self.points], lr=lr, rule=rule)

    def step(self) -> None:
        """One step of every run."""
        gradient = torch.baddbmm(self._moment, self.points, self._gram, beta=-1)
        if self._proximal:
            self._stepper.step([gradient], thresholds=[self._penalty])
            return
        gradient.addcmul_(self._level, self.points.sign())
        if self._at_zero:
            gradient.add_(self._level * self._at_zero * (self.points == 0))
        self._stepper.step([gradient])

    def run(
        self, *, steps: int, window: int, best: Float64[Tensor, "S R"] | None = None, small: float = 1e-2
    ) -> Runs:
        """Take the steps and look at the last ones.

        Args:
            steps: how many, 1 or more.
            window: how many of the last are looked at, 1 to `steps`.
            best: F* of each run, if it is known.
            small: what counts as small.

        Raises:
            UserError: a window that is not in the run.
        """
        if not 1 <= window <= steps:
            raise UserError(f"a window lies in the run: 1 to {steps} steps, got {window}.")
        for _ in range(steps - window):
            self.step()
        shape = self._penalty.shape
        total = torch.zeros_like(self.points, dtype=torch.float64)
        norm, zeros, tiny, gap = (total.new_zeros(shape) for _ in range(4))
        for _ in range(window):
            self.step()
            seen = self.points.double()
            sizes = seen.abs()
            total += seen
            norm += sizes.sum(-1)
            zeros += (sizes == 0).sum(-1)
            tiny += (sizes < small).sum(-1)
            gap += self._problems.objective(seen, penalty=self._penalty)
        gap = gap / window
        return Runs(
            last=self.points.clone(),
            mean_point=total / window,
            mean_norm=norm / window,
            mean_zeros=zeros / window,
            mean_small=tiny / window,
            mean_gap=gap if best is None else gap - best,
        )
