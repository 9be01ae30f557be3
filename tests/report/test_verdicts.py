"""Verdicts against SciPy's own tests, and what they must say in plain cases."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tiebreak.report.paired import LEVEL
from tiebreak.report.stats import Estimate, mean_interval
from tiebreak.report.verdicts import (
    Evidence,
    Verdict,
    _log_chance,
    fisher_two_sided,
    of_constant,
    of_counts,
    of_inits,
    of_means,
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


@pytest.mark.parametrize(
    ("mean", "spread"), [(0.02, 0.01), (0.05, 0.04), (0.5, 0.05), (0.5, 0.3), (0.2, 0.4), (0.1, 0.4)]
)
@pytest.mark.parametrize(("num_inits", "num_batches"), [(10, 4), (20, 2), (20, 40), (100, 4)])
def test_one_more_initialisation_is_called_apart_less_often_than_the_level(
    mean, spread, num_inits, num_batches
):
    random = np.random.default_rng(7)
    rest = 1 / spread - 1
    alarms = 0
    for _ in range(40):
        chances = random.beta(mean * rest, (1 - mean) * rest, num_inits + 1)
        ours = random.binomial(num_batches, chances[1:]) / num_batches
        published = int(random.binomial(391, chances[0])), 391
        alarms += of_inits([published], ours, num_batches=num_batches).p_apart < LEVEL
    assert alarms <= 2


def test_many_initialisations_of_few_batches_are_not_apart_from_one_of_many():
    # At a chance of 0.002 two of 391 mini-batches hit, and hardly one of ours does: a test of ranks would see
    # a published share above nearly all of ours.
    assert verdict(of_inits([(2, 391)], [0.0] * 100, num_batches=4)) is Verdict.UNDECIDED


@given(st.integers(0, 391), st.lists(st.integers(0, 4), min_size=10, max_size=12))
def test_shares_of_misses_say_what_shares_of_hits_say(hits, ours):
    found = of_inits([(hits, 391)], np.array(ours) / 4, num_batches=4)
    turned = of_inits([(391 - hits, 391)], 1 - np.array(ours) / 4, num_batches=4)
    assert found.p_apart == pytest.approx(turned.p_apart)
    assert found.same == turned.same
    can_fail = min(ours) > 0 or max(ours) < 4
    assert found.same is (can_fail and min(ours) <= 4 * hits / 391 <= max(ours))


def test_initialisations_speak_where_they_are_far_apart():
    ours = [0.5, *[0.75] * 5, *[1.0] * 4]
    assert verdict(of_inits([(0, 391)], ours, num_batches=4)) is Verdict.DIFFERS
    assert verdict(of_inits([(0, 391)], ours[:9], num_batches=4)) is Verdict.UNDECIDED
    assert verdict(of_inits([(311, 391)], [1.0] * 10, num_batches=4)) is Verdict.UNDECIDED
    assert verdict(of_inits([(391, 391)], [1.0] * 10, num_batches=4)) is Verdict.AGREES
    # From 0 to 1 no share could lie outside, so being inside says nothing.
    assert verdict(of_inits([(200, 391)], [0.0, 1.0] * 5, num_batches=2)) is Verdict.UNDECIDED
    assert repr(of_inits([], [1.0] * 10, num_batches=4)) == repr(Evidence())
    assert repr(of_inits([(0, 0)], [1.0] * 10, num_batches=4)) == repr(Evidence())


def test_several_published_initialisations_speak_together():
    ours = [0.0] * 12
    one, three = (of_inits([(196, 391)] * number, ours, num_batches=4) for number in (1, 3))
    assert three.p_apart < LEVEL < one.p_apart
    mixed = of_inits([(0, 391), (196, 391)], ours, num_batches=4)
    assert (mixed.p_apart, mixed.same) == (1.0, False)
    around = of_inits([(0, 391), (391, 391)], [0.5] * 12, num_batches=4)
    assert (around.p_apart, around.same) == (1.0, False)


def test_the_chance_of_hits_is_scipys():
    hits = np.arange(8)
    ours = np.exp(_log_chance(hits[:, None], 7, np.array([0.5, 3.0]), np.array([2.0, 1.0])))
    for column, (first, second) in enumerate([(0.5, 2.0), (3.0, 1.0)]):
        assert ours[:, column] == pytest.approx(scipy_stats.betabinom.pmf(hits, 7, first, second))


def test_constants_are_equal_or_not():
    assert verdict(of_constant(2.0**-24, [2.0**-24] * 5)) is Verdict.AGREES
    assert verdict(of_constant(2.0**-24, [2.0**-24, 0.0])) is Verdict.DIFFERS
    assert verdict(of_constant(0.0, [])) is Verdict.UNDECIDED


def test_evidence_against_weighs_more_than_evidence_for():
    assert verdict(Evidence(p_same=0.01, p_apart=0.01)) is Verdict.DIFFERS
