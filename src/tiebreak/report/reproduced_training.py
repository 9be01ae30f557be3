"""Published numbers of trainings, answered from ours: accuracies, lost runs, learning rates, drift."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtr

from tiebreak.report.factor_figures import beta_of
from tiebreak.report.nearest import Answer, Row, Tables, differs, nearest
from tiebreak.report.panels import rule
from tiebreak.report.stats import Estimate, Values, mean_interval
from tiebreak.report.verdicts import (
    ACCURACY_MARGIN,
    EFFECT_SHARE,
    LEAST_RUNS,
    LOG_MARGIN,
    Evidence,
    of_counts,
    of_means,
)

_PERCENT = 100.0


def _trained(row: Row, tables: Tables, *, table: str = "accuracy") -> tuple[dict[Any, Any], list[str]] | None:
    """The cell of a training that is nearest to the published one, and what is not as published."""
    if table not in tables:
        return None
    forward = re.search(r"forward=(\w+)", row["quantity"])
    chosen = tables[table]
    chosen = chosen[
        (chosen["forward"] == (forward[1] if forward else "blended")) & (chosen["beta"] == row["beta"])
    ]
    near = nearest(row, chosen)
    if not len(near):
        return None
    order = ["far_source", "far_precision", "num_epochs"]
    cell = near.sort_values(order, ascending=[True, True, False], kind="stable").iloc[0].to_dict()
    return cell, [*differs(row, cell), f"{int(cell['num_epochs'])} epochs, lr {cell['lr']:g}"]


def _ran(cell: Row) -> int:
    return int(cell["num_planned"] - cell["num_missing"])


def _lost_words(cell: Row) -> list[str]:
    kinds = {"num_diverged": "diverged", "num_not_learned": "never left chance", "num_failed": "failed"}
    lost = [f"{int(cell[name])} of {_ran(cell)} {word}" for name, word in kinds.items() if cell[name]]
    waiting = (
        [f"{_ran(cell)} of {int(cell['num_planned'])} planned runs so far"] if cell["num_missing"] else []
    )
    return [*waiting, *lost]


def accuracy(row: Row, tables: Tables) -> Answer | None:
    """Final test accuracy, mean over the runs that ended."""
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    ours = Estimate.without_interval(cell["accuracy_mean"], cell["accuracy_sd"], int(cell["num_ended"]))
    evidence = _in_points(_published(row), ours)
    if not cell["num_ended"] and _ran(cell) >= LEAST_RUNS:
        evidence = Evidence(p_apart=0.0)  # an accuracy was published, and every run of ours was lost
    return Answer(
        cell=cell["cell"], value=ours.mean, low=cell["accuracy_low"], high=cell["accuracy_high"],
        num=_ran(cell), words="; ".join([*words, *_lost_words(cell)]), evidence=evidence,
    )  # fmt: skip


def best_accuracy(row: Row, tables: Tables) -> Answer | None:
    """Best test accuracy of all epochs, mean over runs."""
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    runs = tables["runs"]
    best = runs.loc[runs["cell"] == cell["cell"], "best_test_accuracy"].dropna()
    ours = mean_interval(best.to_numpy(dtype=float))
    return Answer(
        cell=cell["cell"], value=ours.mean, low=ours.low, high=ours.high, num=ours.num,
        words="; ".join([*words, *_lost_words(cell)]), evidence=_in_points(_published(row), ours),
    )  # fmt: skip


def spread(row: Row, tables: Tables) -> Answer | None:
    """Standard deviation of final accuracies, by an F test of variances."""
    if (found := _trained(row, tables)) is None or math.isnan(found[0]["accuracy_sd"]):
        return None
    cell, words = found
    num, theirs = int(cell["num_ended"]), int(row["n"])
    evidence = Evidence()
    if row["value"] > 0 and cell["accuracy_sd"] > 0 and theirs > 1 and num >= LEAST_RUNS:
        ratio = (cell["accuracy_sd"] / row["value"]) ** 2
        below = float(fdtr(num - 1, theirs - 1, ratio))
        evidence = Evidence(p_apart=min(1.0, 2 * min(below, 1 - below)))
    return Answer(
        cell=cell["cell"], value=cell["accuracy_sd"], low=math.nan, high=math.nan, num=num,
        words="; ".join([*words, *_lost_words(cell), "F test of variances; sameness has no test"]),
        evidence=evidence,
    )  # fmt: skip


def lost_runs(row: Row, tables: Tables) -> Answer | None:
    """Number of runs that ended in NaN."""
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    lost, ran = int(cell["num_diverged"]), _ran(cell)
    return Answer(
        cell=cell["cell"], value=float(lost), low=math.nan, high=math.nan, num=ran,
        words="; ".join([*words, *_lost_words(cell)]),
        evidence=of_counts((int(row["value"]), int(row["n"])), (lost, ran)),
    )  # fmt: skip


def effect(row: Row, tables: Tables) -> Answer | None:
    """Accuracy minus that of beta = 0: theirs of two means, ours of pairs that begin alike.

    Theirs has the standard error that its published t value says, where there is one.
    """
    if (found := _trained(row, tables, table="pairs")) is None:
        return None
    cell, words = found
    ours = Estimate.without_interval(cell["difference_mean"], cell["difference_sd"], int(cell["num_pairs"]))
    published = _published(row)
    if t := re.search(r"Welch t = (-?[\d.]+)", row["note"]):
        error = abs(row["value"] / float(t[1]))
        published = Estimate.without_interval(row["value"], error * math.sqrt(published.num), published.num)
    margin = min(ACCURACY_MARGIN, EFFECT_SHARE * abs(_PERCENT * row["value"]))
    lost = f"{int(cell['num_diverged'])} of {int(cell['num_replicates'])} diverged"
    return Answer(
        cell=cell["cell"], value=ours.mean, low=cell["difference_low"], high=cell["difference_high"],
        num=ours.num, words="; ".join([*words, lost, "ours: pairs of one start"]),
        evidence=_in_points(published, ours, margin=margin),
    )  # fmt: skip


def _nearest_searches(row: Row, tables: Tables) -> pd.DataFrame | None:
    """The searches of the cell nearest to a published one, a row each; None where nothing was searched."""
    if "lr_search" not in tables:
        return None
    table = tables["lr_search"]
    near = nearest(row, table[table["beta"] == row["beta"]])
    return near[near["cell"] == near.iloc[0]["cell"]] if len(near) else None


def learning_rate(row: Row, tables: Tables) -> Answer | None:
    """Best learning rate of the searches, by its logarithm."""
    searches = _nearest_searches(row, tables)
    if searches is None:
        return None
    cell = searches.iloc[0].to_dict()
    ours = _of_logs(searches["best_lr"].to_numpy(dtype=float))
    evidence = of_means(
        Estimate.without_interval(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN
    )
    return Answer(
        cell=cell["cell"], value=10**ours.mean, low=math.nan, high=math.nan, num=ours.num, evidence=evidence,
        words="; ".join([*differs(row, cell), "searched on held-out images, not on the test set"]),
    )  # fmt: skip


def search_accuracy(row: Row, tables: Tables) -> Answer | None:
    """Accuracy that the best candidate of a search had: theirs on the test set, ours on held-out images."""
    searches = _nearest_searches(row, tables)
    if searches is None:
        return None
    cell = searches.iloc[0].to_dict()
    ours = mean_interval(searches["validation_accuracy"].dropna().to_numpy(float))
    return Answer(
        cell=cell["cell"], value=ours.mean, low=ours.low, high=ours.high, num=ours.num,
        evidence=_in_points(_published(row), ours),
        words="; ".join([*differs(row, cell), f"{int(cell['num_epochs'])} epochs, on held-out images"]),
    )  # fmt: skip


def distance(row: Row, tables: Tables) -> Answer | None:
    """Drift: one value a cell and epoch is kept, so the spread over replicates is that of its range."""
    epoch = re.search(r"after epoch (\d+)$", row["quantity"])
    if "drift" not in tables or epoch is None:
        return None
    drift = tables["drift"]
    beta = rule(drift).map(beta_of)
    again = row["beta"] == 0
    drift = drift[(beta == row["beta"]) & (drift["epoch"] == int(epoch[1])) & ((drift["copy"] > 0) == again)]
    near = nearest(row, drift[drift["forward"] == "blended"])
    if not len(near) or math.isnan(near.iloc[0]["distance_l1_mean"]):
        return None
    cell = near.iloc[0].to_dict()
    ends = [cell[f"distance_l1_{name}"] for name in ("min", "mean", "max")]
    if row["value"] == 0 or min(ends) <= 0:
        equal = row["value"] == ends[1]
        evidence = Evidence(same=equal, p_apart=math.nan if equal else 0.0)
    else:
        sd = _of_logs([ends[0], ends[2]]).sd
        ours = Estimate.without_interval(math.log10(ends[1]), sd, int(cell["num_inits"]))
        evidence = of_means(
            Estimate.without_interval(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN
        )
    return Answer(
        cell=cell["cell"], value=ends[1], low=ends[0], high=ends[2], num=int(cell["num_inits"]),
        evidence=evidence, words="; ".join([*differs(row, cell), "interval: smallest and largest"]),
    )  # fmt: skip


def _of_logs(values: Values) -> Estimate:
    """Mean and spread of common logarithms; not finite where a value is not."""
    logs = np.log10(np.asarray(values, dtype=float))
    sd = float(logs.std(ddof=1)) if len(logs) > 1 else math.nan
    return Estimate.without_interval(float(logs.mean()), sd, len(logs))


def _in_points(published: Estimate, ours: Estimate, *, margin: float = ACCURACY_MARGIN) -> Evidence:
    """Two means of shares, judged in percentage points."""
    return of_means(_times(published, _PERCENT), _times(ours, _PERCENT), margin=margin)


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate.without_interval(factor * estimate.mean, factor * estimate.sd, estimate.num)


def _published(row: Row) -> Estimate:
    """A published mean with the spread of its runs, where that was published too."""
    return Estimate.without_interval(
        row["value"], row.get("sd", math.nan), int(row["n"]) if row["n"] == row["n"] else 1
    )
