from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tiebreak.design.axes import UserError
from tiebreak.theory import families
from tiebreak.theory.activations import IDENTITY, RELU, Rules, Side, Ties, piecewise_linear
from tiebreak.theory.linear_programs import has_open_cone, in_hull
from tiebreak.theory.machine import integers
from tiebreak.theory.network import Sketch
from tiebreak.theory.oracle import Kind, cells, differentiate, directional, evaluate, judge, selections

FORMS = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=6)


def exact(vector):
    return tuple(map(Fraction, vector))


@given(FORMS)
def test_open_cones_as_a_float_program_finds_them(forms):
    # The largest margin in a box is 0 or, with these small integers, far from it.
    found = linprog(
        [0, 0, 0, -1],
        A_ub=[[*(-value for value in form), 1] for form in forms],
        b_ub=[0] * len(forms),
        bounds=[(-1, 1)] * 3 + [(0, 1)],
    )
    assert has_open_cone([exact(form) for form in forms]) == (found.x[3] > 1e-6)


@given(FORMS, st.tuples(*[st.integers(-3, 3)] * 3))
def test_hulls_as_a_float_program_finds_them(vertices, point):
    found = linprog(
        [0] * len(vertices),
        A_eq=[*zip(*vertices, strict=True), [1] * len(vertices)],
        b_eq=[*point, 1],
        bounds=[(0, None)] * len(vertices),
    )
    assert in_hull(exact(point), [exact(vertex) for vertex in vertices]) == (found.status == 0)


def drawn_point(network, seed):
    draw = random.Random(seed)
    return tuple(Fraction(draw.randint(-2, 2)) for _ in network.parameters)


@given(st.integers(0, 10**6))
def test_derivatives_along_directions_are_limits_of_difference_quotients(seed):
    network = families.drawn_network(seed)
    point, direction = drawn_point(network, seed), drawn_point(network, seed + 1)
    rate = directional(network, point, direction)
    start = evaluate(network, point)[-1]
    # f(w + t d) is a polynomial in t for small t; its linear coefficient by extrapolation of two quotients
    t = Fraction(1, 2**60)
    quotients = []
    for step in (t, t / 2):
        moved = tuple(p + step * d for p, d in zip(point, direction, strict=True))
        quotients.append((evaluate(network, moved)[-1] - start) / step)
    assert abs(2 * quotients[1] - quotients[0] - rate) < Fraction(1, 2**60)


@given(st.integers(0, 10**6))
def test_cells_explain_every_direction(seed):
    """Along every direction h is one of the cells."""
    network = families.drawn_network(seed)
    point = drawn_point(network, seed)
    gradients = cells(network, point)
    assert set(gradients) <= set(selections(network, point))
    seen = set()
    draw = random.Random(seed)
    for _ in range(40):
        direction = tuple(Fraction(draw.randint(-99, 99)) for _ in network.parameters)
        along = [sum(g * d for g, d in zip(gradient, direction, strict=True)) for gradient in gradients]
        rate = directional(network, point, direction)
        assert rate in along
        seen.add(along.index(rate))
    assert len(gradients) < 3 or len(seen) > 1


def test_no_bias_counterexample_of_the_specification():
    network = families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1])
    found = judge(network, exact((0, -2, 1, -1, 2)), rules=Rules())
    assert found.kind is Kind.INCORRECT
    assert found.by_ad.gradient == (0,) * 5
    assert found.cells == (exact((2, 0, 0, 0, 0)),)
    assert not found.is_in_hull


def test_ties_first_last_split():
    network = families.maximum_of(3)
    point = exact((1, 1, 0))
    answers = {ties: differentiate(network, point, rules=Rules(ties=ties)).gradient for ties in Ties}
    assert answers[Ties.FIRST] == (1, 0, 0)
    assert answers[Ties.LAST] == (0, 1, 0)
    assert answers[Ties.SPLIT] == (Fraction(1, 2), Fraction(1, 2), 0)
    assert set(cells(network, point)) == {(1, 0, 0), (0, 1, 0)}


@pytest.mark.parametrize(
    ("network", "machine", "judged", "selected"),
    [
        (families.two_layers(RELU), integers(1), True, True),
        (families.hidden_layer(RELU), integers(2), True, True),
        (families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]), integers(1), False, False),
    ],
    ids=["two layers", "one layer", "without biases"],
)
def test_with_biases_the_cells_are_all_selections(network, machine, judged, selected):
    same = []
    for point in itertools.product(machine.numbers, repeat=len(network.parameters)):
        if differentiate(network, point, rules=Rules()).touched:
            same.append(set(cells(network, point)) == set(selections(network, point)))
    assert network.has_distinct_biases == judged
    assert all(same) == selected


def test_a_proxy_outside_of_both_sides_leaves_the_hull():
    network = families.sum_of_neurons(RELU, count=2)
    for proxy in (Fraction(2), Fraction(-1)):
        assert not judge(network, exact((0, 1)), rules=Rules(proxy=proxy)).is_in_hull
    assert judge(network, exact((0, 1)), rules=Rules(proxy=Side.RIGHT)).is_in_hull


def test_biases_that_are_not_its_own():
    sketch = Sketch("shared")
    u, b = sketch.parameters("u", "b")
    assert not sketch.network((u + b).through(RELU) + b.through(RELU)).has_distinct_biases
    sketch = Sketch("no kink needs no bias")
    (u,) = sketch.parameters("u")
    smooth = piecewise_linear("twice", kinks=[], slopes=[2], value=0)
    assert sketch.network(u.through(smooth)).has_distinct_biases


def test_wires_of_two_sketches():
    with pytest.raises(UserError, match="two sketches"):
        Sketch("a").parameter("u") + Sketch("b").parameter("v")


@pytest.mark.parametrize("widths", [[], [2], [1, 1]])
def test_layers_that_do_not_fit(widths):
    with pytest.raises(UserError, match="last layer of width 1"):
        families.fully_connected([RELU], widths)
