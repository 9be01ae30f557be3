"""Kinks and ties of one neuron and of one window: over the reals, and as a program that rounds sees them.

The last parameter of a neuron is a bias that is added to what the others make of the input. So for each
weight the biases that put the neuron on a kink are found without trying them: over the reals there is at most
one a kink, and in the program, where a sum is rounded and rounding is monotone, they are an interval of
numbers, whose ends are found by bisection. Formats of 16 bits and fp32 are counted like small ones, on pairs
that nobody could enumerate.

Everything is exact in float64: products of two numbers of up to 24 bits are; sums of two such numbers are
rounded to the format as if they were exact (53 bits are at least twice 24 and two more); and over the reals a
sum is taken to be a number of the format only where its rounding error in float64 is 0.

Source:
    Double rounding is harmless from twice the precision and two bits on: Figueroa, "When is double rounding
    innocuous?", 1995. The counts are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import PiecewiseLinear
from tiebreak.theory.machine import Format

_MOST_BITS = 24
_MOST_WINDOW_NUMBERS = 2**17


@dataclass(frozen=True, kw_only=True)
class Touched:
    """How many points are on a kink or at a tie.

    Args:
        points: that were looked at.
        exact: over the reals.
        computed: as the program sees it.
        both: over the reals and as the program sees it.
    """

    points: int
    exact: int
    computed: int
    both: int

    @property
    def missed(self) -> int:
        """Touched over the reals and not in the program."""
        return self.exact - self.both

    @property
    def only_by_rounding(self) -> int:
        """Touched in the program and not over the reals."""
        return self.computed - self.both


def touched_neuron(
    function: PiecewiseLinear, kind: Format, *, factor: Fraction, weights: Tensor | None = None
) -> Touched:
    """Points (u, b) where function(factor u + b) is at a kink.

    Args:
        function: with one kink or more, all of them numbers of the format.
        kind: of parameters and arithmetic: product and sum are rounded to it, ties to even.
        factor: the input, a number of the format.
        weights: (n,) float64, the u that are looked at; by default all. b is every number.

    Raises:
        UserError: a factor or kink that is no number of the format, or a format of more than 24 bits.

    Example:
        >>> from tiebreak.theory.activations import RELU
        >>> from tiebreak.theory.machine import format_of
        >>> found = touched_neuron(RELU, format_of("e4m3"), factor=Fraction(9, 8))
        >>> found.exact, found.computed
        (31, 249)
    """
    _require_numbers(kind, (factor, *function.kinks))
    u = kind.number_of(torch.arange(-kind.most, kind.most + 1)) if weights is None else weights
    product = u * float(factor)
    held = kind.rounded(product)
    kinks = torch.tensor([float(kink) for kink in function.kinks], dtype=torch.float64)
    exact = computed = both = 0
    finite = held[held.isfinite()]
    for kink in kinks:
        bias, error = _two_sum(-product, kink)
        is_exact = (error == 0) & (kind.rounded(bias) == bias)
        seen = kind.rounded(held + bias)
        exact += int(is_exact.sum())
        both += int((is_exact & torch.isin(seen, kinks)).sum())
        least = _first(kind, finite, at_least=kink, strictly=False)
        computed += int((_first(kind, finite, at_least=kink, strictly=True) - least).sum())
    return Touched(points=len(u) * kind.size, exact=exact, computed=computed, both=both)


def touched_window(kind: Format, *, factor: Fraction, weights: Tensor) -> Touched:
    """Points (u, b1, b2) where max(u + b1, factor u + b2) is attained twice.

    Sums beyond the largest number of the format are no ties.

    Args:
        kind: of parameters and arithmetic.
        factor: the second input, a number of the format; the first is 1.
        weights: (n,) float64, the u that are looked at. b1 and b2 are every number.

    Raises:
        UserError: a factor that is no number of the format, or a format of more than 2**17 numbers.
    """
    _require_numbers(kind, (factor,))
    if kind.size > _MOST_WINDOW_NUMBERS:
        raise UserError(
            f"windows are counted bias by bias, and {kind.name} has {kind.size} numbers. Take a format of 16 "
            "bits or fewer."
        )
    bias = kind.number_of(torch.arange(-kind.most, kind.most + 1))
    exact = computed = both = 0
    for u in weights:
        first, second = kind.rounded(u + bias), kind.rounded(kind.rounded(u * float(factor)) + bias)
        partner, error = _two_sum(bias, u * float(factor - 1))  # the b1 that is tied with each b2
        is_exact = (error == 0) & (kind.rounded(partner) == partner)
        exact += int(is_exact.sum())
        both += int((is_exact & (kind.rounded(u + partner) == second) & second.isfinite()).sum())
        computed += _equal_pairs(first[first.isfinite()], second[second.isfinite()])
    return Touched(points=len(weights) * kind.size**2, exact=exact, computed=computed, both=both)


def weights_of(kind: Format, *, number: int, seed: int) -> Tensor:
    """Some numbers of a format, each as likely as any other.

    Args:
        kind: the format.
        number: how many, drawn with replacement; 0 for each number once.
        seed: of the draw.

    Returns:
        (n,) float64.
    """
    if number == 0:
        return kind.number_of(torch.arange(-kind.most, kind.most + 1))
    generator = torch.Generator().manual_seed(seed)
    return kind.number_of(torch.randint(-kind.most, kind.most + 1, (number,), generator=generator))


def _require_numbers(kind: Format, numbers: tuple[Fraction, ...]) -> None:
    if kind.precision > _MOST_BITS:
        raise UserError(f"{kind.name} has more than {_MOST_BITS} bits, and float64 would round its sums.")
    for number in numbers:
        exact = torch.tensor(float(number), dtype=torch.float64)
        if Fraction(float(number)) != number or kind.rounded(exact) != exact:
            raise UserError(
                f"{number} is no number of {kind.name}, so no program in {kind.name} has it as an input or a "
                "kink. Take another, such as protocol.factor=1.5."
            )


def _two_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum in float64, and what rounding took from it, exactly."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _first(kind: Format, held: Tensor, *, at_least: Tensor, strictly: bool) -> Tensor:
    """For each t the ordinal of the least number b whose rounded t + b is at least, or above, a number."""
    low = torch.full_like(held, -kind.most, dtype=torch.int64)
    high = torch.full_like(low, kind.most + 1)  # one past the largest number: there is none
    while bool((low < high).any()):
        middle = (low + high) // 2
        exact = held + kind.number_of(middle)
        total = kind.rounded(exact)
        total = torch.where(total.isnan(), exact, total)  # beyond the largest number, and in order
        passes = total > at_least if strictly else total >= at_least
        high = torch.where(passes, middle, high)
        low = torch.where(passes, low, torch.minimum(middle + 1, high))
    return high


def _equal_pairs(one: Tensor, other: Tensor) -> int:
    """How many pairs of entries of two sorted tensors are equal."""
    values, counts = torch.unique_consecutive(one, return_counts=True)
    others, more = torch.unique_consecutive(other, return_counts=True)
    place = torch.searchsorted(others, values).clamp(max=max(0, len(others) - 1))
    if not len(others):
        return 0
    return int((counts * more[place] * (others[place] == values)).sum())
