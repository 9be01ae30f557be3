from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from tiebreak.theory import bounds, families
from tiebreak.theory.activations import HARDTANH, IDENTITY, RELU, RELU6, Rules
from tiebreak.theory.enumeration import count
from tiebreak.theory.machine import format_of, integers, numbers_of
from tiebreak.theory.theorems import checks, finding
from tiebreak.theory.trials import Check, Finding, Tally

FP4, M5 = format_of("e2m1").machine_set(), integers(2)


@pytest.mark.parametrize("check", checks(), ids=lambda check: f"{check.theorem}: {check.statement[:40]}")
def test_every_theorem_holds_and_every_control_fails(check):
    found = finding(check)
    assert found.is_as_it_must_be, found.tally
    assert found.tally.points > 0
    assert bool(found.tally.witness) == check.is_control


def test_every_theorem_has_a_row_and_the_assumptions_have_controls():
    names = {check.theorem for check in checks()}
    assert {"T1", "T2", "T2'", "T3", "T4", "T5", "T5'", "T6", "T7", "T8", "T9", "T10", "T11"} <= names
    controls = {check.theorem for check in checks() if check.is_control}
    assert {
        f"{name} control" for name in ("T1", "T4", "T5", "T5'", "T7", "T9", "T11", "P1", "B1")
    } == controls


def test_a_check_that_sees_nothing_is_not_as_it_must_be():
    def check(is_control):
        return Check(theorem="", statement="", networks=(), is_control=is_control, run=lambda: none)

    none = Tally(points=0, violations=0, witness="")
    assert not Finding(check=check(False), tally=none).is_as_it_must_be
    assert not Finding(check=check(True), tally=none).is_as_it_must_be


@pytest.mark.parametrize(
    ("network", "machine", "by_sum", "by_product"),
    [
        (families.sum_of_neurons(RELU, count=3), FP4, 675, 631),
        (families.sum_of_neurons(HARDTANH, count=3), FP4, 1350, 1178),
        (families.hidden_layer(RELU), FP4, 225, 225),
        (families.hidden_layer(RELU, count=2), M5, 6250, 5625),
        (families.hidden_layer(HARDTANH, count=2), M5, 12500, 10000),
        (families.two_layers(RELU), M5, 1250, 1125),
        (families.two_layers(RELU6), numbers_of([-6, -1, 0, 1, 6]), 2500, 2000),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bounds_with_biases(network, machine, by_sum, by_product):
    points = len(machine) ** len(network.parameters)
    assert bounds.most_touched(network, machine) * points == by_sum
    assert bounds.most_touched_product(network, machine) * points == by_product


@pytest.mark.parametrize(
    ("network", "machine", "most"),
    [
        (families.plus_minus(), FP4, 2),
        (families.stairs(FP4), FP4, 30),
        (families.product_plus_minus(), FP4, 45),
        (families.product_neuron(), FP4, 30),
        (families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]), M5, 1875),
        (families.fully_connected([RELU, RELU], [1, 1]), FP4, 30),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bounds_without_biases(network, machine, most):
    assert bounds.most_failing(network, machine) * len(machine) ** len(network.parameters) == most


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("machine", [FP4, M5, integers(3)], ids=lambda machine: machine.name)
def test_closed_forms_are_the_counts(number, machine):
    size = len(machine)
    hidden = families.hidden_layer(RELU, count=number)
    if size ** len(hidden.parameters) < 10**6:
        found = count(hidden, machine, rules=Rules())
        assert found.not_differentiable == bounds.singular_hidden(size, count=number)
    found = count(families.sum_of_neurons(HARDTANH, count=number), machine, rules=Rules())
    assert found.not_differentiable == bounds.singular_sum(size, kinks=2, count=number)
    assert count(families.product_neuron(), machine, rules=Rules()).not_differentiable == 2 * (size - 1)


@pytest.mark.parametrize(("size", "number", "expected"), [(15, 2, 15), (15, 3, 330), (7, 4, 637), (3, 2, 3)])
def test_ties_of_the_largest_counted_one_by_one(size, number, expected):
    tied = sum(
        sorted(point)[-1] == sorted(point)[-2] for point in itertools.product(range(size), repeat=number)
    )
    assert bounds.singular_maximum(size, count=number) == tied == expected


def test_more_kinks_than_numbers():
    assert bounds.most_touched_product(
        families.sum_of_neurons(HARDTANH, count=1), numbers_of([1])
    ) == Fraction(1)
