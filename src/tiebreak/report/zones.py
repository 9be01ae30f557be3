"""Zones from stored gaps: two named threshold recipes, labels per draw, shares per cell.

A threshold cannot prove which zone a draw is in: it compares the size of a gap with a number. Columns are
therefore named `share_above_threshold` and the like, never `share_bifurcation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum

import numpy as np
import pandas as pd

from tiebreak.design.axes import Precision
from tiebreak.report.stats import bootstrap_mean, clopper_pearson

RELATIVE_FACTOR = 64.0
"""Unit roundoffs of relative gap that still count as rounding (recipe `relative`).

Two backward passes that agree over the reals differ by how they round sums of K products. Such a
difference grows like sqrt(K) unit roundoffs, and K is at most about 4,600 in the networks studied:
sqrt(4,096) = 64. The residues measured on LeNet-5 lie between 2 and 8, well below it.
"""

_PUBLISHED = {Precision.FP16: 1e-3, Precision.FP32: 1e-7, Precision.FP64: 1e-15}
_BY_ANALOGY = {Precision.FP16_ROUNDED: 1e-3}
_QUANTILES = {"gap_q05": 0.05, "gap_median": 0.5, "gap_q95": 0.95}


class Zone(StrEnum):
    """Label of one draw under one recipe; a comparison with a threshold, not a proof."""

    REGULAR = "regular"
    COMPENSATION = "compensation"
    BIFURCATION = "bifurcation"
    NONFINITE = "nonfinite"
    UNDEFINED = "undefined"


class Threshold(StrEnum):
    """A recipe that separates rounding residues from larger gaps.

    `published`: the sum over tensors of sup norms above an absolute number per format: 1e-3 in fp16, 1e-7
    in fp32, 1e-15 in fp64, as used in the published study. fp16_rounded has the range and unit roundoff of
    fp16 and takes its number by analogy (`source` says "ours"). For bf16, tf32, amp16, ampbf16, e4m3 and
    e5m2 nothing was published and nothing is made up: a non-zero gap has no label there.

    `relative`: the L2 norm of the gap above `RELATIVE_FACTOR` unit roundoffs of the arithmetic (fp32's for
    e4m3 and e5m2), relative to the L2 norm of the reference gradient; defined for every format.

    Source:
        Boustany, "On the numerical reliability of nonsmooth autodiff: a MaxPool case study", TMLR 2024,
        for the numbers of `published` (published code); `relative` is ours.
    """

    PUBLISHED = "published"
    RELATIVE = "relative"

    @property
    def statistic(self) -> str:
        """Column of the gap that is compared: `gap_sup_sum` or `gap_relative`."""
        return "gap_sup_sum" if self is Threshold.PUBLISHED else "gap_relative"

    def limit(self, precision: Precision) -> float:
        """The number to exceed; NaN where the recipe says nothing about a precision.

        Example:
            >>> Threshold.PUBLISHED.limit(Precision.FP32)
            1e-07
        """
        if self is Threshold.RELATIVE:
            return RELATIVE_FACTOR * precision.working_roundoff
        return (_PUBLISHED | _BY_ANALOGY).get(precision, math.nan)

    def source(self, precision: Precision) -> str:
        """`published`, `ours` or `undefined`."""
        if self is Threshold.RELATIVE or precision in _BY_ANALOGY:
            return "ours"
        return "published" if precision in _PUBLISHED else "undefined"


def label(gaps: pd.DataFrame, *, threshold: Threshold) -> pd.Series:
    """The zone of each draw.

    Args:
        gaps: rows of kind `gap` with their `precision`.
        threshold: the recipe.

    Returns:
        Strings of `Zone`, with the index of `gaps`. Regular means a gap of exactly 0. A NaN among the
        numbers is `nonfinite` even if the row does not say so.

    Example:
        >>> row = {"precision": "fp32", "gap_sup_sum": 3e-7, "gap_relative": 1e-6, "nonfinite": False}
        >>> label(pd.DataFrame([row]), threshold=Threshold.PUBLISHED).tolist()
        ['bifurcation']
    """
    limits = {name: threshold.limit(Precision(name)) for name in gaps["precision"].unique()}
    limit = gaps["precision"].map(limits).astype(float)
    size, statistic = gaps["gap_sup_sum"].astype(float), gaps[threshold.statistic].astype(float)
    zero = size == 0
    nonfinite = gaps["nonfinite"].astype(bool) | ~np.isfinite(size) | (statistic.isna() & ~zero)
    labels = np.select(
        [nonfinite, zero, limit.isna(), statistic > limit],
        [Zone.NONFINITE, Zone.REGULAR, Zone.UNDEFINED, Zone.BIFURCATION],
        default=Zone.COMPENSATION,
    )
    return pd.Series([str(item) for item in labels], index=gaps.index, name="zone", dtype=object)


def init_shares(gaps: pd.DataFrame) -> pd.DataFrame:
    """Shares of draws per init, Jacobian and recipe: the values that `zone_shares` averages.

    Args:
        gaps: rows of kind `gap` with `cell`, `replicate`, `precision`, `jacobian` and `beta`.

    Returns:
        One row per (cell, jacobian, replicate, recipe). The shares of one row sum to 1 and are taken of
        *all* draws, non-finite ones included; where the recipe has no threshold the shares above and
        below it are NaN.
    """
    keys = ["cell", "jacobian", "replicate"]
    found = []
    for recipe in Threshold:
        labels = label(gaps, threshold=recipe)
        by_init = gaps[[*keys, "beta", "precision"]].assign(
            num_draws=1.0, **{str(zone): (labels == zone).astype(float) for zone in Zone}
        ).groupby(keys, sort=False)  # fmt: skip
        first = by_init[["beta", "precision"]].first()
        sums = by_init[["num_draws", *map(str, Zone)]].sum()
        shares = sums[[str(zone) for zone in Zone]].div(sums["num_draws"], axis="index")
        known = first["precision"].map(
            {name: recipe.source(Precision(name)) != "undefined" for name in first["precision"].unique()}
        )
        found.append(
            first.assign(
                recipe=str(recipe),
                num_draws=sums["num_draws"].astype(int),
                share_zero=shares[Zone.REGULAR],
                share_below_threshold=shares[Zone.COMPENSATION].where(known),
                share_above_threshold=shares[Zone.BIFURCATION].where(known),
                share_undefined=shares[Zone.UNDEFINED],
                share_nonfinite=shares[Zone.NONFINITE],
            ).reset_index()
        )
    names = [
        "cell", "jacobian", "beta", "precision", "replicate", "recipe", "num_draws", "share_zero",
        "share_below_threshold", "share_above_threshold", "share_undefined", "share_nonfinite",
    ]  # fmt: skip
    return pd.concat(found, ignore_index=True)[names]


def zone_shares(gaps: pd.DataFrame) -> pd.DataFrame:
    """Shares per cell, Jacobian and recipe, with intervals, and quantiles of the gap.

    Two proportions are given. `share_above_threshold` is a share of *batches*: the mean of per-init shares,
    with a bootstrap over inits. `share_inits_above` is the share of *inits* with at least one draw above,
    with Clopper and Pearson's interval.

    Args:
        gaps: as in `init_shares`, with every `gap_*` column.

    Returns:
        One row per (cell, jacobian, recipe). Quantiles are of the finite `gap_sup_sum`, zeros included;
        `num_draws_untied` counts draws without a live tie, `num_draws_untied_nonzero` those of them whose
        gap is not 0 all the same.
    """
    return pd.DataFrame(_zone_records(gaps)) if len(gaps) else pd.DataFrame()


def _zone_records(gaps: pd.DataFrame) -> Iterator[dict[str, object]]:
    sizes = dict(iter(gaps.groupby(["cell", "jacobian"], sort=False)))
    for key, inits in init_shares(gaps).groupby(["cell", "jacobian", "recipe"], sort=False):
        cell, jacobian, name = key
        recipe, first = Threshold(name), inits.iloc[0]
        precision = Precision(first["precision"])
        draws = sizes[(cell, jacobian)]
        sup = draws["gap_sup_sum"].astype(float)
        finite = sup[np.isfinite(sup) & ~draws["nonfinite"].astype(bool)]
        untied = draws["live_ties"] == 0
        record: dict[str, object] = {
            "cell": cell,
            "jacobian": jacobian,
            "beta": first["beta"],
            "recipe": name,
            "statistic": recipe.statistic,
            "threshold": recipe.limit(precision),
            "threshold_source": recipe.source(precision),
            "num_inits": len(inits),
            "num_draws": int(inits["num_draws"].sum()),
            "num_draws_nonfinite": len(draws) - len(finite),
            "num_draws_untied": int(untied.sum()),
            "num_draws_untied_nonzero": int((untied & (sup != 0)).sum()),
        }
        for column in ("share_zero", "share_below_threshold", "share_above_threshold", "share_nonfinite"):
            values = inits[column].to_numpy(dtype=float)
            known = not np.isnan(values).any()
            estimate = bootstrap_mean(values if known else [])
            record |= {column: estimate.mean, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
        record |= _inits_above(inits, defined=recipe.source(precision) != "undefined")
        for column, quantile in _QUANTILES.items():
            record[column] = float(np.quantile(finite, quantile)) if len(finite) else math.nan
        record["gap_max"] = float(finite.max()) if len(finite) else math.nan
        yield record


def _inits_above(inits: pd.DataFrame, *, defined: bool) -> dict[str, float]:
    if not defined:
        return dict.fromkeys(
            ("num_inits_above", "share_inits_above", "share_inits_above_low", "share_inits_above_high"),
            math.nan,
        )
    hits, total = int((inits["share_above_threshold"] > 0).sum()), len(inits)
    low, high = clopper_pearson(hits, total)
    return {
        "num_inits_above": hits,
        "share_inits_above": hits / total,
        "share_inits_above_low": low,
        "share_inits_above_high": high,
    }


def gap_histogram(gaps: pd.DataFrame, *, statistic: str = "gap_sup_sum") -> pd.DataFrame:
    """Counts of a size of the gap by decade, with bins of their own for exact zeros and non-finite gaps.

    Args:
        gaps: rows of kind `gap` with `cell`, `jacobian`, `beta` and `precision`.
        statistic: the column that is counted; `gap_l1` is that of the published histograms.

    Returns:
        One row per (cell, jacobian, bin) with draws in it: `bin` is `zero`, `decade` or `nonfinite`; a
        decade e holds [10**e, 10**(e+1)); `num_draws` counts, `share_draws` is of all draws, so the
        shares of a (cell, jacobian) sum to 1.
    """
    records = []
    for (cell, jacobian), draws in gaps.groupby(["cell", "jacobian"], sort=False):
        sup = draws[statistic].to_numpy(dtype=float)
        bad = ~np.isfinite(sup) | draws["nonfinite"].to_numpy(dtype=bool)
        zero = ~bad & (sup == 0)
        decades = [_decade(value) for value in sup[~bad & ~zero].tolist()]
        bins: list[tuple[str, float, int]] = [("zero", math.nan, int(zero.sum()))]
        bins += [("decade", float(decade), decades.count(decade)) for decade in sorted(set(decades))]
        bins += [("nonfinite", math.nan, int(bad.sum()))]
        for kind, decade, count in bins:
            if count:
                records.append(
                    {
                        "cell": cell,
                        "jacobian": jacobian,
                        "beta": draws["beta"].iloc[0],
                        "bin": kind,
                        "decade": decade,
                        "num_draws": count,
                        "share_draws": count / len(draws),
                        "num_inits": draws["replicate"].nunique(),
                    }
                )
    return pd.DataFrame(records)


def _decade(value: float) -> int:
    # Of the shortest decimal spelling: log10 rounds, and would put some powers of ten in the decade below.
    return Decimal(repr(value)).adjusted()
