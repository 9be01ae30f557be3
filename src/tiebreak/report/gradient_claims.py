"""What gradients at initialisation say of the claims: gaps, thresholds, ties and certificates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from tiebreak.design.axes import Precision
from tiebreak.report.certified import distinct_draws
from tiebreak.report.findings import Finding, Standing, Tables, enough_inits, in_points
from tiebreak.report.paired import LEVEL, holm, paired_p
from tiebreak.report.panels import precisions, rule
from tiebreak.report.stats import clopper_pearson, mean_interval, paired_difference
from tiebreak.report.training_claims import lost_of
from tiebreak.report.verdicts import LEAST_INITS, LEAST_RUNS
from tiebreak.report.wording import data_words, images_words, networks_words
from tiebreak.report.zones import Threshold

_OF_BATCHES = 6.9
"""Points to each side that the published interval of one initialisation's mini-batches has."""


def zone_rows(tables: Tables, *, recipe: Threshold, beta: float = 1.0) -> pd.DataFrame:
    """Rows of table `zones` of one recipe and beta, with `source`: the images in a word."""
    zones = tables.get("zones")
    if zones is None:
        return pd.DataFrame()
    chosen = zones[(zones["recipe"] == recipe) & (zones["beta"] == beta)]
    return chosen.assign(source=data_words(chosen))


def setting_words(row: Mapping[Any, Any]) -> str:
    """Network, images, format and mini-batch of a row of gaps, with column `source`."""
    words = [str(row["arch"]), images_words(str(row["source"])), str(row["precision"])]
    if row.get("batch_norm"):
        words.append("batch norm")
    if row.get("dither"):
        words.append(f"noise {row['dither']:g} on the input")
    return ", ".join([*words, f"batch {row['batch_size']}"])


def over_the_reals(tables: Tables) -> Iterator[Finding]:
    """Certified draws whose derivatives differ over the reals, by format."""
    certified = tables.get("certified")
    if certified is None:
        return
    certified = distinct_draws(certified[rule(certified) == "minimal"])
    for name in precisions(certified):
        part = certified[certified["precision"] == name]
        total = int(part["num_draws"].sum())
        different = int((part["num_bifurcation"] + part["num_masked_bifurcation"]).sum())
        unknown = int((part["num_undecided"] + part["num_nonfinite"]).sum())
        inits = int(part.groupby(["arch", data_words(part)])["num_inits"].max().sum())
        standing = Standing.UNDECIDED if different or unknown else enough_inits(Standing.SUPPORTED, inits)
        bound = "" if different else f" (at most {100 * clopper_pearson(0, inits)[1]:.0f} % of these, 95 %)"
        yield Finding(
            where=f"{name}, parameters and images as the format holds them",
            standing=standing,
            numbers=f"the two derivatives differ over the reals in {different} of {total} certified draws of "
            f"{inits} initialisations{bound}, undecided in {unknown}; {networks_words(part)}",
        )


def threshold_tells(tables: Tables) -> Iterator[Finding]:
    """What the published threshold says of certified draws, and whether it is right."""
    confusion = tables.get("confusion")
    if confusion is None:
        return
    confusion = distinct_draws(confusion[rule(confusion) == "minimal"])
    published = confusion[(confusion["recipe"] == Threshold.PUBLISHED) & (confusion["zone"] != "undefined")]
    for name in precisions(published):
        part = published[published["precision"] == name]
        alarms = part[part["zone"] == "bifurcation"]
        wrong = int(alarms.loc[alarms["truth"] == "equal", "num_draws"].sum())
        right = int(alarms.loc[alarms["truth"] == "different", "num_draws"].sum())
        calm = part[part["zone"].isin(["regular", "compensation"])]
        missed = int(calm.loc[calm["truth"] == "different", "num_draws"].sum())
        if wrong or missed:
            standing = Standing.CONTRADICTED
        else:
            standing = Standing.SUPPORTED if right else Standing.UNDECIDED
        yield Finding(
            where=name,
            standing=standing,
            numbers=f"of {int(part['num_draws'].sum())} certified draws, bifurcation is said rightly "
            f"{right}, wrongly {wrong} times, and missed {missed} times; {networks_words(part)}",
        )


def never_all_zero(tables: Tables) -> Iterator[Finding]:
    """How often the gap between beta = 0 and 1 is exactly 0 on MNIST, in 32 and 64 bits."""
    rows = zone_rows(tables, recipe=Threshold.PUBLISHED)
    if not len(rows):
        return
    rows = rows[
        (rows["source"] == "mnist") & (rows["dither"] == 0) & rows["precision"].isin(["fp32", "fp64"])
    ]
    for row in rows.to_dict("records"):
        share, low, high = (row[name] for name in ("share_zero", "share_zero_low", "share_zero_high"))
        interval = "" if math.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f} %)"
        yield Finding(
            where=setting_words(row),
            standing=Standing.SUPPORTED
            if share < 1
            else enough_inits(Standing.CONTRADICTED, int(row["num_inits"])),
            numbers=f"gap between beta = 0 and 1 exactly 0 in {100 * share:.1f} %{interval} of "
            f"{row['num_draws']} draws, {row['num_inits']} initialisations",
        )


