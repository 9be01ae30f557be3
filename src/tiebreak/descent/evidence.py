"""The numbers behind each claim: runs of `rates`, `lasso`, `stability` and `mlp`, boiled down to checks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.data.files import ImageFiles
from tiebreak.data.images import Images
from tiebreak.data.mnist5k import read
from tiebreak.descent import closed_forms, rates, stability
from tiebreak.descent.activations import RELU, Activation, c1relu
from tiebreak.descent.lasso import Descent, Design, Problems, Runs, draw_problems, solve
from tiebreak.descent.losses import Loss
from tiebreak.descent.mlp import Criterion, Gain, Layout, Networks, examples
from tiebreak.descent.steps import Method, Rule


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measured number and the closed range that a claim needs it in.

    Args:
        name: what was measured.
        value: the number; NaN lies in no range.
        low: end of the range.
        high: end of the range.
    """

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def passed(self) -> bool:
        """Whether the number lies in the range."""
        return self.low <= self.value <= self.high

    @property
    def wanted(self) -> str:
        """The range in words."""
        if self.low == self.high:
            return f"(wanted {self.low:g})"
        if self.low == -math.inf:
            return f"(wanted <= {self.high:g})"
        if self.high == math.inf:
            return f"(wanted >= {self.low:g})"
        return f"(wanted {self.low:g} to {self.high:g})"


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def convex_floors() -> tuple[Check, ...]:
    """C1: the exponent of the ReLU's floor in the step, and the floors of its C1 twins."""
    responses = rates.draw_responses(seeds=(0, 1, 2, 3, 4))
    lr = _numbers(0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    flat = sum(rates.only_zero_is_flat(x) for x in responses.x) / len(responses.x)
    corner = rates.descend(responses, activation=RELU, lr=lr, steps=20_000, window=2000)
    checks = [
        Check(name="share of problems with 0 as only minimiser (certified)", value=flat, low=1.0, high=1.0),
        Check(
            name="exponent of the ReLU's floor in the step",
            value=rates.floor_exponent(lr, corner.floor),
            low=0.9,
            high=1.2,
        ),
    ]
    for delta in (0.01, 0.1, 1.0):
        stable = 2 / rates.smoothness_bound(responses, delta=delta)[:, None] * _numbers(0.25, 0.5, 0.95)
        rounded = rates.descend(responses, activation=c1relu(delta), lr=stable, steps=20_000, window=2000)
        worst = float(rounded.floor.max())
        checks.append(Check(name=f"largest floor of c1relu_{delta:g} below 2/L", value=worst, high=1e-12))
    return tuple(checks)


def network_losses() -> tuple[Check, ...]:
    """C2: the final loss of C1 networks over that of ReLU networks, each at its best learning rate."""
    images = read().train
    checks = []
    for depth in (2, 4, 8):
        relu = _best_loss(images, RELU, depth=depth, gain=Gain.HE)
        for gain in Gain:
            for delta in (0.1, 1.0):
                loss = _best_loss(images, c1relu(delta), depth=depth, gain=gain)
                name = f"loss of c1relu_{delta:g} over relu, depth {depth}, {gain}"
                checks.append(Check(name=name, value=loss / relu, high=math.nextafter(1.0, 0.0)))
    return tuple(checks)


def _best_loss(images: Images | ImageFiles, activation: Activation, *, depth: int, gain: Gain) -> float:
    """Median over seeds of the last loss, at the learning rate where that is least."""
    data = examples(images, num=500)
    seeds, lr = (0, 1, 2), (0.03, 0.1, 0.3)
    widths = (data.inputs.shape[1], *[32] * (depth - 1), data.num_classes)
    networks = Networks(
        Layout(widths=widths, activation=activation, gain=gain),
        seeds=[seed for seed in seeds for _ in lr],
        data=data,
    )
    run_lr = torch.tensor(lr).repeat(len(seeds))
    for _ in networks.train(lr=run_lr, rule=Rule(method=Method.GD), steps=150):
        pass
    with torch.no_grad():
        last = networks.losses(networks.points).reshape(len(seeds), len(lr))
    return float(torch.where(last.isnan(), torch.inf, last).median(0).values.min())


def _grid(problems: Problems, *, relative: Tensor, lr: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Penalties and steps of all pairs, (S, L * A), the step running fastest."""
    levels, steps = torch.meshgrid(relative, _numbers(*lr), indexing="ij")
    penalty = problems.largest_penalty[:, None] * levels.reshape(1, -1)
    return penalty, steps.reshape(1, -1).expand_as(penalty)


def _run(problems: Problems, method: Method, *, penalty: Tensor, lr: Tensor) -> Runs:
    descent = Descent(problems, rule=Rule(method=method), penalty=penalty, lr=lr)
    return descent.run(steps=10_000, window=2000)


def exact_zeros() -> tuple[Check, ...]:
    """C3: coefficients that are exactly 0, against a certified solution."""
    problems = draw_problems(seeds=(0, 1, 2))
    penalty, lr = _grid(problems, relative=_numbers(0.1, 0.3, 0.5, 2.0, 10.0, 100.0), lr=(0.1, 0.01))
    exact = solve(problems, penalty=penalty)
    checks = [
        Check(
            name="largest violation of optimality of the solution",
            value=float(exact.certificate.max() / penalty.max()),
            high=1e-12,
        )
    ]
    for method in Method:
        zeros = _run(problems, method, penalty=penalty, lr=lr).mean_zeros
        if method is Method.PROXIMAL:
            missed = float((zeros - (exact.points == 0).sum(-1)).abs().max())
            checks.append(Check(name="zeros that proximal descent misses", value=missed, low=0.0, high=0.0))
        else:
            value = float(zeros.max())
            checks.append(Check(name=f"exact zeros of {method}", value=value, low=0.0, high=0.0))
    return tuple(checks)


def orthonormal_norms() -> tuple[Check, ...]:
    """C4: T-L1 and T-L2 on an orthonormal design."""
    problems = draw_problems(seeds=(0, 1, 2), design=Design.ORTHONORMAL)
    num_features = problems.x.shape[-1]
    checks = []
    for lr in (0.1, 0.01):
        relative = _numbers(10.0, 30.0, 100.0, 1000.0)
        penalty, step = _grid(problems, relative=relative, lr=(lr,))
        norm = _run(problems, Method.GD, penalty=penalty, lr=step).mean_norm
        off = (norm / (num_features * lr * penalty) - 1 / (2 - lr)).abs().max()
        checks.append(Check(name=f"|norm/(P a lambda) - 1/(2 - a)|, a = {lr:g}", value=float(off), high=1e-3))
        theory = closed_forms.lasso_norm(problems.moment.unsqueeze(1), lr=lr, penalty=penalty)
        covered = ~theory.isnan()
        worst = float((norm / theory - 1).abs()[covered].max()) if bool(covered.any()) else math.nan
        checks.append(
            Check(
                name=f"relative error of T-L1 where all coordinates cycle, a = {lr:g}", value=worst, high=1e-9
            )
        )
        predicted = closed_forms.crossing_penalty(
            problems.unpenalised.abs().sum(-1), lr=lr, num_features=num_features
        )
        around = predicted[:, None] * _numbers(0.8, 1.25)
        norms = _run(problems, Method.GD, penalty=around, lr=torch.full_like(around, lr)).mean_norm
        over = norms / problems.unpenalised.abs().sum(-1, keepdim=True)
        below, above = float(over[:, 0].max()), float(over[:, 1].min())
        checks += [
            Check(name=f"norm over that of no penalty at 0.8 of T-L2, a = {lr:g}", value=below, high=1.0),
            Check(name=f"norm over that of no penalty at 1.25 of T-L2, a = {lr:g}", value=above, low=1.0),
        ]
    return tuple(checks)


def norm_against_penalty() -> tuple[Check, ...]:
    """C5: where the L1 norm grows with the penalty and where it falls."""
    problems = draw_problems(seeds=(0, 1, 2, 3, 4))
    relative = 0.05 * 1.25 ** torch.arange(35, dtype=torch.float64)
    penalty, lr = _grid(problems, relative=relative, lr=(0.1, 0.01))
    norm = _run(problems, Method.GD, penalty=penalty, lr=lr).mean_norm.reshape(5, len(relative), 2)
    grows = (norm[:, 1:] > norm[:, :-1]).double()
    far = relative >= 2
    x = relative[far].log()
    x = x - x.mean()
    slopes = (x[None, :, None] * norm[:, far].log()).sum(1) / (x * x).sum()
    share = {
        "below 0.5": float(grows[:, relative[1:] < 0.5].mean()),
        "above 1.2": float(grows[:, relative[:-1] > 1.2].mean()),
    }
    return (
        *(
            Check(
                name=f"share of steps of the grid {where} lambda_max that raise the norm",
                value=value,
                low=1.0,
            )
            for where, value in share.items()
        ),
        Check(name="least log-log slope above 2 lambda_max", value=float(slopes.min()), low=0.98),
        Check(name="largest log-log slope above 2 lambda_max", value=float(slopes.max()), high=1.02),
    )


def rmsprop_plateaus() -> tuple[Check, ...]:
    """C6: RMSprop's L1 norm over P a/2."""
    problems = draw_problems(seeds=(0, 1, 2))
    checks = []
    for lr in (0.01, 0.003):
        penalty, step = _grid(problems, relative=_numbers(5.0, 10.0, 100.0, 1000.0), lr=(lr,))
        norm = _run(problems, Method.RMSPROP, penalty=penalty, lr=step).mean_norm
        ratio = norm / closed_forms.rmsprop_plateau(lr=lr, num_features=problems.x.shape[-1])
        checks += [
            Check(name=f"least norm over P a/2, a = {lr:g}", value=float(ratio.min()), low=0.99),
            Check(name=f"largest norm over P a/2, a = {lr:g}", value=float(ratio.max()), high=1.01),
        ]
    return tuple(checks)


def bounded_gaps() -> tuple[Check, ...]:
    """C7: T1 for losses that are Lipschitz, T2 for the one that is sharp, divergence of the quadratic."""
    starts, lr, steps = stability.draw_starts(num=500), _numbers(0.01, 0.1, 0.5, 1.0, 2.5, 8.0), 5000
    checks = []
    for loss in Loss:
        if loss is Loss.QUADRATIC:
            continue
        limits = stability.descend(loss, starts=starts, lr=lr, steps=steps)
        bound = closed_forms.best_gap_bound(
            lipschitz=loss.lipschitz, lr=lr[:, None], distance=starts.abs(), num_steps=steps
        )
        worst = float((limits.best_gap / bound).max())
        checks.append(Check(name=f"largest best gap over its bound, {loss}", value=worst, high=1.0))
        if loss.sharpness_of_minimum:
            floor = closed_forms.sharp_floor(mu=loss.sharpness_of_minimum, lr=lr[:, None])
            least = float((limits.worst_gap / floor).min())
            checks.append(Check(name=f"least limsup of the gap over a/2, {loss}", value=least, low=1 - 1e-9))
    edge = stability.descend(Loss.QUADRATIC, starts=starts, lr=_numbers(1.99, 2.01), steps=steps)
    growth = edge.amplitude / starts.abs()
    return (
        *checks,
        Check(name="largest growth of the quadratic at a = 1.99", value=float(growth[0].max()), high=1e-6),
        Check(name="least growth of the quadratic at a = 2.01", value=float(growth[1].min()), low=1e6),
    )


def cycles() -> tuple[Check, ...]:
    """C8: T3 for losses that are C2 and T4 for Huber's."""
    starts, steps = stability.draw_starts(num=500), 20_000
    lr = _numbers(2.01, 2.1, 3.0)
    checks = []
    for loss in (Loss.LOGCOSH, Loss.SQRT1):
        limits = stability.descend(loss, starts=starts, lr=lr, steps=steps)
        secant = (limits.secant * lr[:, None] / 2 - 1).abs().max()
        expected = _numbers(*(closed_forms.cycle_amplitude(loss, lr=float(rate)) for rate in lr))
        amplitude = (limits.amplitude / expected[:, None] - 1).abs().max()
        checks += [
            Check(name=f"|secant a/2 - 1|, {loss}", value=float(secant), high=1e-3),
            Check(name=f"relative error of T3's amplitude, {loss}", value=float(amplitude), high=1e-3),
        ]
    huber = stability.descend(Loss.HUBER, starts=starts, lr=lr, steps=steps)
    for index, rate in enumerate(lr.tolist()):
        low, high = closed_forms.huber_amplitudes(lr=rate)
        seen = huber.amplitude[index]
        inside = float(((seen >= low - 1e-9) & (seen <= high + 1e-9)).double().mean())
        spread = float((seen.max() - seen.min()) / (high - low))
        checks += [
            Check(name=f"share of Huber's amplitudes in [a/2, a - 1], a = {rate:g}", value=inside, low=1.0),
            Check(name=f"share of that interval they span, a = {rate:g}", value=spread, low=0.9),
        ]
    sharp = float(huber.curvature.max())
    return (*checks, Check(name="largest sharpness of Huber's loss", value=sharp, low=0.0, high=0.0))


def kinked_bowl() -> tuple[Check, ...]:
    """C9: a convex Lipschitz function with kinks away from its minimiser."""
    starts, lr = stability.draw_starts(num=500), _numbers(0.1, 0.5, 0.9)
    limits = stability.descend(Loss.KINKED_BOWL, starts=starts, lr=lr, steps=1000)
    return tuple(
        Check(
            name=f"share of starts that {what}, a = {rate:g}",
            value=float(seen[index].double().mean()),
            low=1.0,
        )
        for what, seen in (
            ("do not settle", limits.worst_gap > 1e-12),
            ("are ever moved outwards", limits.rose),
        )
        for index, rate in enumerate(lr.tolist())
    )


def late_sharpness() -> tuple[Check, ...]:
    """C10: sharpness of ReLU networks over 2/lr, late in training."""
    data = examples(read().train, num=200)
    lr, seeds = 0.8, (0, 1, 2)
    networks = Networks(
        Layout(widths=(data.inputs.shape[1], 32, 32, data.num_classes), activation=RELU),
        seeds=seeds,
        data=data,
        criterion=Criterion.SQUARED,
    )
    look_at = tuple(range(2600, 3001, 100))
    path = stability.follow(networks, lr=torch.full((len(seeds),), lr), steps=3000, look_at=look_at)
    late = torch.stack([found.value for found in path.sharpness]).mean(0) * lr / 2
    return tuple(
        Check(name=f"late sharpness over 2/lr, seed {seed}", value=float(value), low=0.97, high=1.03)
        for seed, value in zip(seeds, late, strict=True)
    )
