"""What the records say about each quantity that was published: one rule a quantity.

A number is compared with the cell that is nearest to what was published: the blended forward, which is the
published operator; the same network, data set, optimizer, batch norm and beta; the same precision or, for
fp16, fp16 rounded after each operation; the same images or else their re-compression, which is said.
Whatever still differs (epochs, learning rate, device) stands beside the verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtr

from tiebreak.design.axes import PoolJacobian
from tiebreak.report.factor_figures import beta_of
from tiebreak.report.panels import rule
from tiebreak.report.stats import Estimate, mean_interval
from tiebreak.report.verdicts import (
    ACCURACY_MARGIN,
    LEAST_INITS,
    LEAST_RUNS,
    LOG_MARGIN,
    Evidence,
    of_constant,
    of_counts,
    of_means,
    of_rank,
)
from tiebreak.report.wording import data_words

STAND_INS = {"fp16": ("fp16", "fp16_rounded"), "amp16": ("amp16",)}
"""Formats that a published one may be compared with, the nearest first."""

RECOMPRESSED = {"cifar10": ("cifar10-jpeg",)}
"""Folders of images that stand in for a data set."""

_PERCENT = 100.0

Row = Mapping[Any, Any]
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the records say about one published number.

    Args:
        cell: the cell that answers.
        value: reproduced, in the unit of the published number; NaN where every run was lost.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        num: runs or initialisations behind it.
        evidence: for and against.
        words: what the number leaves out: runs lost, what differs in the setting.
    """

    cell: str
    value: float
    low: float
    high: float
    num: int
    evidence: Evidence
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one quantity is answered.

    Args:
        quantity: a regular expression that its published name matches.
        answer: a published number and the tables in, what the records say out.
        protocol: whose records are needed; empty where a formula is enough.
    """

    quantity: str
    answer: Callable[[Row, Tables], Answer | None]
    protocol: str = ""


# ---- the cell that is nearest to what was published


def nearest(row: Row, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that a published number may be compared with, the nearest first."""
    source, precision = data_words(table), table["precision"]
    sources = (row["data"], *RECOMPRESSED.get(row["data"], ()))
    formats = STAND_INS.get(row["precision"], (row["precision"],))
    fits = (table["arch"] == arch_of(row)) & source.isin(sources) & precision.isin(formats)
    if row["batch_norm"] is not None:
        fits &= table["batch_norm"] == row["batch_norm"]
    if row["optimizer"] and "optimizer" in table:
        fits &= table["optimizer"] == row["optimizer"]
    kept = table[fits].assign(
        far_source=source[fits].map(sources.index), far_precision=precision[fits].map(formats.index)
    )
    return kept.sort_values(["far_source", "far_precision"], kind="stable")


def arch_of(row: Row) -> str:
    """The published network as ours are named."""
    return "densenet121_published" if row["arch"] == "densenet121" else row["arch"]


def _differs(row: Row, cell: Row) -> list[str]:
    """What is not as published, besides what every comparison has."""
    words = []
    if cell["precision"] != row["precision"]:
        words.append(f"{cell['precision']} for {row['precision']}")
    folder = cell.get("folder")
    if isinstance(folder, str) and folder and folder != row["data"]:
        words.append(f"images of {folder} for {row['data']}: JPEG re-compressions")
    if cell.get("device") == "cpu":
        words.append("CPU for GPU")
    return words


# ---- one rule a quantity


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
    return cell, [*_differs(row, cell), f"{int(cell['num_epochs'])} epochs, lr {cell['lr']:g}"]


def _ran(cell: Row) -> int:
    return int(cell["num_planned"] - cell["num_missing"])


def _lost_words(cell: Row) -> list[str]:
    kinds = {"num_diverged": "diverged", "num_not_learned": "never left chance", "num_failed": "failed"}
    lost = [f"{int(cell[name])} of {_ran(cell)} {word}" for name, word in kinds.items() if cell[name]]
    waiting = (
        [f"{_ran(cell)} of {int(cell['num_planned'])} planned runs so far"] if cell["num_missing"] else []
    )
    return [*waiting, *lost]


def _accuracy(row: Row, tables: Tables) -> Answer | None:
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    ours = _estimate(cell["accuracy_mean"], cell["accuracy_sd"], int(cell["num_ended"]))
    evidence = _in_points(_published(row), ours)
    if not cell["num_ended"] and _ran(cell) >= LEAST_RUNS:
        evidence = Evidence(p_apart=0.0)  # an accuracy was published, and every run of ours was lost
    return Answer(
        cell=cell["cell"], value=ours.mean, low=cell["accuracy_low"], high=cell["accuracy_high"],
        num=_ran(cell), words="; ".join([*words, *_lost_words(cell)]), evidence=evidence,
    )  # fmt: skip


