"""The published forward pass: its rounding error is a known table, its gradient has the same error."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import NATIVE, Forward, PoolJacobian
from tiebreak.numerics.pooling import JacobianSwitch, max_pool2d
from tiebreak.numerics.ties import tie_counts

UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
BETAS = (0.0, 1.0, 10.0, 100.0, 1e3, 1e4)

# Median relative error of the forward pass on relu(randn(16, 16, 64, 64)), 2x2, as published, by beta.
MEDIAN = {
    torch.float16: (0.0, 0.0, 0.0017, 0.020, 0.20, 1.0),
    torch.bfloat16: (0.0, 0.0, 0.014, 0.21, 1.0, 1.0),
    torch.float32: (0.0, 0.0, 2e-7, 2.4e-6, 2.4e-5, 2.4e-4),
    torch.float64: (0.0, 0.0, 4e-16, 4e-15, 5e-14, 5e-13),
}
LARGEST_FP16 = (0.0, 0.0, 0.0055, 0.078, 0.89, 8.7)
EXACT_FP16 = (1.0, 1.0, 0.11, 0.010, 0.001, 0.0)


def blended(beta: float) -> PoolJacobian:
    return PoolJacobian(beta=beta, forward=Forward.BLENDED)


def errors(dtype: torch.dtype, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 16, 64, 64, generator=generator, dtype=torch.float64).relu().to(dtype)
    exact = functional.max_pool2d(x, 2)
    got = max_pool2d(x, kernel=2, jacobian=blended(beta))
    positive = exact > 0
    return ((got.double() - exact.double()).abs() / exact.double())[positive], got[positive]


@pytest.mark.parametrize("dtype", MEDIAN, ids=str)
@pytest.mark.parametrize("at", range(6), ids=lambda at: f"beta={BETAS[at]:g}")
def test_median_error_is_the_published_one(dtype, at) -> None:
    error, _ = errors(dtype, BETAS[at])
    # The table gives one or two digits: a quarter of beta unit roundoffs is less than their last one.
    room = UNIT[dtype] * BETAS[at] / 4 if BETAS[at] > 1 else 0.0
    assert abs(error.median().item() - MEDIAN[dtype][at]) <= room


@pytest.mark.parametrize("at", range(6), ids=lambda at: f"beta={BETAS[at]:g}")
def test_spread_of_the_error_in_fp16_is_the_published_one(at) -> None:
    error, values = errors(torch.float16, BETAS[at])
    room = UNIT[torch.float16] * BETAS[at] / 4 if BETAS[at] > 1 else 0.0
    assert abs(error.max().item() - LARGEST_FP16[at]) <= room
    share = (error == 0).double().mean().item()
    assert abs(share - EXACT_FP16[at]) <= 2.0**-11 * 16
    if BETAS[at] == 1e4:
        assert abs((values == 0).double().mean().item() - 0.86) <= 2.0**-11 * 16


@pytest.mark.parametrize(
    ("value", "beta", "wanted"),
    [(1.0, 1e4, 0.0), (1.5, 1e3, 2.0), (3.3, 1e3, 2.0), (6.6, 1e4, None), (70.0, 1e3, None)],
)
def test_published_examples_in_fp16(value, beta, wanted) -> None:
    got = max_pool2d(torch.full((1, 2, 2), value).half(), kernel=2, jacobian=blended(beta)).item()
    assert math.isnan(got) if wanted is None else got == wanted


@pytest.mark.parametrize("dtype", MEDIAN, ids=str)
def test_gradient_is_the_sum_that_autograd_makes(dtype) -> None:
    x = torch.randint(0, 3, (2, 2, 9, 9)).to(dtype).requires_grad_()
    g = torch.randn(2, 2, 5, 5).to(dtype)
    (got,) = torch.autograd.grad(max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=blended(10)), x, g)
    minimal = max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=PoolJacobian(beta=1))
    (first,) = torch.autograd.grad(minimal, x, 10.0 * g)
    (second,) = torch.autograd.grad(functional.max_pool2d(x, 3, 2, 1), x, -9.0 * g)
    assert torch.equal(got, second + first)


def test_events_and_switch() -> None:
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    switch = JacobianSwitch(blended(3), events=[])
    output = max_pool2d(x, kernel=2, jacobian=switch)
    assert switch.events[0].output is output
    assert len(switch.events) == 1
    assert tie_counts(switch.events[0]).tied == 4
    switch.jacobian = NATIVE  # the graph holds the rule of its forward pass
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient[0, 0, :2, :2].flatten().tolist() == [-1.25, 0.75, 0.75, 0.75]
