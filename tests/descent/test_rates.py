"""The convex one-layer regression: floors, corners, and the loop it replaces."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.descent.activations import RELU, Activation, c1relu
from tiebreak.descent.rates import (
    Descent,
    descend,
    draw_responses,
    floor_exponent,
    only_zero_is_flat,
    smoothness_bound,
)
from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Shape

EVERY = [c1relu(0.1) if shape is Shape.C1RELU else Activation(shape=shape) for shape in Shape]
RATES = torch.tensor([0.03, 0.1, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("activation", EVERY, ids=lambda activation: activation.label)
def test_a_batch_takes_the_path_of_torch_optim(activation):
    responses = draw_responses(seeds=(0, 1), num_points=40, num_features=5)
    runs = Descent(responses, activation=activation, lr=RATES)
    batched, losses = [], []
    for _ in range(100):
        losses.append(runs.step())
        batched.append(runs.points.clone())
    for seed, run in ((0, 0), (0, 2), (1, 1)):
        b = responses.start[seed].clone().requires_grad_()
        optimizer = torch.optim.SGD([b], lr=float(RATES[run]))
        for step in range(100):
            optimizer.zero_grad()
            loss = ((activation(responses.x[seed] @ b) - responses.y[seed]) ** 2).mean() / 2
            loss.backward()
            optimizer.step()
            assert abs(float(losses[step][seed, run] - loss.detach())) < 1e-12
            assert float((batched[step][seed, run] - b.detach()).abs().max()) < 1e-12


@pytest.mark.parametrize("activation", EVERY, ids=lambda activation: activation.label)
def test_the_slope_is_that_of_autograd(activation):
    z = torch.linspace(-3, 3, 61, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(activation(z).sum(), z)
    assert torch.allclose(activation.slope(z.detach()), gradient, rtol=0, atol=1e-12)


@given(st.floats(-5, 5), st.floats(1e-3, 3))
def test_the_rounded_corner_is_the_one_of_the_definition(z, delta):
    expected = 0.0 if z <= 0 else z * z / (2 * delta) if z <= delta else z - delta / 2
    got = float(c1relu(delta)(torch.tensor(z, dtype=torch.float64)))
    assert got == pytest.approx(expected, abs=1e-14)


def test_gains():
    assert RELU.mean_square() == pytest.approx(0.5, abs=1e-14)
    assert Activation(shape=Shape.LINEAR).mean_square() == pytest.approx(1.0, abs=1e-12)
    draws = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for activation in EVERY:
        assert activation.mean_square() == pytest.approx(float((activation(draws) ** 2).mean()), rel=0.02)


def test_only_a_corner_at_the_minimiser_leaves_a_floor_in_proportion_to_the_step():
    responses = draw_responses(seeds=(0, 1, 2))
    assert only_zero_is_flat(responses.x[0])
    corner = descend(
        responses, activation=RELU, lr=RATES, steps=4000, window=1000, targets=torch.full((3,), 0.1)
    )
    assert 0.8 < floor_exponent(RATES, corner.floor) < 1.3
    assert float(corner.share_rising.min()) > 0.3
    assert bool((corner.first_below > 0).all())
    never = descend(responses, activation=RELU, lr=RATES, steps=400, window=2, targets=RATES * 1e-9)
    assert bool((never.first_below == -1).all())
    rounded = descend(responses, activation=c1relu(1.0), lr=RATES, steps=4000, window=1000)
    assert float(rounded.floor.max()) < 1e-12
    assert math.isnan(floor_exponent(RATES, rounded.floor * 0))


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_no_hessian_of_the_rounded_corner_exceeds_its_bound(delta):
    responses = draw_responses(seeds=(0,), num_points=40, num_features=5)
    bound = float(smoothness_bound(responses, delta=delta))

    def loss(b):
        return ((c1relu(delta)(responses.x[0] @ b) - responses.y[0]) ** 2).mean() / 2

    largest = 0.0
    for scale in (0.01, 0.1, 1.0):
        hessian = torch.autograd.functional.hessian(loss, responses.start[0] * scale * delta)
        largest = max(largest, float(torch.linalg.eigvalsh(hessian)[-1]))
    assert 0.1 * bound < largest <= bound


def test_a_cone_of_minimisers_is_seen():
    x = draw_responses(seeds=(0,)).x[0]
    assert not only_zero_is_flat(x.abs())
    assert not only_zero_is_flat(x[:5])


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="width of the corner"):
        Activation(shape=Shape.C1RELU)
    with pytest.raises(UserError, match="width of the corner"):
        Activation(shape=Shape.RELU, delta=0.1)
    with pytest.raises(UserError, match="belongs to relu"):
        Activation(shape=Shape.TANH, derivative_at_zero=0.5)
    responses = draw_responses(seeds=(0,))
    with pytest.raises(UserError, match="positive and finite"):
        descend(responses, activation=RELU, lr=torch.tensor([math.nan]), steps=5, window=2)
    with pytest.raises(UserError, match="window"):
        descend(responses, activation=RELU, lr=RATES, steps=5, window=1)
