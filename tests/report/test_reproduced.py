"""Published learning rates beside searches, against logarithms taken by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from tiebreak.report.reproduced import rule_of, uncompared
from tiebreak.report.reproduced_gradients import zero_program
from tiebreak.report.verdicts import Verdict, verdict

PUBLISHED = {
    "arch": "lenet5", "data": "mnist", "precision": "fp16", "optimizer": "sgd", "batch_norm": False,
    "beta": 100.0, "n": 1.0,
}  # fmt: skip


def search(cell, *, precision="fp16_rounded", beta=100.0, lr, accuracy):
    return {
        "cell": cell, "protocol": "lr_search",
        "arch": "lenet5", "data": "mnist", "folder": None, "precision": precision,
        "optimizer": "sgd", "batch_norm": False, "beta": beta, "device": "cpu",
        "best_lr": lr, "validation_accuracy": accuracy, "num_epochs": 2.0,
    }  # fmt: skip


SEARCHES = pd.DataFrame(
    [
        search("near", lr=0.01, accuracy=0.98),
        search("near", lr=0.1, accuracy=0.96),
        search("other beta", beta=1.0, lr=0.5, accuracy=0.5),
        search("other format", precision="fp32", lr=0.5, accuracy=0.5),
    ]
)


def answered(quantity, value, tables):
    rule = rule_of(quantity)
    assert rule is not None
    assert rule.answer is not None
    return rule.answer(PUBLISHED | {"quantity": quantity, "value": value}, tables)


def test_a_rate_is_the_geometric_mean_of_the_searches_of_the_nearest_cell():
    found = answered("best learning rate of the search", 0.0390, {"lr_search": SEARCHES})
    assert found is not None
    assert (found.cell, found.num) == ("near", 2)
    assert found.value == pytest.approx(math.sqrt(0.01 * 0.1))
    assert (
        found.words == "fp16_rounded for fp16; CPU for GPU; searched on held-out images, not on the test set"
    )


def test_the_accuracy_is_the_mean_over_the_same_searches():
    found = answered("test accuracy of the best candidate", 0.99, {"lr_search": SEARCHES})
    assert found is not None
    assert (found.cell, found.num) == ("near", 2)
    assert found.value == pytest.approx(np.mean([0.98, 0.96]))


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["fp16 cpu", "fp16_rounded cpu", "fp16 cuda"], "fp16 cuda"),
        (["fp16 cpu", "fp16_rounded cpu"], "fp16_rounded cpu"),
        (["fp16 cpu", "fp32 cuda"], "fp16 cpu"),
    ],
)
def test_rounded_fp16_is_nearer_to_the_fp16_of_a_gpu_than_that_of_a_cpu(there, chosen):
    rows = []
    for name in there:
        precision, device = name.split()
        rows.append(search(name, precision=precision, lr=0.01, accuracy=0.98) | {"device": device})
    found = answered("best learning rate of the search", 0.0390, {"lr_search": pd.DataFrame(rows)})
    assert found is not None
    assert found.cell == chosen


DRIFT = pd.DataFrame(
    [
        {
            "cell": "near", "protocol": "drift", "arch": "lenet5", "data": "mnist", "folder": None,
            "precision": "fp16_rounded", "optimizer": "sgd", "batch_norm": False, "device": "cpu",
            "forward": "blended", "jacobian": "beta100-blended", "beta": 100.0, "selection": "beta",
            "copy": 0, "epoch": 3, "num_inits": 3, "distance_l1_min": 1.0, "distance_l1_mean": 2.0,
            "distance_l1_max": 4.0,
        }
    ]
)  # fmt: skip


def test_a_distance_is_compared_by_its_logarithm_with_the_spread_of_its_range():
    quantity = "distance of weights to the beta=0 run after epoch 3"
    found = answered(quantity, 2.5, {"drift": DRIFT})
    assert found is not None
    assert (found.cell, found.num, found.value, found.low, found.high) == ("near", 3, 2.0, 1.0, 4.0)
    far = answered(quantity, 2e4, {"drift": DRIFT})
    assert far is not None
    assert far.evidence.p_apart < 0.05 < 0.5 < found.evidence.p_apart
    equal = answered(quantity, 0.0, {"drift": DRIFT.assign(distance_l1_min=0.0, distance_l1_mean=0.0)})
    assert equal is not None
    assert equal.evidence.same
    assert answered(quantity.replace("epoch 3", "epoch 4"), 2.5, {"drift": DRIFT}) is None


@pytest.mark.parametrize("tables", [{}, {"lr_search": SEARCHES[SEARCHES["beta"] == 1.0]}])
def test_without_a_search_of_that_cell_there_is_no_answer(tables):
    assert answered("best learning rate of the search", 0.0390, tables) is None


def histogram(cell, bins, *, precision="fp16_rounded", num_draws=4000, **fields):
    axes = {
        "cell": cell, "arch": "lenet5", "data": "mnist", "folder": None, "precision": precision,
        "batch_norm": False, "batch_size": 128, "dither": 0.0, "device": "cpu", "deterministic": True,
        "certify": False, "beta": 1.0, "num_inits": 100,
    }  # fmt: skip
    return [
        axes
        | {"bin": "zero" if decade is None else "decade", "decade": math.nan if decade is None else decade}
        | {"share_draws": share, "num_draws": round(share * num_draws)}
        | fields
        for decade, share in bins.items()
    ]


ZERO, TENTHS = "share of gaps that are exactly 0", "share of gaps in [1e-2, 1e-1)"


def in_bin(name, quantity, tables, **fields):
    rule = rule_of(quantity)
    assert rule is not None
    named = {"id": name, "arch": "", "data": "", "optimizer": "", "batch_norm": None, "n": 469.0}
    return rule.answer(PUBLISHED | named | {"quantity": quantity, "value": 0.5} | fields, tables)


def test_every_bin_of_a_histogram_is_answered_by_the_study_made_for_it():
    others = [
        histogram("certified", {-2.0: 1.0}, num_draws=16, certify=True),
        histogram("batch", {None: 1.0}, num_draws=9000, batch_size=512),
        histogram("dithered", {None: 1.0}, num_draws=9000, dither=0.1),
        histogram("batch norm", {None: 1.0}, num_draws=9000, batch_norm=True),
        histogram("varies", {None: 1.0}, num_draws=9000, deterministic=False),
        histogram("few", {None: 1.0}, num_draws=400),
    ]
    made = histogram("made", {None: 0.25, -3.0: 0.5, -2.0: 0.25})
    tables = {"gaps_l1": pd.DataFrame([row for part in [*others, made] for row in part])}
    found = [in_bin("gaps.deterministic_threshold.fp16", name, tables) for name in (ZERO, TENTHS)]
    assert [(item.cell, item.value, item.num) for item in found if item] == [("made", 0.25, 100)] * 2
    assert found[0].words == "fp16_rounded for fp16; CPU for GPU; 4000 draws; no test"
    assert in_bin("gaps.gpu_threshold.fp16.zero", ZERO, tables) is None
    on_gpu = histogram("gpu", {None: 1.0}, device="cuda", precision="fp16", deterministic=False)
    tables = {"gaps_l1": pd.concat([tables["gaps_l1"], pd.DataFrame(on_gpu)])}
    answer = in_bin("gaps.gpu_threshold.fp16.zero", ZERO, tables)
    assert answer is not None
    assert answer.cell == "gpu"


def test_a_norm_pool_stands_beside_that_of_rounded_squares():
    gaps = [
        *histogram("accurate", {None: 1.0}, num_draws=800, plain_squares=False),
        *histogram("rounded", {None: 0.0225, -5.0: 0.475}, num_draws=800, plain_squares=True),
    ]
    tables = {"norm_gaps_l1": pd.DataFrame(gaps).drop(columns="certify")}
    zero = in_bin("gaps.normpool.fp16.zero", ZERO, tables)
    tenths = in_bin("gaps.normpool.fp16.decade-4", "share of gaps in [1e-5, 1e-4)", tables)
    empty = in_bin("gaps.normpool.fp16.decade-1", TENTHS, tables)
    assert [(item.cell, item.value) for item in (zero, tenths, empty) if item] == [
        ("rounded", 0.0225), ("rounded", 0.475), ("rounded", 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "quantity", "said"),
    [
        ("gaps.noise.fp16.with.zero", ZERO, "no generator was published"),
        ("zones.vgg11.fp32.share_spread", "range of the share over five initialisations", "391"),
        ("arms.lenet5.fp16.bn.beta100.exact.nan_runs", "runs that ended in NaN, forward=exact", "MNIST"),
        ("moon", "weight of the moon", "no rule compares it"),
        ("gaps.normpool.fp16.zero", ZERO, ""),
        ("parameters.lenet5", "number of parameters", ""),
    ],
)
def test_what_no_record_can_stand_beside_is_said(name, quantity, said):
    reason = uncompared({"id": name, "quantity": quantity})
    assert said in reason
    assert bool(said) is bool(reason)


def effect_judged(value, ours, *, note=""):
    pairs = {
        "cell": "near", "arch": "lenet5", "data": "mnist", "folder": None, "precision": "fp32",
        "optimizer": "sgd", "batch_norm": False, "device": "cpu", "forward": "blended", "beta": 100.0,
        "num_epochs": 6.0, "lr": 0.02, "difference_mean": ours, "difference_sd": 1e-4, "num_pairs": 5,
        "difference_low": ours, "difference_high": ours, "num_diverged": 0, "num_replicates": 5,
    }  # fmt: skip
    quantity = "mean accuracy minus that of beta=0"
    rule = rule_of(quantity)
    assert rule is not None
    row = {"quantity": quantity, "value": value, "n": 10.0, "note": note, "precision": "fp32"}
    answer = rule.answer(PUBLISHED | row, {"pairs": pd.DataFrame([pairs])})
    assert answer is not None
    return verdict(answer.evidence)


def test_no_effect_does_not_agree_with_one_that_is_smaller_than_the_margin():
    assert effect_judged(-0.0012, 0.00007) is Verdict.DIFFERS
    assert effect_judged(-0.0012, 0.00007, note="Welch t = -1.9") is Verdict.UNDECIDED
    assert effect_judged(-0.0012, -0.0013) is Verdict.AGREES
    assert effect_judged(-0.04, -0.038) is Verdict.AGREES
    assert effect_judged(-0.04, -0.03) is Verdict.DIFFERS


def test_ties_are_those_of_the_most_windows():
    ties = [
        {
            "cell": cell, "arch": "lenet5", "data": "mnist", "folder": None, "precision": "fp16_rounded",
            "batch_norm": False, "device": "cpu", "pool": 0, "dither": 0.0, "num_inits": 100,
            "num_windows": windows, "share_at_zero": 0.4, "share_at_zero_low": 0.3, "share_at_zero_high": 0.5,
        }
        for cell, windows in (("few", 10), ("many", 1000))
    ]  # fmt: skip
    found = in_bin("ties.lenet5", "share of windows of pool 1 tied at 0", {"ties": pd.DataFrame(ties)},
                   arch="lenet5", data="mnist")  # fmt: skip
    assert found is not None
    assert found.cell == "many"


@pytest.mark.parametrize(("number", "words"), [(1, "a constant, in 1 run"), (3, "a constant, in 3 runs")])
def test_the_runs_of_a_zero_program_are_counted_in_words(number, words):
    run = {
        "cell": "c",
        "precision": "fp32",
        "program": "max",
        "entries": "equal",
        "t": 0.0,
        "derivative": 0.0,
    }
    row = {"id": "zero.max.equal", "quantity": "derivative of max - max", "precision": "fp32", "value": 0.0}
    assert zero_program(row, {"zero": pd.DataFrame([run] * number)}).words == words
