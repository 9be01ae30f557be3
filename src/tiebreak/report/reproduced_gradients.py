"""Published numbers of gradients, answered from ours: shares, histograms, ties, zero programs."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from tiebreak.design.axes import PoolJacobian
from tiebreak.report.nearest import Answer, Row, Tables, differs, nearest
from tiebreak.report.panels import rule
from tiebreak.report.stats import Estimate
from tiebreak.report.verdicts import (
    LEAST_INITS,
    LOG_MARGIN,
    Evidence,
    of_constant,
    of_inits,
    of_means,
)
from tiebreak.report.wording import count

_PERCENT = 100.0
_BATCH = 128
"""Images of a published mini-batch where its id says nothing."""


def share(row: Row, tables: Tables) -> Answer | None:
    """Share of an initialisation's mini-batches whose gap passes the published threshold."""
    if "shares" not in tables or "zones" not in tables:
        return None
    zones = tables["zones"]
    zones = zones[(zones["recipe"] == "published") & zones["cell"].isin(tables["shares"]["cell"])]
    zones = zones[(rule(zones) == "minimal") & (zones["dither"] == 0)].drop_duplicates("cell")
    size = re.search(r"batch(\d+)", row["id"])
    near = nearest(row, zones[zones["batch_size"] == (int(size[1]) if size else _BATCH)])
    if not len(near):
        return None
    order = ["far_source", "far_precision", "num_inits"]
    cell = near.sort_values(order, ascending=[True, True, False], kind="stable").iloc[0].to_dict()
    shares = tables["shares"]
    mine = shares[(shares["cell"] == cell["cell"]) & (shares["recipe"] == "published")]
    values = mine["share_above_threshold"].to_numpy(dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    each = int(cell["num_draws"]) // len(values)
    theirs = 0 if math.isnan(row["n"]) else int(row["n"])
    words = [
        *differs(row, cell),
        f"initialisations from {_PERCENT * values.min():.1f} to {_PERCENT * values.max():.1f} %, "
        f"{each} mini-batches each",
    ]
    return Answer(
        cell=cell["cell"], value=float(values.mean()), low=cell["share_above_threshold_low"],
        high=cell["share_above_threshold_high"], num=len(values), words="; ".join(words),
        evidence=of_inits([(round(row["value"] * theirs), theirs)], values, num_batches=each),
    )  # fmt: skip


def share_in_bin(row: Row, tables: Tables) -> Answer | None:
    """A bin of a published histogram, whose statistic is the sum of l1 norms: shown beside, not tested.

    How many initialisations and mini-batches were drawn is known of one histogram, which is of one
    initialisation; and a bin's share has no spread of its own. Every bin is answered by the same cell.
    """
    cell = _histogram(row, tables)
    if cell is None:
        return None
    edges = re.search(r"\[(\S+), \S+\)", row["quantity"])
    in_bin = cell["bin"] == "zero"
    if edges is not None:
        in_bin = (cell["bin"] == "decade") & (cell["decade"] == round(math.log10(float(edges[1]))))
    draws = f"{int(cell['num_draws'].sum())} draws; no test"
    return Answer(
        cell=str(cell.iloc[0]["cell"]), value=float(cell.loc[in_bin, "share_draws"].sum()), low=math.nan,
        high=math.nan, num=int(cell["num_inits"].max()), evidence=Evidence(),
        words="; ".join([*differs(row, cell.iloc[0].to_dict()), draws]),
    )  # fmt: skip


def _histogram(row: Row, tables: Tables) -> pd.DataFrame | None:
    """The bins of the cell that stands beside a published histogram; None where there is no such cell.

    The published network is LeNet-5 on MNIST, by the number of its mini-batches, without batch norm. The
    norm was that of rounded squares; histograms named after the GPU are of its arithmetic that does not
    repeat, the others repeat. Certified draws are few and of other studies.
    """
    norm_pool = row["id"].startswith("gaps.normpool")
    name = "norm_gaps_l1" if norm_pool else "gaps_l1"
    if name not in tables or not re.search("threshold|normpool", row["id"]):
        return None
    gaps = tables[name]
    gaps = gaps[(gaps["beta"] == 1) & (gaps["batch_size"] == _BATCH) & (gaps["dither"] == 0)]
    if norm_pool:
        gaps = gaps[gaps["plain_squares"].eq(True)]
    else:
        on_gpu = "gpu_threshold" in row["id"]
        gaps = gaps[~gaps["certify"].eq(True) & (gaps["deterministic"].eq(True) != on_gpu)]
        gaps = gaps[gaps["device"] == "cuda"] if on_gpu else gaps
    named = {**row, "arch": row["arch"] or "lenet5", "data": row["data"] or "mnist", "batch_norm": False}
    near = nearest(named, gaps.assign(draws=gaps.groupby("cell")["num_draws"].transform("sum")))
    if not len(near):
        return None
    order = ["far_source", "far_precision", "draws"]
    near = near.sort_values(order, ascending=[True, True, False], kind="stable")
    return near[near["cell"] == near.iloc[0]["cell"]]


def share_tied(row: Row, tables: Tables) -> Answer | None:
    """Share of a pool's windows that tie at 0 or above it, at initialisation."""
    parts = re.search(r"of pool (\d) tied (at|above) 0$", row["quantity"])
    if parts is None or "ties" not in tables:
        return None
    ties, column = tables["ties"], "share_at_zero" if parts[2] == "at" else "share_above_zero"
    near = nearest(row, ties[(ties["pool"] == int(parts[1]) - 1) & (ties["dither"] == 0)])
    if not len(near):
        return None
    order = ["far_source", "far_precision", "num_windows"]
    cell = near.sort_values(order, ascending=[True, True, False], kind="stable").iloc[0].to_dict()
    mean, number = cell[column], int(cell["num_inits"])
    if row["value"] == 0 or mean == 0:
        evidence = Evidence(same=row["value"] == mean and number >= LEAST_INITS)
    else:
        error = (cell[f"{column}_high"] - cell[f"{column}_low"]) / (2 * 1.96 * mean * math.log(10))
        ours = Estimate.without_interval(math.log10(mean), error * math.sqrt(number), number)
        theirs = Estimate.without_interval(math.log10(row["value"]), math.nan, 1)
        evidence = Evidence() if math.isnan(error) else of_means(theirs, ours, margin=LOG_MARGIN)
    return Answer(
        cell=cell["cell"], value=mean, low=cell[f"{column}_low"], high=cell[f"{column}_high"], num=number,
        evidence=evidence, words="; ".join(differs(row, cell)),
    )  # fmt: skip


def zero_program(row: Row, tables: Tables) -> Answer | None:
    """Derivative of a program that computes 0: every run of ours, digit for digit."""
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
        evidence=of_constant(row["value"], values), words=f"a constant, in {count(len(values), 'run')}",
    )  # fmt: skip


def norm(row: Row, tables: Tables) -> Answer | None:
    """The norm of the Jacobian, from its formula; the definition was published, no norm was."""
    tied = re.search(r"with (\d) maxima", row["quantity"])
    if tied is None:
        return None
    value = PoolJacobian(beta=row["beta"]).norm(int(tied[1]))
    same = f"{value:.3g}" == f"{row['value']:.3g}"
    return Answer(
        cell="", value=value, low=math.nan, high=math.nan, num=1,
        evidence=Evidence(same=same, p_apart=math.nan if same else 0.0), words="from the formula, no record",
    )  # fmt: skip
