"""Inputs that a pool meets seldom: marks in place of numbers, steps beyond the image, several gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, PoolJacobian
from tiebreak.numerics import native
from tiebreak.numerics.normpool import norm_pool2d
from tiebreak.numerics.pooling import max_pool2d

_FORWARD_MODE = pytest.mark.filterwarnings(  # PyTorch scripts its decompositions at the first such call
    "ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)


def _leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


@_FORWARD_MODE
def test_a_negation_that_is_only_a_mark_is_seen() -> None:
    x = torch._neg_view(_leaf(1, 2, 4, 4).detach())
    assert x.is_neg()
    assert torch.equal(max_pool2d(x, kernel=2), functional.max_pool2d(x, 2))

    x, gradient = _leaf(1, 2, 4, 4), torch._neg_view(torch.ones(1, 2, 2, 2))
    (ours,) = torch.autograd.grad(max_pool2d(x, kernel=2), x, gradient)
    (wanted,) = torch.autograd.grad(functional.max_pool2d(x, 2), x, gradient)
    assert torch.equal(ours, wanted)

    image = _leaf(1, 2, 4, 4).detach()
    _, tangent = torch.func.jvp(
        lambda v: max_pool2d(v, kernel=2), (image,), (torch._neg_view(torch.ones_like(image)),)
    )
    assert torch.equal(tangent, -torch.ones(1, 2, 2, 2))


def test_zeros_without_memory_are_zeros() -> None:
    assert torch.equal(
        max_pool2d(torch._efficientzerotensor((1, 2, 4, 4)), kernel=2), torch.zeros(1, 2, 2, 2)
    )
    x = _leaf(1, 2, 4, 4)
    (ours,) = torch.autograd.grad(max_pool2d(x, kernel=2), x, torch._efficientzerotensor((1, 2, 2, 2)))
    assert torch.equal(ours, torch.zeros_like(x))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [6, 10**9, 2**62])
def test_a_stride_beyond_the_image_leaves_one_window(stride: int, channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.ones(2, 3, 5, 5).contiguous(memory_format=order).requires_grad_()
    y = max_pool2d(x, kernel=3, stride=stride, padding=1, jacobian=MINIMAL)
    assert torch.equal(y, torch.ones(2, 3, 1, 1))
    y.sum().backward()
    wanted = torch.zeros(2, 3, 5, 5)
    wanted[..., :2, :2] = 0.25
    assert x.grad is not None
    assert torch.equal(x.grad, wanted)


def test_a_dilation_beyond_the_image_leaves_one_entry() -> None:
    x = _leaf(1, 1, 5, 5)
    y = max_pool2d(x, kernel=2, dilation=10**6, stride=2 * 10**6, ceil_mode=True)
    assert y.item() == x[0, 0, 0, 0].item()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0] + [0.0] * 24


def test_vectorized_second_derivatives_are_those_taken_one_by_one() -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return (max_pool2d(x, kernel=3, stride=1, jacobian=PoolJacobian(beta=3.0)) ** 2).sum()

    x = torch.ones(1, 4, 4, dtype=torch.float64)
    one_by_one = torch.autograd.functional.hessian(energy, x)
    assert torch.equal(torch.autograd.functional.hessian(energy, x, vectorize=True), one_by_one)


@_FORWARD_MODE
def test_forward_mode_takes_several_tangents() -> None:
    def pooled(x: torch.Tensor) -> torch.Tensor:
        return max_pool2d(x, kernel=2, jacobian=MINIMAL)

    x = _leaf(1, 1, 4, 4).detach()
    rows = torch.autograd.functional.jacobian(pooled, x, vectorize=True, strategy="forward-mode")
    assert torch.equal(rows, torch.autograd.functional.jacobian(pooled, x))


def test_second_derivative_of_a_norm_is_zero_where_the_gradient_was_chosen() -> None:
    x = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        norm_pool2d(x, kernel=2, gradient_at_zero=0.5).sum(), x, create_graph=True
    )
    assert torch.equal(gradient, torch.full_like(x, 0.5))
    (second,) = torch.autograd.grad((gradient**2).sum(), x)
    assert torch.equal(second, torch.zeros_like(x))


def test_a_compiler_that_cannot_be_read_is_no_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TIEBREAK_CACHE", str(tmp_path))
    monkeypatch.delenv("TIEBREAK_KERNEL", raising=False)
    monkeypatch.setenv("CXX", "'c++")
    assert native._load.__wrapped__()[0] is None
