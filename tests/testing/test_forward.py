"""Distances in ulps against numpy, and values that are or are not the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.design.axes import DesignError
from tiebreak.testing import assert_same_forward, assert_same_up_to_ties, ulps_apart
from tiebreak.testing.forward import FAR

NAN, INF = math.nan, math.inf


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), steps=st.integers(0, 5))
def test_a_step_to_the_next_number_is_one_ulp(value, steps) -> None:
    other = np.float32(value)
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(steps):
            other = np.nextafter(other, np.float32(INF))
    reached = min(steps, int(ulps_apart(torch.tensor(value), torch.tensor(INF))))
    a, b = torch.tensor([value]), torch.tensor([float(other)])
    assert ulps_apart(a, b).tolist() == [reached]
    assert ulps_apart(b, a).tolist() == [reached]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_special_numbers(dtype) -> None:
    tiny = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    a = torch.tensor([0.0, -0.0, tiny, NAN, NAN, INF, torch.finfo(dtype).max], dtype=dtype)
    b = torch.tensor([-0.0, tiny, -tiny, NAN, 1.0, INF, INF], dtype=dtype)
    assert ulps_apart(a, b).tolist() == [0, 1, 2, 0, FAR, 0, 1]


def test_far_apart_is_no_overflow() -> None:
    a, b = torch.tensor([-1e308], dtype=torch.float64), torch.tensor([1e308], dtype=torch.float64)
    assert ulps_apart(a, b).tolist() == [FAR]


def test_same_values_pass_and_an_ulp_fails_by_name() -> None:
    a = torch.tensor([[1.0, NAN], [0.0, -INF]])
    b = torch.tensor([[1.0, NAN], [-0.0, -INF]])
    assert_same_forward(a, b)
    with pytest.raises(AssertionError, match=r"values differ at \(1, 0\): y_a=0.0, y_b=-0.0, 0 ulps apart"):
        assert_same_forward(a, b, signed_zeros=True)
    b[0, 0] += 2.0**-23
    with pytest.raises(AssertionError) as error:
        assert_same_forward(a, b)
    assert str(error.value) == (
        "values differ at (0, 0): y_a=1.0, y_b=1.0000001192092896, 1 ulps apart (allowed: 0); "
        "1 of 4 entries differ."
    )
    assert_same_forward(a, b, ulps=1)
    with pytest.raises(AssertionError, match="more than 2"):
        assert_same_forward(torch.tensor(NAN), torch.tensor(1.0), ulps=1000)
    with pytest.raises(AssertionError, match="y_a has shape"):
        assert_same_forward(a, b[0])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (None, "must be a torch.Tensor, got NoneType"),
        ([1.0], "must be a torch.Tensor, got list"),
        (np.ones(1), "must be a torch.Tensor, got ndarray"),
        (torch.ones(1, device="meta"), "one on the meta device"),
        (torch.ones(1).to_sparse(), "layout torch.sparse_coo"),
    ],
)
def test_what_is_no_tensor_with_numbers_is_a_sentence(wrong, sentence):
    one = torch.ones(1)
    for pair in ((wrong, one), (one, wrong)):
        for check in (assert_same_forward, ulps_apart):
            with pytest.raises(DesignError, match=sentence):
                check(*pair)
    good = {"x": torch.ones(1, 2, 2), "grad_output": torch.ones(1, 1, 1)}
    good |= {"grad_a": torch.ones(1, 2, 2), "grad_b": torch.ones(1, 2, 2)}
    for name in good:
        asked = good | {name: wrong}
        with pytest.raises(DesignError, match=f"^{name} must be a "):
            assert_same_up_to_ties(asked.pop("grad_a"), asked.pop("grad_b"), **asked, kernel=2)
