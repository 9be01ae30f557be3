"""When a reproduced number agrees with a published one: the rule, written down before numbers were seen.

A verdict needs evidence in both directions. That a difference is not significant is no agreement: with few
runs nothing is. So each number has two tests, of being the same and of being apart, and where neither
speaks the verdict is *undecided*. No verdict on runs rests on fewer than three of them, planned or not.

* **Accuracy** (mean over runs). Same: the means are less than 0.5 percentage points apart, by two one-sided
  Welch tests. Apart: they are more than 0.5 apart, by Welch's test of the nearer edge, two-sided. A single
  published run has no spread and is given that of ours.
* **Magnitude** (a distance, a learning rate, a gap). The same two tests on its common logarithm; the margin
  is 0.5, a factor of 3.2, since settings and devices differ.
* **Share of mini-batches at one initialisation.** The published initialisation is one more beside ours.
  Same: it lies within the range of ours, of which there are ten or more (the fewer mini-batches each of them
  has, the wider that range; their number is given). Apart: its rank among them, two-sided. Where one
  setting was published for several initialisations, check 7.6 compares them together (exact rank-sum test).
* **Share of runs** that diverged or did not learn. Same: nothing on both sides, or everything, or each
  share in the other's interval of Clopper and Pearson and no evidence of being apart. Apart: Fisher's exact
  test.
* **Constant.** Same: equal to every digit that was published. Apart: not so.

The level is 0.05 for all numbers of one quantity together (Holm's method, for each of the two tests). *Not
run here* is a number whose cells have no record. *Artefact* is a published number that its own instrument
made: the reason is a defect that was found in the published code, and it stands whatever was reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy.special import stdtr

from tiebreak.report.paired import LEVEL
from tiebreak.report.stats import Estimate, Values, clopper_pearson

RULE = __doc__ or ""
"""The rule in words, as the page prints it."""

ACCURACY_MARGIN = 0.5
"""Percentage points within which two accuracies are the same."""

LOG_MARGIN = 0.5
"""Decades within which two magnitudes are the same."""

LEAST_RUNS = 3
"""Fewest runs that a verdict on means or counts of runs may rest on."""

LEAST_INITS = 10
"""Fewest initialisations whose range says where another one lies."""


class Verdict(StrEnum):
    """What can be said of a published number."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNDECIDED = "undecided"
    NOT_RUN = "not run here"
    ARTEFACT = "published value is an artefact"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Evidence for and against a published number.

    Args:
        p_same: probability of data as close, if the numbers are further apart than the margin; NaN where
            closeness is not judged by a test.
        p_apart: probability of data as far apart, if the numbers are within the margin; NaN without a test.
        same: whether they are the same, where that is not judged by a test.
    """

    p_same: float = math.nan
    p_apart: float = math.nan
    same: bool = False


def verdict(evidence: Evidence) -> Verdict:
    """Evidence, with p values adjusted for their family, in a word."""
    if evidence.p_apart < LEVEL:
        return Verdict.DIFFERS
    if evidence.same or evidence.p_same < LEVEL:
        return Verdict.AGREES
    return Verdict.UNDECIDED


def of_means(published: Estimate, ours: Estimate, *, margin: float) -> Evidence:
    """Two means that may be `margin` apart.

    Args:
        published: mean, sd and number; a number of 1 has the sd of ours.
        ours: mean, sd and number.
        margin: in the unit of the means; positive.

    Returns:
        p of two one-sided Welch tests (same) and of the test of the nearer edge (apart); without tests below
        three runs of ours.

    Source:
        Welch, Biometrika 34 (1947); Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    Example:
        >>> from tiebreak.report.stats import mean_interval
        >>> near = of_means(mean_interval([99.1, 99.2, 99.3]), mean_interval([99.2, 99.3, 99.2]), margin=0.5)
        >>> near.p_same < 0.05
        True
    """
    if ours.num < LEAST_RUNS or math.isnan(published.mean):
        return Evidence()
    has_spread = published.num > 1 and not math.isnan(published.sd)
    sd = published.sd if has_spread else ours.sd
    left, right = sd**2 / published.num, ours.sd**2 / ours.num
    error, distance = math.sqrt(left + right), abs(ours.mean - published.mean)
    if error == 0.0:
        return Evidence(p_same=float(distance > margin), p_apart=float(distance <= margin))
    freedom = float(ours.num - 1)
    if has_spread:
        freedom = (left + right) ** 2 / (left**2 / (published.num - 1) + right**2 / (ours.num - 1))
    return Evidence(
        p_same=float(stdtr(freedom, (distance - margin) / error)),
        p_apart=min(1.0, 2.0 * float(stdtr(freedom, (margin - distance) / error))),
    )


def of_rank(published: float, ours: Values) -> Evidence:
    """One published initialisation beside several of ours, by its rank: no distribution is assumed.

    Args:
        published: its value.
        ours: a value for each initialisation.

    Example:
        >>> of_rank(50.0, [0.0] * 99).p_apart
        0.02
    """
    values = [float(value) for value in ours]
    if not values or math.isnan(published):
        return Evidence()
    below = sum(value <= published for value in values)
    above = sum(value >= published for value in values)
    inside = min(values) <= published <= max(values)
    return Evidence(
        p_apart=min(1.0, 2.0 * (1 + min(below, above)) / (len(values) + 1)),
        same=inside and len(values) >= LEAST_INITS,
    )


def of_ranks(published: Values, ours: Values) -> Evidence:
    """Several published initialisations beside several of ours, by the sum of their ranks, exactly.

    Args:
        published: their values, one or more.
        ours: a value for each initialisation; ties count half.

    Returns:
        Apart: the exact rank-sum test, two-sided. Same: every published value lies within the range of ours,
        of which there are ten or more.

    Source:
        Mann and Whitney, Annals of Mathematical Statistics 18 (1947).

    Example:
        >>> round(of_ranks([0.5, 0.6], [0.0, 0.1, 0.2, 0.3]).p_apart, 4)
        0.1333
    """
    theirs, mine = np.asarray(published, dtype=float), np.asarray(ours, dtype=float)
    if not theirs.size or not mine.size:
        return Evidence()
    inside = bool(mine.min() <= theirs.min() and theirs.max() <= mine.max())
    return Evidence(p_apart=_rank_sum_p(theirs, mine), same=inside and mine.size >= LEAST_INITS)


def _rank_sum_p(left: np.ndarray, right: np.ndarray) -> float:
    """Chance of a sum of ranks as far from its middle, over all ways to choose the left values."""
    ranks = pd.Series(np.concatenate([left, right])).rank().to_numpy()
    doubled = np.rint(2 * ranks).astype(int)  # ranks of ties are halves
    ways: dict[tuple[int, int], int] = {(0, 0): 1}
    for rank in doubled.tolist():
        for (number, total), found in list(ways.items()):
            if number < left.size:
                key = number + 1, total + rank
                ways[key] = ways.get(key, 0) + found
    sums = {total: found for (number, total), found in ways.items() if number == left.size}
    middle, seen = left.size * (ranks.size + 1), int(doubled[: left.size].sum())
    far = sum(found for total, found in sums.items() if abs(total - middle) >= abs(seen - middle))
    return far / math.comb(ranks.size, left.size)


def of_counts(published: tuple[int, int], ours: tuple[int, int]) -> Evidence:
    """Two shares of runs, as (hits, runs); no evidence from fewer than three runs of ours.

    Example:
        >>> of_counts((10, 10), (3, 3)).same
        True
        >>> of_counts((10, 10), (0, 3)).p_apart < 0.05
        True
    """
    if not published[1] or ours[1] < LEAST_RUNS:
        return Evidence()
    p_apart = fisher_two_sided(*published, *ours)
    shares = published[0] / published[1], ours[0] / ours[1]
    if shares[0] == shares[1] and shares[0] in (0.0, 1.0):
        return Evidence(p_apart=p_apart, same=True)
    intervals = clopper_pearson(*published), clopper_pearson(*ours)
    mutual = (
        intervals[0][0] <= shares[1] <= intervals[0][1] and intervals[1][0] <= shares[0] <= intervals[1][1]
    )
    return Evidence(p_apart=p_apart, same=mutual and p_apart >= LEVEL)


def fisher_two_sided(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """Probability of a table as unlikely as this or more so, if both shares are the same.

    Args:
        hits: successes, 0 to `total`.
        total: trials, taken as independent.
        other_hits: of the other side.
        other_total: of the other side.

    Source:
        Fisher, Journal of the Royal Statistical Society 85 (1922).

    Example:
        >>> round(fisher_two_sided(3, 3, 0, 3), 6)
        0.1
    """
    both, size = hits + other_hits, total + other_total
    ways = {
        count: math.comb(total, count) * math.comb(other_total, both - count)
        for count in range(max(0, both - other_total), min(both, total) + 1)
    }
    seen = ways[hits]
    return sum(number for number in ways.values() if number <= seen) / math.comb(size, both)


def of_constant(published: float, ours: Sequence[float]) -> Evidence:
    """A number without chance: ours are all equal to it, or one is not."""
    if not ours:
        return Evidence()
    equal = all(value == published for value in ours)
    return Evidence(p_apart=math.nan if equal else 0.0, same=equal)
