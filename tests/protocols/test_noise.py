"""The non-determinism floor of this device."""

from __future__ import annotations

import pytest
from memory_session import run_interrupted

from tiebreak.design.axes import Precision
from tiebreak.design.cell import Noise, Trial
from tiebreak.protocols import measure


@pytest.mark.parametrize(
    "precision", [Precision.FP32, Precision.BF16, Precision.FP16_ROUNDED, Precision.FP64, Precision.E5M2]
)
def test_the_same_backward_pass_on_one_cpu_thread_has_the_same_bits(make_cell, session, precision) -> None:
    cell = make_cell(Noise(num_batches=2, num_repeats=3), precision=precision)
    measure(Trial(cell=cell, replicate=0), session)
    assert [(row["draw"], row["repeat"]) for row in session.rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(row["gap_l1"] == 0.0 and not row["nonfinite"] for row in session.rows)


def test_resumed_after_each_batch_gives_the_same_rows(make_cell, session, tmp_path) -> None:
    trial = Trial(cell=make_cell(Noise(num_batches=3, num_repeats=2)), replicate=0)
    measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts == 3
    assert interrupted.rows == session.rows
