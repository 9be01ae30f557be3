"""Tests of paired differences, and what many of them at once are worth.

Replicate k has the same initial weights, batch order and augmentation in every cell, so two rules at ties are
compared replicate by replicate. Three decisions hold everywhere, and were taken before any number was seen:

* the test of one difference is Student's t over pairs, two-sided (the sign test where all are equal);
* the level is 0.05 for a *family*, not for a test: p values are adjusted by Holm's method, which holds
  whatever the dependence between the tests (they share the runs at beta = 0). A family is every difference of
  one table that has a test;
* runs without a final accuracy (diverged, failed) leave the pair out of the mean and are counted beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr

from tiebreak.report.stats import Estimate, Values

LEVEL = 0.05
"""Probability of a false claim that a family of tests may have."""


def paired_p(difference: Estimate) -> float:
    """Probability of a mean difference as large or larger in size, if the true one is 0 (Student's t).

    Args:
        difference: of n pairs, as `stats.paired_difference` gives it.

    Returns:
        Two-sided p in (0, 1]; 1 if every difference is 0; NaN below two pairs. Where all differences are
        equal and not 0 there is no spread to compare with, and p is that of the sign test: 2 ** (1 - n).

    Source:
        Student, Biometrika 6 (1908).

    Example:
        >>> from tiebreak.report.stats import paired_difference
        >>> round(paired_p(paired_difference([2.0, 3.0, 5.0], [1.0, 1.0, 2.0])), 4)
        0.0742
    """
    if difference.num < 2:
        return math.nan
    if difference.sd == 0.0:
        return 1.0 if difference.mean == 0.0 else 2.0 ** (1 - difference.num)
    t = abs(difference.mean) / (difference.sd / math.sqrt(difference.num))
    return float(2.0 * stdtr(difference.num - 1, -t))


def holm(p_values: Values) -> list[float]:
    """p values of a family, adjusted so that each may be compared with the level of the whole family.

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than one before it. The chance of
    any false claim is then at most the level, whatever the dependence between the tests.

    Args:
        p_values: in [0, 1]; NaN stands for a comparison that has no test, and does not count in m.

    Returns:
        Adjusted values in the same order, at most 1; NaN where there was NaN.

    Raises:
        ValueError: a value out of [0, 1].

    Source:
        Holm, Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(values))
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError(f"p values lie between 0 and 1, got {values[known].min()} to {values[known].max()}.")
    adjusted = np.full(values.shape, math.nan)
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted.tolist()


def with_holm(table: pd.DataFrame, *, family: Sequence[str] = ()) -> pd.DataFrame:
    """The table with `p_holm` and `family_size` behind its `p_value`.

    Args:
        table: with column `p_value`.
        family: columns whose values tell families apart; without any the table is one family.
    """
    if not len(table):
        return table
    if family:
        keys: object = [table[name].astype(str) for name in family]
    else:
        keys = np.zeros(len(table))
    by_family = table["p_value"].groupby(keys, sort=False)
    return table.assign(
        p_holm=by_family.transform(lambda values: holm(values.to_numpy(dtype=float))),
        family_size=by_family.transform("count"),
    )
