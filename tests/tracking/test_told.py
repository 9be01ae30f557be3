import json
import math

from hypothesis import given
from hypothesis import strategies as st

from tiebreak.design.cell import Trial
from tiebreak.records.record import Record, row_to_json
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.tracking.told import Told, metrics, summary, told_rows

numbers = st.floats(0, 1e6) | st.sampled_from([math.inf, math.nan])
gaps = st.fixed_dictionaries(
    {
        "row": st.just("gap"),
        "draw": st.integers(0, 9),
        "jacobian": st.sampled_from(["minimal", "beta100"]),
        "gap_l2": numbers,
        "gap_sup": numbers,
        "gap_relative": numbers | st.none(),
        "nonfinite": st.booleans(),
    }
)
certificates = st.fixed_dictionaries(
    {
        "row": st.just("certificate"),
        "draw": st.integers(0, 9),
        "jacobian": st.just("minimal"),
        "different": st.sampled_from([True, False, None]),
    }
)
epochs = st.fixed_dictionaries({"row": st.just("epoch"), "epoch": st.integers(1, 9), "train_loss": numbers})
others = st.fixed_dictionaries({"row": st.sampled_from(["pool", "tensor", "pool_truth", "new_kind"])})
rows = st.lists(gaps | certificates | epochs | others, max_size=60)


@given(rows)
def test_curves_are_told_row_by_row_and_draws_as_sums(rows):
    told = list(told_rows(rows))
    assert [index for index, _ in told] == sorted({index for index, _ in told})
    assert [said for index, said in told if said["row"] == "epoch"] == [
        row for row in rows if row["row"] == "epoch"
    ]
    for kind, source in (("gaps", "gap"), ("certificates", "certificate")):
        for index, said in told:
            if said["row"] == kind:
                behind = [
                    row
                    for row in rows[: index + 1]
                    if row["row"] == source and row["jacobian"] == said["jacobian"]
                ]
                assert behind[-1] is rows[index]
                assert said["num_draws"] == len(behind)
                assert len(behind) in (1, 2, 4, 8, 16, 32)
    for _, said in told:
        assert row_to_json(said)
        assert all(name.startswith(f"{said['row']}/") for name in metrics(said))


@given(rows, st.integers(0, 60))
def test_after_a_checkpoint_it_goes_on_as_if_it_had_not_stopped(rows, cut):
    whole, resumed = Told(), Told()
    for row in rows[:cut]:
        whole.see(row)
        resumed.see(json.loads(json.dumps(row)))
    assert [repr(whole.see(row)) for row in rows[cut:]] == [repr(resumed.see(row)) for row in rows[cut:]]


@given(rows, st.sampled_from(OutcomeKind))
def test_the_summary_counts_every_row_and_is_json(trials, rows, kind):
    record = Record(
        trial=Trial(cell=trials[2].cell, replicate=0),
        provenance={},
        rows=tuple(rows),
        outcome=Outcome(kind=kind, step=3 if kind is OutcomeKind.DIVERGED else None, reason="why"),
        elapsed_seconds=1.5,
    )
    found = summary(record)
    json.dumps(found, allow_nan=False)
    assert found["outcome"] == kind
    assert found["reason"] == "why"
    assert found["num_rows"] == len(rows)
    assert ("step" in found) == (kind is OutcomeKind.DIVERGED)
    for label in ("minimal", "beta100"):
        mine = [row for row in rows if row["row"] == "gap" and row["jacobian"] == label]
        assert found.get(f"gaps/{label}/num_draws", 0) == len(mine)
        finite = [row for row in mine if not row["nonfinite"]]
        assert found.get(f"gaps/{label}/num_nonzero", 0) == sum(row["gap_sup"] > 0 for row in finite)
    decided = [row["different"] for row in rows if row["row"] == "certificate"]
    assert found.get("certificates/minimal/num_different", 0) == decided.count(True)
    assert found.get("certificates/minimal/num_undecided", 0) == decided.count(None)
    if losses := [row["train_loss"] for row in rows if row["row"] == "epoch"]:
        expected = losses[-1] if math.isfinite(losses[-1]) else repr(losses[-1])
        assert found["epoch/train_loss"] == expected


def test_two_runs_of_one_jacobian_have_names_of_their_own():
    row = {
        "row": "drift",
        "epoch": 2,
        "step": 40,
        "jacobian": "native",
        "distance_l2": 0.5,
        "test_accuracy": None,
    }
    assert metrics({**row, "copy": 0}) == {
        "drift/epoch": 2,
        "drift/step": 40,
        "drift/native/distance_l2": 0.5,
    }
    assert metrics({**row, "copy": 1})["drift/native-1/distance_l2"] == 0.5
