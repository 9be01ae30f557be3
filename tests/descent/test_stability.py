"""Losses of one number against autograd and brute force; sharpness against whole Hessians; networks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.descent import closed_forms
from tiebreak.descent.absorption import absorb
from tiebreak.descent.activations import RELU, Activation
from tiebreak.descent.losses import curvature, slope, value
from tiebreak.descent.mlp import Criterion, Examples, Layout, Networks, examples
from tiebreak.descent.sharpness import sharpness
from tiebreak.descent.stability import descend, descend_regression, draw_starts, follow
from tiebreak.descent.steps import Rule
from tiebreak.design.axes import Precision, UserError
from tiebreak.design.descent_axes import Gain, Loss, Method, Shape


def rates(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("loss", list(Loss))
def test_derivatives_are_those_of_autograd(loss):
    x = torch.linspace(-4, 4, 50, dtype=torch.float64).requires_grad_()  # misses 0, 1 and -1
    (first,) = torch.autograd.grad(value(loss, x).sum(), x, create_graph=True)
    assert torch.allclose(slope(loss, x), first, rtol=0, atol=1e-13)
    # abs has no second graph at all
    second = torch.autograd.grad(first.sum() + 0 * x.sum(), x)[0]
    assert torch.allclose(curvature(loss, x), second, rtol=0, atol=1e-12)
    assert bool((first.abs() <= loss.lipschitz).all())
    assert bool((second <= loss.smoothness).all())
    assert bool((value(loss, x) >= loss.sharpness_of_minimum * x.abs()).all())
    assert float(value(loss, torch.zeros(1))) == 0


@given(st.sampled_from([Loss.LOGCOSH, Loss.SQRT1]), st.floats(2.05, 20))
def test_the_cycle_of_a_smooth_loss_has_its_secant_at_the_edge(loss, lr):
    x = closed_forms.cycle_amplitude(loss, lr=lr)
    point = rates(x)
    assert float(slope(loss, point)) / x == pytest.approx(2 / lr, rel=1e-10)
    assert float(point - lr * slope(loss, point)) == pytest.approx(-x, rel=1e-9)
    assert abs(1 - lr * float(curvature(loss, point))) < 1


@pytest.mark.parametrize("loss", [Loss.LOGCOSH, Loss.SQRT1])
def test_smooth_losses_go_to_their_one_cycle(loss):
    lr = rates(2.1, 3.0, 6.0)
    limits = descend(loss, starts=draw_starts(num=50), lr=lr, steps=2000)
    for index, rate in enumerate(lr.tolist()):
        expected = closed_forms.cycle_amplitude(loss, lr=rate)
        assert torch.allclose(limits.amplitude[index], torch.full((50,), expected).double(), atol=1e-9)
    assert torch.allclose(limits.secant * lr[:, None] / 2, torch.ones(3, 50).double(), atol=1e-9)


def test_hubers_loss_fills_an_interval_of_cycles():
    lr = rates(2.01, 3.0)
    limits = descend(Loss.HUBER, starts=draw_starts(num=500), lr=lr, steps=3000)
    for index, rate in enumerate(lr.tolist()):
        low, high = closed_forms.huber_amplitudes(lr=rate)
        amplitude = limits.amplitude[index]
        assert low - 1e-9 <= float(amplitude.min()) < float(amplitude.max()) <= high + 1e-9
        assert float(amplitude.max() - amplitude.min()) > 0.5 * (high - low)
    assert float(limits.curvature.max()) == 0


def test_a_kink_away_from_the_minimiser_does_no_harm_and_one_at_it_does():
    starts = draw_starts(num=200)
    bowl = descend(Loss.KINKED_BOWL, starts=starts, lr=rates(0.5), steps=200)
    assert float(bowl.worst_gap.max()) < 1e-30
    assert not bool(bowl.rose.any())
    corner = descend(Loss.ABS, starts=starts, lr=rates(0.5), steps=200)
    assert bool((corner.worst_gap >= closed_forms.sharp_floor(mu=1.0, lr=rates(0.5)) - 1e-12).all())
    assert bool((corner.amplitude <= 0.5).all())


def test_lipschitz_losses_stay_below_their_bound_and_the_quadratic_leaves():
    starts, lr = draw_starts(num=100), rates(0.1, 1.0, 4.0)
    for loss in (Loss.ABS, Loss.HUBER, Loss.LOGCOSH, Loss.SQRT1, Loss.KINKED_BOWL):
        best = descend(loss, starts=starts, lr=lr, steps=300).best_gap
        bound = closed_forms.best_gap_bound(
            lipschitz=loss.lipschitz, lr=lr[:, None], distance=starts.abs(), num_steps=300
        )
        assert bool((best <= bound).all()), loss
    assert not bool(descend(Loss.QUADRATIC, starts=starts, lr=lr, steps=900).last[2].isfinite().any())


def test_a_regression_of_the_quadratic_is_stable_exactly_up_to_the_edge():
    limits = descend_regression(Loss.QUADRATIC, seeds=(0, 1), multiples=(0.5, 0.95, 1.05), steps=2000)
    assert limits.diverged.tolist() == [[False, False, True]] * 2
    assert torch.allclose(limits.sharpness[:, :2], rates(0.5, 0.95).expand(2, 2), atol=1e-9)
    huber = descend_regression(Loss.HUBER, seeds=(0, 1), multiples=(0.5, 3.0), steps=2000)
    assert not bool(huber.diverged.any())
    assert float(huber.gap[:, 0].max()) < 1e-12
    assert float(huber.gap[:, 1].min()) > 1e-6


@pytest.mark.parametrize("num_products", [4, 40])
def test_sharpness_is_the_largest_eigenvalue_and_not_the_one_of_largest_size(num_products):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 12, 12, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.mT - 6 * torch.eye(12, dtype=torch.float64)

    def losses(points):
        return torch.einsum("rp,rpq,rq->r", points[0], matrix, points[0]) / 2

    points = [torch.randn(3, 12, generator=generator, dtype=torch.float64)]
    found = sharpness(losses, points, num_products=num_products)
    expected = torch.linalg.eigvalsh(matrix)
    assert bool((found.value <= expected[:, -1] + 1e-9).all())
    nearest = (expected - found.value[:, None]).abs().amin(1)
    assert bool((nearest <= found.residual + 1e-9).all())
    if num_products == 40:
        assert torch.allclose(found.value, expected[:, -1], atol=1e-9)


def test_sharpness_of_a_space_that_closes_early_and_of_a_run_that_overflowed():
    def losses(points):
        return (points[0] ** 2).sum(-1) / 2

    points = [torch.tensor([[1.0, 2.0, 3.0], [math.nan, 1.0, 1.0]], dtype=torch.float64)]
    found = sharpness(losses, points)
    assert float(found.value[0]) == pytest.approx(1.0)
    assert float(found.residual[0]) < 1e-12
    linear = sharpness(lambda points: points[0].sum(-1), points)
    assert linear.value.tolist() == [0.0, 0.0]


def toy(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 6, generator=generator, dtype=torch.float64).to(dtype)
    return Examples(inputs=inputs, labels=torch.arange(30) % 3, num_classes=3)


def alone(networks, *, run, activation, criterion, data):
    """One of the networks as modules of torch."""
    points = [point[run] for point in networks.points]
    layers = []
    for weight, bias in zip(points[::2], points[1::2], strict=True):
        layer = torch.nn.Linear(*weight.shape, dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight.mT.clone(), bias[0].clone()
        layers.append(layer)

    def loss():
        hidden = data.inputs
        for layer in layers[:-1]:
            hidden = activation(layer(hidden))
        outputs = layers[-1](hidden)
        if criterion is Criterion.CROSS_ENTROPY:
            return torch.nn.functional.cross_entropy(outputs, data.labels)
        return torch.nn.functional.mse_loss(
            outputs, torch.nn.functional.one_hot(data.labels, 3).double()
        )  # fmt: skip

    return loss, [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("shape", [Shape.RELU, Shape.TANH])
def test_a_batch_of_networks_takes_the_path_of_torch_optim(shape, criterion):
    activation, data = Activation(shape=shape), toy()
    layout = Layout(widths=(6, 8, 5, 3), activation=activation, gain=Gain.MATCHED)
    networks = Networks(layout, seeds=(0, 0, 7), data=data, criterion=criterion)
    lr = rates(0.1, 0.3, 0.1)
    loss, parameters = alone(networks, run=1, activation=activation, criterion=criterion, data=data)
    optimizer = torch.optim.SGD(parameters, lr=0.3)
    for seen in networks.train(lr=lr, rule=Rule(method=Method.GD), steps=100):
        optimizer.zero_grad()
        own = loss()
        own.backward()
        optimizer.step()
        assert abs(float(own.detach() - seen[1])) < 1e-12
    for ours, theirs in zip(networks.points[::2], parameters[::2], strict=True):
        assert float((ours[1].mT - theirs.detach()).abs().max()) < 1e-12
    single = Networks(layout, seeds=(7,), data=data, criterion=criterion)
    assert torch.equal(single.points[0][0], Networks(layout, seeds=(0, 7), data=data).points[0][1])


def test_sharpness_of_networks_is_that_of_their_whole_hessians():
    data = toy()
    layout = Layout(widths=(6, 4, 3), activation=Activation(shape=Shape.TANH))
    networks = Networks(layout, seeds=(0, 1), data=data, criterion=Criterion.SQUARED)
    path = follow(networks, lr=rates(0.2, 0.2), steps=20, look_at=(0, 20), num_products=43)
    sizes = [point[0].numel() for point in networks.points]

    def of_run(flat, run):
        parts = [
            part.reshape(point[run].shape)[None]
            for part, point in zip(flat.split(sizes), networks.points, strict=True)
        ]
        return networks.losses(parts)[0]

    for run in range(2):
        flat = torch.cat([point[run].flatten() for point in networks.points])
        hessian = torch.autograd.functional.hessian(lambda flat, run=run: of_run(flat, run), flat)
        expected = float(torch.linalg.eigvalsh(hessian)[-1])
        assert float(path.sharpness[1].value[run]) == pytest.approx(expected, abs=1e-9)
    assert path.losses.shape == (20, 2)
    assert bool((path.losses[-1] < path.losses[0]).all())


def test_sixteen_bits_hit_the_kink_and_more_do_not():
    starts = draw_starts(num=500)
    shares = {
        precision: absorb(precision, starts=starts, lr=2.0**-4, steps=400)
        for precision in (Precision.FP64, Precision.FP32, Precision.BF16)
    }
    assert shares[Precision.FP64].share_at_zero == shares[Precision.FP32].share_at_zero == 0
    assert shares[Precision.BF16].share_at_zero > 0.05
    pushed = absorb(Precision.BF16, starts=starts, lr=2.0**-4, steps=400, derivative_at_zero=1.0)
    assert pushed.share_at_zero == 0
    assert absorb(Precision.BF16, starts=starts, lr=2.0**-8, steps=10).share_stuck > 0.5
    for share in shares.values():
        assert share.share_at_zero + share.share_stuck + share.share_moving == pytest.approx(1)


def test_examples_are_real_digits():
    from tiebreak.data.mnist5k import read

    train = read().train
    data = examples(train, num=50)
    assert data.inputs.shape == (50, 49)
    assert data.num_classes == 10
    block = train.pixels[3, 0, 4:8, 8:12].double().mean() / 255
    again = examples(train, num=50, side=28).inputs
    assert again.shape == (50, 784)
    pooled = torch.nn.functional.avg_pool2d(train.pixels[:50].double() / 255, 4).flatten(1)
    assert float(pooled[3, 7 + 2]) == pytest.approx(float(block))
    with pytest.raises(UserError, match="side"):
        examples(train, num=50, side=5)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="one 2-cycle"):
        closed_forms.cycle_amplitude(Loss.HUBER, lr=3.0)
    with pytest.raises(UserError, match="above 2"):
        closed_forms.huber_amplitudes(lr=1.0)
    with pytest.raises(UserError, match="absorption is about"):
        absorb(Precision.TF32, starts=draw_starts(num=2), lr=0.1, steps=1)
    with pytest.raises(UserError, match="need networks from 6 to 3"):
        Networks(Layout(widths=(5, 3), activation=RELU), seeds=(0,), data=toy())
    with pytest.raises(UserError, match="window"):
        descend(Loss.ABS, starts=draw_starts(num=2), lr=rates(0.1), steps=5, window=6)
    networks = Networks(Layout(widths=(6, 3), activation=RELU), seeds=(0,), data=toy())
    with pytest.raises(UserError, match="steps to look at"):
        follow(networks, lr=rates(0.1), steps=5, look_at=(6,))
