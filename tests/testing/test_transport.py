"""Shipments against linear programs."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tiebreak.testing.transport import can_ship


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_shipment_exists_where_a_linear_program_finds_one(seed) -> None:
    pick = random.Random(seed)
    num_suppliers, num_consumers = pick.randint(1, 4), pick.randint(1, 5)
    arcs = [
        (supplier, consumer, pick.randint(0, 6))
        for supplier in range(num_suppliers)
        for consumer in range(num_consumers)
        if pick.random() < 0.6
    ]
    supplies = [pick.randint(0, 8) for _ in range(num_suppliers)]
    least = [pick.randint(0, 4) for _ in range(num_consumers)]
    demands = [(low, low + pick.randint(-1, 5) if pick.random() < 0.9 else low) for low in least]
    into = np.zeros((num_suppliers, max(1, len(arcs))))
    out = np.zeros((num_consumers, max(1, len(arcs))))
    for column, (supplier, consumer, _) in enumerate(arcs):
        into[supplier, column] = out[consumer, column] = 1
    found = linprog(
        np.zeros(max(1, len(arcs))),
        A_eq=into,
        b_eq=supplies,
        A_ub=np.vstack([out, -out]),
        b_ub=[most for _, most in demands] + [-low for low, _ in demands],
        bounds=[(0, capacity) for *_, capacity in arcs] or [(0, 0)],
    )
    assert can_ship(supplies, demands, arcs) == (found.status == 0)


def test_numbers_of_a_thousand_digits_are_exact() -> None:
    huge = 10**1000
    assert can_ship([huge + 1], [(huge, huge), (1, 1)], [(0, 0, huge), (0, 1, 1)])
    assert not can_ship([huge + 1], [(huge, huge), (0, 0)], [(0, 0, huge), (0, 1, 1)])


def test_a_long_chain_needs_no_recursion() -> None:
    length = 3000
    arcs = [(i, i, 1) for i in range(length)] + [(i, i + 1, 1) for i in range(length)]
    demands = [(0, 0)] + [(1, 1)] * length
    assert can_ship([1] * length, demands, arcs)
    assert not can_ship([1] * length, [(0, 0), *[(1, 1)] * (length - 1), (2, 2)], arcs)
