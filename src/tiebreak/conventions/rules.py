"""Rules at ties and kinks by name: windows that tell them apart, and the name of what was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction

import torch
from torch import Tensor


class Place(StrEnum):
    """What the tied entries of a window are."""

    TIE = "tie"
    SIGNED_ZEROS = "+0 and -0"
    NAN = "NaN"


class Rule(StrEnum):
    """How a window's incoming gradient reaches its tied entries; all other entries get 0."""

    FIRST = "first"
    LAST = "last"
    SECOND = "second"
    ONE = "one, not a fixed one"
    EVEN = "even split"
    ALL_ONES = "all ones"
    NONE = "none"
    NAN = "NaN to every entry"


class Fill(StrEnum):
    """Where the entries that are not tied lie: a maximum, a minimum or a median is tied."""

    BELOW = "below"
    ABOVE = "above"
    AROUND = "around"


_SPLIT_ROUNDINGS = 4  # unit roundoffs by which a share of 1/n may miss: count, quotient, product, storage


def tied_windows(
    place: Place,
    *,
    num_windows: int,
    num_entries: int,
    fill: Fill,
    values: Sequence[float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Windows with 2 to all entries tied, and which they are.

    The first windows run through every set of at least two entries where a window has at most four, else
    through all entries, the first two, the last two, the outermost two; the others are drawn.

    Args:
        place: what the tied entries are.
        num_windows: how many windows.
        num_entries: entries of a window, 2 or more.
        fill: where the other entries lie; they are not equal to the tied ones.
        values: of the tied entries at `Place.TIE`, taken in turn; small enough for bfloat16.
        generator: of the CPU.

    Returns:
        (float64 values, bool whether tied), both (windows, entries).
    """
    tied = _patterns(num_windows, num_entries, generator)
    other = torch.randint(1, 8, tied.shape, generator=generator, dtype=torch.float64)
    if fill is Fill.AROUND:
        keys = torch.rand(tied.shape, generator=generator).masked_fill_(tied, 2.0)
        num_other = (~tied).sum(1, keepdim=True)
        other = torch.where(keys.argsort(1).argsort(1) < num_other // 2, -other, other)
    elif fill is Fill.BELOW:
        other = -other
    if place is Place.NAN:
        return other.masked_fill(tied, math.nan), tied
    if place is Place.SIGNED_ZEROS:
        odd_ones = (tied.cumsum(1) + torch.arange(num_windows)[:, None]) % 2 == 1
        return torch.where(tied, torch.where(odd_ones, -0.0, 0.0).double(), other), tied
    top = torch.tensor([values[i % len(values)] for i in range(num_windows)], dtype=torch.float64)[:, None]
    return torch.where(tied, top, other + top.nan_to_num(posinf=0.0, neginf=0.0)), tied


def _patterns(num_windows: int, num_entries: int, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(num_windows, num_entries, generator=generator)
    share = torch.rand(num_windows, 1, generator=generator)
    tied = drawn < share.clamp(min=2.5 / max(num_entries, 3))
    lowest_two = drawn.argsort(1).argsort(1) < 2
    tied |= lowest_two
    if num_entries <= 4:
        words = [word for word in range(1 << num_entries) if word.bit_count() > 1]
        sets = [[bool(word >> entry & 1) for entry in range(num_entries)] for word in words]
        known = torch.tensor(sets[:num_windows])
    else:
        known = torch.zeros(4, num_entries, dtype=torch.bool)[:num_windows]
        for row, ends in zip(
            known, (slice(None), slice(2), slice(-2, None), slice(0, None, num_entries - 1)), strict=False
        ):
            row[ends] = True
    tied[: len(known)] = known
    return tied


def fits(rule: Rule, shares: Tensor, tied: Tensor, *, unit_roundoff: float) -> Tensor:
    """Which windows a rule explains.

    Args:
        rule: the rule.
        shares: measured gradient of each entry over that of its window, float64, (windows, entries).
        tied: which entries are tied, of the same shape.
        unit_roundoff: of the dtype of the gradient; even splits may miss by a few, the others by nothing.

    Returns:
        bool, (windows,).
    """
    rank = tied.cumsum(1)
    number = rank[:, -1:]
    if rule is Rule.NAN:
        return shares.isnan().all(1)
    if rule is Rule.EVEN:
        part = tied.double() / number
        return ((shares - part).abs() <= _SPLIT_ROUNDINGS * unit_roundoff * part).all(1)
    if rule is Rule.ONE:
        return ((shares == 1) & tied).sum(1).eq(1) & ((shares != 0).sum(1) == 1)
    wanted = {
        Rule.FIRST: tied & (rank == 1),
        Rule.LAST: tied & (rank == number),
        Rule.SECOND: tied & (rank == 2),
        Rule.ALL_ONES: tied,
        Rule.NONE: torch.zeros_like(tied),
    }[rule]
    return (shares == wanted).all(1)


def name_rule(
    measured: Sequence[tuple[str, Tensor, Tensor]], *, unit_roundoff: float
) -> tuple[Rule | None, str]:
    """The rule that explains every window of every case, or the raw numbers.

    Args:
        measured: (name of the case, shares, tied) as for `fits`, on the CPU.
        unit_roundoff: of the dtype of the gradient.

    Returns:
        (rule, its name), or (None, a text that begins with "mixed:").
    """
    found: dict[str, list[str]] = {}
    rules: set[Rule | None] = set()
    for name, shares, tied in measured:
        rule, text = _name_case(shares, tied, unit_roundoff=unit_roundoff)
        rules.add(rule)
        found.setdefault(text, []).append(name)
    only = next(iter(rules))
    if len(rules) == 1 and only is not None:
        return only, str(only)
    return None, "mixed: " + "; ".join(f"{text} ({', '.join(names)})" for text, names in found.items())


def _name_case(shares: Tensor, tied: Tensor, *, unit_roundoff: float) -> tuple[Rule | None, str]:
    counts: dict[Rule, int] = {}
    unexplained = torch.ones(len(shares), dtype=torch.bool)
    for rule in Rule:
        held = fits(rule, shares, tied, unit_roundoff=unit_roundoff)
        if bool(held.all()):
            return rule, str(rule)
        counts[rule] = int((held & unexplained).sum())
        unexplained &= ~held
    parts = [f"{rule} in {count} windows" for rule, count in counts.items() if count]
    if bool(unexplained.any()):
        parts.append(
            f"no rule in {int(unexplained.sum())}, such as {_raw(shares, tied, unexplained, unit_roundoff)}"
        )
    return None, ", ".join(parts)


_SHOWN = 8


def _raw(shares: Tensor, tied: Tensor, which: Tensor, unit_roundoff: float) -> str:
    """The smallest unexplained window as numbers, at most a few of its tied entries."""
    window = min(which.nonzero().flatten().tolist(), key=lambda row: int(tied[row].sum()))
    places = tied[window].nonzero().flatten().tolist()
    gets = " ".join(
        number(share, unit_roundoff=unit_roundoff) for share in shares[window][places[:_SHOWN]].tolist()
    )
    more = " ..." if len(places) > _SHOWN else ""
    outside = int((shares[window][~tied[window]] != 0).sum())
    leak = f" and {outside} other entries not 0" if outside else ""
    at = " ".join(map(str, places[:_SHOWN]))
    return f"entries {at}{more} of {tied.shape[1]} tied -> {gets}{more}{leak}"


def name_slope(at: Tensor, left: Tensor | None, right: Tensor | None, *, unit_roundoff: float) -> str:
    """The derivative at a kink, and which of the one-sided derivatives it is.

    Args:
        at: measured derivative at the kink, float64, any shape.
        left: the same just below; None where sides have no meaning.
        right: the same just above.
        unit_roundoff: of the dtype; what is within a few is the same.

    Returns:
        Such as "0, the left derivative (right: 1)", or a text that begins with "mixed:".
    """

    def shown(slope: float) -> str:
        return number(slope, unit_roundoff=unit_roundoff)

    values = at.flatten().tolist()
    if all(value == values[0] for value in values):
        values = values[:1]
    counts = Counter(
        values[0] if _close(value, values[0], unit_roundoff) else shown(value) for value in values
    )
    if len(counts) > 1:
        parts = [
            f"{kind if isinstance(kind, str) else shown(kind)} in {n} elements" for kind, n in counts.items()
        ]
        return "mixed: " + ", ".join(parts[:_SHOWN])
    value = values[0]
    if left is None or right is None:
        return shown(value)
    below, above = left.flatten()[0].item(), right.flatten()[0].item()
    sides = f"left: {shown(below)}, right: {shown(above)}"
    is_left, is_right = _close(value, below, unit_roundoff), _close(value, above, unit_roundoff)
    if is_left and is_right:
        return f"{shown(value)}, as on both sides"
    if is_left:
        return f"{shown(value)}, the left derivative (right: {shown(above)})"
    if is_right:
        return f"{shown(value)}, the right derivative (left: {shown(below)})"
    if _close(value, (below + above) / 2, unit_roundoff):
        return f"{shown(value)}, the mean of both ({sides})"
    if min(below, above) < value < max(below, above):
        return f"{shown(value)}, between both ({sides})"
    return f"{shown(value)}, outside of both ({sides})"


def _close(one: float, other: float, unit_roundoff: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= _SPLIT_ROUNDINGS * unit_roundoff * max(abs(one), abs(other))


def number(value: float, *, unit_roundoff: float = 0.0) -> str:
    """A measured number in short: a small fraction if it is one within rounding, else four digits.

    Args:
        value: any float.
        unit_roundoff: of the dtype it comes from; a fraction may miss by eight.

    Example:
        >>> number(0.5), number(0.333251953125, unit_roundoff=2**-11), number(float("nan"))
        ('1/2', '1/3', 'NaN')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    fraction = Fraction(value).limit_denominator(16)
    return (
        str(fraction) if abs(fraction - Fraction(value)) <= 8 * unit_roundoff * abs(value) else f"{value:.4g}"
    )
