import math

import pytest

from tiebreak.design.axes import DesignError, PoolJacobian, Precision
from tiebreak.design.cell import Cell, Optimizer, Train, Trial
from tiebreak.design.study import Part, Study
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.table import PoolingError, rows_frame, trials_frame


@pytest.fixture(scope="module")
def study(train_cell):
    cells = tuple(
        Cell(
            network=train_cell.network,
            data=train_cell.data,
            precision=precision,
            jacobians=(PoolJacobian(beta=beta),),
            measure=Train(optimizer=Optimizer(lr=0.1)),
        )
        for precision in (Precision.FP32, Precision.FP16)
        for beta in (0, 100)
    )
    return Study(name="small", question="?", parts=(Part(name="train", cells=cells, num_replicates=2),))


@pytest.fixture
def measured(store, study, make_record):
    """Seven of eight trials: one diverged, one failed."""
    outcomes = {
        1: Outcome(kind=OutcomeKind.DIVERGED, step=7),
        2: Outcome(kind=OutcomeKind.FAILED, reason="bad luck"),
    }
    for number, trial in enumerate(study.trials[:7]):
        outcome = outcomes.get(number, Outcome(kind=OutcomeKind.COMPLETED))
        losses = {0: 0.5, 1: math.nan, 3: math.inf}
        rows = [
            {"row": "epoch", "epoch": 1, "lr": 0.05, "loss": losses.get(number, 1.0), "margin": None},
            {"row": "nonfinite", "where": "loss"},
        ]
        store.write(make_record(trial, rows=rows if number != 2 else (), outcome=outcome))
    return store


def test_every_trial_has_its_row_measured_or_not(measured, study):
    frame = trials_frame(measured, study)
    assert list(frame["trial"]) == [trial.id for trial in study.trials]
    assert frame["outcome"].value_counts().to_dict() == {
        "completed": 5,
        "diverged": 1,
        "failed": 1,
        "missing": 1,
    }
    assert frame.loc[1, "step"] == 7
    assert frame["step"].dtype == "Int64"
    assert frame["step"].isna().sum() == 7
    assert frame.loc[2, "reason"] == "bad luck"
    for number, trial in enumerate(study.trials):
        for axis, value in trial.cell.axes().items():
            assert frame.loc[number, axis] == value
    assert set(frame["commit"].dropna()) == {"c0ffee"}
    assert set(frame["device_name"].dropna()) == {"Toy 9000"}
    assert frame["elapsed_seconds"].dtype == "float64"


def test_rows_come_with_the_axes_that_vary(measured, study):
    frame = rows_frame(measured, study, row="epoch")
    assert list(frame.columns) == [
        "trial",
        "cell",
        "replicate",
        "outcome",
        "precision",
        "jacobian",
        "beta",
        "epoch",
        "lr",
        "loss",
        "margin",
    ]
    assert len(frame) == 6
    assert frame["epoch"].dtype == "int64"


def test_what_is_not_finite_stays(measured, study):
    losses = list(rows_frame(measured, study, row="epoch")["loss"])
    assert losses[0] == 0.5
    assert math.isnan(losses[1])
    assert losses[2] == math.inf


def test_an_axis_that_has_the_name_of_a_field_is_told_apart(measured, study):
    frame = rows_frame(measured, study, row="epoch", axes=("lr", "arch"))
    assert list(frame.columns[4:7]) == ["cell_lr", "arch", "epoch"]
    assert set(frame["cell_lr"]) == {0.1}
    assert set(frame["lr"]) == {0.05}


def test_an_unknown_axis_is_named(measured, study):
    with pytest.raises(DesignError, match=r"'betta' is not one of .* beta,"):
        rows_frame(measured, study, row="epoch", axes=["betta"])


def test_a_part_is_enough_and_no_rows_are_an_empty_table(measured, study):
    assert len(trials_frame(measured, study.parts[0])) == 8
    frame = rows_frame(measured, study, row="gap")
    assert frame.empty
    assert list(frame.columns) == ["trial", "cell", "replicate", "outcome", "precision", "jacobian", "beta"]


def test_devices_are_pooled_only_when_asked_for(measured, study, make_record):
    measured.write(make_record(study.trials[7], device_name="Toy 8000"))
    for table in (
        lambda **how: trials_frame(measured, study, **how),
        lambda **how: rows_frame(measured, study, row="epoch", **how),
    ):
        with pytest.raises(PoolingError, match="1 from cpu Toy 8000, 6 from cpu Toy 9000"):
            table()
        assert len(table(pool_devices=True)) > 0


def test_a_failed_trial_does_not_count_as_a_device(store, study, make_record):
    failed = Outcome(kind=OutcomeKind.FAILED, reason="bad luck")
    store.write(make_record(study.trials[0]))
    store.write(make_record(study.trials[1], rows=(), outcome=failed, device_name="Toy 8000"))
    assert len(trials_frame(store, study)) == 8


def test_different_protocols_have_their_own_axes(store, train_cell, zones_cell, make_record):
    study = Study(
        name="both",
        question="?",
        parts=(
            Part(name="a", cells=(train_cell,), num_replicates=1),
            Part(name="b", cells=(zones_cell,), num_replicates=1),
        ),
    )
    for trial in (Trial(cell=train_cell, replicate=0), Trial(cell=zones_cell, replicate=0)):
        store.write(make_record(trial))
    frame = trials_frame(store, study)
    assert frame["num_epochs"].dtype == "Int64"
    assert frame["margins"].dtype == "boolean"
    assert list(frame["protocol"]) == ["train", "zones"]
