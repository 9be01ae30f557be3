"""One shared forward pass gives the bits of separate runs, pruned or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import NATIVE, Arch, PoolJacobian, Precision, Selection
from tiebreak.design.cell import Network
from tiebreak.models import build
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d
from tiebreak.numerics.precision import arithmetic, cast, dtype_of
from tiebreak.protocols.backprop import backprop, gradient, observe

JACOBIANS = (
    NATIVE,
    PoolJacobian(beta=1),
    PoolJacobian(beta=100),
    PoolJacobian(selection=Selection.LAST),
    PoolJacobian(selection=Selection.ALL_ONES),
)


def flat_images(channels: int, side: int, dtype: torch.dtype, count: int = 4) -> tuple[Tensor, Tensor]:
    """Images with saturated areas, whose windows tie above zero."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, channels, side, side, generator=generator).clamp(-0.3, 0.3)
    images[:, :, : side // 2] = 0.25
    return images.to(dtype), torch.arange(count) % 10


def assert_same_bits(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> None:
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        same = one.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8))
        assert same, f"tensor {index}: largest difference {(one - other).abs().max().item()}"


CASES = [
    (Arch.LENET5, False, Precision.FP32),
    (Arch.LENET5, True, Precision.FP64),
    (Arch.LENET5, False, Precision.BF16),
    (Arch.LENET5, True, Precision.FP16_ROUNDED),
    (Arch.VGG11, False, Precision.FP32),
    (Arch.VGG11, True, Precision.FP32),
    (Arch.RESNET18, False, Precision.FP32),
    (Arch.DENSENET121, True, Precision.FP32),
]


@pytest.mark.parametrize(("arch", "batch_norm", "precision"), CASES)
def test_shared_pass_has_the_bits_of_separate_runs(
    arch: Arch, batch_norm: bool, precision: Precision
) -> None:
    digits = arch is Arch.LENET5
    network = Network(arch=arch, batch_norm=batch_norm)
    images, labels = flat_images(1 if digits else 3, 28 if digits else 32, dtype_of(precision))

    def model_with(jacobian: PoolJacobian | JacobianSwitch) -> nn.Module:
        model = build(network, num_classes=10, in_channels=images.shape[1], jacobian=jacobian, seed=3)
        return cast(model, precision)

    switch = JacobianSwitch(NATIVE)
    model = model_with(switch)
    with arithmetic(precision):
        results = [
            backprop(
                lambda: functional.cross_entropy(model(images), labels),
                tuple(model.parameters()),
                switch=switch,
                jacobians=JACOBIANS,
                prune=prune,
            )
            for prune in (True, False)
        ]
        assert any(results[0].live), "the case must hold a live tie"
        for index, jacobian in enumerate(JACOBIANS):
            alone = model_with(jacobian)
            separate = gradient(functional.cross_entropy(alone(images), labels), tuple(alone.parameters()))
            assert_same_bits(results[0].gradients[index], separate)
            assert_same_bits(results[1].gradients[index], separate)
    assert not all(
        torch.equal(one, other)
        for one, other in zip(results[0].gradients[0], results[0].gradients[2], strict=True)
    ), "the case must tell the Jacobians apart"


def test_no_live_tie_costs_one_backward_and_is_exactly_equal() -> None:
    switch = JacobianSwitch(NATIVE)
    model = build(Network(arch=Arch.LENET5), num_classes=10, in_channels=1, jacobian=switch, seed=0)
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    result = backprop(
        lambda: functional.cross_entropy(model(images), torch.arange(4)),
        tuple(model.parameters()),
        switch=switch,
        jacobians=JACOBIANS,
    )
    assert result.live == (0, 0)
    assert all(gradients is result.gradients[0] for gradients in result.gradients)


def test_ties_at_zero_count_where_no_relu_stands_before_the_pool() -> None:
    switch = JacobianSwitch(NATIVE)
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), MaxPool2d(2, jacobian=switch), nn.Flatten())
    images = torch.zeros(1, 1, 4, 4)
    observed = observe(lambda: model(images).sum(), switch=switch)
    assert observed.live == (8,)
    assert switch.events is None


class _Bypass(nn.Module):
    """The first layer's weight reaches the loss through the pool and around it."""

    def __init__(self, switch: JacobianSwitch) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.pool = MaxPool2d(2, jacobian=switch)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x).relu()
        return self.pool(features).square().sum() + features.mean()


def test_a_pool_that_is_no_cut_falls_back_to_whole_backwards() -> None:
    torch.manual_seed(0)
    switch = JacobianSwitch(NATIVE)
    model = _Bypass(switch)
    with torch.no_grad():
        model.conv.bias.fill_(0.5)
    images = torch.randn(2, 1, 8, 8)
    images[:, :, :5] = 0.0
    parameters = tuple(model.parameters())
    pruned = backprop(lambda: model(images), parameters, switch=switch, jacobians=JACOBIANS)
    whole = backprop(lambda: model(images), parameters, switch=switch, jacobians=JACOBIANS, prune=False)
    assert sum(pruned.live) > 0
    for one, other in zip(pruned.gradients, whole.gradients, strict=True):
        assert_same_bits(one, other)


class _TwoTowers(nn.Module):
    """Two pools on parallel branches, each with parameters of its own below it."""

    def __init__(self, switch: JacobianSwitch) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 3, padding=1)
        self.pool = MaxPool2d(2, jacobian=switch)

    def forward(self, x: Tensor) -> Tensor:
        towers = [self.pool(branch(x).relu()) for branch in (self.a, self.b)]
        return (towers[0] * towers[1]).sum()


def test_live_pools_on_parallel_branches_each_get_their_own_gradient() -> None:
    torch.manual_seed(0)
    switch = JacobianSwitch(NATIVE)
    model = _TwoTowers(switch)
    with torch.no_grad():
        model.a.bias.fill_(0.5)
        model.b.bias.fill_(0.5)
    images = torch.randn(2, 1, 8, 8)
    images[:, :, :5] = 0.0
    parameters = tuple(model.parameters())
    pruned = backprop(lambda: model(images), parameters, switch=switch, jacobians=JACOBIANS)
    whole = backprop(lambda: model(images), parameters, switch=switch, jacobians=JACOBIANS, prune=False)
    assert all(pruned.live)
    for one, other in zip(pruned.gradients, whole.gradients, strict=True):
        assert_same_bits(one, other)
    differ = [not torch.equal(pruned.gradients[0][k], pruned.gradients[4][k]) for k in range(4)]
    assert any(differ[:2]), "the case must tell the Jacobians apart in the first tower"
    assert any(differ[2:]), "and in the second"


def test_parameters_that_the_loss_does_not_reach_get_zeros() -> None:
    switch = JacobianSwitch(NATIVE)
    model = nn.ModuleDict({"used": nn.Conv2d(1, 1, 1), "unused": nn.Linear(2, 2)})
    pool = MaxPool2d(2, jacobian=switch)
    images = torch.ones(1, 1, 4, 4)
    result = backprop(
        lambda: pool(model["used"](images).relu() + 1).sum(),
        tuple(model.parameters()),
        switch=switch,
        jacobians=JACOBIANS[:2],
    )
    assert [tensor.abs().sum().item() for tensor in result.gradients[1][2:]] == [0.0, 0.0]
