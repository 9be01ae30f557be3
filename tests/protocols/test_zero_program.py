"""The published constants, as rows; and the same made of pools."""

from __future__ import annotations

import pytest

from tiebreak.design.axes import Precision
from tiebreak.design.cell import Trial, ZeroProgram
from tiebreak.protocols import measure
from tiebreak.protocols.zero_program import TIMES

RESIDUE = {
    Precision.FP32: 2.0**-24,
    Precision.FP64: 2.0**-53,
    Precision.FP16: -(2.0**-12),
    Precision.FP16_ROUNDED: -(2.0**-12),
    Precision.BF16: 0.0,
}


def derivatives(rows, program, entries, jacobian=""):
    chosen = [
        row
        for row in rows
        if (row["program"], row["entries"], row["jacobian"]) == (program, entries, jacobian)
    ]
    assert [row["t"] for row in chosen] == list(TIMES)
    return [row["derivative"] for row in chosen]


@pytest.mark.parametrize("precision", RESIDUE)
def test_the_value_is_zero_and_the_derivative_is_the_published_one(make_cell, session, precision) -> None:
    cell = make_cell(ZeroProgram(), betas=(0.0, 1.0, 100.0), precision=precision)
    measure(Trial(cell=cell, replicate=0), session)
    assert {row["value"] for row in session.rows} == {0.0}
    assert derivatives(session.rows, "max", "equal") == [RESIDUE[precision]] * 5
    assert derivatives(session.rows, "max", "distinct") == [-1.5, 0.0, 0.0, 0.0, 0.0]
    if precision is Precision.FP32:
        assert derivatives(session.rows, "relu", "equal") == [-(2.0**-24)] * 5


def test_pools_that_differ_at_ties_compute_zero_too(make_cell, session) -> None:
    cell = make_cell(ZeroProgram(), betas=(0.0, 1.0, 100.0), precision=Precision.FP64)
    measure(Trial(cell=cell, replicate=0), session)
    for jacobian, beta in (("minimal", 1.0), ("beta100", 100.0)):
        # At t = 0 all four are tied: beta (mean - first) of 1, 2, 3, 4. Elsewhere nothing is.
        found = derivatives(session.rows, "pool", "distinct", jacobian)
        assert found == [1.5 * beta, 0.0, 0.0, 0.0, 0.0]
        assert all(
            abs(x) <= 4 * beta * 2.0**-52 for x in derivatives(session.rows, "pool", "equal", jacobian)
        )


def test_no_data_are_needed(make_cell, session) -> None:
    cell = make_cell(ZeroProgram(), betas=(0.0, 1.0), data={"name": "mnist", "train_size": 0, "test_size": 0})
    measure(Trial(cell=cell, replicate=0), session)
    assert session.rows
