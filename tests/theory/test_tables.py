"""The tables of counts again, every touched point judged in rationals; and what only the oracle can say."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tiebreak.theory import families
from tiebreak.theory.activations import HARDSIGMOID, HARDTANH, IDENTITY, RELU, RELU6, Rules, Side, Ties
from tiebreak.theory.machine import format_of, integers, numbers_of
from tiebreak.theory.oracle import Kind, cells, differentiate, evaluate, judge
from tiebreak.theory.trials import touched_points

FP4, M5 = format_of("e2m1").machine_set(), integers(2)
HEADLINE = families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1])
ZERO, HALF, ONE = (Rules(proxy=Fraction(value)) for value in ("0", "1/2", "1"))


def judgements(network, machine, *rules):
    for point in touched_points(network, machine):
        known = cells(network, point)
        yield [judge(network, point, rules=rule, known=known) for rule in rules]


@pytest.mark.parametrize(
    ("network", "machine", "touched", "singular"),
    [
        (families.sum_of_neurons(RELU, count=3), FP4, 631, 631),
        (families.sum_of_neurons(HARDSIGMOID, count=3), FP4, 1178, 1178),
        (families.hidden_layer(RELU), FP4, 225, 210),
        (families.two_layers(RELU), M5, 1035, 588),
        (families.two_layers(RELU6), numbers_of([-6, -1, 0, 1, 6]), 1565, 880),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_with_biases(network, machine, touched, singular):
    outside = [Rules(proxy=Fraction(2)), Rules(proxy=Fraction(-1))]
    found = list(judgements(network, machine, ZERO, *outside))
    assert len(found) == touched
    assert sum(truth.kind is Kind.NOT_DIFFERENTIABLE for truth, *_ in found) == singular
    for row in found:
        assert all(truth.kind is not Kind.INCORRECT for truth in row)
        assert row[0].is_in_hull
        # 2 and -1 are outside of the one-sided derivatives, and AD is outside wherever that can be seen
        assert all(truth.is_in_hull == (truth.kind is Kind.CORRECT) for truth in row[1:])


def test_a_fully_connected_network_without_biases():
    found = list(judgements(HEADLINE, M5, ZERO, HALF, ONE))
    assert len(found) == 1525
    for column, wrong in ((0, 24), (1, 0), (2, 24)):
        kinds = [row[column].kind for row in found]
        assert kinds.count(Kind.NOT_DIFFERENTIABLE) == 1232
        assert kinds.count(Kind.INCORRECT) == wrong
    for column in (0, 2):
        outside = [row[column].kind for row in found if not row[column].is_in_hull]
        assert (len(outside), outside.count(Kind.NOT_DIFFERENTIABLE)) == (64, 40)


def test_hardsigmoid_on_a_batch():
    network = families.minibatch(HARDSIGMOID, (3, -3))
    kinds = {evaluate(network, p)[0]: judge(network, p, rules=ZERO) for p in touched_points(network, FP4)}
    assert {at: truth.kind for at, truth in kinds.items()} == {
        -6: Kind.NOT_DIFFERENTIABLE,
        0: Kind.INCORRECT,
        6: Kind.NOT_DIFFERENTIABLE,
    }
    assert kinds[Fraction(0)].cells == ((Fraction(1, 6),),)
    for side in Side:
        assert judge(network, (Fraction(0),), rules=Rules(proxy=side)).kind is Kind.CORRECT


@pytest.mark.parametrize("ties", list(Ties))
def test_windows_with_biases_are_in_the_hull(ties):
    network = families.two_windows_with_biases()
    found = [row[0] for row in judgements(network, integers(1), Rules(ties=ties))]
    assert all(truth.is_in_hull and truth.kind is not Kind.INCORRECT for truth in found)


TIES = st.sampled_from(list(Ties))
NETWORKS = [
    HEADLINE,
    families.plus_minus(HARDTANH),
    families.product_plus_minus(),
    families.two_windows(),
    families.convolution_and_pool((0, 1, 0, 1)),
    families.pooled_neurons(),
]


@given(
    st.sampled_from(NETWORKS), st.integers(0, 10**6), st.sampled_from([0, 1, 7]), st.sampled_from(list(Ties))
)
def test_along_segments_ad_is_right_almost_everywhere(network, seed, proxy, ties):
    """AD is in a conservative field: on a segment, even inside kinks, it gives f's derivative along it."""
    draw = random.Random(seed)
    start, end = ([Fraction(draw.randint(-2, 2)) for _ in network.parameters] for _ in range(2))
    assume(start != end)
    step = [b - a for a, b in zip(start, end, strict=True)]

    def at(time):
        return tuple(a + time * s for a, s in zip(start, step, strict=True))

    time, small = Fraction(draw.randint(1, 10**9), 10**9 + 7), Fraction(1, 10**30)
    gradient = differentiate(network, at(time), rules=Rules(proxy=Fraction(proxy), ties=ties)).gradient
    along = sum(g * s for g, s in zip(gradient, step, strict=True))
    ahead, behind = (evaluate(network, at(time + sign * small))[-1] for sign in (1, -1))
    # a central quotient of a polynomial of degree three: exact up to the square of the step
    assert abs((ahead - behind) / (2 * small) - along) < Fraction(1, 10**50)
