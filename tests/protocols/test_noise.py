"""The non-determinism floor of this device."""

from __future__ import annotations

import pytest

from tiebreak.design.axes import Precision
from tiebreak.design.cell import Noise, Trial
from tiebreak.protocols import measure


@pytest.mark.parametrize(
    "precision", [Precision.FP32, Precision.BF16, Precision.FP16_ROUNDED, Precision.FP64]
)
def test_the_same_backward_pass_on_one_cpu_thread_has_the_same_bits(make_cell, session, precision) -> None:
    cell = make_cell(Noise(num_batches=2, num_repeats=3), precision=precision)
    measure(Trial(cell=cell, replicate=0), session)
    assert [(row["draw"], row["repeat"]) for row in session.rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(row["gap_l1"] == 0.0 and not row["nonfinite"] for row in session.rows)
