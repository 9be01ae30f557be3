"""Sentences of the protocols that one table is about, from made-up tables."""

import numpy as np
import pandas as pd
import pytest

from tiebreak.records.table import MISSING
from tiebreak.report.answers import answers

NONE_YET = "There is no evidence yet: no trial of this study has a record."
CELL = {"cell": "a", "data": "mnist", "arch": "lenet5", "precision": "fp32"}


def zero(program, entries, t, derivative, **fields):
    row = {"program": program, "entries": entries, "t": t, "value": 0.0, "derivative": derivative}
    return CELL | {"jacobian": np.nan} | row | fields


def test_a_zero_program_says_how_often_its_derivative_is_not_zero():
    zeros = pd.DataFrame(
        [
            zero("max", "equal", 0.0, 6e-8),
            zero("max", "equal", 1.0, 6e-8),
            zero("max", "distinct", 0.0, -1.5),
            zero("max", "distinct", 1.0, 0.0),
            zero("pool", "distinct", 0.0, 150.0, jacobian="beta100"),
        ]
    )
    first, published, largest = answers({"zero_programs": zeros}, ["zero_program"])
    assert "returned 0 in 5 of 5 evaluations" in first
    assert "otherwise in 4: 2 of 2 with equal entries and 2 of 3 with distinct entries (at t = 0)" in first
    assert published.endswith("max minus max of equal entries: fp32 6e-08.")
    assert largest.endswith("size is 150, in fp32: program pool with beta = 100, distinct entries, t = 0.")


def test_zero_programs_without_a_wrong_derivative_claim_no_largest_one():
    first, published = answers(
        {"zero_programs": pd.DataFrame([zero("max", "equal", 0.0, 0.0)])}, ["zero_program"]
    )
    assert "otherwise in 0: 0 of 1 with equal entries" in first
    assert published.endswith("fp32 0.")


def test_a_tie_map_says_how_many_windows_of_an_image_are_tied():
    image = {"channels": 1, "height": 4, "width": 4}
    images = pd.DataFrame([CELL | image | {"image": index, "replicate": 0} for index in (0, 1)])
    window = CELL | {"replicate": 0, "image": 0}
    windows = pd.DataFrame(
        [window | {"pool": -1, "tied": 1, "tied_above_zero": 0}]
        + [window | {"pool": pool, "tied": 3, "tied_above_zero": 1} for pool in (0, 1)]
    )
    (said,) = answers({"images": images, "tied_windows": windows}, ["tie_map"])
    assert "tied above 0: fp32 3.0 (1.0) (mean over 2 images and 1 init)" in said
    assert "themselves 12.5 % are tied" in said
    (said,) = answers({"images": images}, ["tie_map"])
    assert "fp32 0.0 (0.0)" in said
    assert "themselves 0 % are tied" in said


def test_a_norm_pool_says_how_many_gradients_change():
    draw = CELL | {"gradient_at_zero": 1.0, "windows": 100, "zero_windows": 34}
    gaps = pd.DataFrame(
        [
            draw | {"replicate": index, "gap_sup_sum": gap, "gap_relative": 10 * gap, "nonfinite": gap != gap}
            for index, gap in enumerate((0.0, 1e-5, 2e-5, float("nan")))
        ]
    )
    (said,) = answers({"norm_gaps": gaps}, ["norm_pool"])
    assert "derivative 1 at windows of zeros, 34.0 % of all windows" in said
    assert "fp32 2 of 4, by 0.0002 of the gradient at most (L2), 1 not finite (4 inits a cell)" in said


@pytest.fixture
def drift():
    run = CELL | {"forward": "blended", "reference": "native-blended", "num_inits": 3, "num_nonfinite": 0}
    rows = [
        run
        | {"jacobian": name, "copy": copy, "epoch": epoch, "distance_l2_mean": far, "distance_l2_max": far}
        for epoch in (1, 2)
        for name, copy, far in (
            ("native-blended", 0, 0.0), ("native-blended", 1, 0.0),
            ("minimal-blended", 0, 0.1 * epoch), ("beta10-blended", 0, 0.2 * epoch),
        )
    ]  # fmt: skip
    lost = {"jacobian": "beta10000-blended", "copy": 0, "epoch": 2, "num_nonfinite": 3}
    return pd.DataFrame([*rows, run | lost])


def test_drift_says_how_far_the_last_epoch_is_apart(drift):
    apart, again = answers({"drift": drift}, ["drift"])
    assert apart.startswith("Weights after 2 epochs, L2 distance to the run at beta = 0")
    assert "fp32 0.2 (beta = 1, blended forward) to 0.4 (beta = 10, blended forward)" in apart
    assert apart.endswith("Not finite: 3 of 9 runs.")
    assert again.endswith("bit for bit in 1 of 1 cell.")


def test_a_search_says_the_rates_it_found():
    search = CELL | {"num_candidates": 5, "num_pruned": 2, "num_nonfinite": 1}
    found = [{"best_lr": 0.01, "validation_accuracy": 0.97}, {"best_lr": 0.02, "validation_accuracy": 0.98}]
    (said,) = answers({"lr_search": pd.DataFrame([search | item for item in found])}, ["lr_search"])
    assert "fp32 0.01 to 0.02 with 97.0 % to 98.0 % of held-out images right (2)" in said
    assert said.endswith("Of 10 candidates 4 were pruned and 2 ended not finite.")


def test_no_evidence_is_said_only_where_no_record_is():
    trials = pd.DataFrame({"outcome": [MISSING, MISSING]})
    assert answers({"trials": trials}, ["drift"]) == [NONE_YET]
    trials.loc[0, "outcome"] = "completed"
    assert answers({"trials": trials}, ["trajectory"]) == [
        "No sentence sums this study up: the tables below have the numbers."
    ]
