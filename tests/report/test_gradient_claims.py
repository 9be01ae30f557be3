"""Claims about gradients at initialisation: what chance alone explains is no support."""

import math

import numpy as np
import pandas as pd
import pytest

from tiebreak.report.certified import distinct_draws
from tiebreak.report.findings import Standing
from tiebreak.report.gradient_claims import dithered, epsilon, one_init, over_the_reals
from tiebreak.report.zones import zone_shares

AXES = {"arch": "lenet5", "data": "mnist", "folder": None, "precision": "fp32", "batch_norm": False}


def shares(hits, *, batches):
    """Tables of one cell whose initialisations have so many mini-batches above the threshold."""
    row = AXES | {"cell": "a", "beta": 1.0, "recipe": "published", "dither": 0.0, "batch_size": 128}
    inits = [
        {"cell": "a", "recipe": "published", "num_draws": batches, "share_above_threshold": hit / batches}
        for hit in hits
    ]
    return {"zones": pd.DataFrame([row]), "shares": pd.DataFrame(inits)}


def test_a_span_that_four_mini_batches_explain_is_no_effect_of_the_initialisation():
    drawn = np.random.default_rng(0).binomial(4, 0.5, size=20)
    (finding,) = one_init(shares(drawn, batches=4))
    assert finding.standing is Standing.UNDECIDED
    assert "24.9 if only mini-batches differed" in finding.numbers


def test_a_span_beyond_that_of_the_mini_batches_is():
    (finding,) = one_init(shares([0, 40] * 6, batches=40))
    assert finding.standing is Standing.SUPPORTED
    (few,) = one_init(shares([0, 40] * 4, batches=40))
    assert few.standing is Standing.UNDECIDED
    (flat,) = one_init(shares([0] * 12, batches=40))
    assert flat.standing is Standing.UNDECIDED


def test_the_level_of_the_span_is_kept():
    rng = np.random.default_rng(1)
    drawn = [shares(rng.binomial(40, 0.3, size=12), batches=40) for _ in range(400)]
    supported = sum(next(one_init(tables)).standing is Standing.SUPPORTED for tables in drawn)
    assert supported <= 32  # 20 expected; 32 and more have a chance below 1 %


def noisy(*draws):
    """Table `zones` of draws (live ties, gap) with noise on the input."""
    rows = [
        {
            "cell": "a", "jacobian": "minimal", "beta": 1.0, "precision": "fp32", "replicate": number % 5,
            "gap_l1": gap, "gap_l2": gap, "gap_sup_sum": gap, "gap_sup": gap, "gap_relative": gap,
            "nonfinite": False, "live_ties": ties,
        }
        for number, (ties, gap) in enumerate(draws)
    ]  # fmt: skip
    table = zone_shares(pd.DataFrame(rows))
    return {"zones": table.assign(**AXES, dither=0.1, batch_size=128)}


def test_a_gap_counts_against_dithering_only_without_a_live_tie():
    (finding,) = dithered(noisy(*[(0, 0.0)] * 5, (1, 1e-6)))
    assert finding.standing is Standing.SUPPORTED
    assert "not 0 in 0 of 5 draws without a live tie; 6 draws of 5 initialisations" in finding.numbers
    (finding,) = dithered(noisy(*[(0, 0.0)] * 5, (0, 1e-6)))
    assert finding.standing is Standing.CONTRADICTED
    (few,) = dithered(noisy(*[(0, 0.0)] * 4))
    assert few.standing is Standing.UNDECIDED
    (tied,) = dithered(noisy(*[(1, 0.0)] * 5))
    assert tied.standing is Standing.UNDECIDED


def test_only_adam_has_an_epsilon():
    def run(optimizer, eps, outcome):
        return {
            "precision": "fp16_rounded", "beta": 0.0, "optimizer": optimizer, "eps": eps, "outcome": outcome,
        }  # fmt: skip

    ended = [run("adam", 1e-4, "completed")] * 3
    runs = pd.DataFrame([*ended, run("adam", 1e-6, "diverged"), run("sgd", 1e-4, "diverged")])
    stored, small, large = epsilon({"runs": runs})
    assert stored.standing is Standing.SUPPORTED
    assert (small.standing, small.numbers[:9]) == (Standing.UNDECIDED, "1 of 1 ru")
    assert (large.standing, large.numbers[:9]) == (Standing.SUPPORTED, "0 of 3 ru")
    assert len(list(epsilon({}))) == 1


def certified(protocol, epoch, *, arch="lenet5", inits=6, draws=12):
    counts = dict.fromkeys(("bifurcation", "masked_bifurcation", "undecided", "nonfinite"), 0)
    return AXES | {
        "protocol": protocol, "epoch": epoch, "arch": arch, "jacobian": "minimal", "selection": "beta",
        "beta": 1.0, "num_inits": inits, "num_draws": draws,
    } | {f"num_{name}": number for name, number in counts.items()}  # fmt: skip


def test_the_start_of_a_trajectory_is_no_second_draw():
    rows = [certified("zones", math.nan), *(certified("trajectory", epoch, inits=3) for epoch in (0.0, 1.0))]
    table = pd.DataFrame(rows)
    assert distinct_draws(table)["num_draws"].sum() == 24
    alone = table[table["protocol"] == "trajectory"]
    assert len(distinct_draws(alone)) == 2
    (finding,) = over_the_reals({"certified": table})
    assert finding.standing is Standing.SUPPORTED
    assert "0 of 24 certified draws of 6 initialisations (at most 46 % of these, 95 %)" in finding.numbers


@pytest.mark.parametrize(("inits", "standing"), [(4, Standing.UNDECIDED), (5, Standing.SUPPORTED)])
def test_draws_are_no_initialisations(inits, standing):
    (finding,) = over_the_reals({"certified": pd.DataFrame([certified("zones", math.nan, inits=inits)])})
    assert finding.standing is standing
    assert finding.numbers.endswith("; lenet5 on mnist")
