from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from tiebreak.design.correctness import Statement
from tiebreak.theory import bounds, families
from tiebreak.theory.activations import HARDTANH, IDENTITY, RELU, RELU6, Rules
from tiebreak.theory.enumeration import count
from tiebreak.theory.machine import format_of, integers, numbers_of
from tiebreak.theory.theorems import check_of, checks

FP4, M5 = format_of("e2m1").machine_set(), integers(2)


@pytest.mark.parametrize("check", checks(), ids=lambda check: str(check.statement))
def test_every_theorem_holds_and_every_control_fails(check):
    tallies = [ground.run() for ground in check.grounds]
    assert sum(tally.points for tally in tallies) > 0
    assert any(tally.violations for tally in tallies) == check.is_control, tallies
    for tally in tallies:
        assert bool(tally.witness) == bool(tally.violations)


def test_every_statement_has_one_check_and_the_assumptions_have_controls():
    assert [check.statement for check in checks()] == list(Statement)
    assert all(check_of(statement).statement is statement for statement in Statement)
    theorems = {check.theorem for check in checks() if not check.is_control}
    assert {f"T{number}" for number in range(1, 12)} | {"T2'", "T5'", "P1", "P1'", "P2", "B1"} == theorems
    controls = {check.theorem for check in checks() if check.is_control}
    assert {
        f"{name} control" for name in ("T1", "T4", "T5", "T5'", "T7", "T9", "T11", "P1", "B1")
    } == controls


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
