"""Floats as what they are: whole numbers times powers of two."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor

_LOWEST = -1074 - 53  # exponents of float64's significands, taken as 53-bit integers
_HIGHEST = 1024


def significands(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers m and e with x = m * 2**e exactly and |m| < 2**53.

    Args:
        x: float64, finite, subnormal numbers included.

    Returns:
        Two int64 tensors of the shape of x; a zero has m = 0.
    """
    mantissa, exponent = torch.frexp(x)
    return (mantissa * 2.0**53).long(), exponent.long() - 53


def residues(x: Tensor, *, prime: int) -> Tensor:
    """Each entry modulo an odd prime: m * 2**e, with 2 inverted where e is negative.

    Args:
        x: float64, finite.
        prime: below 2**21.

    Returns:
        float64 of the shape of x, whole numbers of at most prime / 2 in size.
    """
    whole, exponent = significands(x)
    powers = _powers_of_two(prime, x.device)
    result = (whole % prime) * powers[exponent - _LOWEST] % prime
    return torch.where(result > prime // 2, result - prime, result).double()


def residue_of(number: Fraction, *, prime: int) -> int:
    """A rational modulo a prime that does not divide its denominator."""
    return number.numerator * pow(number.denominator, -1, prime) % prime


def last_place(x: Tensor) -> int:
    """The smallest E of at least 0 for which every entry is a whole multiple of 2**-E.

    Args:
        x: float64, finite.
    """
    whole, exponent = significands(x)
    lowest = (whole & -whole).double().log2().long() + exponent
    lowest = lowest[whole != 0]
    return max(0, -int(lowest.min())) if lowest.numel() else 0


def log2_largest(x: Tensor) -> float:
    """An upper bound of log2 of the largest entry's size, -inf for zeros only."""
    largest = float(x.abs().max()) if x.numel() else 0.0
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


@functools.lru_cache(maxsize=256)
def _powers_of_two(prime: int, device: torch.device) -> Tensor:
    powers = [pow(2, _LOWEST, prime)]
    for _ in range(_LOWEST, _HIGHEST):
        powers.append(2 * powers[-1] % prime)
    return torch.tensor(powers, device=device)
