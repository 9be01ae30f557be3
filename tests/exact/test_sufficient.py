"""Sufficient conditions against differences that float64 holds exactly and an oracle in rationals."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from as_network import as_network
from torch import nn
from torch.nn import functional

from tiebreak.design.axes import UserError
from tiebreak.exact.graph import NotCertifiableError
from tiebreak.exact.record import record
from tiebreak.exact.sufficient import sufficient
from tiebreak.theory.activations import Rules
from tiebreak.theory.oracle import Kind, judge

STEP = 2.0**-20


def network(generator, *, is_fine=False):
    """Small whole numbers, among which ties are common, or finer ones."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 1)
    ).double()
    for parameter in model.parameters():
        most = 64 if is_fine else 2
        drawn = torch.randint(-most, most + 1, parameter.shape, generator=generator).double()
        parameter.data = drawn / (32 if is_fine else 1)
    return model


def is_smooth_and_right(model, images, generator):
    """Whether second differences vanish and first ones are AD's, along drawn directions: values are exact."""
    model(images).sum().backward()
    parameters = list(model.parameters())
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
    here_all = nn.utils.parameters_to_vector(parameters).detach()

    def value(direction, step):
        moved = copy.deepcopy(model)
        nn.utils.vector_to_parameters(here_all + step * direction, moved.parameters())
        return moved(images).sum().item()

    with torch.no_grad():
        for _ in range(12):
            direction = torch.randint(-3, 4, gradient.shape, generator=generator).double()
            ahead, here, behind = (value(direction, step) for step in (STEP, 0.0, -STEP))
            bend = (ahead + behind - 2 * here) / STEP
            slope = (ahead - behind) / (2 * STEP)
            if abs(bend) > 1e-3 or abs(slope - (gradient @ direction).item()) > 1e-3:
                return False
    return True


def test_where_it_says_derivative_differences_agree():
    generator = torch.Generator().manual_seed(0)
    certain = wrong = 0
    for case in range(100):
        model = network(generator, is_fine=case % 2 == 1)
        images = torch.randint(0, 2, (2, 1, 3, 3), generator=generator).double()
        found = sufficient(record(model, images)[0], seed=case)
        assert found.images == 2
        right = is_smooth_and_right(model, images, generator)
        if found.derivative == 2:
            certain += 1
            assert right, case
        wrong += not right
    assert certain > 20  # it says so now and then, and
    assert wrong > 20  # there was something to be caught


def row_model(weights):
    """A convolution of two neighbours, a pool of two, and the difference of what the pool gives."""
    pool = nn.MaxPool2d((1, 2), stride=1)
    model = nn.Sequential(nn.Conv2d(1, 1, (1, 2)), pool, nn.Flatten(), nn.Linear(2, 1)).double()
    model[0].weight.data = torch.tensor(weights).reshape(1, 1, 1, 2).double()
    model[0].bias.data.zero_()
    model[3].weight.data = torch.tensor([[1.0, -1.0]]).double()
    return model


def row(*pixels):
    return torch.tensor(pixels).double().reshape(1, 1, 1, -1)


def test_ad_that_is_wrong_is_not_certified():
    """conv1d and max_pool1d on (0, 1, 0, 1): the two patches are tied where both weights are equal."""
    found = sufficient(record(row_model([1.0, 1.0]), row(0, 1, 0, 1))[0], seed=0)
    assert (found.derivative, found.limit, found.tied, found.equal, found.dead) == (0, 0, 2, 0, 0)
    assert sufficient(record(row_model([1.0, 2.0]), row(0, 1, 0, 1))[0], seed=0).derivative == 1


def test_equal_patches_are_one_function():
    found = sufficient(record(row_model([1.0, 1.0]), row(1, 1, 1, 1))[0], seed=0)
    assert (found.derivative, found.tied, found.equal) == (1, 2, 2)
    assert -1000 < found.log2_error <= -40


def relu_model(bias):
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 1)
    ).double()
    model[0].weight.data.fill_(-1.0)
    model[0].bias.data.fill_(bias)
    return model


