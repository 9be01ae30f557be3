"""Rows of the study's third part: losses of one number, regression, and networks at the edge of stability."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tiebreak.descent import closed_forms
from tiebreak.descent.absorption import standing
from tiebreak.descent.mlp import Criterion
from tiebreak.descent.place import Place, layout_of, networks_of
from tiebreak.descent.stability import Limits, descend, descend_regression, draw_starts, follow
from tiebreak.design.descent import Regression, Scalar, Sharpness
from tiebreak.design.descent_axes import Loss
from tiebreak.records.session import Row

SETTLED = 1e-12
"""A run has settled where its gap stays below this over the window, in fp64."""


def scalar(setting: Scalar, place: Place) -> Iterator[Row]:
    """A `limit` row a learning rate, about all starts, and `orbit` rows: where the kept runs ended."""
    starts = draw_starts(num=setting.num_starts, reach=setting.reach, seed=place.replicate).to(
        device=place.device, dtype=place.dtype
    )
    lr = place.numbers(setting.lrs)
    limits = descend(
        setting.loss,
        starts=starts,
        lr=lr,
        steps=setting.steps,
        window=setting.window,
        derivative_at_zero=setting.derivative_at_zero,
    )
    found = standing(setting.loss, limits.last, lr=lr[:, None], derivative_at_zero=setting.derivative_at_zero)
    for run, rate in enumerate(setting.lrs):
        yield {
            "row": "limit",
            "lr": rate,
            **_gaps(setting, limits, run, rate=rate, starts=starts),
            **_cycle(setting.loss, limits, run, rate=rate),
            "share_unsettled": _share(~(limits.worst_gap[run] <= SETTLED)),
            "share_rising": _share(limits.rose[run]),
            "share_at_zero": _share(found.at_zero[run]),
            "share_stuck": _share(found.stuck[run]),
            "share_nonfinite": _share(~limits.last[run].isfinite()),
        }
        for index in range(setting.num_kept):
            yield {
                "row": "orbit",
                "lr": rate,
                "start": float(starts[index]),
                "last": float(limits.last[run, index]),
                "amplitude": float(limits.amplitude[run, index]),
            }


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _gaps(setting: Scalar, limits: Limits, run: int, *, rate: float, starts: Tensor) -> Row:
    """Amplitudes and gaps over the starts, and these over their bounds T1 and T2."""
    amplitude, step = limits.amplitude[run].double(), torch.tensor(rate, dtype=torch.float64)
    growth = amplitude / starts.double().abs()
    bound = closed_forms.best_gap_bound(
        lipschitz=setting.loss.lipschitz, lr=step, distance=starts.double().abs(), num_steps=setting.steps
    )
    floor = closed_forms.sharp_floor(mu=setting.loss.sharpness_of_minimum, lr=step)
    return {
        "amplitude_min": float(amplitude.min()),
        "amplitude_median": float(amplitude.median()),
        "amplitude_max": float(amplitude.max()),
        "num_amplitudes": len((amplitude * 1e6).round().unique()),
        "growth_min": float(growth.min()),
        "growth_max": float(growth.max()),
        "best_over_bound_max": float((limits.best_gap[run].double() / bound).max()),
        "worst_over_floor_min": float((limits.worst_gap[run].double() / floor).min()) if floor > 0 else None,
    }


def _cycle(loss: Loss, limits: Limits, run: int, *, rate: float) -> Row:
    """Secant and curvature at the end over 2/a, and what T3 and T4 say beyond the edge."""
    secant, curvature = limits.secant[run].double() * rate / 2, limits.curvature[run].double() * rate / 2
    known = secant[secant.isfinite()]
    low, high = None, None
    if rate > 2 and loss in (Loss.LOGCOSH, Loss.SQRT1):
        low = high = closed_forms.cycle_amplitude(loss, lr=rate)
    elif rate > 2 and loss is Loss.HUBER:
        low, high = closed_forms.huber_amplitudes(lr=rate)
    return {
        "secant_median": float(known.median()) if len(known) else None,
        "secant_off_max": float((known - 1).abs().max()) if len(known) else None,
        "curvature_median": float(curvature.median()),
        "curvature_max": float(curvature.max()),
        "cycle_low": low,
        "cycle_high": high,
    }


def regression(setting: Regression, place: Place) -> Iterator[Row]:
    """A `regression` row a problem and multiple of the stable step."""
    found = descend_regression(
        setting.loss,
        seeds=place.seeds(setting.num_problems),
        multiples=setting.lrs,
        steps=setting.steps,
        window=setting.window,
        num_points=setting.num_points,
        num_features=setting.num_features,
        device=place.device,
    )
    for problem in range(setting.num_problems):
        for run, multiple in enumerate(setting.lrs):
            yield {
                "row": "regression",
                "problem": problem,
                "multiple": multiple,
                "gap": float(found.gap[problem, run]),
                "sharpness": float(found.sharpness[problem, run]),
                "diverged": bool(found.diverged[problem, run]),
            }


def sharpness(setting: Sharpness, place: Place) -> Iterator[Row]:
    """A `sharpness` row a seed, learning rate and look."""
    data, _ = place.examples(setting)
    seeds = place.seeds(setting.num_seeds)
    runs = [(index, rate) for index in range(len(seeds)) for rate in setting.lrs]
    networks = networks_of(
        layout_of(setting, data=data),
        seeds=seeds,
        repeats=len(setting.lrs),
        data=data,
        criterion=Criterion.SQUARED,
    )
    look_at = tuple(sorted({*range(0, setting.steps + 1, setting.every), setting.steps}))
    path = follow(
        networks,
        lr=torch.tensor([rate for _, rate in runs], device=place.device),
        steps=setting.steps,
        look_at=look_at,
        num_products=setting.num_products,
        progress=place.progress,
    )
    with torch.no_grad():
        losses = torch.cat([path.losses, networks.losses(networks.points).unsqueeze(0)])
    for step, look in zip(look_at, path.sharpness, strict=True):
        for run, (index, rate) in enumerate(runs):
            yield {
                "row": "sharpness",
                "seed": index,
                "lr": rate,
                "step": step,
                "train_loss": float(losses[step, run]),
                "sharpness": float(look.value[run]),
                "residual": float(look.residual[run]),
                "edges": float(look.value[run]) * rate / 2,
            }
