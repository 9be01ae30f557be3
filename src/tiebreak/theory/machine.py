"""Finite sets of machine numbers: floating-point formats, integers, and any set of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.design.machine_numbers import FormatName

_MOST_LISTED = 2**17


@dataclass(frozen=True, kw_only=True)
class MachineSet:
    """A finite set M of real numbers; every parameter takes each of them.

    Args:
        name: shown in tables.
        numbers: in increasing order, each once; -0 and +0 are one number.

    Raises:
        UserError: no number, or one twice.
    """

    name: str
    numbers: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if not self.numbers or tuple(sorted(set(self.numbers))) != self.numbers:
            raise UserError(
                f"the machine set {self.name} must hold its numbers in increasing order, each once. "
                "Make it with numbers_of(...)."
            )

    def __len__(self) -> int:
        return len(self.numbers)


def numbers_of(numbers: Iterable[int | float | str | Fraction], *, name: str = "") -> MachineSet:
    """The machine set of some numbers.

    Args:
        numbers: finite; texts such as "1/3" are rationals.
        name: for tables; by default the numbers themselves.

    Raises:
        UserError: something that is no finite number.

    Example:
        >>> len(numbers_of([0, -1, 1, 1.0]))
        3
    """
    try:
        found = tuple(sorted({Fraction(number) for number in numbers}))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise UserError(f"a machine set holds finite numbers only ({error}). Leave the others out.") from None
    return MachineSet(name=name or "{" + ", ".join(map(str, found)) + "}", numbers=found)


def integers(largest: int) -> MachineSet:
    """The integers from -largest to largest.

    Example:
        >>> integers(2).name, len(integers(2))
        ('M5', 5)
    """
    return numbers_of(range(-largest, largest + 1), name=f"M{2 * largest + 1}")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A binary floating-point format with subnormal numbers.

    Args:
        name: its spelling.
        precision: significant bits of a normal number, the leading one counted.
        least_exponent: the least normal number is 2**least_exponent.
        largest: the largest finite number.
    """

    name: FormatName
    precision: int
    least_exponent: int
    largest: Fraction

    @property
    def size(self) -> int:
        """How many numbers it has: codes without infinities and NaN, both zeros as one.

        Example:
            >>> format_of("fp32").size
            4278190079
        """
        exponent = _floor_log2(self.largest)
        binades = exponent - self.least_exponent + 1  # the subnormal numbers and 0 fill one more
        steps = self.largest / Fraction(2) ** (exponent - self.precision + 1)
        return 2 * int(binades * 2 ** (self.precision - 1) + steps - 2 ** (self.precision - 1)) + 1

    @property
    def most(self) -> int:
        """The ordinal of the largest number; 0 has 0, and -most the least."""
        return self.size // 2

    def number_of(self, ordinals: Tensor) -> Tensor:
        """The numbers with these ordinals, which are in the order of the numbers.

        Args:
            ordinals: int64, any shape; those beyond `most` go on as if there were larger numbers.

        Returns:
            float64, of the same shape.

        Example:
            >>> format_of("e2m1").number_of(torch.arange(-2, 8)).tolist()
            [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        """
        hidden = 2 ** (self.precision - 1)
        size = ordinals.abs()
        binade = (size // hidden - 1).clamp(min=0)
        significand = (size - binade * hidden).double()
        quantum = binade + (self.least_exponent - self.precision + 1)
        return torch.copysign(torch.ldexp(significand, quantum), ordinals.double()) + 0.0

    def machine_set(self) -> MachineSet:
        """Its numbers.

        Raises:
            UserError: more than 2**17 of them.
        """
        if self.size > _MOST_LISTED:
            raise UserError(
                f"{self.name} has {self.size} numbers, too many to list. Take fp16, bf16 or a smaller format."
            )
        positive = []
        quantum = Fraction(2) ** (self.least_exponent - self.precision + 1)
        number = quantum
        while number <= self.largest:
            positive.append(number)
            if number >= 2 * Fraction(2) ** self.least_exponent and number / quantum == 2**self.precision:
                quantum *= 2
            number += quantum
        return MachineSet(
            name=str(self.name),
            numbers=(*(-value for value in reversed(positive)), Fraction(0), *positive),
        )

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest numbers of the format, ties to even.

        What rounds beyond the largest number becomes an infinity, or NaN in e2m1, e2m3, e3m2 and e4m3, which
        have none: a program that saturates instead would show ties that are none.

        Args:
            x: float64, any shape.

        Returns:
            float64, of the same shape.
        """
        _, exponent = torch.frexp(x)
        quantum_exponent = (exponent - self.precision).clamp(min=self.least_exponent - self.precision + 1)
        quantum = torch.ldexp(torch.ones_like(x), quantum_exponent)
        near = torch.round(x / quantum) * quantum
        beyond = torch.full_like(x, math.inf if self.name in _WITH_INFINITY else math.nan)
        return torch.where(near.abs() <= float(self.largest), near, torch.copysign(beyond, x))


_WITH_INFINITY = (FormatName.E5M2, FormatName.FP16, FormatName.BF16, FormatName.FP32)

_FORMATS = (
    Format(name=FormatName.E2M1, precision=2, least_exponent=0, largest=Fraction(6)),
    Format(name=FormatName.E2M3, precision=4, least_exponent=0, largest=Fraction(15, 2)),
    Format(name=FormatName.E3M2, precision=3, least_exponent=-2, largest=Fraction(28)),
    Format(name=FormatName.E4M3, precision=4, least_exponent=-6, largest=Fraction(448)),
    Format(name=FormatName.E5M2, precision=3, least_exponent=-14, largest=Fraction(57344)),
    Format(name=FormatName.FP16, precision=11, least_exponent=-14, largest=Fraction(65504)),
    Format(
        name=FormatName.BF16, precision=8, least_exponent=-126, largest=Fraction(2**8 - 1) * 2 ** (127 - 7)
    ),
    Format(
        name=FormatName.FP32, precision=24, least_exponent=-126, largest=Fraction(2**24 - 1) * 2 ** (127 - 23)
    ),
)


def format_of(name: FormatName | str) -> Format:
    """The floating-point format of this name.

    Args:
        name: e2m1 (fp4), e2m3 and e3m2 (fp6), e4m3 (without infinities) and e5m2 (fp8), fp16, bf16 or fp32.

    Raises:
        UserError: another name.
    """
    for found in _FORMATS:
        if found.name == name:
            return found
    raise UserError(f"format must be one of {', '.join(FormatName)}, got {name!r}.")


def _floor_log2(number: Fraction) -> int:
    return math.frexp(float(number))[1] - 1