def test_relus_that_are_off_stay_at_0_and_those_at_0_do_not():
    off = sufficient(record(relu_model(0.0), row(1, 2))[0], seed=0)
    assert (off.derivative, off.dead, off.touched, off.log2_error) == (1, 1, 0, -float("inf"))
    at_0 = sufficient(record(relu_model(1.0), row(1, 2))[0], seed=0)
    assert (at_0.derivative, at_0.limit, at_0.touched, at_0.dead, at_0.tied) == (0, 1, 1, 0, 1)
    assert at_0.independent == 0  # were it on, the window would have to choose it


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pixel", [0, 1])
def test_a_limit_needs_a_bias_or_an_input(bias, pixel):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=bias), nn.ReLU(), nn.Linear(2, 1)).double()
    model[1].weight.data = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()
    model[3].weight.data.fill_(1.0)
    if bias:
        model[1].bias.data.zero_()
    found = sufficient(record(model, row(pixel, pixel))[0], seed=0)
    certain = int(bias or pixel > 0)
    assert (found.derivative, found.limit, found.independent) == (0, certain, certain)
    assert (found.whole_derivative, found.whole_limit) == (0, certain)


def test_a_relu_that_no_pool_chooses_is_of_no_consequence():
    model = relu_model(1.0)
    model[0].weight.data.fill_(1.0)
    model[0].bias.data.fill_(-1.0)
    found = sufficient(record(model, row(1, 2))[0], seed=0)
    assert (found.derivative, found.touched, found.tied) == (1, 1, 0)


def test_patches_that_differ_behind_relus_that_are_off_are_one_function_nearby():
    modules = (nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, (1, 2)), nn.MaxPool2d((1, 3)), nn.Flatten())
    model = nn.Sequential(*modules).double()
    for parameter, value in zip(model.parameters(), ([1.0], [0.0], [0.5, 1.0], [0.0]), strict=True):
        parameter.data = torch.tensor(value).double().reshape(parameter.shape)
    for pixels, is_one in (((-1, 2, -3, 2), True), ((-1, 2, 0, 2), False)):
        found = sufficient(record(model, row(*pixels))[0], seed=0)
        assert (found.tied, found.equal, found.derivative) == (1, int(is_one), int(is_one))
        network, point = as_network(model, row(*pixels))
        assert (judge(network, point, rules=Rules()).kind is Kind.CORRECT) == is_one


def test_that_a_relu_is_at_0_rests_on_residues():
    """Numbers of more bits than three primes have: the same network, and it is chosen if it is not 0."""
    model = relu_model(-(1 + 2.0**-50) * 2.0**-60)
    model[0].weight.data.fill_(1 + 2.0**-50)
    found = sufficient(record(model, row(2.0**-60, 1.0))[0], seed=0)
    assert (found.derivative, found.limit, found.touched) == (1, 0, 1)
    assert -1000 < found.log2_error <= -40


def test_independence_of_equal_patches_rests_on_hashes():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)).double()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    model[0].weight.data.zero_()
    model[0].bias.data.zero_()
    graph, _ = record(model, row(1, 1))
    for log2_error in (-40.0, -200.0):
        found = sufficient(graph, log2_error=log2_error, seed=0)
        assert (found.limit, found.independent) == (1, 1)
        assert -1000 < found.log2_error <= log2_error