def _best(row: Row, tables: Tables) -> Answer | None:
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


def _spread(row: Row, tables: Tables) -> Answer | None:
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


def _lost_runs(row: Row, tables: Tables) -> Answer | None:
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    lost, ran = int(cell["num_diverged"]), _ran(cell)
    return Answer(
        cell=cell["cell"], value=float(lost), low=math.nan, high=math.nan, num=ran,
        words="; ".join([*words, *_lost_words(cell)]),
        evidence=of_counts((int(row["value"]), int(row["n"])), (lost, ran)),
    )  # fmt: skip


def _effect(row: Row, tables: Tables) -> Answer | None:
    if (found := _trained(row, tables, table="pairs")) is None:
        return None
    cell, words = found
    ours = _estimate(cell["difference_mean"], cell["difference_sd"], int(cell["num_pairs"]))
    lost = f"{int(cell['num_diverged'])} of {int(cell['num_replicates'])} diverged"
    return Answer(
        cell=cell["cell"], value=ours.mean, low=cell["difference_low"], high=cell["difference_high"],
        num=ours.num, words="; ".join([*words, lost, "ours: pairs of one start"]),
        evidence=_in_points(_published(row), ours),
    )  # fmt: skip


def _in_points(published: Estimate, ours: Estimate) -> Evidence:
    """Two means of shares, judged in percentage points."""
    return of_means(_times(published, _PERCENT), _times(ours, _PERCENT), margin=ACCURACY_MARGIN)


def _times(estimate: Estimate, factor: float) -> Estimate:
    return _estimate(factor * estimate.mean, factor * estimate.sd, estimate.num)


def _published(row: Row) -> Estimate:
    """A published mean with the spread of its runs, where that was published too."""
    return _estimate(row["value"], row.get("sd", math.nan), int(row["n"]) if row["n"] == row["n"] else 1)


def _estimate(mean: float, sd: float, num: int) -> Estimate:
    return Estimate(mean=mean, sd=sd, low=math.nan, high=math.nan, num=num)