def flat_ties(tables: Tables) -> Iterator[Finding]:
    """Where the windows tied above zero are, in 32 and 64 bits."""
    ties = tables.get("ties")
    if ties is None:
        return
    ties = ties.assign(source=data_words(ties))
    keys = ["cell", "arch", "source", "precision", "batch_norm", "batch_size", "dither"]
    for key, part in ties.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        if row["precision"] not in ("fp32", "fp64"):
            continue
        live = part["share_above_zero"] * part["num_windows"]
        total = float(live.sum())
        if not total:
            standing, text = Standing.SUPPORTED, "no window is tied above zero"
        else:
            first = float(live[part["pool"] == 0].sum()) / total
            standing = Standing.SUPPORTED if first > 0.99 else Standing.CONTRADICTED
            text = f"{100 * first:.2f} % of the windows tied above zero are in the first pool"
        yield Finding(
            where=setting_words(row),
            standing=enough_inits(standing, int(part["num_inits"].max())),
            numbers=f"{text}; {int(part['num_windows'].sum())} windows, {int(part['num_inits'].max())} "
            "initialisations",
        )


def built_in(tables: Tables) -> Iterator[Finding]:
    """Whether formats differ by the absolute threshold and not by the relative one."""
    pairs = {recipe: zone_rows(tables, recipe=recipe) for recipe in Threshold}
    if not all(len(rows) for rows in pairs.values()):
        return
    keys = ["arch", "source", "batch_norm", "batch_size", "dither", "forward"]
    for key, absolute in pairs[Threshold.PUBLISHED].groupby(keys, sort=False):
        relative = pairs[Threshold.RELATIVE].set_index(keys).loc[[key]]
        known = absolute[absolute["precision"].isin([str(Precision.FP16), "fp16_rounded", "fp32", "fp64"])]
        if known["precision"].nunique() < 2:
            continue
        relative = relative[relative["precision"].isin(known["precision"])]
        spread = [_disjoint(rows) for rows in (known, relative)]
        if known["share_above_threshold_low"].isna().any():
            standing = Standing.UNDECIDED
        elif spread[0] and not spread[1]:
            standing = Standing.SUPPORTED
        else:
            standing = Standing.UNDECIDED if not spread[0] else Standing.CONTRADICTED
        row = dict(zip(keys, key, strict=True))
        where = setting_words({**row, "precision": "all formats"})
        yield Finding(
            where=where,
            standing=standing,
            numbers=f"published: {_by_format(known)}; relative: {_by_format(relative)}",
        )


def _by_format(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{row['precision']} {share_words(row, 'share_above_threshold')}" for row in rows.to_dict("records")
    )


def share_words(row: Mapping[Any, Any], column: str) -> str:
    """A share of a row of table `zones` with its interval, if there is one, and n."""
    low, high = (row[f"{column}_{end}"] for end in ("low", "high"))
    interval = "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}, "
    return f"{100 * row[column]:.1f} % ({interval}n = {row['num_inits']})"


def _disjoint(rows: pd.DataFrame) -> bool:
    """Whether two of the intervals do not meet."""
    return bool(rows["share_above_threshold_low"].max() > rows["share_above_threshold_high"].min())


def batch_norm_zones(tables: Tables) -> Iterator[Finding]:
    """Shares with batch norm minus shares without, by initialisation and recipe."""
    shares, zones = tables.get("shares"), tables.get("zones")
    if shares is None or zones is None:
        return
    axes = zones[["cell", "arch", "data", "precision", "batch_norm", "batch_size", "num_batches", "dither"]]
    axes = axes.assign(source=data_words(zones)).drop_duplicates("cell")
    values = shares.merge(axes, on="cell")
    keys = ["arch", "source", "precision", "batch_size", "num_batches", "dither"]
    for key, part in values.groupby(keys, sort=False):
        found = {}
        for recipe in Threshold:
            wide = part[part["recipe"] == recipe].pivot_table(
                index="replicate", columns="batch_norm", values="share_above_threshold"
            )
            wide = wide.dropna() if {True, False} <= set(wide.columns) else wide.iloc[:0]
            if len(wide):
                found[recipe] = paired_difference(100 * wide[True].to_numpy(), 100 * wide[False].to_numpy())
        if len(found) < len(Threshold):
            continue
        absolute, relative = found[Threshold.PUBLISHED], found[Threshold.RELATIVE]
        p = holm([paired_p(absolute), paired_p(relative)])
        if p[0] < LEVEL and absolute.mean > 0 and relative.high < absolute.low:
            standing = Standing.SUPPORTED
        elif relative.low > absolute.high:
            standing = Standing.CONTRADICTED
        else:
            standing = Standing.UNDECIDED
        row = dict(zip(keys, key, strict=True))
        yield Finding(
            where=setting_words(row),
            standing=enough_inits(standing, absolute.num),
            numbers=f"share with batch norm minus without: published {in_points(absolute)}, relative "
            f"{in_points(relative)}",
        )


