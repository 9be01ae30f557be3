"""Floats as what they are: whole numbers times powers of two."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

_BITS = 52  # of a digit, which is then below the bound of `reduce_`
_SAFE = 1000  # powers of two up to this one, and their inverses, are normal numbers
_PIECE, _PIECE_ELSEWHERE = 2**15, 2**22


def significands(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers m and e with x = m * 2**e exactly and |m| < 2**53.

    Args:
        x: float64, finite, subnormal numbers included.

    Returns:
        Two int64 tensors of the shape of x; a zero has m = 0.
    """
    mantissa, exponent = torch.frexp(x)
    return (mantissa * 2.0**53).long(), exponent.long() - 53


def in_pieces(x: Tensor) -> tuple[Tensor, ...]:
    """A tensor's entries, some after the other: what is done to a piece stays in the processor's cache.

    Args:
        x: of any shape.

    Returns:
        One-dimensional tensors, views of x where it is contiguous.
    """
    return x.reshape(-1).split(_PIECE if x.device.type == "cpu" else _PIECE_ELSEWHERE)


def take_digit(rest: Tensor, *, place: int) -> Tensor:
    """Cut off, in place, what is whole in units of 2**place: nothing rounds.

    A float's leading bits and its other bits are floats, so with q the quotient rest / 2**place, cut towards
    0, both q and rest - q 2**place are exact.

    Args:
        rest: float64, below 2**(place + 53) in size; what is left of it afterwards is below 2**place.
        place: of the digit; any that a float64 number has or may be above.

    Returns:
        Whole numbers as float64 of the shape of rest.
    """
    digit = scaled(rest, -place).trunc_()
    rest.sub_(scaled(digit, place))
    return digit


def scaled(x: Tensor, exponent: int) -> Tensor:
    """x * 2**exponent, also where that power of two is no float64 number; one step where it is."""
    if abs(exponent) <= _SAFE:
        return x * 2.0**exponent
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def reduce_(x: Tensor, *, prime: int) -> Tensor:
    """x modulo a prime, in place, next to 0.

    Args:
        x: whole numbers as float64, below 2**53 - 2**22 in size.
        prime: above 2**20 and below 2**21.

    Returns:
        x, at most prime / 2 + 4 in size; at most prime / 2 where it was below 2**42.
    """
    return x.add_((x * (1.0 / prime)).round_(), alpha=-prime)


def residues(x: Tensor, *, prime: int) -> Tensor:
    """Each entry modulo an odd prime: digits to the base 2**52 by Horner's rule, with an inverse of 2.

    Args:
        x: float64, finite.
        prime: from `primes.draw_primes`.

    Returns:
        float64 of the shape of x, whole numbers of at most prime / 2 in size.
    """
    result = torch.zeros_like(x, memory_format=torch.contiguous_format)
    radix = pow(2, _BITS, prime)
    for source, into in zip(in_pieces(x), in_pieces(result), strict=True):
        rest, place = source.clone(), log2_largest(source)
        if place == -math.inf:
            continue
        while bool(rest.any()):
            place -= _BITS
            digit = reduce_(take_digit(rest, place=int(place)), prime=prime)
            reduce_(into.mul_(radix).add_(digit), prime=prime)
        reduce_(into.mul_(pow(2, int(place), prime)), prime=prime)
    return result


def residue_of(number: Fraction, *, prime: int) -> int:
    """A rational modulo a prime that does not divide its denominator."""
    return number.numerator * pow(number.denominator, -1, prime) % prime


def last_place(x: Tensor) -> int:
    """The smallest E of at least 0 for which every entry is a whole multiple of 2**-E.

    Args:
        x: float64, finite.
    """
    lowest = []
    for piece in in_pieces(x):
        whole, exponent = significands(piece)
        last_bit = torch.frexp((whole & -whole).double()).exponent.long() - 1
        lowest.append(int(torch.where(whole == 0, 0, exponent + last_bit).amin()) if len(piece) else 0)
    return max(0, -min(lowest))


def log2_largest(x: Tensor) -> float:
    """The smallest whole number e with |x| <= 2**e for every entry, -inf for zeros only."""
    largest = max(abs(float(end)) for end in torch.aminmax(x)) if x.numel() else 0.0
    if largest == 0.0:
        return -math.inf
    mantissa, exponent = math.frexp(largest)
    return exponent if mantissa > 0.5 else exponent - 1


def subnormal_numbers_are_kept() -> bool:
    """Whether computations keep subnormal numbers, rather than zeros in their place, on every thread.

    The setting is one a thread, and a thread starts with that of its parent: hence a number of elements of
    which every thread gets a share.
    """
    number = 2**16 * torch.get_num_threads()
    smallest = torch.full((number,), 2.0**-1074, dtype=torch.float64, device="cpu")
    return bool((smallest * 2.0 != 0).all())
