"""ReLU with a chosen derivative at 0, against PyTorch's and a table."""

from __future__ import annotations

import math

import pytest
import torch

from tiebreak.design.axes import DesignError
from tiebreak.numerics.relu import ReLU, relu

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POINTS = [-2.0, -0.0, 0.0, 3.0, float("inf"), float("-inf"), float("nan"), 1e-7, -1e-7]


FORWARD_MODE = pytest.mark.filterwarnings(  # PyTorch scripts its decompositions at the first such call
    "ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)


def gradient(x: torch.Tensor, derivative: float) -> list[float]:
    leaf = x.clone().requires_grad_()
    relu(leaf, derivative_at_zero=derivative).backward(torch.full_like(x, 4.0))
    return leaf.grad.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("derivative", [0.0, 0.5, 1.0, -3.0])
def test_value_and_slope(dtype, derivative) -> None:
    x = torch.tensor(POINTS, dtype=dtype)
    value, native = relu(x, derivative_at_zero=derivative), torch.relu(x)
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    assert torch.equal(value.view(word), native.view(word))
    leaf = x.clone().requires_grad_()
    torch.relu(leaf).backward(torch.full_like(x, 4.0))
    wanted = [
        derivative * 4.0 if point == 0 else slope for point, slope in zip(x, leaf.grad.tolist(), strict=True)
    ]
    assert gradient(x, derivative) == wanted


def test_upstream_gradient_at_zero_is_kept() -> None:
    x = torch.zeros(3, requires_grad=True)
    relu(x, derivative_at_zero=1.0).backward(torch.tensor([1e-3, 0.0, -2.0]))
    assert torch.equal(x.grad, torch.tensor([1e-3, 0.0, -2.0]))


def test_pytorchs_rule_runs_pytorchs_node() -> None:
    x = torch.zeros(3, requires_grad=True)
    assert type(relu(x).grad_fn) is type(torch.relu(x).grad_fn)


def test_module_transformations_and_second_derivative() -> None:
    module = ReLU(0.5)
    assert "0.5" in repr(module)
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).pow(2).sum(), x, create_graph=True)
    assert slope.tolist() == [0.0, 0.0, 4.0]
    assert torch.autograd.grad(slope.sum(), x)[0].tolist() == [0.0, 0.5, 2.0]
    each = torch.func.vmap(torch.func.grad(lambda t: module(t)))(x.detach())
    assert each.tolist() == [0.0, 0.5, 1.0]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    leaf = x.detach().requires_grad_()
    compiled(leaf).sum().backward()
    assert leaf.grad.tolist() == [0.0, 0.5, 1.0]
    torch._dynamo.reset()


@FORWARD_MODE
def test_forward_mode_is_the_transpose_of_backward_mode() -> None:
    x, tangent = torch.tensor(POINTS), torch.arange(1.0, 1.0 + len(POINTS))
    for derivative in (0.5, -3.0):
        value, got = torch.func.jvp(lambda x, d=derivative: relu(x, derivative_at_zero=d), (x,), (tangent,))
        _, pull = torch.func.vjp(lambda x, d=derivative: relu(x, derivative_at_zero=d), x)
        assert torch.equal(value.nan_to_num(9.0), torch.relu(x).nan_to_num(9.0))
        assert torch.equal(got, pull(tangent)[0])  # the Jacobian is diagonal
        assert got[1] == derivative * tangent[1]
    square = torch.func.jacfwd(lambda x: relu(x, derivative_at_zero=0.5))(torch.tensor([-1.0, 0.0, 2.0]))
    assert torch.equal(square, torch.diag(torch.tensor([0.0, 0.5, 1.0])))


@pytest.mark.parametrize("derivative", [math.nan, math.inf, 10**400, True, "1", None], ids=str)
def test_impossible_derivatives_are_refused(derivative) -> None:
    with pytest.raises(DesignError, match="derivative_at_zero"):
        relu(torch.zeros(1), derivative_at_zero=derivative)
    with pytest.raises(DesignError, match="derivative_at_zero"):
        ReLU(derivative)
