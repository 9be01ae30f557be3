"""Every published number beside the record that answers it, with a verdict by the rule of `verdicts`.

The published numbers are in one file, `paper/published.csv` of the results folder, each with the tag of its
origin. A number is compared with the cell that is nearest to what was published: the blended forward, which
is the published operator; the same network, data set, optimizer, batch norm and beta; the same precision
or, for fp16, fp16 rounded after each operation; the same images or else their re-compression, which is
said. Whatever still differs (epochs, learning rate, device) stands beside the verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtr

from tiebreak.design.axes import PoolJacobian, UserError
from tiebreak.report.factor_figures import beta_of, data_words
from tiebreak.report.paired import holm
from tiebreak.report.panels import rule
from tiebreak.report.stats import Estimate, mean_interval
from tiebreak.report.verdicts import (
    ACCURACY_MARGIN,
    LOG_MARGIN,
    Evidence,
    Verdict,
    of_constant,
    of_counts,
    of_means,
    of_rank,
    verdict,
)

COLUMNS = (
    "id", "origin", "where", "quantity", "arch", "data", "precision", "optimizer", "batch_norm", "beta", "n",
    "value", "low", "high", "unit", "note",
)  # fmt: skip
"""Columns of the file of published numbers."""

STAND_INS = {"fp16": ("fp16", "fp16_rounded"), "amp16": ("amp16",)}
"""Formats that a published one may be compared with, the nearest first."""

RECOMPRESSED = {"cifar10": ("cifar10-jpeg",)}
"""Folders of images that stand in for a data set."""

_ARTEFACT = re.compile(
    r"\bartefact\b|\bdefect:|every (run|candidate) NaN|never learned|hard-coded", re.IGNORECASE
)
_PERCENT = 100.0
_NUMBERS = ("n", "value", "low", "high", "beta")

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


Rule = Callable[[Row, Tables], Answer | None]
"""How a quantity is answered: a published number and the tables in, what the records say out."""


def read_published(path: Path) -> pd.DataFrame:
    """The published numbers.

    Args:
        path: the CSV file.

    Returns:
        Its columns; numbers as floats, `batch_norm` as True, False or None, other empty fields as "".

    Raises:
        UserError: there is no file, a column is missing, an id occurs twice, or a value is no number.
    """
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(
            f"there is no file of published numbers at {path}. It comes with the project."
        ) from None
    if absent := [name for name in COLUMNS if name not in text]:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}. It must have {', '.join(COLUMNS)}.")
    if twice := sorted(set(text.loc[text["id"].duplicated(), "id"])):
        raise UserError(f"{path} names {twice[0]} twice. Each published number needs an id of its own.")
    for name in _NUMBERS:
        values = text[name].where(text[name] != "", "nan")
        try:
            text[name] = values.map(float)
        except ValueError as error:
            raise UserError(f"{path}: column {name} must hold numbers or nothing ({error}).") from None
    flags = {"true": True, "false": False, "": None}
    text["batch_norm"] = text["batch_norm"].map(lambda word: flags.get(str(word).strip().lower()))
    return text


def compared(published: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Every published number with what was reproduced and the verdict.

    Args:
        published: as `read_published` gives them.
        tables: those of the paper: `plan`, `members` and results.

    Returns:
        The published columns, then `reproduced`, `reproduced_low`, `reproduced_high`, `reproduced_n`,
        `p_same`, `p_apart` (Holm over the numbers of a quantity), `verdict`, `reason`, `cell`, `study`,
        `device`, `command`.
    """
    spread = published.set_index("id")["value"]
    with_spread = published.assign(sd=[spread.get(f"{name}.sd", math.nan) for name in published["id"]])
    found = [answer(row, tables) for row in with_spread.to_dict("records")]
    table = published.assign(
        reproduced=[item.value if item else math.nan for item in found],
        reproduced_low=[item.low if item else math.nan for item in found],
        reproduced_high=[item.high if item else math.nan for item in found],
        reproduced_n=[item.num if item else 0 for item in found],
        p_same=[item.evidence.p_same if item else math.nan for item in found],
        p_apart=[item.evidence.p_apart if item else math.nan for item in found],
    )
    for name in ("p_same", "p_apart"):
        families = table.groupby(table["quantity"].map(_family), sort=False)[name]
        table[name] = families.transform(lambda values: holm(values.to_numpy(dtype=float)))
    words = [
        _verdict(row, item, p_same=row["p_same"], p_apart=row["p_apart"])
        for row, item in zip(table.to_dict("records"), found, strict=True)
    ]
    places = [_place(row, item, tables) for row, item in zip(table.to_dict("records"), found, strict=True)]
    return table.assign(
        verdict=[str(word) for word, _ in words],
        reason=[reason for _, reason in words],
        cell=[item.cell if item else "" for item in found],
        study=[place.get("study", "") for place in places],
        device=[place.get("device_name", "") for place in places],
        command=[place.get("command", "") for place in places],
    )


