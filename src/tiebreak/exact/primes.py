"""Primes between 2**20 and 2**21, drawn at random, and what zero residues modulo them are worth.

An integer of b bits that is not 0 has at most b / 20 prime factors of this size, of the `NUM_PRIMES` that
there are. So k primes drawn without knowledge of the integer all divide it with probability at most
(b / 20 / NUM_PRIMES)**k; and if their product is larger than the integer can be, not at all.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

import torch

_LEAST, _MOST = 2**20, 2**21 - 16  # residues stay within 2**20 after a reduction that may be off by 4
_LEAST_ORDER = 4096
_SLACK = 2.0**-10  # bits; covers the rounding of logarithms and of their sums

NUM_PRIMES = 73_386
"""How many there are to draw from: those of the range in which 2 has an order of at least 4096."""


def draw_primes(number: int, *, seed: int) -> tuple[int, ...]:
    """Different primes, a function of the seed.

    Args:
        number: how many.
        seed: 0 or more.

    Returns:
        Primes in the order in which they were drawn; more of them begin with the same ones.
    """
    table, drawn, counter = _primes(), list[int](), 0
    while len(drawn) < number:
        digest = hashlib.sha256(f"tiebreak primes {seed} {counter}".encode()).digest()
        prime = table[int.from_bytes(digest, "big") % len(table)]
        counter += 1
        if prime not in drawn and _order_is_large(prime):
            drawn.append(prime)
    return tuple(drawn)


def log2_error(bits: float, *, primes: Sequence[int]) -> float:
    """Logarithm of the probability that all these primes divide an integer of `bits` bits that is not 0.

    Args:
        bits: upper bound of log2 of the integer's size.
        primes: drawn at random.

    Returns:
        -inf where their product is larger than the integer.
    """
    if sum(math.log2(prime) for prime in primes) > bits + _SLACK:
        return -math.inf
    return len(primes) * (math.log2(max(1, math.floor(bits / 20))) - math.log2(NUM_PRIMES))


def primes_for_proof(bits: float) -> int:
    """How many primes have a product larger than an integer of `bits` bits."""
    return max(1, math.floor((bits + _SLACK) / 20) + 1)


@functools.cache
def _primes() -> tuple[int, ...]:
    """All primes of the range, ascending."""
    sieve = torch.ones(_MOST, dtype=torch.bool, device="cpu")
    sieve[:2] = False
    for number in range(2, math.isqrt(_MOST) + 1):
        if sieve[number]:
            sieve[number * number :: number] = False
    return tuple((sieve[_LEAST:].nonzero().flatten() + _LEAST).tolist())


@functools.cache
def _order_is_large(prime: int) -> bool:
    """Whether no two powers of two less than `_LEAST_ORDER` apart are the same residue."""
    power = 1
    for _ in range(_LEAST_ORDER - 1):
        power = 2 * power % prime
        if power == 1:
            return False
    return True
