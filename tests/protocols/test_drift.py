"""Drift: the distances are those of separate runs, and a Jacobian does not drift from itself."""

from __future__ import annotations

import math

from memory_session import run_interrupted

from tiebreak.design.axes import NATIVE, PoolJacobian, Precision
from tiebreak.design.cell import Drift, Optimizer, Trial
from tiebreak.numerics.gap import gap
from tiebreak.protocols import measure
from tiebreak.protocols.setting import prepare
from tiebreak.protocols.training import Training
from tiebreak.records.session import OutcomeKind

SGD = Optimizer(lr=0.05, momentum=0.9)
JACOBIANS = (NATIVE, NATIVE, PoolJacobian(beta=100))


def test_distances_are_those_of_separate_runs(make_cell, session) -> None:
    trial = Trial(cell=make_cell(Drift(num_epochs=2, optimizer=SGD), jacobians=JACOBIANS), replicate=0)
    assert measure(trial, session).kind is OutcomeKind.COMPLETED
    assert [(row["epoch"], row["jacobian"], row["copy"]) for row in session.rows[:3]] == [
        (1, "native", 0),
        (1, "native", 1),
        (1, "beta100", 0),
    ]
    assert all(row["distance_l1"] == 0.0 for row in session.rows if row["jacobian"] == "native")
    weights = []
    with prepare(trial, session) as setting:
        for jacobian in (NATIVE, PoolJacobian(beta=100)):
            run = Training(setting, jacobian=jacobian, optimizer=SGD, num_epochs=2)
            for epoch in range(2):
                run.start_epoch(epoch)
                for batch in setting.train_batches(epoch=epoch):
                    run.step(batch)
            weights.append([parameter.detach() for parameter in run.model.parameters()])
    assert session.rows[-1]["distance_l1"] == gap(*weights).l1 > 0.0


def test_a_diverged_run_stays_in_the_rows(make_cell, session) -> None:
    jacobians = (NATIVE, PoolJacobian(beta=1e30))
    cell = make_cell(
        Drift(num_epochs=2, optimizer=SGD), jacobians=jacobians, precision=Precision.FP16_ROUNDED
    )
    assert measure(Trial(cell=cell, replicate=0), session).kind is OutcomeKind.COMPLETED
    lost = [row for row in session.rows if row["jacobian"] != "native"]
    assert len(lost) == 2
    assert all(row["nonfinite"] and math.isnan(row["distance_l1"]) for row in lost)


def test_resumed_at_every_step_gives_the_same_rows(make_cell, session, tmp_path) -> None:
    trial = Trial(cell=make_cell(Drift(num_epochs=2, optimizer=SGD), jacobians=JACOBIANS), replicate=2)
    measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts > 3
    assert interrupted.rows == session.rows
