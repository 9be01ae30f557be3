"""Verdicts against SciPy's own tests, and what they must say in plain cases."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tiebreak.report.stats import Estimate, mean_interval
from tiebreak.report.verdicts import (
    Evidence,
    Verdict,
    fisher_two_sided,
    of_constant,
    of_counts,
    of_means,
    of_rank,
    verdict,
)

RUNS = st.lists(st.floats(90, 100), min_size=3, max_size=8).filter(lambda runs: np.std(runs) > 1e-3)


def known(mean, sd, num):
    return Estimate(mean=mean, sd=sd, low=math.nan, high=math.nan, num=num)


@given(RUNS, RUNS, st.floats(0.1, 2.0))
def test_means_are_judged_by_scipys_welch_tests(published, ours, margin):
    found = of_means(mean_interval(published), mean_interval(ours), margin=margin)
    ours, published = np.array(ours), np.array(published)
    low = scipy_stats.ttest_ind(ours + margin, published, equal_var=False, alternative="greater").pvalue
    high = scipy_stats.ttest_ind(ours - margin, published, equal_var=False, alternative="less").pvalue
    assert found.p_same == pytest.approx(max(low, high), rel=1e-6, abs=1e-12)
    sign = 1 if ours.mean() > published.mean() else -1
    edge = scipy_stats.ttest_ind(
        sign * ours - margin, sign * published, equal_var=False, alternative="greater"
    ).pvalue
    assert found.p_apart == pytest.approx(min(1.0, 2 * edge), rel=1e-6, abs=1e-12)


@given(RUNS, st.floats(80, 110))
def test_a_single_published_run_is_judged_as_one_more_run_of_ours(ours, published):
    found = of_means(known(published, math.nan, 1), mean_interval(ours), margin=0.5)
    sd, num = np.std(ours, ddof=1), len(ours)
    t = (0.5 - abs(np.mean(ours) - published)) / (sd * math.sqrt(1 + 1 / num))
    assert found.p_apart == pytest.approx(min(1.0, 2 * scipy_stats.t.cdf(t, num - 1)), rel=1e-6, abs=1e-12)


def test_one_run_of_ours_decides_nothing():
    assert verdict(of_means(known(99.2, 0.1, 10), mean_interval([50.0]), margin=0.5)) is Verdict.UNDECIDED


def test_equal_runs_on_both_sides_are_compared_as_they_are():
    ours = mean_interval([9.8, 9.8, 9.8])
    assert verdict(of_means(known(9.8, 0.0, 10), ours, margin=0.5)) is Verdict.AGREES
    assert verdict(of_means(known(99.2, 0.0, 10), ours, margin=0.5)) is Verdict.DIFFERS


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8))
def test_fishers_test_is_scipys(hits, other_hits, total, other_total):
    assume(hits <= total and other_hits <= other_total)
    table = [[hits, total - hits], [other_hits, other_total - other_hits]]
    ours = fisher_two_sided(hits, total, other_hits, other_total)
    assert ours == pytest.approx(scipy_stats.fisher_exact(table).pvalue, rel=1e-9)


def test_counts_agree_only_where_both_sides_say_the_same():
    assert verdict(of_counts((10, 10), (3, 3))) is Verdict.AGREES
    assert verdict(of_counts((10, 10), (0, 3))) is Verdict.DIFFERS
    assert verdict(of_counts((10, 10), (0, 1))) is Verdict.UNDECIDED
    assert verdict(of_counts((10, 10), (0, 0))) is Verdict.UNDECIDED


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(0, 100))
def test_the_rank_of_an_initialisation_is_a_permutation_test(ours, published):
    every = [*ours, published]
    low = sum(value <= published for value in every) / len(every)
    high = sum(value >= published for value in every) / len(every)
    assert of_rank(published, ours).p_apart == pytest.approx(min(1.0, 2 * min(low, high)))


def test_few_initialisations_say_little():
    assert verdict(of_rank(50.0, [10.0] * 9)) is Verdict.UNDECIDED
    assert verdict(of_rank(10.0, [10.0] * 9)) is Verdict.UNDECIDED
    assert verdict(of_rank(10.0, [10.0] * 10)) is Verdict.AGREES
    assert verdict(of_rank(50.0, [10.0] * 100)) is Verdict.DIFFERS


def test_constants_are_equal_or_not():
    assert verdict(of_constant(2.0**-24, [2.0**-24] * 5)) is Verdict.AGREES
    assert verdict(of_constant(2.0**-24, [2.0**-24, 0.0])) is Verdict.DIFFERS
    assert verdict(of_constant(0.0, [])) is Verdict.UNDECIDED


def test_evidence_against_weighs_more_than_evidence_for():
    assert verdict(Evidence(p_same=0.01, p_apart=0.01)) is Verdict.DIFFERS