def test_what_batch_norm_makes_of_0_is_not_the_border():
    """Behind it a ReLU that is off, or a pixel of 0, has its bias, which is 0 here and can be moved."""
    conv = nn.Conv2d(1, 1, (1, 2), padding=(0, 1))
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1, eps=0), conv, nn.MaxPool2d((1, 2)), nn.Flatten())
    model = model.double().eval()
    for parameter, value in zip(model.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        parameter.data.fill_(value)
    for layers, images in ((model, row(-1, -1)), (model[1:], row(0, 0))):
        found = sufficient(record(layers, images)[0], seed=0)
        assert (found.tied, found.equal, found.derivative) == (1, 0, 0)


class OneBias(nn.Module):
    """relu(-b) - relu(b) = -b around 0, by layers that share their only parameter: AD gives 0 there."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(1).double())
        for name, weight in (
            ("one", [[1.0]]),
            ("none", [[0.0]]),
            ("two", [[-2.0, 2.0]]),
            ("out", [[1.0, -1.0]]),
        ):
            self.register_buffer(name, torch.tensor(weight).double())

    def forward(self, x):
        first = functional.relu(functional.linear(x, self.one, self.b))
        minus = functional.linear(torch.cat([first, x], 1), self.two, self.b)
        plus = functional.linear(x, self.none, self.b)
        return functional.linear(functional.relu(torch.cat([minus, plus], 1)), self.out)


def test_a_bias_that_several_layers_share_moves_nothing():
    model = OneBias()
    model(torch.ones(1, 1).double()).sum().backward()
    assert model.b.grad.item() == 0
    found = sufficient(record(model, torch.ones(1, 1).double())[0], seed=0)
    assert (found.derivative, found.limit, found.touched) == (0, 0, 2)


def drawn_row(model, *columns):
    """An image of one row, a column of channels a place; the last layer sums."""
    model[-1].weight.data.fill_(1.0)
    return torch.tensor(columns).double().t().reshape(1, len(columns[0]), 1, len(columns))


def test_relus_at_0_behind_the_one_that_a_dead_window_chose_have_to_go_off():
    """relu(w p) with p = (1, 1) is tied with one that is off and comes first, and relu(-w p) stands alone."""
    model = nn.Sequential(
        nn.Conv2d(2, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(2, 1)
    ).double()
    model[0].weight.data = torch.tensor([1.0, -1.0]).double().reshape(1, 2, 1, 1)
    images = drawn_row(model, (0, 1), (1, 1), (-1, -1), (0, 1))
    found = sufficient(record(model, images)[0], seed=0)
    assert (found.derivative, found.limit, found.whole_limit) == (0, 0, 0)
    images = drawn_row(model, (0, 1), (1, 1), (0, 1), (0, 1))
    assert sufficient(record(model, images)[0], seed=0).limit == 1


def test_what_an_inner_window_did_not_choose_is_asked_too():
    """max(max(p, .), max(p - v, p + v)): the first is never ahead of both others."""
    model = nn.Sequential(
        nn.Conv2d(2, 1, 1, bias=False),
        nn.MaxPool2d((1, 2)),
        nn.MaxPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(1, 1),
    ).double()
    model[0].weight.data = torch.tensor([1.0, 0.0]).double().reshape(1, 2, 1, 1)
    found = sufficient(record(model, drawn_row(model, (1, 0), (0, 0), (1, 1), (1, -1)))[0], seed=0)
    assert (found.derivative, found.limit, found.whole_limit) == (0, 0, 0)
    found = sufficient(record(model, drawn_row(model, (1, 0), (0, 0), (1, 1), (1, 2)))[0], seed=0)
    assert (found.derivative, found.limit, found.whole_limit) == (0, 1, 1)


def test_a_bias_that_batch_norm_multiplies_by_0_moves_nothing():
    """relu(s) + relu(-s) at s = 0, the scale: AD gives 0, and 1 and -1 are the limits."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)
    ).double()
    model.eval()[0].weight.data.fill_(1.0)
    model[0].bias.data.zero_()
    model[1].weight.data.zero_()
    model[1].bias.requires_grad_(False)
    images = drawn_row(model, (1,), (-1,))
    found = sufficient(record(model, images)[0], seed=0)
    assert (found.derivative, found.limit, found.independent, found.whole_limit) == (0, 0, 0, 0)
    model[1].bias.requires_grad_(True)
    found = sufficient(record(model, images)[0], seed=0)
    assert (found.limit, found.independent, found.whole_limit) == (1, 0, 1)


# ---- against the oracle ------------------------------------------------------------------------------------


