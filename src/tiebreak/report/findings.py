"""What a claim can turn out to be, and the tests that several claims share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from tiebreak.report.stats import Estimate
from tiebreak.report.verdicts import ACCURACY_MARGIN, of_means

Tables = Mapping[str, pd.DataFrame]


class Standing(StrEnum):
    """What the records say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_RUN = "not run here"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict with its numbers.

    Args:
        where: what it is about: a format, a forward pass, a network.
        standing: the verdict.
        numbers: what it rests on, with n.
    """

    where: str
    standing: Standing
    numbers: str


def in_points(estimate: Estimate) -> str:
    """A difference in percentage points with its interval and number of pairs."""
    if not estimate.has_interval:
        return f"{estimate.mean:+.2f} points ({estimate.num} pair)"
    return f"{estimate.mean:+.2f} points ({estimate.low:+.2f} to {estimate.high:+.2f}, {estimate.num} pairs)"


def within_margin(estimate: Estimate) -> tuple[float, float]:
    """p of being within the margin of 0 and of being beyond it, from pairs."""
    if estimate.num < 2:
        return math.nan, math.nan
    # A mean against a constant: the other side has no spread, and as many values as not to count.
    constant = Estimate(mean=0.0, sd=0.0, low=0.0, high=0.0, num=10**9)
    found = of_means(constant, estimate, margin=ACCURACY_MARGIN)
    return found.p_same, found.p_apart


def of_study(tables: Tables, study: str) -> dict[str, pd.DataFrame]:
    """The tables with the cells of one study only; those without such cells are left out."""
    if "members" not in tables:
        return {}
    members = tables["members"]
    cells = set(members.loc[members["study"] == study, "cell"])
    kept = {
        name: table[table["cell"].isin(cells)]
        for name, table in tables.items()
        if "cell" in table and name != "members"
    }
    return {name: table.reset_index(drop=True) for name, table in kept.items() if len(table)}
