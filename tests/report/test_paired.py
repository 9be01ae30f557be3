"""Paired tests and Holm's method against SciPy's own tests and the definition written out."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tiebreak.report.paired import holm, paired_p, with_holm
from tiebreak.report.stats import paired_difference

P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


@given(
    st.lists(
        st.tuples(st.integers(9_000, 10_000), st.integers(9_000, 10_000)), min_size=3, max_size=12
    ).filter(lambda pairs: len({a - b for a, b in pairs}) > 1)
)
def test_the_test_of_pairs_is_scipys(pairs):
    values, reference = (np.array(side) / 10_000 for side in zip(*pairs, strict=True))
    ours = paired_p(paired_difference(values, reference, bounds=(-1.0, 1.0)))
    assert ours == pytest.approx(scipy_stats.ttest_rel(values, reference).pvalue, rel=1e-6)


@given(st.integers(2, 40))
def test_equal_differences_have_the_sign_test(num):
    ours = paired_p(paired_difference([1.0] * num, [0.0] * num))
    assert ours == pytest.approx(scipy_stats.binomtest(num, num).pvalue)


def test_no_difference_and_a_single_pair():
    assert paired_p(paired_difference([0.5, 0.6], [0.5, 0.6])) == 1.0
    assert math.isnan(paired_p(paired_difference([2.0], [1.0])))


def closed_testing(p_values):
    """Adjusted p of the closed Bonferroni procedure, over every subset: Holm's method by its definition."""
    num = len(p_values)
    adjusted = [0.0] * num
    for subset in range(1, 2**num):
        members = [index for index in range(num) if subset >> index & 1]
        joint = min(1.0, len(members) * min(p_values[index] for index in members))
        for index in members:
            adjusted[index] = max(adjusted[index], joint)
    return adjusted


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7))
def test_holm_is_closed_testing_with_bonferroni(p_values):
    assert holm(p_values) == pytest.approx(closed_testing(p_values), abs=1e-12)


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(new >= old for new, old in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(P_VALUES, st.integers(0, 5))
def test_a_comparison_without_a_test_does_not_count(p_values, num_without):
    family = [*p_values, *[math.nan] * num_without]
    assert holm(family)[: len(p_values)] == holm(p_values)
    assert all(math.isnan(p) for p in holm(family)[len(p_values) :])


def test_a_p_value_out_of_range_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.5])


def test_families_are_adjusted_apart():
    table = pd.DataFrame({"p_value": [0.01, 0.04, 0.01, math.nan], "arch": ["a", "a", "b", "b"]})
    one, two = with_holm(table), with_holm(table, family=["arch"])
    assert one["p_holm"].tolist()[:3] == pytest.approx([0.03, 0.04, 0.03])
    assert two["p_holm"].tolist()[:3] == pytest.approx([0.02, 0.04, 0.01])
    assert one["family_size"].tolist() == [3] * 4
    assert two["family_size"].tolist() == [2, 2, 1, 1]
