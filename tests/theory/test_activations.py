from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import (
    ABS,
    HARDSIGMOID,
    HARDTANH,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    RELU6,
    SOFTSHRINK,
    Rules,
    Side,
    Ties,
    piecewise_linear,
    stair,
    torch_rules,
)

IN_TORCH = {
    RELU: functional.relu,
    RELU6: functional.relu6,
    HARDTANH: functional.hardtanh,
    LEAKY_RELU: lambda x: functional.leaky_relu(x, 0.25),
    SOFTSHRINK: functional.softshrink,
    ABS: torch.abs,
    HARDSIGMOID: functional.hardsigmoid,
}


@pytest.mark.parametrize("function", IN_TORCH, ids=lambda function: function.name)
def test_values_and_slopes_are_those_of_torch(function):
    x = torch.arange(-64, 65, dtype=torch.float64).div_(8).requires_grad_()
    y = IN_TORCH[function](x)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    for at, value, slope in zip(x.tolist(), y.tolist(), slopes.tolist(), strict=True):
        exact = Fraction(at)
        assert float(function(exact)) == pytest.approx(value, abs=1e-15, rel=1e-7)
        if not function.is_kink(exact):
            assert function.sides(exact) == (function.sides(exact)[0],) * 2
            # hardsigmoid's slope is a float32 in torch, whatever the dtype
            assert slope == pytest.approx(float(function.sides(exact)[0]), rel=1e-7)


@pytest.fixture(scope="module")
def measured():
    return torch_rules()


@pytest.mark.parametrize("function", IN_TORCH, ids=lambda function: function.name)
def test_torch_at_kinks_is_what_autograd_gives_here(function, measured):
    for kink, derivative in zip(function.kinks, measured.at_kinks(function), strict=True):
        x = torch.tensor(float(kink), dtype=torch.float64, requires_grad=True)
        IN_TORCH[function](x).backward()
        assert x.grad is not None
        assert x.grad.item() == float(derivative)


def test_torch_at_ties(measured):
    x = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    functional.max_pool1d(x, 2).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == ([1, 0] if measured.ties is Ties.FIRST else [0, 1])


def test_what_was_not_measured_is_said(measured):
    with pytest.raises(UserError, match="were not measured"):
        measured.at_kinks(stair([1, 2]))
    assert measured.at_kinks(IDENTITY) == ()


@pytest.mark.parametrize(
    ("function", "edges"),
    [
        (RELU, {0}),
        (ABS, {0}),
        (LEAKY_RELU, {0}),
        (IDENTITY, {0}),
        (HARDTANH, {0}),
        (RELU6, {0}),
        (HARDSIGMOID, {-3}),
        (SOFTSHRINK, {Fraction(-1, 2), Fraction(1, 2)}),
        (piecewise_linear("one", kinks=[], slopes=[0], value=1), set()),
        (piecewise_linear("zero", kinks=[], slopes=[0], value=0), set()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_edges_of_the_zero_set(function, edges):
    assert function.edges_of_zero() == edges


@given(st.sets(st.integers(-5, 5), min_size=1), st.integers(-8, 8))
def test_a_stair_is_a_sum_of_relus(kinks, x):
    assert stair(kinks)(Fraction(x)) == sum(max(0, x - kink) for kink in kinks)


def test_proxies():
    assert Rules(proxy=Fraction(1, 2)).at_kinks(HARDTANH) == (Fraction(1, 2),) * 2
    assert Rules(proxy=Side.LEFT).at_kinks(HARDTANH) == (0, 1)
    assert Rules(proxy=Side.RIGHT).at_kinks(HARDTANH) == (1, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"kinks": [0], "slopes": [1, 1]},
        {"kinks": [1, 0], "slopes": [0, 1, 0]},
        {"kinks": [0], "slopes": [1]},
    ],
)
def test_functions_that_cannot_be(more):
    with pytest.raises(UserError):
        piecewise_linear("f", value=0, **more)
