"""Floats as whole numbers times powers of two, against fractions."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.exact.dyadic import (
    in_pieces,
    last_place,
    log2_largest,
    reduce_,
    residue_of,
    residues,
    significands,
    subnormal_numbers_are_kept,
    take_digit,
)
from tiebreak.exact.primes import draw_primes

PRIMES = draw_primes(3, seed=0)
SMALL_FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16]


def every_number(dtype):
    """All finite values of a format of 8 or 16 bits."""
    kind = torch.uint8 if dtype.itemsize == 1 else torch.int16
    patterns = torch.arange(2 ** (8 * dtype.itemsize)).to(kind).view(dtype).double()
    return patterns[patterns.isfinite()]


def some_numbers(dtype):
    """Bit patterns at random, subnormal numbers and the ends of the range."""
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    ends, generator = torch.iinfo(bits), torch.Generator().manual_seed(0)
    patterns = torch.randint(ends.min, ends.max, (4000,), dtype=bits, generator=generator)
    significand = {torch.float32: 23, torch.float64: 52}[dtype]
    subnormal = torch.randint(0, 2**significand, (2000,), dtype=bits, generator=generator)
    limits = torch.finfo(dtype)
    named = [0.0, -0.0, 0.5, limits.max, limits.min, limits.tiny, limits.smallest_normal / 2**significand]
    numbers = torch.cat(
        [patterns.view(dtype), subnormal.view(dtype), torch.tensor(named, dtype=dtype)]
    ).double()
    return numbers[numbers.isfinite()]


def numbers_of(dtype):
    return every_number(dtype) if dtype in SMALL_FORMATS else some_numbers(dtype)


FORMATS = [*SMALL_FORMATS, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_significands(dtype):
    x = numbers_of(dtype)
    whole, exponent = significands(x)
    for number, m, e in zip(x.tolist(), whole.tolist(), exponent.tolist(), strict=True):
        assert abs(m) < 2**53
        assert Fraction(m) * Fraction(2) ** e == Fraction(number)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_residues(dtype):
    x = numbers_of(dtype)
    for prime in PRIMES:
        found = residues(x, prime=prime)
        assert found.abs().max() <= prime // 2
        for number, residue in zip(x.tolist(), found.tolist(), strict=True):
            above, below = number.as_integer_ratio()
            assert (int(residue) * below - above) % prime == 0


def test_a_tensor_of_many_pieces_is_encoded_like_its_entries():
    """Pieces have tops of their own: small numbers in one, large and subnormal ones in another."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(70_001, generator=generator, dtype=torch.float64)
    x[:33_000] *= 2.0**-900
    x[40_000:] = x[40_000:].float().double()
    x[-3:] = torch.tensor([2.0**-1074, -(2.0**1023), 0.0], dtype=torch.float64)
    picked = torch.cat([torch.randint(0, len(x), (3000,), generator=generator), torch.arange(69_990, 70_001)])
    for shape in ((70_001,), (1, 70_001), (70_001, 1)):
        found = residues(x.reshape(shape), prime=PRIMES[0])
        assert found.shape == shape
        for number, residue in zip(x[picked].tolist(), found.flatten()[picked].tolist(), strict=True):
            above, below = number.as_integer_ratio()
            assert (int(residue) * below - above) % PRIMES[0] == 0
    matrix = x[:70_000].reshape(350, 200)
    assert torch.equal(residues(matrix.t(), prime=PRIMES[1]), residues(matrix, prime=PRIMES[1]).t())
    assert last_place(x) == 1074
    assert last_place(x[40_000:-3]) == max(last_place(part) for part in x[40_000:-3].split(500))
    assert [len(part) for part in in_pieces(x)][:-1] == [2**15] * 2
    assert residues(torch.zeros(0, 3, dtype=torch.float64), prime=PRIMES[0]).shape == (0, 3)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1200, 1023),
)
def test_a_digit_and_its_rest_are_the_number(number, place):
    rest = torch.tensor([number, -number, 0.0], dtype=torch.float64)
    if abs(Fraction(number)) >= Fraction(2) ** (place + 53):
        place = max(place, math.frexp(number)[1] - 53)
    digit = take_digit(rest, place=place)
    for sign, q, r in zip((1, -1, 0), digit.tolist(), rest.tolist(), strict=True):
        assert q == int(q)
        assert int(q) * Fraction(2) ** place + Fraction(r) == sign * Fraction(number)
        assert abs(Fraction(r)) < Fraction(2) ** place
        assert q * sign * number >= 0


@given(
    st.lists(st.integers(-(2**53) + 2**22 + 1, 2**53 - 2**22 - 1), min_size=1, max_size=20),
    st.sampled_from(PRIMES),
)
def test_reduction_stays_in_its_class(numbers, prime):
    found = reduce_(torch.tensor(numbers, dtype=torch.float64), prime=prime)
    for before, after in zip(numbers, found.tolist(), strict=True):
        assert (int(after) - before) % prime == 0
        assert abs(after) <= prime / 2 + (0 if abs(before) < 2**42 else 4)


def test_how_many_numbers_the_formats_have():
    assert [len(every_number(dtype)) for dtype in SMALL_FORMATS] == [254, 248, 63488, 65280]


@given(st.fractions(), st.sampled_from(PRIMES))
def test_residues_of_rationals(number, prime):
    if number.denominator % prime:
        found = residue_of(number, prime=prime)
        assert 0 <= found < prime
        assert (found * number.denominator - number.numerator) % prime == 0


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_last_place_and_largest(numbers):
    x = torch.tensor(numbers, dtype=torch.float64)
    places, values = last_place(x), [Fraction(number) for number in numbers]
    assert places >= 0
    assert all((value * 2**places).denominator == 1 for value in values)
    if places:
        assert any((value * 2 ** (places - 1)).denominator != 1 for value in values)
    largest, most = log2_largest(x), max(map(abs, values))
    assert most == 0 if largest == -math.inf else most <= Fraction(2) ** int(largest)
    assert most == 0 or 2 * most > Fraction(2) ** int(largest)


def test_nothing_has_no_size():
    empty = torch.zeros(0, dtype=torch.float64)
    assert log2_largest(empty) == -math.inf
    assert last_place(empty) == 0


def test_flushing_is_noticed():
    assert subnormal_numbers_are_kept()
    torch.set_flush_denormal(True)
    try:
        assert not subnormal_numbers_are_kept()
    finally:
        torch.set_flush_denormal(False)
    assert subnormal_numbers_are_kept()
