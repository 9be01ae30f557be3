"""What the fields of the file of published numbers may hold: numbers within the range of their quantity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiebreak.report.quantities import unit_of


class FieldError(ValueError):
    """A field that cannot be; the message says of which row, what is allowed and what was got."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Finite numbers that a field may hold.

    Args:
        words: which these are.
        low: the smallest.
        high: the largest.
        is_whole: whether they are whole.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf
    is_whole: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number is one of them."""
        is_kind = math.isfinite(number) and (not self.is_whole or float(number).is_integer())
        return is_kind and self.low <= number <= self.high


NUMBER = Range(words="a finite number")
SHARE = Range(words="a share from 0 to 1", low=0.0, high=1.0)
POSITIVE = Range(words="a finite number above 0", low=math.ulp(0.0))
SIZE = Range(words="a finite number of 0 or more", low=0.0)
COUNTED = Range(words="a whole number of 1 or more", low=1.0, is_whole=True)

_BY_QUANTITY = (
    (r"\bminus that\b", Range(words="a difference of shares, from -1 to 1", low=-1.0, high=1.0)),
    (r"\brelative (error|gap)\b|^distance of weights|^norm of the Jacobian", SIZE),
    (r"^share of|\baccuracy\b", SHARE),
    (r"^best learning rate", POSITIVE),
)
"""What a value may be by the name of its quantity; the first that fits."""

_OF_UNIT = {"gradient": SIZE, "rate": POSITIVE, "weight (l1)": SIZE}

_HITS = re.compile(r"^(runs that|mini-batches with)\b", re.IGNORECASE)
"""Quantities that count some of n."""

_OVER_RUNS = re.compile(r"\bmean over runs\b|\bstandard deviation\b", re.IGNORECASE)
"""Statistics of n runs."""

_MAY_BE_NAN = re.compile(r"^distance of weights|^value of the blended forward pass", re.IGNORECASE)
"""Quantities of which NaN itself was published, written as such."""

_NEEDS_BETA = re.compile(r"^norm of the Jacobian", re.IGNORECASE)

_FLAGS = {"true": True, "false": False, "": None}


def parsed(row: Mapping[Any, str]) -> dict[str, Any]:
    """The fields of one published number that are no texts.

    Args:
        row: its fields as they are written.

    Returns:
        `n`, `value`, `low`, `high` and `beta` as floats, NaN where empty; `batch_norm` as True, False or
        None.

    Raises:
        FieldError: a field is not what its quantity may have.
    """
    quantity = row["quantity"]
    hits = _HITS.search(quantity)
    number = _number(row, "n", COUNTED, is_needed=bool(hits or _OVER_RUNS.search(quantity)))
    allowed = range_of(quantity, row["unit"])
    if hits:
        allowed = Range(
            words=f"a whole number from 0 to the {number:g} of n", low=0, high=number, is_whole=True
        )
    is_nan = row["value"] == "nan" and bool(_MAY_BE_NAN.search(quantity))
    return {
        "batch_norm": _flag(row, "batch_norm"),
        "beta": _number(row, "beta", NUMBER, is_needed=bool(_NEEDS_BETA.search(quantity))),
        "n": number,
        "value": math.nan if is_nan else _number(row, "value", allowed, is_needed=True),
        "low": _number(row, "low", allowed),
        "high": _number(row, "high", allowed),
    }


def range_of(quantity: str, unit: str) -> Range:
    """What the value of a published quantity may be.

    Args:
        quantity: its name.
        unit: as the file has it.

    Example:
        >>> range_of("final test accuracy, mean over runs", "share").words
        'a share from 0 to 1'
        >>> range_of("largest relative error of the blended forward pass", "share").words
        'a finite number of 0 or more'
    """
    of_unit = SHARE if unit_of(quantity, unit).is_share else _OF_UNIT.get(unit, NUMBER)
    named = (limits for pattern, limits in _BY_QUANTITY if re.search(pattern, quantity, re.IGNORECASE))
    return next(named, of_unit)


def _number(row: Mapping[Any, str], column: str, allowed: Range, *, is_needed: bool = False) -> float:
    text = row[column].strip()
    if not text and not is_needed:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not allowed.holds(number):
        raise _refused(row, column, allowed.words if is_needed else f"{allowed.words}, or empty")
    return number


def _flag(row: Mapping[Any, str], column: str) -> bool | None:
    word = row[column].strip().lower()
    if word not in _FLAGS:
        raise _refused(row, column, "true, false or empty")
    return _FLAGS[word]


def _refused(row: Mapping[Any, str], column: str, allowed: str) -> FieldError:
    return FieldError(f"{column} of {row['id']} must be {allowed}, got {row[column]!r}")
