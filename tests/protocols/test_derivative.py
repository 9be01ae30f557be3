"""The protocol `derivative`: rows along training, the same after each interruption."""

from __future__ import annotations

from memory_session import MemorySession, run_interrupted

from tiebreak.design.axes import Precision
from tiebreak.design.cell import Derivative, Trial
from tiebreak.protocols.derivative import measure_derivative
from tiebreak.records.session import OutcomeKind


def test_a_row_a_draw_and_the_same_rows_after_every_interruption(make_cell, tmp_path):
    cell = make_cell(Derivative(num_epochs=1, num_batches=2), precision=Precision.E4M3)
    trial = Trial(cell=cell, replicate=0)
    session = MemorySession(data_root=tmp_path)
    assert measure_derivative(trial, session).kind is OutcomeKind.COMPLETED
    assert [(row["epoch"], row["draw"]) for row in session.rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in session.rows:
        assert row["images"] == 32
        assert row["reason"] == ""
        assert 0 <= row["derivative"] + row["limit"] <= 32
        assert row["equal"] + row["dead"] <= row["tied"] < row["windows"]
    broken, attempts = run_interrupted(measure_derivative, trial, tmp_path)
    assert attempts > 1
    assert broken.rows == session.rows


def test_batch_norm_in_training_mode_is_said_and_not_certified(make_cell, tmp_path):
    cell = make_cell(Derivative(num_epochs=1, num_batches=1), network={"batch_norm": True})
    session = MemorySession(data_root=tmp_path)
    measure_derivative(Trial(cell=cell, replicate=0), session)
    assert all("training mode" in row["reason"] and row["derivative"] == 0 for row in session.rows)