def drawn_model(generator):
    """One of six small networks with small whole numbers, and the shape of its images."""

    def drawn(most):
        return int(torch.randint(0, most, (1,), generator=generator))

    bias, row_of_4 = bool(drawn(2)), (1, 1, 4)

    def conv():
        return nn.Conv2d(1, 1, (1, 2), bias=bias)

    def pool(stride):
        return nn.MaxPool2d((1, 2), stride=stride)

    def end(number):
        return nn.Flatten(), nn.Linear(number, 1)

    modules, shape = (
        ((conv(), pool(1), *end(2)), row_of_4),
        ((conv(), nn.ReLU(), pool(1), *end(2)), row_of_4),
        ((conv(), pool(1), nn.ReLU(), *end(2)), row_of_4),
        ((conv(), nn.ReLU(), conv(), nn.ReLU(), pool(2), *end(1)), row_of_4),
        (
            (nn.Flatten(), nn.Linear(2, 2, bias=bias), nn.ReLU(), nn.Linear(2, 1, bias=bias), nn.ReLU()),
            (1, 1, 2),
        ),
        ((conv(), nn.ReLU(), pool(2), conv(), nn.ReLU(), nn.Flatten()), (1, 1, 5)),
    )[drawn(6)]
    model = nn.Sequential(*modules).double()
    for parameter in model.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).double()
    return model, shape


def test_nothing_is_certain_that_the_oracle_denies():
    generator = torch.Generator().manual_seed(7)
    seen = dict.fromkeys(("derivative", "limit", "independent", "neither", "denied"), 0)
    for case in range(90):
        model, shape = drawn_model(generator)
        number = 1 + case % 2
        images = torch.randint(0, 3, (number, *shape), generator=generator).double()
        found = sufficient(record(model, images)[0], seed=case)
        network, point = as_network(model, images)
        truth = judge(network, point, rules=Rules())
        is_limit = truth.by_ad.gradient in truth.cells
        if found.whole_derivative:
            seen["derivative"] += 1
            assert truth.kind is Kind.CORRECT, case
        elif found.whole_limit:
            seen["limit"] += 1
            assert is_limit, case
        else:
            seen["neither"] += 1
            seen["denied"] += not is_limit
        if number == 1 and found.independent:
            seen["independent"] += 1
            for proxy in (0, 1, Fraction(1, 2), 2):
                other = judge(network, point, rules=Rules(proxy=Fraction(proxy)), known=truth.cells)
                assert other.kind is not Kind.INCORRECT, (case, proxy)
    assert min(seen.values()) > 0, seen
    assert seen["limit"] > 10, seen


def test_images_are_taken_one_by_one_or_together():
    model = network(torch.Generator().manual_seed(5))
    images = torch.randint(0, 2, (6, 1, 3, 3), generator=torch.Generator().manual_seed(1)).double()
    graph, _ = record(model, images)
    assert sufficient(graph, seed=0) == sufficient(graph, seed=0, chunk=1)


class Divided(nn.Module):
    """A ReLU of an average pool with a divisor of one's own."""

    def __init__(self, divisor):
        super().__init__()
        self.conv, self.divisor = nn.Conv2d(1, 1, 1).double(), divisor

    def forward(self, x):
        averaged = functional.avg_pool2d(self.conv(x), (1, 2), divisor_override=self.divisor)
        return functional.relu(averaged).flatten(1)


def test_a_pool_that_divides_by_a_number_below_1_is_refused():
    model = Divided(2)
    model.conv.weight.data.fill_(1.0)
    model.conv.bias.data.fill_(-1.0)
    assert sufficient(record(model, row(0.5, 1.5))[0], seed=0).touched == 1
    model.divisor = -2
    with pytest.raises(NotCertifiableError, match="divides by a number outside"):
        sufficient(record(model, row(0.5, 1.5))[0], seed=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk": 0}, "1 image or more"),
        ({"log2_error": 0.0}, "below 0"),
        ({"log2_error": -torch.inf}, "finite"),
    ],
)
def test_options_that_mean_nothing_are_said(options, said):
    graph, _ = record(relu_model(0.0), row(1, 2))
    with pytest.raises(UserError, match=said):
        sufficient(graph, seed=0, **options)


def test_what_cannot_be_looked_at_is_said():
    with pytest.raises(NotCertifiableError, match="an infinity or a NaN at the parameter"):
        sufficient(record(row_model([1.0, float("nan")]), row(0, 1, 0, 1))[0], seed=0)
    norm = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(NotCertifiableError, match="Put the network into evaluation mode"):
        sufficient(record(norm, torch.ones(2, 1, 2, 2))[0], seed=0)
    assert sufficient(record(norm.eval(), torch.ones(2, 1, 2, 2))[0], seed=0).derivative == 2
