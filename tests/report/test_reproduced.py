"""Published learning rates beside searches, against logarithms taken by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from tiebreak.report.reproduced import rule_of

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
