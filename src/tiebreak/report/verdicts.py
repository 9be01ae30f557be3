"""When a reproduced number agrees with a published one: the rule.

It was written down after the first zones of LeNet-5 had been measured and before every training that it
judges. It has been amended since, as the changelog says; the tests of initialisations and of effects are the
latest, from after most numbers were seen.

A verdict needs evidence in both directions. That a difference is not significant is no agreement: with few
runs nothing is. So each number has two tests, of being the same and of being apart, and where neither
speaks the verdict is *undecided*. No verdict on runs rests on fewer than three of them, planned or not.

* **Accuracy** (mean over runs). Same: the means are less than 0.5 percentage points apart, by two one-sided
  Welch tests. Apart: they are more than 0.5 apart, by Welch's test of the nearer edge, two-sided. A single
  published run has no spread and is given that of ours.
* **Effect** (an accuracy minus that of beta = 0). The same two tests; the margin is half of the published
  effect, or 0.5 points if that is smaller, so that no effect at all never agrees with a small one.
* **Magnitude** (a distance, a learning rate, a gap). The same two tests on its common logarithm; the margin
  is 0.5, a factor of 3.2, since settings and devices differ.
* **Share of mini-batches at one initialisation.** The published initialisation is one more beside ours, of
  which there must be ten or more. Same: it lies within the range of ours (the fewer mini-batches each of them
  has, the wider that range; their number is given), unless that is all there is, 0 to 100 %. Apart: it lies
  outside, and a share as far out is improbable at one more initialisation, whatever the distribution of
  shares that ours leave possible (beta, with one peak at most; mini-batches are drawn from each). Ten or
  twenty initialisations leave many possible, so after Holm's method only a very large difference shows; a
  test of ranks, which assumes no distribution, could with so few never say *differs*. Check 7.6 judges the
  published initialisations of a setting together, and each setting by itself.
* **Share of runs** that diverged or did not learn. Same: nothing on both sides, or everything, or each
  share in the other's interval of Clopper and Pearson and no evidence of being apart. Apart: Fisher's exact
  test.
* **Constant.** Same: equal to every digit that was published. Apart: not so.

The level is 0.05 for all numbers of one quantity together (Holm's method, for each of the two tests). *Not
run here* is a number whose cells have no record. *Not compared* is one that no record can stand beside, for
the reason that is given: a setting that was not published, or a statistic that ours do not have. *Artefact*
is a published number that its own instrument made: the reason is a defect that was found in the published
code, and it stands whatever was reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import betaln, stdtr

from tiebreak.report.paired import LEVEL
from tiebreak.report.stats import Estimate, Values, clopper_pearson

RULE = __doc__ or ""
"""The rule in words, as the page prints it."""

ACCURACY_MARGIN = 0.5
"""Percentage points within which two accuracies are the same."""

LOG_MARGIN = 0.5
"""Decades within which two magnitudes are the same."""

EFFECT_SHARE = 0.5
"""Share of an effect's own size within which another one is the same."""

LEAST_RUNS = 3
"""Fewest runs that a verdict on means or counts of runs may rest on."""

LEAST_INITS = 10
"""Fewest initialisations whose range says where another one lies."""

EXCLUDED = 1e-3
"""Chance of leaving out the true distribution of shares: below the level over the number of shares."""

_SHAPES = np.logspace(-3, 4, 113)
"""Parameters of beta distributions that are tried, 1 among them, where a peak moves to an end."""


class Verdict(StrEnum):
    """What can be said of a published number."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNDECIDED = "undecided"
    NOT_RUN = "not run here"
    NOT_COMPARED = "not compared"
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


def of_inits(published: Sequence[tuple[int, int]], ours: Values, *, num_batches: int) -> Evidence:
    """Published initialisations beside several of ours, by the share of their mini-batches.

    An initialisation has a share of its own, from a beta distribution with at most one peak, and its
    mini-batches hit with that chance, so it does not matter that one side has many and the other few. The
    distribution is not known: every one counts under which ours are not too unlikely (likelihood ratio,
    chi-squared with two degrees of freedom), and the most favourable to the published values gives p.

    Args:
        published: hits and mini-batches of each published initialisation, with as many mini-batches each.
        ours: a share in [0, 1] for each initialisation.
        num_batches: mini-batches of each of ours.

    Returns:
        Apart: two-sided, p of all being as far out as the nearest to ours is; 1 if one is within the range of
        ours. Same: all are within that range, if there are shares outside it. Nothing below ten of ours.

    Source:
        Berger and Boos, Journal of the American Statistical Association 89 (1994).

    Example:
        >>> of_inits([(0, 391)], [0.75, 1.0] * 5, num_batches=4).p_apart < 0.01
        True
    """
    values = np.asarray(ours, dtype=float)
    if (
        np.isnan(values).any()
        or values.size < LEAST_INITS
        or not all(total for _, total in published)
        or not published
    ):
        return Evidence()
    shares = [hits / total for hits, total in published]
    below, above = max(shares) < values.min(), min(shares) > values.max()
    if not (below or above):
        low, high = float(values.min()), float(values.max())
        can_fail = (low, high) != (0.0, 1.0)
        return Evidence(p_apart=1.0, same=can_fail and low <= min(shares) and max(shares) <= high)
    hits, total = published[shares.index(max(shares) if below else min(shares))]
    first, second = (axis.ravel() for axis in np.meshgrid(_SHAPES, _SHAPES))
    one_peak = (first >= 1) | (second >= 1)
    first, second = first[one_peak], second[one_peak]
    counts = np.rint(values * num_batches)
    fit = _log_chance(counts[:, None], num_batches, first, second).sum(axis=0)
    likely = fit >= fit.max() + math.log(EXCLUDED)  # half the chi-squared quantile of two degrees
    outcomes = np.arange(total + 1)
    tail = outcomes <= hits if below else outcomes >= hits
    chances = np.exp(_log_chance(outcomes[tail, None], total, first[likely], second[likely])).sum(axis=0)
    return Evidence(p_apart=min(1.0, 2.0 * float(chances.max()) ** len(published) + EXCLUDED))


def _log_chance(hits: np.ndarray, total: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logarithm of the chance of hits among `total`, whose chance each has a beta distribution."""
    ways = -betaln(hits + 1, total - hits + 1) - math.log(total + 1)
    return ways + betaln(hits + first, total - hits + second) - betaln(first, second)


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
