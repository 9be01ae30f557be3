"""Names of rules: each made by hand is recognised, and nothing else is."""

from __future__ import annotations

import math

import pytest
import torch

from tiebreak.conventions.rules import Fill, Place, Rule, name_rule, name_slope, number, tied_windows

U = 2.0**-24


def windows(num_entries: int, *, place: Place = Place.TIE, fill: Fill = Fill.BELOW, values=(1.0, 0.0, -1.5)):
    return tied_windows(
        place,
        num_windows=40,
        num_entries=num_entries,
        fill=fill,
        values=values,
        generator=torch.Generator().manual_seed(3),
    )


def by_hand(rule: Rule, tied: torch.Tensor) -> torch.Tensor:
    """Shares of a rule, one window after the other."""
    shares = []
    for index, row in enumerate(tied.tolist()):
        places = [entry for entry, marked in enumerate(row) if marked]
        share = [0.0] * len(row)
        match rule:
            case Rule.FIRST:
                share[places[0]] = 1.0
            case Rule.LAST:
                share[places[-1]] = 1.0
            case Rule.SECOND:
                share[places[1]] = 1.0
            case Rule.ONE:
                share[places[index % len(places)]] = 1.0
            case Rule.EVEN:
                for entry in places:
                    share[entry] = 1 / len(places)
            case Rule.ALL_ONES:
                for entry in places:
                    share[entry] = 1.0
            case Rule.NAN:
                share = [math.nan] * len(row)
            case Rule.NONE:
                pass
        shares.append(share)
    return torch.tensor(shares, dtype=torch.float64)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("num_entries", [3, 4, 9, 70])
def test_a_rule_is_told_from_every_other(rule, num_entries) -> None:
    _, tied = windows(num_entries)
    assert name_rule([("here", by_hand(rule, tied), tied)], unit_roundoff=U) == (rule, str(rule))


@pytest.mark.parametrize("rule", [Rule.FIRST, Rule.LAST, Rule.EVEN, Rule.ALL_ONES, Rule.NONE, Rule.NAN])
def test_two_tensors_are_windows_of_two(rule) -> None:
    _, tied = windows(2)
    assert bool(tied.all())
    assert name_rule([("here", by_hand(rule, tied), tied)], unit_roundoff=U)[0] is rule


def test_one_window_that_differs_is_mixed_and_shown() -> None:
    _, tied = windows(4)
    shares = by_hand(Rule.FIRST, tied)
    shares[1] = by_hand(Rule.LAST, tied)[1]
    rule, text = name_rule([("rows of 4", shares, tied)], unit_roundoff=U)
    assert rule is Rule.ONE  # the whole gradient still goes to one tied entry
    shares[1] = tied[1] * 0.25
    rule, text = name_rule([("rows of 4", shares, tied)], unit_roundoff=U)
    assert rule is None
    assert (
        text
        == "mixed: first in 39 windows, no rule in 1, such as entries 0 2 of 4 tied -> 1/4 1/4 (rows of 4)"
    )


def test_a_gradient_outside_the_tied_entries_is_no_rule() -> None:
    _, tied = windows(4)
    shares = by_hand(Rule.EVEN, tied)
    shares[0, 2] += 2.0**-20
    rule, text = name_rule([("here", shares, tied)], unit_roundoff=U)
    assert rule is None
    assert "and 1 other entries not 0" in text


def test_cases_that_disagree_are_named() -> None:
    _, tied = windows(4)
    measured = [("small", by_hand(Rule.FIRST, tied), tied), ("large", by_hand(Rule.LAST, tied), tied)]
    assert name_rule(measured, unit_roundoff=U) == (None, "mixed: first (small); last (large)")


def test_a_split_may_miss_by_rounding_and_not_by_more() -> None:
    _, tied = windows(9)
    shares = by_hand(Rule.EVEN, tied)
    assert name_rule([("here", shares * (1 + 3.9 * U), tied)], unit_roundoff=U)[0] is Rule.EVEN
    assert name_rule([("here", shares * (1 + 4.1 * U), tied)], unit_roundoff=U)[0] is None
    assert name_rule([("here", by_hand(Rule.FIRST, tied) * (1 + U), tied)], unit_roundoff=U)[0] is None


@pytest.mark.parametrize("place", list(Place))
@pytest.mark.parametrize("fill", list(Fill))
@pytest.mark.parametrize("num_entries", [2, 4, 9, 70])
def test_windows_are_tied_where_they_say(place, fill, num_entries) -> None:
    values, tied = windows(num_entries, place=place, fill=fill)
    for row, marks in zip(values.tolist(), tied.tolist(), strict=True):
        inside = [value for value, marked in zip(row, marks, strict=True) if marked]
        outside = [value for value, marked in zip(row, marks, strict=True) if not marked]
        assert len(inside) >= 2
        if place is Place.NAN:
            assert all(math.isnan(value) for value in inside)
            assert not any(math.isnan(value) for value in outside)
            continue
        assert len(set(inside)) == 1
        if place is Place.SIGNED_ZEROS:
            assert {math.copysign(1.0, value) for value in inside} == {1.0, -1.0}
        wanted = {
            Fill.BELOW: max,
            Fill.ABOVE: min,
            Fill.AROUND: lambda all_: sorted(all_)[(len(all_) - 1) // 2],
        }
        assert wanted[fill](row) == inside[0]
        assert inside[0] not in outside
    assert {sum(row) for row in tied.tolist()} >= ({2, 3, 4} if num_entries == 4 else {2, num_entries})
    assert not bool(tied[:, 0].all()) or num_entries == 2  # some ties start later


@pytest.mark.parametrize(
    ("at", "left", "right", "text"),
    [
        (0.0, 0.0, 1.0, "0, the left derivative (right: 1)"),
        (1.0, 0.0, 1.0, "1, the right derivative (left: 0)"),
        (0.5, 0.0, 1.0, "1/2, the mean of both (left: 0, right: 1)"),
        (0.25, 0.0, 1.0, "1/4, between both (left: 0, right: 1)"),
        (2.0, 0.0, 1.0, "2, outside of both (left: 0, right: 1)"),
        (0.0, 0.0, 0.0, "0, as on both sides"),
    ],
)
def test_a_slope_is_named_by_its_sides(at, left, right, text) -> None:
    at, left, right = (torch.full((3,), value, dtype=torch.float64) for value in (at, left, right))
    assert name_slope(at, left, right, unit_roundoff=U) == text


def test_slopes_that_differ_are_counted() -> None:
    at = torch.tensor([0.0, 1.0, 1.0, math.nan, math.nan], dtype=torch.float64)
    assert (
        name_slope(at, None, None, unit_roundoff=U)
        == "mixed: 0 in 1 elements, 1 in 2 elements, NaN in 2 elements"
    )
    assert name_slope(at[3:], None, None, unit_roundoff=U) == "NaN"


def test_numbers_in_short() -> None:
    assert [number(value) for value in (0.0, -1.0, 0.375, math.nan, -math.inf, 1 / 3)] == [
        "0", "-1", "3/8", "NaN", "-inf", "0.3333",
    ]  # fmt: skip
    assert number(1 / 3 + 1e-9, unit_roundoff=U) == "1/3"
    assert number(1 / 3 + 1e-5, unit_roundoff=U) == "0.3333"
