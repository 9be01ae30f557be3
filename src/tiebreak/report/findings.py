"""What a claim can turn out to be, and the tests that several claims share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from tiebreak.report.stats import MIN_INITS, Estimate
from tiebreak.report.verdicts import ACCURACY_MARGIN, LEAST_RUNS, Verdict, of_means

Tables = Mapping[str, pd.DataFrame]


class Standing(StrEnum):
    """What the records say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_RUN = "not run here"
    HELD = "held by a test"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict with its numbers.

    Args:
        where: what it is about: a format, a forward pass, a network.
        standing: the verdict; of a published number beside ours it is that of the number.
        numbers: what it rests on, with n.
    """

    where: str
    standing: Standing | Verdict
    numbers: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that can be said to be so, or not.

    Args:
        name: short and stable.
        group: `abstract`, `instrument`, `stand_in` or `acceptance`.
        text: what is claimed.
        rule: what would have to be seen.
        studies: whose records can say; none if nothing needs to be run.
        judge: tables of the studies, and all `published` numbers, to findings; none without records.
        tests: tests that hold it where no record is needed, as `path` or `path::function`.
    """

    name: str
    group: str
    text: str
    rule: str
    studies: tuple[str, ...] = ()
    judge: Callable[[Tables], Iterable[Finding]] = lambda tables: ()
    tests: tuple[str, ...] = ()


def enough_inits(standing: Standing, number: int) -> Standing:
    """The verdict, unless it rests on fewer initialisations than an interval over them needs."""
    return standing if number >= MIN_INITS else Standing.UNDECIDED


def in_points(estimate: Estimate) -> str:
    """A difference in percentage points with its interval and number of pairs."""
    if not estimate.has_interval:
        return f"{estimate.mean:+.2f} points ({estimate.num} pair)"
    return f"{estimate.mean:+.2f} points ({estimate.low:+.2f} to {estimate.high:+.2f}, {estimate.num} pairs)"


def within_margin(estimate: Estimate) -> tuple[float, float]:
    """p of being within the margin of 0 and of being beyond it, from pairs; no test of too few of them."""
    if estimate.num < LEAST_RUNS:
        return math.nan, math.nan
    # A mean against a constant: the other side has no spread, and as many values as not to count.
    constant = Estimate(mean=0.0, sd=0.0, low=0.0, high=0.0, num=10**9)
    found = of_means(constant, estimate, margin=ACCURACY_MARGIN)
    return found.p_same, found.p_apart


def of_studies(tables: Tables, *studies: str) -> dict[str, pd.DataFrame]:
    """The tables with the cells of some studies only; those without such cells are left out."""
    if "members" not in tables:
        return {}
    members = tables["members"]
    members = members[members["study"].isin(studies)]
    cells = set(members["cell"])
    kept = {
        name: members if name == "members" else table[table["cell"].isin(cells)]
        for name, table in tables.items()
        if "cell" in table
    }
    return {name: table.reset_index(drop=True) for name, table in kept.items() if len(table)}
