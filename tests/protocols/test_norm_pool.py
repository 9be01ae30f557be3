"""The comparison of two derivatives of norm pooling at 0, against a network without windows of zeros."""

from __future__ import annotations

import pytest
from memory_session import run_interrupted

from tiebreak.design.axes import DesignError, Precision
from tiebreak.design.cell import NormPool, Trial
from tiebreak.protocols import measure


def rows_of(make_cell, session, measured, **changes):
    measure(Trial(cell=make_cell(measured, **changes), replicate=0), session)
    return session.rows


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16_ROUNDED])
def test_a_gap_of_zero_between_a_derivative_and_itself(make_cell, session, precision) -> None:
    same = NormPool(num_batches=2, gradient_at_zero=0.0)
    rows = rows_of(make_cell, session, same, precision=precision)
    assert [row["draw"] for row in rows] == [0, 1]
    assert all(row["gap_l1"] == 0.0 for row in rows)
    # Two pools of LeNet-5 on 32 digits: 6 x 12 x 12 and 16 x 4 x 4 windows.
    assert all(row["windows"] == 32 * (6 * 144 + 16 * 16) for row in rows)
    assert all(0 < row["zero_windows"] < row["windows"] for row in rows)


def test_behind_a_relu_the_gradient_of_zero_windows_is_lost(make_cell, session) -> None:
    """relu'(0) = 0 takes back whatever a window of zeros sends, so the two derivatives give one gradient."""
    rows = rows_of(make_cell, session, NormPool(num_batches=1))
    assert rows[0]["zero_windows"] > 0
    assert rows[0]["gap_l1"] == 0.0


def test_in_fp16_squares_that_vanish_make_the_published_difference(make_cell, session) -> None:
    """A window of small entries has norm 0 where its squares are rounded to fp16."""
    plain = NormPool(num_batches=2, plain_squares=True)
    rows = rows_of(make_cell, session, plain, precision=Precision.FP16_ROUNDED)
    assert all(row["gap_l1"] > 0 for row in rows)
    session.rows.clear()
    accurate = rows_of(make_cell, session, NormPool(num_batches=2), precision=Precision.FP16_ROUNDED)
    assert all(row["gap_l1"] == 0 for row in accurate)
    session.rows.clear()
    assert all(row["gap_l1"] == 0 for row in rows_of(make_cell, session, plain))  # fp32


def test_resumed_after_each_batch_gives_the_same_rows(make_cell, session, tmp_path) -> None:
    trial = Trial(cell=make_cell(NormPool(num_batches=3)), replicate=0)
    measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts == 3
    assert interrupted.rows == session.rows


def test_a_padded_pool_is_refused(make_cell, session) -> None:
    network = {"arch": "resnet18", "stem_pool": "3x3"}
    with pytest.raises(DesignError, match="pools without padding"):
        rows_of(make_cell, session, NormPool(num_batches=1), network=network)