def _family(quantity: str) -> str:
    """Numbers of one rule are one family of tests."""
    return next((pattern for pattern, _ in RULES if re.search(pattern, quantity)), quantity)


def _verdict(row: Row, item: Answer | None, *, p_same: float, p_apart: float) -> tuple[Verdict, str]:
    words = item.words if item else ""
    if (test := _held_by(row)) and not _ARTEFACT.search(row["note"]):
        return Verdict.AGREES, f"held by {test}"
    if _ARTEFACT.search(row["note"]):
        return Verdict.ARTEFACT, "; ".join(part for part in (row["note"], words) if part)
    if item is None:
        return Verdict.NOT_RUN, "" if _rule_of(row) else "no study measures this quantity"
    adjusted = Evidence(p_same=p_same, p_apart=p_apart, same=item.evidence.same)
    return verdict(adjusted), words


def answer(row: Row, tables: Tables) -> Answer | None:
    """What the records say about one published number; None if they say nothing."""
    answers = _rule_of(row)
    return answers(row, tables) if answers else None


def _rule_of(row: Row) -> Rule | None:
    return next(
        (found for pattern, found in RULES if re.search(pattern, row["quantity"], re.IGNORECASE)), None
    )


# ---- the cell that is nearest to what was published


def nearest(row: Row, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that a published number may be compared with, the nearest first."""
    source, precision = data_words(table), table["precision"]
    sources = (row["data"], *RECOMPRESSED.get(row["data"], ()))
    formats = STAND_INS.get(row["precision"], (row["precision"],))
    arch = {"densenet121": "densenet121_published"}.get(row["arch"], row["arch"])
    fits = (table["arch"] == arch) & source.isin(sources) & precision.isin(formats)
    if row["batch_norm"] is not None:
        fits &= table["batch_norm"] == row["batch_norm"]
    if row["optimizer"] and "optimizer" in table:
        fits &= table["optimizer"] == row["optimizer"]
    kept = table[fits].assign(
        far_source=source[fits].map(sources.index), far_precision=precision[fits].map(formats.index)
    )
    return kept.sort_values(["far_source", "far_precision"], kind="stable")


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
    return [f"{int(cell[name])} of {_ran(cell)} {word}" for name, word in kinds.items() if cell[name]]


def _accuracy(row: Row, tables: Tables) -> Answer | None:
    if (found := _trained(row, tables)) is None:
        return None
    cell, words = found
    ours = _estimate(cell["accuracy_mean"], cell["accuracy_sd"], int(cell["num_ended"]))
    return Answer(
        cell=cell["cell"], value=ours.mean, low=cell["accuracy_low"], high=cell["accuracy_high"],
        num=_ran(cell), words="; ".join([*words, *_lost_words(cell)]),
        evidence=_in_points(_published(row), ours) if cell["num_ended"] else Evidence(p_apart=0.0),
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
    if row["value"] > 0 and cell["accuracy_sd"] > 0 and theirs > 1:
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


def _rate(row: Row, tables: Tables) -> Answer | None:
    if "lr_search" not in tables:
        return None
    table = tables["lr_search"]
    near = nearest(row, table[table["beta"] == row["beta"]])
    if not len(near):
        return None
    cell = near.iloc[0].to_dict()
    logs = np.log10(near.loc[near["cell"] == cell["cell"], "best_lr"].to_numpy(dtype=float))
    ours = _of_logs(logs)
    evidence = of_means(_estimate(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=10**ours.mean, low=math.nan, high=math.nan, num=ours.num, evidence=evidence,
        words="; ".join([*_differs(row, cell), "searched on held-out images, not on the test set"]),
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
        ours = _of_logs(np.log10([ends[0], ends[2]]) if cell["num_inits"] > 1 else np.log10(ends[1:2]))
        evidence = of_means(_estimate(math.log10(row["value"]), math.nan, 1), ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=ends[1], low=ends[0], high=ends[2], num=int(cell["num_inits"]),
        evidence=evidence, words="; ".join([*_differs(row, cell), "interval: smallest and largest"]),
    )  # fmt: skip


def _of_logs(logs: np.ndarray) -> Estimate:
    sd = float(logs.std(ddof=1)) if len(logs) > 1 else math.nan
    return _estimate(float(logs.mean()), sd, len(logs))


RULES: tuple[tuple[str, Rule], ...] = (
    (r"^final test accuracy, mean over runs$", _accuracy),
    (r"^accuracy, mean over runs that did not end in NaN", _accuracy),
    (r"^final test accuracy, sample standard deviation", _spread),
    (r"^best test accuracy of all epochs", _best),
    (r"^runs that ended in NaN", _lost_runs),
    (r"^mean accuracy minus that of beta=0$", _effect),
    (r"^share of mini-batches with a gap above", _share),
    (r"^share of gaps that are exactly 0$", _zeros),
    (r"^best learning rate of the search$", _rate),
    (r"^distance of weights to the beta=0 run", _distance),
    (r"^derivative of max - max", _zero_program),
    (r"^norm of the Jacobian", _norm),
)
"""Which rule answers a quantity, by its name; the first that fits."""

HELD = (
    (r"^median relative error of the blended forward", "", "tests/numerics/test_pooling_blended.py"),
    (r"^number of parameters$", "", "tests/models/test_build.py"),
)
"""Quantities that a test compares with the published value, with the precision where it does so."""


def _held_by(row: Row) -> str:
    return next((test for pattern, _, test in HELD if re.search(pattern, row["quantity"])), "")


# ---- where the answer comes from


def _place(row: Row, item: Answer | None, tables: Tables) -> dict[Any, Any]:
    plan = tables.get("plan", pd.DataFrame())
    if item is not None and "members" in tables:
        members = tables["members"]
        mine = members[members["cell"] == item.cell]
        if len(mine):
            first = mine.iloc[0].to_dict()
            parts = plan[(plan["study"] == first["study"]) & (plan["part"] == first["part"])]
            return first | {"command": parts.iloc[0]["command"] if len(parts) else ""}
    if not len(plan):
        return {}
    arch = {"densenet121": "densenet121_published"}.get(row["arch"], row["arch"])
    protocol = _PROTOCOLS.get(_rule_of(row) or _place, "")
    fits = plan[
        plan["archs"].map(lambda names: not arch or arch in str(names).split())
        & plan["datas"].map(lambda names: not row["data"] or row["data"] in str(names).split())
        & (plan["protocol"] == protocol)
    ]
    best = fits[fits["part"].str.contains("published")] if len(fits) else fits
    chosen = best if len(best) else fits
    return chosen.iloc[0][["study", "command"]].to_dict() if len(chosen) else {}


_PROTOCOLS: Mapping[Any, str] = {
    _accuracy: "train",
    _best: "train",
    _spread: "train",
    _lost_runs: "train",
    _effect: "train",
    _share: "zones",
    _zeros: "zones",
    _rate: "lr_search",
    _distance: "drift",
    _zero_program: "zero_program",
}


def with_published(table: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """A table of results with `published_percent` where a published mean or share was compared with its cell.

    The accuracy of runs that all ended in NaN is no accuracy, and is not among them.
    """
    shown = verdicts["quantity"].str.contains(r"^final test accuracy, mean|^share of mini-batches")
    shown &= (verdicts["cell"] != "") & ~verdicts["note"].str.startswith("every run NaN")
    first = verdicts[shown].drop_duplicates("cell").set_index("cell")["value"]
    return table.assign(published_percent=table["cell"].map(first) * _PERCENT)
