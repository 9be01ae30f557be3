import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.design.axes import Precision
from tiebreak.report.stats import clopper_pearson
from tiebreak.report.zones import (
    RELATIVE_FACTOR,
    Threshold,
    Zone,
    gap_histogram,
    init_shares,
    label,
    zone_shares,
)


def gaps(
    sizes, *, precision="fp32", relative=None, replicate=0, nonfinite=None, cell="c", jacobian="minimal"
):
    sizes = list(sizes)
    return pd.DataFrame(
        {
            "cell": cell,
            "replicate": replicate,
            "precision": precision,
            "jacobian": jacobian,
            "beta": 1.0,
            "gap_sup_sum": sizes,
            "gap_relative": sizes if relative is None else relative,
            "nonfinite": [not math.isfinite(size) for size in sizes] if nonfinite is None else nonfinite,
            "live_ties": [place % 2 for place in range(len(sizes))],
        }
    )


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1e-3), ("fp32", 1e-7), ("fp64", 1e-15)])
def test_published_thresholds_are_exceeded_not_reached(precision, limit):
    sizes = [0.0, limit, math.nextafter(limit, 1), math.nan, math.inf]
    labels = label(gaps(sizes, precision=precision), threshold=Threshold.PUBLISHED)
    assert labels.tolist() == ["regular", "compensation", "bifurcation", "nonfinite", "nonfinite"]


def test_what_was_not_published_is_marked():
    source = {precision: Threshold.PUBLISHED.source(precision) for precision in Precision}
    assert {str(key) for key, value in source.items() if value == "published"} == {"fp16", "fp32", "fp64"}
    assert {str(key) for key, value in source.items() if value == "ours"} == {"fp16_rounded"}
    for precision, word in source.items():
        assert math.isnan(Threshold.PUBLISHED.limit(precision)) == (word == "undefined")
        assert Threshold.RELATIVE.source(precision) == "ours"
        assert Threshold.RELATIVE.limit(precision) == RELATIVE_FACTOR * precision.working_roundoff


def test_without_a_threshold_a_gap_has_no_label_and_zero_still_has():
    labels = label(gaps([0.0, 1.0, math.nan], precision="bf16"), threshold=Threshold.PUBLISHED)
    assert labels.tolist() == ["regular", "undefined", "nonfinite"]
    shares = zone_shares(gaps([0.0, 1.0], precision="bf16")).set_index("recipe").loc["published"]
    assert shares["share_zero"] == 0.5
    for name in ("share_above_threshold", "share_below_threshold", "num_inits_above", "share_inits_above"):
        assert math.isnan(shares[name])


def test_an_infinite_relative_gap_is_above_the_threshold():
    frame = gaps([1e-3, 0.0], relative=[math.inf, math.nan])  # a zero gradient beside a gap; no gap at all
    assert label(frame, threshold=Threshold.RELATIVE).tolist() == ["bifurcation", "regular"]


sizes = st.lists(st.one_of(st.just(0.0), st.just(math.nan), st.floats(1e-20, 1e3)), min_size=1, max_size=12)


@given(st.lists(sizes, min_size=1, max_size=7), st.sampled_from([str(item) for item in Precision]))
def test_shares_are_those_of_a_slow_count(per_init, precision):
    frame = pd.concat(
        [gaps(values, precision=precision, replicate=index) for index, values in enumerate(per_init)],
        ignore_index=True,
    )
    table = zone_shares(frame).set_index("recipe")
    for recipe in Threshold:
        row, limit = table.loc[str(recipe)], recipe.limit(Precision(precision))
        assert row["num_inits"] == len(per_init)
        assert row["num_draws"] == sum(map(len, per_init))
        assert row["num_draws_nonfinite"] == sum(math.isnan(size) for values in per_init for size in values)
        untied = [size for values in per_init for size in values[::2]]
        assert row["num_draws_untied"] == len(untied)
        assert row["num_draws_untied_nonzero"] == sum(size != 0 for size in untied)
        if math.isnan(limit):
            continue
        above = [sum(size > limit for size in values) / len(values) for values in per_init]
        assert row["share_above_threshold"] == pytest.approx(np.mean(above), rel=2**-48)
        hits = sum(share > 0 for share in above)
        assert row["num_inits_above"] == hits
        expected = clopper_pearson(hits, len(per_init))
        assert (row["share_inits_above_low"], row["share_inits_above_high"]) == expected
        assert math.isnan(row["share_above_threshold_low"]) == (len(per_init) < 5)
        total = sum(
            row[f"share_{name}"] for name in ("zero", "below_threshold", "above_threshold", "nonfinite")
        )
        assert total == pytest.approx(1.0, abs=2**-48)


def test_inits_weigh_the_same_whatever_their_number_of_draws():
    frame = pd.concat([gaps([1.0] * 9, replicate=0), gaps([0.0], replicate=1)], ignore_index=True)
    row = zone_shares(frame).iloc[0]
    assert row["share_above_threshold"] == 0.5
    assert init_shares(frame)["num_draws"].tolist() == [9, 1, 9, 1]


def test_no_column_claims_a_proof():
    names = " ".join(zone_shares(gaps([1.0])).columns)
    assert Zone.BIFURCATION not in names
    assert Zone.COMPENSATION not in names


@given(sizes)
def test_histogram_counts_every_draw_once(values):
    table = gap_histogram(gaps(values))
    assert table["num_draws"].sum() == len(values)
    assert table["share_draws"].sum() == pytest.approx(1.0, abs=2**-48)
    for row in table[table["bin"] == "decade"].to_dict("records"):
        low, high = float(f"1e{int(row['decade'])}"), float(f"1e{int(row['decade']) + 1}")
        assert row["num_draws"] == sum(low <= size < high for size in values)


def test_powers_of_ten_open_their_own_decade():
    values = [float(f"1e{exponent}") for exponent in range(-20, 3)]
    table = gap_histogram(gaps(values))
    assert table["decade"].tolist() == list(range(-20, 3))


def test_no_draw_is_lost_where_the_published_bins_end():
    # Half of these draws lie above the highest published edge, 0.1: the published bins say 100 % at 10^-6.
    table = gap_histogram(gaps([5e-7, 0.5, 5e-7, 0.5]))
    assert table["decade"].tolist() == [-7.0, -1.0]
    assert table["share_draws"].tolist() == [0.5, 0.5]


def test_a_histogram_is_of_the_statistic_that_is_asked_for():
    frame = gaps([1e-3, 1e-3]).assign(gap_l1=[0.0, 20.0])
    table = gap_histogram(frame, statistic="gap_l1")
    assert table["bin"].tolist() == ["zero", "decade"]
    assert table["decade"].tolist()[1] == 1.0
