"""The bound of the float64 filter, held against whole numbers on more than 100,000 neurons."""

import functools
import math

import numpy as np
import pytest
import torch
import whole_numbers as whole
from networks import adaptive, moving
from number_kinds import cancelling, huge, mixed, normal, short, tiny, wide

from tiebreak.exact.bounds import UNIT, Ball, Balls
from tiebreak.exact.graph import Affine, AveragePool2d, Conv2d, Linear, Parameter

BAR = 1000
"""The bound is at most so many times the error in the median."""


KINDS = (normal, mixed, wide, cancelling, short, tiny, huge)


class WithoutPropagation(Balls):
    """Broken: forgets the error of its inputs."""

    def _spread(self, x, *, products):
        return super()._spread(Ball(x.value, torch.zeros_like(x.radius)), products=products)


class TooSmall(Balls):
    """Broken: a thousandth of the bound."""

    def _finish(self, value, radius, bias, *, products):
        ball = super()._finish(value, radius, bias, products=products)
        return Ball(ball.value, ball.radius * 1e-3)


class Sample:
    """What was found about the neurons looked at."""

    def __init__(self):
        self.neurons = self.violations = self.overflows = 0
        self.ratios = []

    def look(self, ball, truth):
        """Count the neurons whose bound does not hold."""
        finite = ball.value.isfinite()
        # A value that overflowed says nothing, and so its bound must not say anything either.
        self.violations += int((~finite & (ball.radius < math.inf)).sum())
        self.overflows += int((~finite).sum())
        self.neurons += finite.numel()
        bounded = finite & ball.radius.isfinite()
        radius, here = whole.exact(ball.radius), bounded.numpy().ravel()
        radius = radius.times(truth.divisor)
        error, truth = whole.errors(ball.value, truth)
        places = max(radius.places, truth.places)
        error = (error * (1 << (places - truth.places))).ravel()[here]
        radius = radius.at(places).numbers.ravel()[here]
        self.violations += int((error > radius).sum())
        some = error > 0
        self.ratios += [_ratio(top, below) for top, below in zip(radius[some], error[some], strict=True)]


