from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.design.axes import UserError
from tiebreak.theory.machine import FormatName, format_of, integers, numbers_of

SIZES = {
    "e2m1": 15,
    "e2m3": 63,
    "e3m2": 63,
    "e4m3": 253,
    "e5m2": 247,
    "fp16": 63487,
    "bf16": 65279,
    "fp32": 4278190079,
}
DTYPES = {
    "e4m3": (torch.float8_e4m3fn, torch.uint8),
    "e5m2": (torch.float8_e5m2, torch.uint8),
    "fp16": (torch.float16, torch.int16),
    "bf16": (torch.bfloat16, torch.int16),
}


@pytest.mark.parametrize("name", list(FormatName))
def test_a_format_has_as_many_numbers_as_it_has_codes(name):
    assert format_of(name).size == SIZES[name]
    if SIZES[name] < 2**10:
        assert len(format_of(name).machine_set()) == SIZES[name]


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "fp16"])
def test_the_numbers_are_those_of_torch(name):
    dtype, codes = DTYPES[name]
    bits = 8 * torch.empty((), dtype=dtype).element_size()
    every = torch.arange(2**bits, dtype=torch.int32).to(codes).view(dtype).double()
    finite = sorted(set(every[every.isfinite()].tolist()))
    assert [float(number) for number in format_of(name).machine_set().numbers] == finite


def test_fp4_written_out():
    halves = [Fraction(k, 2) for k in (0, 1, 2, 3, 4, 6, 8, 12)]
    assert format_of("e2m1").machine_set().numbers == tuple(sorted({*halves, *(-half for half in halves)}))


@given(st.sampled_from(["e4m3", "e5m2", "fp16", "bf16"]), st.floats(width=32, allow_nan=False))
def test_rounding_is_that_of_torch(name, x):
    if name == "e4m3" and abs(x) > 464:
        return  # torch saturates to 448 there
    given_here = torch.tensor([x], dtype=torch.float64)
    ours = format_of(name).rounded(given_here).item()
    theirs = given_here.float().to(DTYPES[name][0]).double().item()
    assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@given(st.sampled_from(["e2m1", "e2m3", "e3m2"]), st.fractions(-40, 40))
def test_rounding_goes_to_a_nearest_number(name, x):
    chosen = format_of(name)
    exact = Fraction(float(x))
    ours = chosen.rounded(torch.tensor([float(x)], dtype=torch.float64)).item()
    nearest = min(abs(number - exact) for number in chosen.machine_set().numbers)
    if math.isnan(ours):
        assert abs(exact) > chosen.largest
    else:
        assert abs(Fraction(ours) - exact) == nearest


def test_integers_and_sets_of_the_users():
    assert integers(3).numbers == tuple(map(Fraction, range(-3, 4)))
    assert len(numbers_of([0.0, -0.0, "1/3", 1])) == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: numbers_of([float("nan")]), "finite numbers only"),
        (lambda: numbers_of([]), "must hold its numbers"),
        (lambda: format_of("fp7"), "format must be one of e2m1"),
        (lambda: format_of("fp32").machine_set(), "too many to list"),
    ],
)
def test_mistakes_are_said(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
