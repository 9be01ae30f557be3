import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from tiebreak.report.stats import (
    bootstrap_mean,
    clopper_pearson,
    fisher_more_often,
    mean_interval,
    mean_sd,
    paired_difference,
)

ROUNDOFF = 2.0**-53
numbers = st.floats(-1e3, 1e3, allow_nan=False)


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_clopper_pearson_is_scipys_exact_interval(counts):
    hits, total = counts
    expected = reference.binomtest(hits, total).proportion_ci(confidence_level=0.95, method="exact")
    low, high = clopper_pearson(hits, total)
    # Both find a root of the same function; scipy's own search stops within about 1e-12.
    assert low == pytest.approx(expected.low, rel=2**14 * ROUNDOFF, abs=2**14 * ROUNDOFF)
    assert high == pytest.approx(expected.high, rel=2**14 * ROUNDOFF, abs=2**14 * ROUNDOFF)
    assert low <= hits / total <= high


def test_no_hit_gives_the_closed_form_upper_bound():
    for total in (1, 5, 8, 100):
        low, high = clopper_pearson(0, total)
        assert low == 0.0
        assert high == pytest.approx(1 - 0.025 ** (1 / total), rel=64 * ROUNDOFF)
        assert clopper_pearson(total, total)[1] == 1.0
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("hits", "total", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_impossible_counts_are_refused(hits, total, confidence):
    with pytest.raises(ValueError, match="got"):
        clopper_pearson(hits, total, confidence=confidence)


def test_bootstrap_agrees_with_scipys_percentile_method():
    values = np.random.default_rng(3).uniform(0, 1, 12)
    ours = bootstrap_mean(values, num_resamples=40_000)
    theirs = reference.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=40_000, rng=np.random.default_rng(9)
    ).confidence_interval
    # Two Monte-Carlo quantiles: their standard error is about sd/sqrt(12) * 2.7 / sqrt(40_000).
    error = 6 * values.std() / math.sqrt(12) * 2.7 / math.sqrt(40_000)
    assert abs(ours.low - theirs.low) < error
    assert abs(ours.high - theirs.high) < error
    assert ours.mean == values.mean()


@given(st.lists(numbers, min_size=5, max_size=20))
def test_bootstrap_brackets_its_mean_and_leaves_the_global_generator_alone(values):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - what must not move
    estimate = bootstrap_mean(values, num_resamples=200)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert min(values) - 1e3 * 8 * ROUNDOFF <= estimate.low <= estimate.mean <= estimate.high
    assert estimate == bootstrap_mean(values, num_resamples=200)


@given(st.lists(numbers, min_size=0, max_size=4))
def test_fewer_than_five_inits_have_no_interval(values):
    estimate = bootstrap_mean(values)
    assert not estimate.has_interval
    assert estimate.num == len(values)
    assert math.isnan(estimate.mean) == (not values)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20))
def test_paired_difference_is_scipys_t_interval(pairs):
    left, right = np.array(pairs).T
    estimate = paired_difference(left, right)
    if np.ptp(left - right) < 1e-6:
        return
    expected = reference.ttest_rel(left, right).confidence_interval(0.95)
    slack = 2**10 * ROUNDOFF * (np.abs(left).max() + np.abs(right).max())
    assert abs(estimate.low - expected.low) <= slack
    assert abs(estimate.high - expected.high) <= slack


def test_one_run_has_no_spread():
    assert mean_sd([2.0])[0] == 2.0
    assert math.isnan(mean_sd([2.0])[1])
    assert not mean_interval([2.0]).has_interval
    assert mean_interval([]).num == 0


@given(st.lists(numbers, min_size=2, max_size=30))
def test_spread_is_the_sample_standard_deviation(values):
    mean, sd = mean_sd(values)
    scale = 2**6 * ROUNDOFF * max(1.0, *map(abs, values))
    assert abs(mean - math.fsum(values) / len(values)) <= scale
    expected = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    assert abs(sd - expected) <= scale


def test_what_is_not_a_number_is_never_averaged():
    with pytest.raises(ValueError, match="1 of 3"):
        mean_sd([1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1.0], [1.0, 2.0])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_an_interval_of_shares_stays_among_shares(values):
    free, cut = mean_interval(values), mean_interval(values, bounds=(0, 1))
    assert (cut.low, cut.high) == (max(free.low, 0), min(free.high, 1))
    assert (cut.mean, cut.sd) == (free.mean, free.sd)


def test_percent_are_no_shares():
    with pytest.raises(ValueError, match="shares, not percent"):
        mean_interval([97.0, 98.0], bounds=(0, 1))


@given(numbers, st.integers(2, 9))
def test_equal_numbers_have_no_spread(value, count):
    assert mean_sd([value] * count) == (value, 0.0)


counts = st.integers(0, 60).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(counts, counts)
def test_fisher_is_scipys_exact_test(treated, untreated):
    (hits, total), (others, number) = treated, untreated
    expected = reference.fisher_exact(
        [[hits, total - hits], [others, number - others]], alternative="greater"
    )
    # scipy sums in floating point what is summed here in whole numbers.
    assert fisher_more_often(hits, total, others, number) == pytest.approx(
        expected.pvalue, rel=2**16 * ROUNDOFF
    )


def test_fisher_refuses_impossible_counts():
    with pytest.raises(ValueError, match="got 3 of 2"):
        fisher_more_often(3, 2, 0, 1)