def _ratio(above, below):
    return float(min(1000 * above // below, 10**18)) / 1000


def _conv(draw, *, groups, places, bias):
    weight = Parameter(draw(4 * groups, 3, 3, 2), "w")
    return Conv2d(weight, Parameter(draw(4 * groups), "b") if bias else None, *places, groups)


def _linear(draw, number, products, bias):
    return Linear(Parameter(draw(number, products), "w"), Parameter(draw(number), "b") if bias else None)


def _step(numbers, ball, truth, operation):
    """One operation, both ways."""
    match operation:
        case Conv2d(weight=weight, bias=bias):
            bias = None if bias is None else whole.exact(bias.value)
            return numbers.conv(ball, operation), whole.conv(
                truth, whole.exact(weight.value), operation, bias
            )
        case Linear(weight=weight, bias=bias):
            bias = None if bias is None else whole.exact(bias.value)
            return numbers.linear(ball, operation), whole.linear(truth, whole.exact(weight.value), bias)
        case Affine(scale=scale, shift=shift):
            scale, shift = (whole.channelwise(whole.exact(part)) for part in (scale, shift))
            return numbers.affine(ball, operation), whole.added(whole.product(truth, scale), shift)
        case AveragePool2d():
            return numbers.average(ball, operation), whole.average(truth, operation)
    raise AssertionError(operation)


def _layers(kind, generator):
    """Networks of one to four layers: a batch and operations; every neuron of every layer is looked at."""
    draw = functools.partial(kind, generator)
    gentle = functools.partial(normal, generator) if kind in (huge, tiny) else draw
    square, ones = ((1, 1), (0, 0), (1, 1)), torch.ones(1, dtype=torch.float64)
    yield (
        draw(2, 3, 9, 9),
        [
            _conv(draw, groups=1, places=square, bias=True),
            Affine(gentle(4), draw(4), draw(4), None, None),
            AveragePool2d(adaptive(7, 4), adaptive(8, 3), torch.full((4, 3), 9.0).double()),
            Conv2d(Parameter(gentle(6, 4, 2, 2), "w"), None, *square, 1),
        ],
    )
    yield (
        draw(2, 6, 9, 8),
        [
            _conv(draw, groups=2, places=((2, 1), (1, 2), (2, 1)), bias=False),
            AveragePool2d(moving(4, 3, 1, 1), moving(11, 3, 2, 0), torch.full((4, 5), 3.0).double()),
        ],
    )
    for products in (1, 2, 7, 60):
        operations = [_linear(draw, 30, products, bool(products % 2)), _linear(gentle, 25, 30, True)]
        yield draw(40, products), [*operations, _linear(gentle, 20, 25, False)]
    if kind is not wide:  # whose whole numbers are long
        yield draw(4, 800), [_linear(draw, 10, 800, True)]
        yield draw(2, 5000), [_linear(draw, 4, 5000, False)]
    yield draw(20, 20) * ones, [_linear(draw, 20, 20, True)] * 3


def sample(numbers, kind, *, seed=0):
    """Every neuron of the layers of one kind of numbers, with masked neurons and sums of two between them."""
    found, generator = Sample(), torch.Generator().manual_seed(seed)
    for batch, operations in _layers(kind, generator):
        ball, truth = numbers.batch(batch), whole.exact(batch)
        for operation in operations:
            ball, truth = _step(numbers, ball, truth, operation)
            found.look(ball, truth)
            mask = torch.rand(ball.value.shape, generator=generator) < 0.8
            ball = numbers.masked(ball, mask)
            truth = whole.Exact(truth.numbers * mask.numpy(), truth.places, truth.divisor)
            twice = numbers.add(ball, Ball(ball.value.roll(1, 1), ball.radius.roll(1, 1)))
            other = whole.Exact(np.roll(truth.numbers, 1, 1), truth.places, truth.divisor)
            found.look(twice, whole.added(truth, other))
    return found


SEEDS = range(2)


@functools.cache
def samples():
    return {kind.__name__: [sample(Balls(), kind, seed=seed) for seed in SEEDS] for kind in KINDS}


def test_the_bound_holds_for_more_than_100_000_neurons():
    total = sum(part.neurons for parts in samples().values() for part in parts)
    assert total >= 100_000
    for name, parts in samples().items():
        violations = sum(part.violations for part in parts)
        assert violations == 0, f"{violations} of {sum(part.neurons for part in parts)} of {name}"
    print(f"\n{total} neurons, {sum(part.overflows for part in samples()['huge'])} of them overflow")


def test_the_bound_is_within_1000_times_the_error_in_the_median():
    medians = {
        name: float(np.median([ratio for part in parts for ratio in part.ratios]))
        for name, parts in samples().items()
    }
    everything = np.median([ratio for parts in samples().values() for part in parts for ratio in part.ratios])
    least = min(ratio for parts in samples().values() for part in parts for ratio in part.ratios)
    print(f"\nbound / error: median {everything:.3g}, least {least:.3g}", medians)
    assert everything <= BAR
    assert medians["normal"] <= BAR


def test_overflows_are_in_the_sample():
    assert sum(part.overflows for part in samples()["huge"]) >= 100
    assert sum(part.overflows for part in samples()["normal"]) == 0


@pytest.mark.parametrize("broken", [TooSmall, WithoutPropagation])
def test_a_broken_bound_is_caught(broken):
    assert sum(sample(broken(), kind).violations for kind in (normal, mixed, cancelling)) > 0


def test_a_sum_of_one_product_that_underflows():
    """2**-538 * 2**-538 is 0 in float64, and the bound says so."""
    operation = Linear(Parameter(torch.full((1, 1), 2.0**-538, dtype=torch.float64), None), None)
    ball = Balls().linear(Balls().batch(torch.full((1, 1), 2.0**-538, dtype=torch.float64)), operation)
    assert float(ball.value) == 0.0
    assert float(ball.radius) >= 2.0**-1074


@pytest.mark.parametrize("signs", [(-1, -1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1)])
@pytest.mark.parametrize("bias", [None, 1.0])
def test_an_overflow_on_the_way_leaves_no_finite_bound(signs, bias):
    """The sum is 0 over the reals; in float64 it may be an infinity, whose sign means nothing."""
    weight = Parameter(torch.tensor([signs], dtype=torch.float64), None)
    shift = None if bias is None else Parameter(torch.tensor([bias], dtype=torch.float64), None)
    batch = torch.full((1, 4), 1.5 * 2.0**1023, dtype=torch.float64)
    ball = Balls().linear(Balls().batch(batch), Linear(weight, shift))
    assert not bool((ball.value > ball.radius) | (ball.value < -ball.radius))


def test_what_is_exact_has_no_bound():
    """Masked neurons and the batch: their zeros are ties of their own."""
    batch = torch.randn(2, 3, dtype=torch.float64)
    ball = Balls().masked(Ball(batch / 0.0, batch.abs()), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.equal(ball.value, torch.zeros_like(batch))
    assert torch.equal(ball.radius, torch.zeros_like(batch))
    assert not Balls().batch(batch).radius.any()


def test_the_unit_is_that_of_float64():
    assert torch.finfo(torch.float64).eps / 2 == UNIT
