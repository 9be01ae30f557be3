"""The two single-sided controls: each has one error of the published operator, and PyTorch's rule at ties."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import Forward, PoolJacobian
from tiebreak.numerics.pooling import JacobianSwitch, max_pool2d

BETAS = (0.0, 1.0, 10.0, 100.0, 1e3, 1e4)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sample(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Values with many ties, and a gradient without equal entries."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 5, (2, 3, 8, 8), generator=generator).to(dtype) * 0.3
    return x.requires_grad_(), torch.randn(2, 3, 4, 4, generator=generator).to(dtype)


def run(forward: Forward, beta: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, g = sample(dtype)
    output = max_pool2d(x, kernel=2, jacobian=PoolJacobian(beta=beta, forward=forward))
    return output, torch.autograd.grad(output, x, g)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta", BETAS)
def test_the_value_is_blended_and_the_gradient_is_pytorchs(dtype, beta) -> None:
    value, gradient = run(Forward.BLENDED_VALUE, beta, dtype)
    x, g = sample(dtype)
    assert torch.equal(value, run(Forward.BLENDED, beta, dtype)[0])
    assert torch.equal(gradient, torch.autograd.grad(functional.max_pool2d(x, 2), x, g)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta", BETAS)
def test_the_value_is_exact_and_the_gradient_rounds_as_the_blend_does(dtype, beta) -> None:
    value, gradient = run(Forward.BLENDED_GRADIENT, beta, dtype)
    x, g = sample(dtype)
    assert torch.equal(value, functional.max_pool2d(x, 2))
    rounded = (beta * g) + ((1 - beta) * g)  # of one window: two products and their sum, in the dtype
    assert torch.equal(gradient, torch.autograd.grad(functional.max_pool2d(x, 2), x, rounded)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta", BETAS)
def test_without_a_tie_the_gradient_is_that_of_the_published_operator(dtype, beta) -> None:
    x = torch.randperm(64, generator=torch.Generator().manual_seed(0)).to(dtype).view(1, 1, 8, 8)
    x = (x + 1).requires_grad_()
    g = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = [
        torch.autograd.grad(max_pool2d(x, kernel=2, jacobian=PoolJacobian(beta=beta, forward=forward)), x, g)[
            0
        ]
        for forward in (Forward.BLENDED, Forward.BLENDED_GRADIENT)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("forward", [Forward.BLENDED_VALUE, Forward.BLENDED_GRADIENT])
def test_events_hold_the_tensors_of_the_graph(forward) -> None:
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    switch = JacobianSwitch(PoolJacobian(beta=10, forward=forward), events=[])
    output = max_pool2d(x, kernel=2, jacobian=switch)
    assert len(switch.events) == 1
    assert switch.events[0].input is x
    assert switch.events[0].output is output
    assert PoolJacobian(beta=10, forward=forward).norm(4) == 1.0
