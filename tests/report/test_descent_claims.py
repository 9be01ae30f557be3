"""Verdicts from tables that are made up, so that what each must be is known beforehand."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

from tiebreak.design.axes import UserError
from tiebreak.report import descent_evidence as evidence
from tiebreak.report.checks import Check, Verdict, verdict_of
from tiebreak.report.descent_answers import descent_sentences
from tiebreak.report.descent_claims import (
    CLAIMS,
    Finding,
    Origin,
    chosen,
    claim_tables,
    findings,
    to_json,
    to_text,
)
from tiebreak.report.descent_tables import with_claims
from tiebreak.report.panels import varying_axes

PASS = Check(name="in", value=1.0, low=0.0, high=1.0)
MISS = Check(name="out", value=1.5, low=0.0, high=1.0)


def table(*rows, **same):
    return pd.DataFrame([{"cell": "c" * 12, "replicate": 0, **same, **row} for row in rows])


def floors(power=1.0, rounded=0.0, deltas=(0.01, 0.1, 1.0)):
    """Floors that follow a power of the step, and those of the C1 twins."""
    kink = [
        {"activation": "relu", "delta": 0.0, "lr_unit": "one", "asked": step, "floor": 0.07 * step**power}
        for step in evidence.STEP_GRID
    ]
    twins = [
        {"activation": "c1relu", "delta": delta, "lr_unit": "edge", "asked": 0.5, "floor": rounded}
        for delta in deltas
    ]
    return {"floors": table(*kink, *twins, steps=20_000, problem=0, only_zero_is_flat=True)}


def fits(ratio):
    """Final losses of C1 networks over those of the ReLU, the best of two learning rates."""
    networks = [("relu", 0.0, "he")] + [
        ("c1relu", delta, gain) for delta, gain in itertools.product((0.1, 1.0), ("he", "matched"))
    ]
    rows = [
        {"activation": shape, "delta": delta, "gain": gain, "depth": depth, "lr": lr, "seed": seed,
         "train_loss": (1.0 if shape == "relu" else ratio) * (1 if lr == 0.1 else 3) + 0.001 * (seed - 1)}
        for (shape, delta, gain), depth, lr, seed in itertools.product(
            networks, (2, 4, 8), (0.1, 0.3), (0, 1, 2)
        )
    ]  # fmt: skip
    return {"fits": table(*rows, data="mnist5k", width=32, num_examples=500, steps=150)}


def limits(**columns):
    rows = [{"lr": lr, **columns} for lr in (0.1, 0.5, 0.9)]
    return {
        "limits": table(
            *rows, loss="kinked_bowl", steps=1000, precision="fp64", derivative_at_zero=0.0, num_starts=500
        )
    }


def test_a_verdict_is_counted():
    assert verdict_of([PASS, PASS]) is Verdict.HOLDS
    assert verdict_of([PASS, MISS]) is Verdict.MIXED
    assert verdict_of([MISS]) is Verdict.FAILS
    with pytest.raises(ValueError, match="needs a check"):
        verdict_of([])


def test_no_number_is_in_no_range():
    assert not Check(name="nan", value=math.nan).passed
    assert Check(name="inf", value=math.inf, low=1.0).passed


def test_claims_have_their_numbers_and_say_nothing_without_their_cells():
    assert [claim.name for claim in CLAIMS] == [f"C{number}" for number in range(1, 11)]
    assert len({claim.gather for claim in CLAIMS}) == 10
    assert not any("reproduc" in claim.statement for claim in CLAIMS)
    assert all(claim.gather({}) is None for claim in CLAIMS)
    assert [claim.name for claim in chosen(["c9", "C2"])] == ["C2", "C9"]
    assert chosen([]) == CLAIMS
    with pytest.raises(UserError, match=r"no claim C11\. The claims are C1, C2"):
        chosen(["C11"])


@pytest.mark.parametrize(
    ("tables", "verdict"),
    [
        (floors(), Verdict.HOLDS),
        (floors(power=2.0), Verdict.MIXED),
        (floors(rounded=1e-3), Verdict.MIXED),
        (floors(rounded=math.nan), Verdict.MIXED),
        (floors(power=0.0, rounded=1.0), Verdict.MIXED),
    ],
)
def test_the_floor_must_follow_the_step_and_its_twins_have_none(tables, verdict):
    (found,) = findings(tables)
    assert (found.name, found.verdict) == ("C1", verdict)


def test_the_exponent_is_that_of_the_power_that_was_put_in():
    checks = evidence.convex_floors(floors(power=1.17))
    assert checks[1].value == pytest.approx(1.17)
    lost = floors()
    lost["floors"].loc[0, "floor"] = np.inf
    assert math.isnan(evidence.convex_floors(lost)[1].value)


def test_a_claim_is_judged_whole_or_not_at_all():
    assert evidence.convex_floors(floors(deltas=(0.01, 0.1))) is None
    partly = floors()
    partly["floors"] = partly["floors"][partly["floors"]["asked"] != 0.3]
    assert evidence.convex_floors(partly) is None
    one = fits(0.5)
    one["fits"] = one["fits"][one["fits"]["depth"] != 8]
    assert evidence.network_losses(one) is None


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.9, Verdict.HOLDS), (1.0, Verdict.FAILS), (1.2, Verdict.FAILS)]
)
def test_networks_are_compared_at_their_best_rates(ratio, verdict):
    (found,) = findings(fits(ratio))
    assert (found.name, found.verdict, len(found.checks)) == ("C2", verdict, 12)
    assert all(check.value == pytest.approx(ratio) for check in found.checks)


def test_a_network_that_diverged_is_not_the_best():
    tables = fits(0.9)
    at = (tables["fits"]["activation"] == "c1relu") & (tables["fits"]["lr"] == 0.1)
    tables["fits"].loc[at, "train_loss"] = math.nan
    assert all(check.value == pytest.approx(2.7) for check in evidence.network_losses(tables))


def test_one_function_decides():
    (fails,) = findings(limits(share_unsettled=0.0, share_rising=0.0))
    assert (fails.name, fails.verdict) == ("C9", Verdict.FAILS)
    (holds,) = findings(limits(share_unsettled=1.0, share_rising=1.0))
    assert holds.verdict is Verdict.HOLDS


def test_the_norm_must_grow_with_the_penalty():
    relative = np.geomspace(0.1, 100, 20)
    rows = [
        {"relative": level, "lr": lr, "norm": level if level > 1 else 1 / level}
        for level in relative
        for lr in (0.1, 0.01)
    ]
    same = {
        "columns": "iid", "penalty_unit": "largest", "method": "gd", "num_problems": 5, "precision": "fp64",
        "decay": "none", "derivative_at_zero": 0.0, "steps": 10_000, "problem": 0,
    }  # fmt: skip
    below, above, least, most = evidence.norm_against_penalty({"lasso": table(*rows, **same)})
    assert (below.value, above.value) == (0.0, 1.0)
    assert least.value == pytest.approx(1.0)
    assert most.value == pytest.approx(1.0)


def test_tables_of_claims_stand_beside_those_they_come_from():
    tables = with_claims(floors() | {"trials": pd.DataFrame({"cell": ["c"]})})
    assert list(tables["descent_claims"]["claim"]) == ["C1"]
    assert list(tables["descent_claims"]["verdict"]) == ["holds"]
    assert len(tables["descent_checks"]) == tables["descent_claims"]["num_checks"].sum()
    assert set(with_claims({"zones": pd.DataFrame({"cell": ["c"]})})) == {"zones"}
    assert set(with_claims({"limits": table({"lr": 1.0})})) == {"limits"}


def test_a_table_that_names_no_cell_has_no_axes():
    # `statement` is an axis of another study
    assert varying_axes(pd.DataFrame({"claim": ["C1", "C2"], "statement": ["one", "another"]})) == []


def test_sentences_say_what_holds_and_what_was_lost():
    tables = {**floors(), **fits(1.2)}
    tables["fits"] = tables["fits"].assign(diverged=tables["fits"]["lr"] == 0.3)
    first, *claims, last = descent_sentences(tables)
    assert first == "Statements tested here: 2 (holds: C1; fails: C2)."
    assert [sentence[:8] for sentence in claims] == ["C1 holds", "C2 fails"]
    assert last.endswith("Runs that diverged: 3 of 6 trainings.")
    assert list(descent_sentences({"zones": pd.DataFrame({"cell": ["c"]})})) == []


def finding():
    return Finding(
        name="C0",
        statement="A statement.",
        origin=Origin.DERIVED,
        scope="one run",
        verdict=Verdict.MIXED,
        checks=(PASS, Check(name="lost", value=math.nan, high=1.0)),
    )


def test_json_is_strict_and_says_what_passed():
    (row,) = json.loads(to_json([finding()]), parse_constant=pytest.fail)
    assert row["verdict"] == "mixed"
    assert [check["passed"] for check in row["checks"]] == [True, False]
    assert row["checks"][1]["value"] == "nan"
    assert row["checks"][1]["low"] == "-inf"


def test_words_show_every_check_with_its_range():
    text = to_text([finding()])
    assert "MIXED (1 of 2 checks)" in text
    assert "+ in    1 (wanted 0 to 1)" in text
    assert "- lost  nan (wanted <= 1)" in text
    assert claim_tables([finding()])["descent_claims"]["num_passed"].tolist() == [1]
