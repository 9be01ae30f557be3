"""How formats, sets of machine numbers and rationals are spelled, each in one way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from typing import Any

from tiebreak.design.axes import DesignError


class FormatName(StrEnum):
    """Floating-point formats as sets of machine numbers, from 4 bits to 32, coarse before fine."""

    E2M1 = "e2m1"
    E3M2 = "e3m2"
    E2M3 = "e2m3"
    E5M2 = "e5m2"
    E4M3 = "e4m3"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


MOST_NUMBERS = 1024
"""Of a set that is written out."""


def numbers_in(text: str) -> tuple[Fraction, ...]:
    """The numbers of a text such as `0,1/2,-1` in their order; none of an empty one.

    Example:
        >>> numbers_in("0,1/2")
        (Fraction(0, 1), Fraction(1, 2))
    """
    return tuple(map(Fraction, text.split(","))) if text else ()


def largest_integer(machine: str) -> int | None:
    """k, of the spelling `m<2k+1>` of the integers from -k to k; None of another.

    Example:
        >>> largest_integer("m5"), largest_integer("e2m1"), largest_integer("m4")
        (2, None, None)
    """
    found = _INTEGERS.fullmatch(machine)
    return int(found[1]) // 2 if found and int(found[1]) % 2 and int(found[1]) > 1 else None


_INTEGERS = re.compile(r"m(\d{1,5})")
_NUMBER = re.compile(r"[+-]?\d{1,18}(/[1-9]\d{0,17}|\.\d{1,18})?")


def spelled_machine(value: Any) -> str:
    """The one spelling of a machine set."""
    text = str(value).lower() if isinstance(value, str) else ""
    if text in set(FormatName) - {FormatName.FP32}:
        return text
    if (largest := largest_integer(text)) is not None:
        return f"m{2 * largest + 1}"  # m05 is m5
    try:
        numbers = sorted(set(numbers_of_text(value, key="protocol.machine")))
    except DesignError:
        numbers = []
    if not numbers or len(numbers) > MOST_NUMBERS:
        formats = ", ".join(set_name for set_name in FormatName if set_name is not FormatName.FP32)
        raise DesignError(
            f"protocol.machine must be one of {formats}, or m5 for the integers from -2 to 2 (m7, ...), or "
            f"{MOST_NUMBERS} numbers at most, as in [-6,0,1/2,6]; got {value!r}."
        )
    largest = numbers[-1]
    if largest > 0 and numbers == [Fraction(n) for n in range(-int(largest), int(largest) + 1)]:
        return f"m{len(numbers)}"
    return joined(numbers)


def spelled_proxy(value: Any) -> str:
    """The one spelling of what AD takes at kinks."""
    if value in ("auto", "none", "torch", "left", "right"):
        return str(value)
    try:
        numbers = numbers_of_text(value, key="protocol.proxy")
    except DesignError:
        numbers = ()
    if len(numbers) != 1:
        raise DesignError(
            f"protocol.proxy must be torch, left, right or a number such as 0, 1/2 or -1, got {value!r}."
        )
    return str(numbers[0])


def numbers_of_text(value: Any, *, key: str) -> tuple[Fraction, ...]:
    """Numbers as a list, a text with commas, or one number."""
    items = value if isinstance(value, list | tuple) else str(value).split(",") if value != "" else []
    texts = ["" if isinstance(item, bool) else str(item).strip() for item in items]
    if not all(map(_NUMBER.fullmatch, texts)):
        raise DesignError(f"{key} must be numbers of 18 digits at most, as in [0,1/2,-1], got {value!r}.")
    return tuple(map(Fraction, texts))


def joined(numbers: Iterable[Fraction]) -> str:
    """The one spelling of some numbers."""
    return ",".join(map(str, numbers))