def one_init(tables: Tables) -> Iterator[Finding]:
    """Whether shares of single initialisations differ by more than their mini-batches explain, in fp32."""
    rows = zone_rows(tables, recipe=Threshold.PUBLISHED)
    shares = tables.get("shares")
    if not len(rows) or shares is None:
        return
    found = []
    for row in rows[rows["precision"] == "fp32"].to_dict("records"):
        chosen = shares[(shares["cell"] == row["cell"]) & (shares["recipe"] == Threshold.PUBLISHED)]
        if len(chosen) > 1:
            found.append((setting_words(row), chosen))
    tests = [_p_of_one_share(chosen) for _, chosen in found]
    for (where, chosen), p in zip(found, holm(tests) if tests else [], strict=True):
        values = 100 * chosen["share_above_threshold"].to_numpy(dtype=float)
        mean, batches = values.mean(), chosen["num_draws"].mean()
        alone = math.sqrt(mean * (100 - mean) / batches)
        wide = float(np.ptp(values)) > 2 * _OF_BATCHES and len(values) >= LEAST_INITS and p < LEVEL
        yield Finding(
            where=where,
            standing=Standing.SUPPORTED if wide else Standing.UNDECIDED,
            numbers=f"{values.min():.1f} to {values.max():.1f} % over {len(values)} initialisations, "
            f"{batches:.0f} mini-batches each, sd {mean_interval(values).sd:.1f}, {alone:.1f} if only "
            "mini-batches differed" + (f", p = {p:.2g} (Holm)" if p == p else ""),
        )


def _p_of_one_share(chosen: pd.DataFrame) -> float:
    """Chance of shares as far apart, if mini-batches of all initialisations were alike (chi-square)."""
    batches = chosen["num_draws"].to_numpy(dtype=float)
    hits = chosen["share_above_threshold"].to_numpy(dtype=float) * batches
    common = hits.sum() / batches.sum()
    if not 0 < common < 1:
        return math.nan
    statistic = ((hits - batches * common) ** 2 / batches).sum() / (common * (1 - common))
    return float(chdtrc(len(chosen) - 1, statistic))


def dithered(tables: Tables) -> Iterator[Finding]:
    """Gaps with noise on the input, in fp32."""
    rows = zone_rows(tables, recipe=Threshold.PUBLISHED)
    if not len(rows):
        return
    for row in rows[(rows["dither"] > 0) & (rows["precision"] == "fp32")].to_dict("records"):
        untied, nonzero = int(row["num_draws_untied"]), int(row["num_draws_untied_nonzero"])
        yield Finding(
            where=setting_words(row),
            standing=Standing.CONTRADICTED
            if nonzero
            else enough_inits(Standing.SUPPORTED, int(row["num_inits"]) if untied else 0),
            numbers=f"not 0 in {nonzero} of {untied} draws without a live tie; {row['num_draws']} draws of "
            f"{row['num_inits']} initialisations, exactly 0 in {100 * row['share_zero']:.1f} % of all",
        )


def epsilon(tables: Tables) -> Iterator[Finding]:
    """What 1e-8 is in fp16, and how runs of Adam end with values that fp16 holds, at beta = 0."""
    stored, least = float(np.float16(1e-8)), float(np.finfo(np.float16).smallest_subnormal)
    yield Finding(
        where="fp16",
        standing=Standing.SUPPORTED if stored == 0.0 else Standing.CONTRADICTED,
        numbers=f"1e-8 in fp16 is {stored:g}; the smallest positive number is {least:.2g}",
    )
    runs = tables.get("runs")
    if runs is None:
        return
    runs = runs[
        (runs["optimizer"] == "adam")
        & (runs["beta"] == 0)
        & runs["precision"].str.startswith("fp16")
        & (runs["outcome"] != "missing")
    ]
    for value, part in runs.groupby("eps"):
        lost, total = lost_of(part)
        yield Finding(
            where=f"{', '.join(part['precision'].unique())}, beta = 0, epsilon {value:g}",
            standing=Standing.SUPPORTED if total >= LEAST_RUNS and not lost else Standing.UNDECIDED,
            numbers=f"{lost} of {total} runs lost with an epsilon that fp16 holds",
        )
