"""Primes and what zero residues are worth."""

import math
from fractions import Fraction

import pytest

from tiebreak.exact import primes
from tiebreak.exact.primes import NUM_PRIMES, draw_primes, log2_error, primes_for_proof


def small_primes():
    """Up to the square root of the largest, by trial division."""
    found = []
    for number in range(2, math.isqrt(2**21) + 1):
        if all(number % prime for prime in found):
            found.append(number)
    return found


def order_of_two(prime, *, factors):
    """The least k with 2**k = 1: divide what must be a multiple of it as long as that works."""
    order, rest = prime - 1, prime - 1
    for factor in factors:
        if factor * factor > rest:
            break
        while rest % factor == 0:
            rest //= factor
            if pow(2, order // factor, prime) == 1:
                order //= factor
    if rest > 1 and pow(2, order // rest, prime) == 1:
        order //= rest
    return order


def test_the_number_of_primes_is_true():
    """Counted another way: a segmented sieve, and the order of 2 from the factors of p - 1."""
    least, most, small = 2**20, 2**21 - 16, small_primes()
    is_prime = bytearray([1]) * (most - least)
    for prime in small:
        start = -(-least // prime) * prime - least
        is_prime[start::prime] = bytes(len(range(start, most - least, prime)))
    found = [least + place for place, prime in enumerate(is_prime) if prime]
    assert list(primes._primes()) == found
    count = sum(order_of_two(prime, factors=small) >= 4096 for prime in found)
    assert count == NUM_PRIMES
    for prime in found[:300]:
        assert primes._order_is_large(prime) == (order_of_two(prime, factors=small) >= 4096)


def test_drawn_primes_are_a_function_of_the_seed():
    first = draw_primes(6, seed=7)
    assert draw_primes(6, seed=7) == first
    assert draw_primes(3, seed=7) == first[:3]
    assert draw_primes(6, seed=8) != first
    assert len(set(draw_primes(300, seed=0))) == 300


def test_drawn_primes_are_primes_and_spread_over_the_range():
    drawn = draw_primes(500, seed=3)
    small = small_primes()
    assert all(2**20 <= prime <= 2**21 - 16 and all(prime % factor for factor in small) for prime in drawn)
    quarters = [sum((prime - 2**20) // 2**18 == part for prime in drawn) for part in range(4)]
    assert min(quarters) > 80


@pytest.mark.parametrize("bits", [25, 400, 3000.5, 20000])
@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_the_error_is_at_least_that_of_the_worst_integer(bits, number):
    """Drawn without repetition, all of them hit one of the most prime factors that there can be."""
    most = int(bits // 20)
    stated = log2_error(bits, primes=draw_primes(number, seed=0))
    true = Fraction(math.comb(most, number), math.comb(NUM_PRIMES, number))
    if stated == -math.inf:
        assert math.prod(draw_primes(number, seed=0)) > 2**bits
    else:
        assert true <= Fraction(2**stated)
        assert number == 1 or stated < math.log2(most / 73_000) * number + 1e-9


def test_enough_primes_are_a_proof():
    for bits in (0.0, 19.9, 20.0, 21.0, 1234.5, 40_000.0):
        number = primes_for_proof(bits)
        assert number * 20 > bits
        worst = (2**20,) * number  # smaller than any prime that is drawn
        assert log2_error(bits, primes=worst) == -math.inf
        if number > 1:
            assert log2_error(bits, primes=worst[:-1]) > -math.inf


def test_without_primes_nothing_is_known():
    assert log2_error(10.0, primes=()) == 0.0
    assert log2_error(-math.inf, primes=()) == -math.inf
