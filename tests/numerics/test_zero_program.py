"""The constants of the zero program, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tiebreak.numerics.zero_program import zero_program, zero_program_of_relus

TIMES = (0.0, 0.1, 1.0, -1e-4, -6.0)
RESIDUE = {
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
    torch.float16: -(2.0**-12),
    torch.bfloat16: 0.0,
}


def run(entries: list[float], at: float, dtype: torch.dtype) -> tuple[float, float]:
    t = torch.tensor(at, dtype=dtype, requires_grad=True)
    value = zero_program(torch.tensor(entries, dtype=dtype), t)
    value.backward()
    return value.item(), t.grad.item()


@pytest.mark.parametrize("dtype", RESIDUE, ids=str)
@pytest.mark.parametrize("at", TIMES)
def test_equal_entries_leave_the_rounding_of_a_sum(dtype, at) -> None:
    assert run([1.14] * 4, at, dtype) == (0.0, RESIDUE[dtype])


@pytest.mark.parametrize("dtype", RESIDUE, ids=str)
@pytest.mark.parametrize("at", TIMES)
def test_distinct_entries_differ_at_zero_only(dtype, at) -> None:
    assert run([1.0, 2.0, 3.0, 4.0], at, dtype) == (0.0, -1.5 if at == 0 else 0.0)


@pytest.mark.parametrize("at", TIMES)
def test_maxima_of_relus_leave_the_residue_that_was_computed_in_order(at) -> None:
    t = torch.tensor([at], requires_grad=True)
    value = zero_program_of_relus(torch.full((4,), 1.14), t)
    value.sum().backward()
    assert value.item() == 0.0
    assert t.grad.item() == -(2.0**-24)
