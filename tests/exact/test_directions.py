"""Directions against linear programs over the rationals, independence against elimination over them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from tiebreak.exact.bounds import Ball
from tiebreak.exact.directions import are_independent, positive_direction
from tiebreak.exact.primes import draw_primes
from tiebreak.theory.linear_programs import has_open_cone

(PRIME,) = draw_primes(1, seed=0)


def exactly(value):
    return Ball(value, torch.zeros_like(value))


def drawn(case, *, most):
    generator = torch.Generator().manual_seed(case)
    number, dimension = torch.randint(1, 7, (2,), generator=generator).tolist()
    return torch.randint(-most, most + 1, (number, dimension), generator=generator).double()


def test_a_direction_is_found_where_there_is_one_and_only_there():
    found = 0
    for case in range(400):
        value = drawn(case, most=2)
        direction = positive_direction(exactly(value))
        rational = [tuple(Fraction(entry) for entry in row) for row in value.tolist()]
        assert (direction is not None) == has_open_cone(rational), case
        if direction is not None:
            found += 1
            along = [
                sum(Fraction(a) * Fraction(b) for a, b in zip(row, direction.tolist(), strict=True))
                for row in rational
            ]
            assert min(along) > 0
    assert 100 < found < 300


def test_forms_that_are_not_known_well_enough_have_none():
    value = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    assert positive_direction(exactly(value)) is not None
    assert positive_direction(Ball(value, torch.full_like(value, 0.4))) is not None
    assert positive_direction(Ball(value, torch.full_like(value, 0.6))) is None
    assert positive_direction(Ball(value, torch.full_like(value, torch.inf))) is None
    assert positive_direction(exactly(torch.zeros(1, 2).double())) is None
    assert positive_direction(exactly(torch.full((1, 2), torch.nan).double())) is None
    assert positive_direction(exactly(torch.zeros(2, 0).double())) is None


@pytest.mark.parametrize("scale", [2.0**-900, 1.0, 2.0**900])
def test_the_size_of_the_numbers_is_of_no_consequence(scale):
    thin = torch.tensor([[1.0, 1e-9], [-1.0, 1e-9]]).double() * scale
    assert positive_direction(exactly(thin)) is not None
    assert positive_direction(exactly(torch.cat([thin, -thin]))) is None


def rank(rows):
    left, found = [[Fraction(entry) for entry in row] for row in rows], 0
    for column in range(len(left[0])):
        pivot = next((row for row in left[found:] if row[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        left.insert(found, pivot)
        for place in range(found + 1, len(left)):
            factor = left[place][column] / pivot[column]
            left[place] = [a - factor * b for a, b in zip(left[place], pivot, strict=True)]
        found += 1
    return found


def test_independence_is_that_of_rationals():
    for case in range(400):
        rows = drawn(case, most=1)
        assert are_independent(rows, prime=PRIME) == (rank(rows.tolist()) == len(rows)), case
    assert not are_independent(torch.tensor([[float(PRIME - 1), 1.0], [-1.0, 1.0]]), prime=PRIME)
