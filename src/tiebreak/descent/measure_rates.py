"""Rows of the study's first part: floors of a convex regression, and how fast networks train."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tiebreak.descent.activations import Activation
from tiebreak.descent.place import Place, layout_of, networks_of, spread_steps
from tiebreak.descent.rates import descend, draw_responses, only_zero_is_flat, smoothness_bound
from tiebreak.descent.steps import Rule
from tiebreak.design.descent import Floors, Training
from tiebreak.design.descent_axes import StepUnit
from tiebreak.records.session import Row


def floors(setting: Floors, place: Place) -> Iterator[Row]:
    """A `floor` row a problem and learning rate, and `floor_curve` rows: f - f* over problems, by steps."""
    drawn = draw_responses(
        seeds=place.seeds(setting.num_problems),
        num_points=setting.num_points,
        num_features=setting.num_features,
    )
    certified = [only_zero_is_flat(x) for x in drawn.x]
    responses = drawn.to(place.device)
    activation = Activation(shape=setting.activation, delta=setting.delta)
    asked = place.numbers(setting.lrs)
    lr, targets = asked, None
    if setting.lr_unit is StepUnit.EDGE:
        lr = 2 * asked / smoothness_bound(responses, delta=setting.delta)[:, None]
    elif setting.lr_unit is StepUnit.TARGET:
        z = (responses.start.unsqueeze(1) @ responses.x.mT).squeeze(1)
        factor = (activation(z) - responses.y) * activation.slope(z) / setting.num_points
        start = (factor.unsqueeze(1) @ responses.x).squeeze(1).norm(dim=-1, keepdim=True)
        lr, targets = asked / start**2, asked
    look_at = spread_steps(setting.steps)
    found = descend(
        responses,
        activation=activation,
        lr=lr,
        steps=setting.steps,
        window=setting.window,
        targets=targets,
        look_at=look_at,
    )
    rates = lr.expand_as(found.floor)
    distance = responses.start.norm(dim=-1)
    for problem in range(setting.num_problems):
        for run, value in enumerate(setting.lrs):
            gradient = float(found.largest_gradient[problem, run])
            yield {
                "row": "floor",
                "problem": problem,
                "asked": value,
                "lr": float(rates[problem, run]),
                "floor": float(found.floor[problem, run]),
                "best": float(found.best[problem, run]),
                "share_rising": float(found.share_rising[problem, run]),
                "largest_gradient": gradient if targets is not None else None,
                "only_zero_is_flat": certified[problem],
                "first_below": int(found.first_below[problem, run]) if targets is not None else None,
                "promised": float(distance[problem] * gradient / value) ** 2 if targets is not None else None,
            }
    for position, step in enumerate(look_at):
        gaps = found.seen[position]
        for run, value in enumerate(setting.lrs):
            yield {
                "row": "floor_curve",
                "asked": value,
                "step": step,
                "gap_median": float(gaps[:, run].median()),
                "gap_min": float(gaps[:, run].min()),
                "gap_max": float(gaps[:, run].max()),
            }


def training(setting: Training, place: Place) -> Iterator[Row]:
    """A `fit` row a seed and learning rate, `fit_level` rows for the first epoch below each level, and
    `fit_curve` rows: the loss over seeds, epoch by epoch."""
    data, test = place.examples(setting)
    seeds = place.seeds(setting.num_seeds)
    num_rates = len(setting.lrs)
    networks = networks_of(layout_of(setting, data=data), seeds=seeds, repeats=num_rates, data=data)
    lr = torch.tensor(setting.lrs).repeat(len(seeds))
    losses = []
    for taken, loss in enumerate(
        networks.train(lr=lr, rule=Rule(method=setting.method), steps=setting.steps), start=1
    ):
        losses.append(loss.double().cpu())
        place.progress(taken, setting.steps)
    with torch.no_grad():
        losses.append(networks.losses(networks.points).double().cpu())
    seen = torch.stack(losses).reshape(-1, len(seeds), num_rates)
    fitted = networks.accuracy(data).reshape(-1, num_rates)
    tested = networks.accuracy(test).reshape(-1, num_rates)
    for index in range(len(seeds)):
        for run, value in enumerate(setting.lrs):
            last = float(seen[-1, index, run])
            yield {
                "row": "fit",
                "seed": index,
                "lr": value,
                "train_loss": last,
                "train_accuracy": float(fitted[index, run]),
                "test_accuracy": float(tested[index, run]),
                "diverged": not bool(seen[:, index, run].isfinite().all()),
            }
            for level in setting.levels:
                below = seen[:, index, run] <= level
                yield {
                    "row": "fit_level",
                    "seed": index,
                    "lr": value,
                    "level": level,
                    "epoch": int(below.int().argmax()) if bool(below.any()) else None,
                }
    for step in spread_steps(setting.steps + 1, num=40):
        for run, value in enumerate(setting.lrs):
            here = seen[step, :, run]
            yield {
                "row": "fit_curve",
                "lr": value,
                "step": step,
                "loss_median": float(here.median()),
                "loss_min": float(here.min()),
                "loss_max": float(here.max()),
            }
