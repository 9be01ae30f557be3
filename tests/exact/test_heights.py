"""Bounds of whole numbers, held against the whole numbers."""

import math
from fractions import Fraction

import pytest
import torch
from networks import random_point

from tiebreak.exact.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Parameter,
    Reshape,
)
from tiebreak.exact.heights import heights
from tiebreak.exact.oracle import difference, evaluate
from tiebreak.exact.rules import TieRule
from tiebreak.numerics.geometry import PoolGeometry

MINIMAL, NATIVE = TieRule(Fraction(1)), TieRule(Fraction(0))


def holds(graph, cotangent, *, rule=MINIMAL):
    """Whole numbers behind D, and behind the difference of any two values of a node, are below the bounds."""
    bounds = heights(graph, cotangent, rules=[rule])
    entries = [number for part in difference(graph, cotangent, rule, NATIVE).values() for number in part]
    assert _bits(entries) <= bounds.difference
    for value, bound in zip(evaluate(graph), bounds.equality, strict=True):
        assert _bits([max(value.values()) - min(value.values()), *value.values()]) <= bound
    return entries


def _bits(numbers):
    """Of the numerators over their common denominator."""
    common = math.lcm(*(number.denominator for number in numbers))
    largest = max(abs(number.numerator) * (common // number.denominator) for number in numbers)
    return math.log2(largest) if largest else -math.inf


@pytest.mark.parametrize(
    "rule", [MINIMAL, TieRule(Fraction(10)), TieRule(Fraction(-1)), TieRule(Fraction(1, 3))], ids=str
)
def test_random_networks(rule):
    for seed in range(50):
        point = random_point(seed)
        holds(point.graph, point.cotangent, rule=rule)


def of_nodes(batch, nodes, shape):
    """A graph of operations in a row; a node may name other inputs than the one before."""
    found = [Node(Input(), (), tuple(batch.shape), "batch")]
    for operation, inputs, result in nodes:
        found.append(Node(operation, inputs or (len(found) - 1,), result, f"node {len(found)}"))
    return Graph(tuple(found), len(found) - 1, batch, {"weight": shape})


def weight(numbers, name="weight"):
    return Parameter(torch.tensor(numbers, dtype=torch.float64), name)


def max_pool(*kernel):
    return MaxPool2d(PoolGeometry.of(kernel), torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8))


def test_a_pool_that_adds_up_makes_numbers_larger():
    """An average pool with a divisor below its window's size."""
    total = AveragePool2d(torch.ones(1, 32).double(), torch.ones(1, 64).double(), torch.ones(1, 1).double())
    graph = of_nodes(
        torch.ones(1, 1, 32, 64).double(),
        [
            (total, None, (1, 1, 1, 1)),
            (Reshape(), None, (1, 1)),
            (Linear(weight([[1.0], [1.0], [0.0], [0.0]]), None), None, (1, 4)),
            (Reshape(), None, (1, 1, 2, 2)),
            (max_pool(2, 2), None, (1, 1, 1, 1)),
            (Reshape(), None, (1, 1)),
        ],
        (4, 1),
    )
    assert holds(graph, torch.ones(1, 1).double()) == [-1024, 1024, 0, 0]


def test_uses_of_one_parameter_add_up():
    """One large with few places, one small with many: the sum is large with many."""

    def times(parameter):
        return Conv2d(parameter, None, (1, 1), (0, 0), (1, 1), 1)

    shape, shared = (1, 1, 1, 2), weight([[[[1.0]]]])
    factors = (2.0**40, 2.0**-40)
    nodes = []
    for factor in factors:
        nodes.append((times(weight([[[[factor]]]], None)), (0,), shape))
        nodes.append((times(shared), None, shape))
    nodes.append((Add(), (2, 4), shape))
    for factor in factors:  # all cancels, and so both pixels are tied
        nodes.append((times(weight([[[[-factor]]]], None)), (0,), shape))
        nodes.append((Add(), (len(nodes) - 1, len(nodes)), shape))
    nodes += [(max_pool(1, 2), None, (1, 1, 1, 1)), (Reshape(), None, (1, 1))]
    graph = of_nodes(torch.tensor([[[[1.0, 3.0]]]]).double(), nodes, (1, 1, 1, 1))
    assert holds(graph, torch.ones(1, 1).double()) == [Fraction(2) ** 40 + Fraction(2) ** -40]


def test_weights_whose_sum_overflows_have_a_height():
    """The largest number of float64, twice: the sum of sizes is infinite there, the whole number is not."""
    largest = torch.finfo(torch.float64).max
    once = Conv2d(weight([[[[largest]], [[largest]]]]), None, (1, 1), (0, 0), (1, 1), 1)
    graph = of_nodes(
        torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]]).double(),
        [
            (once, None, (1, 1, 1, 2)),
            (max_pool(1, 2), None, (1, 1, 1, 1)),
            (Reshape(), None, (1, 1)),
            (Linear(weight([[largest], [largest]], None), None), None, (1, 2)),
        ],
        (1, 2, 1, 1),
    )
    assert any(holds(graph, torch.ones(1, 2).double()))
    assert all(bits < 3000 for bits in heights(graph, torch.ones(1, 2).double(), rules=[MINIMAL]).equality)
