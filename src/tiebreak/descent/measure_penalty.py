"""Rows of the study's second part: an L1 penalty on a linear model, and on the weights of a network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tiebreak.descent import closed_forms
from tiebreak.descent.lasso import Descent, Problems, draw_problems, solve, violation
from tiebreak.descent.place import Place, layout_of, networks_of
from tiebreak.descent.pruning import prune_below, prune_share, weights_of
from tiebreak.descent.steps import Rule
from tiebreak.design.descent import Lasso, Pruning
from tiebreak.design.descent_axes import Columns, Decay, Method, PenaltyUnit
from tiebreak.records.session import Row


def lasso(setting: Lasso, place: Place) -> Iterator[Row]:
    """A `lasso` row a problem, penalty and learning rate, and a `trace` row for each iterate that is kept."""
    problems = draw_problems(
        seeds=place.seeds(setting.num_problems),
        columns=setting.columns,
        num_points=setting.num_points,
        num_features=setting.num_features,
        noise=setting.noise,
    )
    pairs = [(level, rate) for level in setting.penalties for rate in setting.lrs]
    rate = torch.tensor([rate for _, rate in pairs], dtype=torch.float64)
    unpenalised = problems.unpenalised.abs().sum(-1)
    penalty = torch.tensor([level for level, _ in pairs], dtype=torch.float64) * _units(
        setting, problems, lr=rate, unpenalised=unpenalised
    )
    lr = rate.expand_as(penalty).clone()
    exact = solve(problems, penalty=penalty)
    best = problems.objective(exact.points, penalty=penalty)
    closed = _closed_form(setting, problems, penalty=penalty, lr=lr)
    runs = Descent(
        problems.to(place.device),
        rule=Rule(method=setting.method, decay=setting.decay),
        penalty=penalty.to(place.device),
        lr=lr.to(place.device),
        derivative_at_zero=setting.derivative_at_zero,
        dtype=place.dtype,
    )
    found = runs.run(
        steps=setting.steps, window=setting.window, best=best.to(place.device), small=setting.small
    )
    last = found.last.double().cpu()
    missed = violation(problems, last, penalty=penalty)
    agreement = _agreement(last.abs() >= setting.small, exact.points != 0)
    for problem in range(setting.num_problems):
        largest = float(problems.largest_penalty[problem])
        for run, (_, value) in enumerate(pairs):
            at = (problem, run)
            yield {
                "row": "lasso",
                "problem": problem,
                "lr": value,
                "penalty": float(penalty[at]),
                "relative": float(penalty[at]) / largest,
                "norm": float(found.mean_norm[at]),
                "norm_exact": float(exact.points[at].abs().sum()),
                "norm_unpenalised": float(unpenalised[problem]),
                "norm_closed_form": float(closed[at]) if bool(closed[at].isfinite()) else None,
                "norm_averaged": float(found.mean_point[at].abs().sum()),
                "zeros": float(found.mean_zeros[at]),
                "zeros_exact": int((exact.points[at] == 0).sum()),
                "small": float(found.mean_small[at]),
                "gap": float(found.mean_gap[at]),
                "violation": float(missed[at]),
                "violation_exact": float(exact.certificate[at]),
                "support_f1": float(agreement[at]),
            }
    yield from _traces(setting, runs, pairs)


def _units(setting: Lasso, problems: Problems, *, lr: Tensor, unpenalised: Tensor) -> Tensor:
    """What a penalty of 1 is, for each problem and run."""
    if setting.penalty_unit is PenaltyUnit.LARGEST:
        return problems.largest_penalty[:, None]
    crossing = [
        closed_forms.crossing_penalty(unpenalised, lr=float(rate), num_features=setting.num_features)
        for rate in lr
    ]
    return torch.stack(crossing, 1)


def _closed_form(setting: Lasso, problems: Problems, *, penalty: Tensor, lr: Tensor) -> Tensor:
    """The norm that a formula gives, NaN where there is none."""
    nothing = torch.full_like(penalty, torch.nan)
    if setting.decay is not Decay.NONE:
        return nothing
    if setting.method is Method.RMSPROP:
        plateaus = [
            closed_forms.rmsprop_plateau(lr=float(rate), num_features=setting.num_features) for rate in lr[0]
        ]
        far = penalty >= 5 * problems.largest_penalty[:, None]
        return torch.where(far, torch.tensor(plateaus, dtype=torch.float64), nothing)
    if setting.method is Method.GD and setting.columns is Columns.ORTHONORMAL:
        moment = problems.moment.unsqueeze(1)
        each = [
            closed_forms.lasso_norm(moment, lr=float(rate), penalty=penalty[:, run : run + 1])
            for run, rate in enumerate(lr[0])
        ]
        return torch.cat(each, 1)
    return nothing


def _agreement(found: Tensor, true: Tensor) -> Tensor:
    """F1 of one support against another: 2 |A and B| / (|A| + |B|), and 1 where both are empty."""
    both, sizes = (found & true).sum(-1).double(), found.sum(-1) + true.sum(-1)
    return torch.where(sizes == 0, 1.0, 2 * both / sizes.clamp_min(1))


def _traces(setting: Lasso, runs: Descent, pairs: list[tuple[float, float]]) -> Iterator[Row]:
    """The iterates that follow, of the first coefficient and of the last, whose truth is 0."""
    for step in range(setting.num_traced):
        runs.step()
        for run, (level, value) in enumerate(pairs):
            for coordinate in (0, setting.num_features - 1):
                yield {
                    "row": "trace",
                    "lr": value,
                    "relative": level,
                    "coordinate": coordinate,
                    "step": step,
                    "value": float(runs.points[0, run, coordinate]),
                }


def pruning(setting: Pruning, place: Place) -> Iterator[Row]:
    """A `penalised` row a seed, penalty and learning rate, and `pruned` rows: what pruning leaves of it."""
    data, test = place.examples(setting)
    seeds = place.seeds(setting.num_seeds)
    pairs = [(level, rate) for level in setting.penalties for rate in setting.lrs]
    networks = networks_of(layout_of(setting, data=data), seeds=seeds, repeats=len(pairs), data=data)
    runs = [(index, level, rate) for index in range(len(seeds)) for level, rate in pairs]
    zeros, norm = (torch.zeros(len(runs), dtype=torch.float64, device=place.device) for _ in range(2))
    small = torch.zeros(len(setting.thresholds), len(runs), dtype=torch.float64, device=place.device)
    loss = torch.full((len(runs),), torch.nan)
    trained = networks.train(
        lr=torch.tensor([rate for _, _, rate in runs], device=place.device),
        rule=Rule(method=setting.method, decay=setting.decay),
        steps=setting.steps,
        penalty=torch.tensor([level for _, level, _ in runs], device=place.device),
    )
    for taken, loss in enumerate(trained, start=1):  # noqa: B007 - the last one is kept
        if taken > setting.steps - setting.window:
            sizes = weights_of(networks.points).abs()
            norm += sizes.double().sum(1)
            zeros += (sizes == 0).double().mean(1)
            for position, threshold in enumerate(setting.thresholds):
                small[position] += (sizes < threshold).double().mean(1)
        place.progress(taken, setting.steps)
    num_weights = weights_of(networks.points).shape[1]
    fitted, tested = networks.accuracy(data), networks.accuracy(test)
    for run, (index, level, rate) in enumerate(runs):
        is_closed = setting.method is Method.GD and setting.decay is Decay.NONE and 0 < rate < 2
        yield {
            "row": "penalised",
            "seed": index,
            "lr": rate,
            "penalty": level,
            "num_weights": num_weights,
            "norm": float(norm[run]) / setting.window,
            # of weights that only the penalty moves: T-L1 with z = 0
            "norm_of_cycles": num_weights * rate * level / (2 - rate) if is_closed else None,
            "share_zero": float(zeros[run]) / setting.window,
            "train_loss": float(loss[run]),
            "train_accuracy": float(fitted[run]),
            "test_accuracy": float(tested[run]),
            "diverged": not bool(weights_of(networks.points)[run].isfinite().all()),
        }
    for rule, values, prune in (
        ("threshold", setting.thresholds, prune_below),
        ("share", setting.shares, prune_share),
    ):
        for position, value in enumerate(values):
            left = prune(networks, value, data=test)
            for run, (index, level, rate) in enumerate(runs):
                mean = float(small[position, run]) / setting.window if rule == "threshold" else None
                yield {
                    "row": "pruned",
                    "seed": index,
                    "lr": rate,
                    "penalty": level,
                    "rule": rule,
                    "value": value,
                    "share_removed": float(left.share_removed[run]),
                    "share_small": mean,
                    "test_accuracy": float(left.accuracy[run]),
                }
