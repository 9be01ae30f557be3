"""Estimates with their intervals: functions of arrays, no files, no global random state.

A share of *inits* is a proportion of independent trials, so its interval is Clopper and Pearson's. A share
of *batches* is not: batches of one init share its weights. It is the mean of the per-init shares, with a
bootstrap that resamples inits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Values: TypeAlias = Sequence[float] | NDArray[np.floating]

MIN_INITS = 5
"""Fewest inits that a bootstrap over inits is given for."""

BOOTSTRAP_SEED = 20_240_101
"""Seed of the bootstrap where none is given: the same table has the same interval every time."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its spread and interval.

    Args:
        mean: the estimate; NaN without values.
        sd: sample standard deviation (divisor n - 1); NaN below two values.
        low: lower end of the interval; NaN where no interval is defined.
        high: upper end of the interval; NaN where no interval is defined.
        num: number of values.
    """

    mean: float
    sd: float
    low: float
    high: float
    num: int

    @classmethod
    def without_interval(cls, mean: float, sd: float, num: int) -> Estimate:
        """One of which only mean, spread and number are asked for."""
        return cls(mean=mean, sd=sd, low=math.nan, high=math.nan, num=num)

    @property
    def has_interval(self) -> bool:
        """Whether both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def mean_sd(values: Values) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1).

    Args:
        values: n finite numbers.

    Returns:
        Mean (NaN for n = 0) and standard deviation (NaN for n < 2: one run has no spread, not a spread of 0).

    Raises:
        ValueError: a value is not finite.

    Example:
        >>> mean_sd([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    array = _finite(values)
    mean = float(array.mean()) if array.size else math.nan
    sd = float(array.std(ddof=1)) if array.size > 1 else math.nan
    if array.size > 1 and (array == array[0]).all():
        # Their computed mean may differ from them in the last bit, and leave a spread that is not there.
        mean, sd = float(array[0]), 0.0
    return mean, sd


def clopper_pearson(hits: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion.

    Both tails hold at most (1 - confidence) / 2. Without a hit the lower end is 0 and the upper end is
    what a caller prints: "0 of n, at most ...".

    Args:
        hits: successes, 0 to `total`.
        total: independent trials; 0 gives the whole interval (0, 1).
        confidence: in (0, 1).

    Returns:
        Lower and upper end, shares in [0, 1].

    Raises:
        ValueError: counts or confidence out of range.

    Source:
        Clopper and Pearson, Biometrika 26 (1934).

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> low, round(high, 4)
        (0.0, 0.3085)
    """
    _check_confidence(confidence)
    if not 0 <= hits <= total:
        raise ValueError(f"hits must lie between 0 and total, got hits={hits} of total={total}.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if hits == 0 else float(betaincinv(hits, total - hits + 1, tail))
    high = 1.0 if hits == total else float(betaincinv(hits + 1, total - hits, 1.0 - tail))
    return low, high


def fisher_more_often(hits: int, total: int, reference_hits: int, reference_total: int) -> float:
    """Probability of as many hits or more than seen, if both sides have the same share (one-sided).

    Args:
        hits: successes, 0 to `total`.
        total: trials, taken as independent.
        reference_hits: successes of the other side, 0 to `reference_total`.
        reference_total: trials of the other side.

    Returns:
        The hypergeometric tail, in (0, 1]; 1 where one side is empty.

    Raises:
        ValueError: counts out of range.

    Source:
        Fisher, Journal of the Royal Statistical Society 85 (1922).

    Example:
        >>> round(fisher_more_often(3, 3, 0, 3), 4)
        0.05
    """
    if not (0 <= hits <= total and 0 <= reference_hits <= reference_total):
        raise ValueError(
            "hits must lie between 0 and their total, got "
            f"{hits} of {total} and {reference_hits} of {reference_total}."
        )
    both = hits + reference_hits
    ways = sum(
        math.comb(total, count) * math.comb(reference_total, both - count)
        for count in range(hits, min(both, total) + 1)
    )
    return ways / math.comb(total + reference_total, both)


def bootstrap_mean(
    per_init: Values, *, confidence: float = 0.95, num_resamples: int = 9_999, seed: int = BOOTSTRAP_SEED
) -> Estimate:
    """Mean over inits with a percentile bootstrap interval.

    Below `MIN_INITS` inits there is a mean but no interval. If every init has the same value the interval
    has no width: quote the share of inits with `clopper_pearson` beside it.

    Args:
        per_init: one finite number per init.
        confidence: in (0, 1).
        num_resamples: bootstrap samples, each of n inits drawn with replacement.
        seed: of a generator local to this call.

    Returns:
        The estimate; `low` and `high` are NaN where there is no interval.

    Raises:
        ValueError: a value is not finite, or the confidence is out of range.

    Source:
        Efron, Annals of Statistics 7 (1979).

    Example:
        >>> bootstrap_mean([0.5]).has_interval
        False
    """
    _check_confidence(confidence)
    array = _finite(per_init)
    mean, sd = mean_sd(array)
    if array.size < MIN_INITS:
        return Estimate(mean=mean, sd=sd, low=math.nan, high=math.nan, num=array.size)
    if sd == 0.0:  # whatever is drawn, its mean is theirs
        return Estimate(mean=mean, sd=sd, low=mean, high=mean, num=array.size)
    generator = np.random.default_rng(seed)
    picks = generator.integers(array.size, size=(num_resamples, array.size))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(array[picks].mean(axis=1), [tail, 1.0 - tail])
    # A resampled mean of equal numbers may differ from them in the last bit.
    low, high = min(float(low), mean), max(float(high), mean)
    return Estimate(mean=mean, sd=sd, low=low, high=high, num=array.size)


def mean_interval(
    values: Values, *, confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Mean with Student's t interval, cut where the quantity itself ends.

    The interval of two or three values is wide: of two shares it may reach beyond 0 or 1, where no share
    can be. Cutting it at the bounds loses no possible value, so it covers as often as before.

    Args:
        values: n finite numbers, taken as independent.
        confidence: in (0, 1).
        bounds: smallest and largest value that there can be: (0, 1) of a share, (-1, 1) of a difference
            of shares.

    Returns:
        The estimate; no interval below two values.

    Raises:
        ValueError: a value is not finite or out of bounds, or the confidence is out of range.

    Example:
        >>> mean_interval([1.0, 2.0, 3.0]).mean
        2.0
        >>> mean_interval([0.25, 0.75], bounds=(0, 1)).high
        1.0
    """
    _check_confidence(confidence)
    array = _finite(values)
    if array.size and not bounds[0] <= array.min() <= array.max() <= bounds[1]:
        raise ValueError(
            f"values must lie within the bounds {bounds}, got {array.min()} to {array.max()}. "
            "Give shares, not percent."
        )
    mean, sd = mean_sd(array)
    if array.size < 2:
        return Estimate(mean=mean, sd=sd, low=math.nan, high=math.nan, num=array.size)
    reach = float(stdtrit(array.size - 1, (1.0 + confidence) / 2.0)) * sd / math.sqrt(array.size)
    low, high = max(mean - reach, float(bounds[0])), min(mean + reach, float(bounds[1]))
    return Estimate(mean=mean, sd=sd, low=low, high=high, num=array.size)


def paired_difference(
    values: Values,
    reference: Values,
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean of `values - reference`, pair by pair, with Student's t interval over pairs.

    Replicate k has the same initial weights, batch order and augmentation on both sides, so the
    difference has less spread than either side.

    Args:
        values: n finite numbers.
        reference: n finite numbers, in the same order of replicates.
        confidence: in (0, 1).
        bounds: smallest and largest difference that there can be, as in `mean_interval`.

    Returns:
        The estimate of the difference; no interval below two pairs.

    Raises:
        ValueError: lengths differ, a value is not finite, or the confidence is out of range.

    Example:
        >>> paired_difference([2.0, 3.0], [1.0, 2.0]).mean
        1.0
    """
    left, right = _finite(values), _finite(reference)
    if left.size != right.size:
        raise ValueError(
            f"pairs need as many values as references, got {left.size} and {right.size}. "
            "Keep the replicates that both sides have."
        )
    return mean_interval(left - right, confidence=confidence, bounds=bounds)


def _finite(values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(array).all():
        num_bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"a mean needs finite numbers, got {num_bad} of {array.size} that are not. "
            "Count non-finite outcomes apart."
        )
    return array


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
