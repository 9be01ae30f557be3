"""Norm pooling against PyTorch's own norm and the two published programs."""

from __future__ import annotations

import math

import pytest
import torch

from tiebreak.design.axes import DesignError
from tiebreak.numerics.normpool import norm_pool2d

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_is_the_norm_of_the_window(dtype) -> None:
    x = torch.randn(2, 3, 6, 8).to(dtype)
    got = norm_pool2d(x, kernel=2).double()
    squares = x.double().square()
    wanted = (squares.unfold(2, 2, 2).unfold(3, 2, 2).sum((-2, -1))).sqrt()
    assert ((got - wanted).abs() <= 4 * UNIT[dtype] * wanted).all()
    assert torch.equal(norm_pool2d(x[0], kernel=2), norm_pool2d(x, kernel=2)[0])


@pytest.mark.parametrize("stride", [2, 1])
def test_gradient_away_from_zero(stride) -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm_pool2d(x, kernel=2, stride=stride), x)
    assert torch.autograd.gradgradcheck(lambda x: norm_pool2d(x, kernel=2, stride=stride), x)


@pytest.mark.parametrize(("at_zero", "wanted"), [(0.0, 0.0), (1.0, 5.0), (-0.5, -2.5)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_at_zero_is_the_argument(at_zero, wanted, dtype) -> None:
    x = torch.zeros(1, 4, 4, dtype=dtype)
    x[0, 0, 0], x[0, 1, 1] = 3.0, 4.0
    x[0, 3, 3] = -0.0
    x.requires_grad_()
    norm_pool2d(x, kernel=2, gradient_at_zero=at_zero).backward(torch.full((1, 2, 2), 5.0, dtype=dtype))
    assert (x.grad[0, 2:, :] == wanted).all()
    # 3/5 and 4/5 are rounded, then multiplied by 5 and rounded
    assert (x.grad[0, :2, :2] - torch.tensor([[3.0, 0.0], [0.0, 4.0]])).abs().max() <= 8 * UNIT[dtype]


@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-100, 1.0, 2.0**100, 2.0**125], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_value_and_gradient_hold_to_the_ends_of_the_range(scale, dtype) -> None:
    x = torch.tensor([[[3.0, 0.0], [0.0, -4.0]]], dtype=dtype)
    x = x if scale >= 2.0**-100 else torch.tensor([[[0.0, 0.0], [0.0, 1.0]]], dtype=dtype)
    scaled = x.double().mul(scale).to(dtype).requires_grad_()
    value = norm_pool2d(scaled, kernel=2)
    value.sum().backward()
    exact = scaled.detach().double()
    assert abs(value.double().item() - exact.norm().item()) <= 4 * UNIT[dtype] * value.item()
    assert (scaled.grad.double() - exact / exact.norm()).abs().max() <= 4 * UNIT[dtype]


def test_infinities_and_nan_reach_the_value() -> None:
    windows = torch.tensor([[[math.inf, 1.0]], [[-math.inf, math.inf]], [[math.nan, 0.0]]])
    assert norm_pool2d(windows, kernel=(1, 2)).flatten().tolist()[:2] == [math.inf, math.inf]
    assert norm_pool2d(windows, kernel=(1, 2))[2].isnan().all()


@pytest.mark.filterwarnings(  # PyTorch scripts its decompositions at the first such call; unfold under vmap
    "ignore:.*torch.jit.*:FutureWarning",
    "ignore:.*torch.jit.*:DeprecationWarning",
    "ignore:There is a performance drop:UserWarning",
)
def test_forward_mode_is_the_transpose_of_backward_mode() -> None:
    x = torch.randn(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 2:, 2:] = 0.0
    forward = torch.func.jacfwd(lambda x: norm_pool2d(x, kernel=2, gradient_at_zero=-0.5))(x)
    backward = torch.func.jacrev(lambda x: norm_pool2d(x, kernel=2, gradient_at_zero=-0.5))(x)
    assert torch.equal(forward, backward)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # PyTorch's unfold under vmap
def test_batched_gradients() -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def loss(image: torch.Tensor) -> torch.Tensor:
        return norm_pool2d(image, kernel=2).sum()

    wanted = torch.stack([torch.func.grad(loss)(image) for image in x])
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(x), wanted)


@pytest.mark.parametrize(
    ("x", "arguments"),
    [
        (torch.zeros(1, 2, 2), {"kernel": 0}),
        (torch.zeros(1, 2, 2), {"kernel": 3}),
        (torch.zeros(1, 2, 2), {"kernel": 2, "gradient_at_zero": math.nan}),
        (torch.zeros(1, 2, 2), {"kernel": 2, "gradient_at_zero": "0"}),
        (torch.zeros(1, 2, 2), {"kernel": 2, "gradient_at_zero": 10**400}),
        (torch.zeros(2, 2), {"kernel": 2}),
        (torch.zeros(1, 2, 2, dtype=torch.int32), {"kernel": 2}),
    ],
)
def test_mistakes_are_refused_in_a_sentence(x, arguments) -> None:
    with pytest.raises(DesignError, match=r"pool|window"):
        norm_pool2d(x, **arguments)