def _share(row: Row, tables: Tables, *, column: str = "share_above_threshold") -> Answer | None:
    if "shares" not in tables or "zones" not in tables:
        return None
    zones = tables["zones"]
    zones = zones[(zones["recipe"] == "published") & zones["cell"].isin(tables["shares"]["cell"])]
    zones = zones[(rule(zones) == "minimal") & (zones["dither"] == 0)].drop_duplicates("cell")
    size = re.search(r"batch(\d+)", row["id"])
    # Without a word on them the published networks of zones have 128 images a batch.
    near = nearest(row, zones[zones["batch_size"] == (int(size[1]) if size else 128)])
    if not len(near):
        return None
    order = ["far_source", "far_precision", "num_inits"]
    cell = near.sort_values(order, ascending=[True, True, False], kind="stable").iloc[0].to_dict()
    shares = tables["shares"]
    mine = shares[(shares["cell"] == cell["cell"]) & (shares["recipe"] == "published")]
    values = mine[column].to_numpy(dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    words = [
        *_differs(row, cell),
        f"initialisations from {_PERCENT * values.min():.1f} to {_PERCENT * values.max():.1f} %, "
        f"{int(cell['num_draws']) // len(values)} mini-batches each",
    ]
    return Answer(
        cell=cell["cell"], value=float(values.mean()), low=cell[f"{column}_low"], high=cell[f"{column}_high"],
        num=len(values), evidence=of_rank(row["value"], values), words="; ".join(words),
    )  # fmt: skip


def _zeros(row: Row, tables: Tables) -> Answer | None:
    """Gaps of exactly 0: the published network is LeNet-5 on MNIST, by the number of its mini-batches."""
    if not re.search("threshold", row["id"]):
        return None
    named = {**row, "arch": row["arch"] or "lenet5", "data": row["data"] or "mnist", "batch_norm": False}
    return _share(named, tables, column="share_zero")


def _in_decade(row: Row, tables: Tables) -> Answer | None:
    """A decade of a published histogram, whose statistic is the sum of l1 norms: shown beside, not tested.

    The published draws are one initialisation; ours are many, and a decade's share has no spread of its own.
    """
    edges = re.search(r"\[(\S+), \S+\)", row["quantity"])
    histogram = "norm_gaps_l1" if row["id"].startswith("gaps.normpool") else "gaps_l1"
    if edges is None or histogram not in tables or not re.search("threshold|normpool", row["id"]):
        return None
    gaps = tables[histogram]
    named = {**row, "arch": row["arch"] or "lenet5", "data": row["data"] or "mnist", "batch_norm": None}
    near = nearest(named, gaps[(gaps["beta"] == 1) & (gaps["device"] == _device(row))])
    if not len(near):
        return None
    cell = near[near["cell"] == near.iloc[0]["cell"]]
    mine = cell[(cell["bin"] == "decade") & (cell["decade"] == round(math.log10(float(edges[1]))))]
    return Answer(
        cell=str(cell.iloc[0]["cell"]), value=float(mine["share_draws"].sum()), low=math.nan, high=math.nan,
        num=int(cell["num_inits"].max()), evidence=Evidence(),
        words="; ".join([*_differs(row, cell.iloc[0].to_dict()), "one published initialisation; no test"]),
    )  # fmt: skip


def _device(row: Row) -> str:
    """Histograms named after the device were made on it; of the others a CPU's are shown."""
    return "cuda" if "gpu" in row["id"] else "cpu"


def _tied(row: Row, tables: Tables) -> Answer | None:
    """Share of a pool's windows that tie at 0 or above it, at initialisation."""
    parts = re.search(r"of pool (\d) tied (at|above) 0$", row["quantity"])
    if parts is None or "ties" not in tables:
        return None
    ties, column = tables["ties"], "share_at_zero" if parts[2] == "at" else "share_above_zero"
    near = nearest(row, ties[(ties["pool"] == int(parts[1]) - 1) & (ties["dither"] == 0)])
    if not len(near):
        return None
    order = ["far_source", "far_precision", "num_inits"]
    cell = near.sort_values(order, ascending=[True, True, False], kind="stable").iloc[0].to_dict()
    mean, number = cell[column], int(cell["num_inits"])
    if row["value"] == 0 or mean == 0:
        evidence = Evidence(same=row["value"] == mean and number >= LEAST_INITS)
    else:
        error = (cell[f"{column}_high"] - cell[f"{column}_low"]) / (2 * 1.96 * mean * math.log(10))
        ours = _estimate(math.log10(mean), error * math.sqrt(number), number)
        theirs = _estimate(math.log10(row["value"]), math.nan, 1)
        evidence = Evidence() if math.isnan(error) else of_means(theirs, ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=mean, low=cell[f"{column}_low"], high=cell[f"{column}_high"], num=number,
        evidence=evidence, words="; ".join(_differs(row, cell)),
    )  # fmt: skip


def _zero_program(row: Row, tables: Tables) -> Answer | None:
    if "zero" not in tables:
        return None
    parts = re.match(r"zero\.(max|relu)\.(equal|distinct)", row["id"])
    time = re.search(r"t=(\S+)$", row["quantity"])
    zero = tables["zero"]
    mine = zero[
        (zero["precision"] == (row["precision"] or "fp32"))
        & (zero["program"] == (parts[1] if parts else ""))
        & (zero["entries"] == (parts[2] if parts else ""))
    ]
    mine = mine[mine["t"] == float(time[1])] if time else mine
    if not len(mine):
        return None
    values = mine["derivative"].astype(float).tolist()
    return Answer(
        cell=str(mine.iloc[0]["cell"]), value=values[0], low=math.nan, high=math.nan, num=len(values),
        evidence=of_constant(row["value"], values), words=f"{len(values)} runs, every one a constant",
    )  # fmt: skip


def _norm(row: Row, tables: Tables) -> Answer | None:
    """The norm of the Jacobian, from its formula; it was published with three or four digits."""
    tied = re.search(r"with (\d) maxima", row["quantity"])
    if tied is None:
        return None
    value = PoolJacobian(beta=row["beta"]).norm(int(tied[1]))
    same = math.isclose(value, row["value"], rel_tol=1.5e-3)
    return Answer(
        cell="", value=value, low=math.nan, high=math.nan, num=1,
        evidence=Evidence(same=same, p_apart=math.nan if same else 0.0), words="from the formula, no record",
    )  # fmt: skip


def _nearest_searches(row: Row, tables: Tables) -> pd.DataFrame | None:
    """The searches of the cell nearest to a published one, a row each; None where nothing was searched."""
    if "lr_search" not in tables:
        return None
    table = tables["lr_search"]
    near = nearest(row, table[table["beta"] == row["beta"]])
    return near[near["cell"] == near.iloc[0]["cell"]] if len(near) else None


def _rate(row: Row, tables: Tables) -> Answer | None:
    searches = _nearest_searches(row, tables)
    if searches is None:
        return None
    cell = searches.iloc[0].to_dict()
    logs = np.log10(searches["best_lr"].to_numpy(dtype=float))
    ours = _of_logs(logs)
    evidence = of_means(_estimate(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=10**ours.mean, low=math.nan, high=math.nan, num=ours.num, evidence=evidence,
        words="; ".join([*_differs(row, cell), "searched on held-out images, not on the test set"]),
    )  # fmt: skip


def _search_accuracy(row: Row, tables: Tables) -> Answer | None:
    """Accuracy that the best candidate of a search had: theirs on the test set, ours on held-out images."""
    searches = _nearest_searches(row, tables)
    if searches is None:
        return None
    cell = searches.iloc[0].to_dict()
    ours = mean_interval(searches["validation_accuracy"].dropna().to_numpy(float))
    return Answer(
        cell=cell["cell"], value=ours.mean, low=ours.low, high=ours.high, num=ours.num,
        evidence=_in_points(_published(row), ours),
        words="; ".join([*_differs(row, cell), f"{int(cell['num_epochs'])} epochs, on held-out images"]),
    )  # fmt: skip


def _distance(row: Row, tables: Tables) -> Answer | None:
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
        spread = _of_logs(np.log10([ends[0], ends[2]]))
        ours = _estimate(math.log10(ends[1]), spread.sd, int(cell["num_inits"]))
        evidence = of_means(_estimate(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=ends[1], low=ends[0], high=ends[2], num=int(cell["num_inits"]),
        evidence=evidence, words="; ".join([*_differs(row, cell), "interval: smallest and largest"]),
    )  # fmt: skip


def _of_logs(logs: np.ndarray) -> Estimate:
    sd = float(logs.std(ddof=1)) if len(logs) > 1 else math.nan
    return _estimate(float(logs.mean()), sd, len(logs))


RULES = (
    Rule(quantity=r"^final test accuracy, mean over runs$", answer=_accuracy, protocol="train"),
    Rule(quantity=r"^accuracy, mean over runs that did not end in NaN", answer=_accuracy, protocol="train"),
    Rule(quantity=r"^final test accuracy, sample standard deviation", answer=_spread, protocol="train"),
    Rule(quantity=r"^best test accuracy of all epochs", answer=_best, protocol="train"),
    Rule(quantity=r"^runs that ended in NaN", answer=_lost_runs, protocol="train"),
    Rule(quantity=r"^mean accuracy minus that of beta=0$", answer=_effect, protocol="train"),
    Rule(quantity=r"^share of mini-batches with a gap above", answer=_share, protocol="zones"),
    Rule(quantity=r"^share of gaps that are exactly 0$", answer=_zeros, protocol="zones"),
    Rule(quantity=r"^share of gaps in ", answer=_in_decade, protocol="zones"),
    Rule(quantity=r"^share of windows of pool", answer=_tied, protocol="zones"),
    Rule(quantity=r"^best learning rate of the search$", answer=_rate, protocol="lr_search"),
    Rule(quantity=r"^test accuracy of the best candidate", answer=_search_accuracy, protocol="lr_search"),
    Rule(quantity=r"^distance of weights to the beta=0 run", answer=_distance, protocol="drift"),
    Rule(quantity=r"^derivative of max - max", answer=_zero_program, protocol="zero_program"),
    Rule(quantity=r"^norm of the Jacobian", answer=_norm),
)
"""Which rule answers a quantity, by its name; the first that fits."""

_BLENDED = "tests/numerics/test_pooling_blended.py::test_every_error_of_the_table"
HELD = (
    (r"^(median|largest) relative error of the blended forward", _BLENDED),
    (r"^share of outputs that (are exact|become 0)", _BLENDED),
    (r"^size of an input from which on the blended forward", _BLENDED),
    (r"^number of parameters$", "tests/models/test_build.py::test_published_parameter_counts"),
)
"""Quantities that a test compares with the published value."""


def rule_of(quantity: str) -> Rule | None:
    """The rule that answers a published quantity; None if nothing does."""
    return next((rule for rule in RULES if re.search(rule.quantity, quantity, re.IGNORECASE)), None)


def held_by(quantity: str) -> str:
    """The file of tests that compares a quantity with its published values; empty if none does."""
    return next((test for pattern, test in HELD if re.search(pattern, quantity)), "")
