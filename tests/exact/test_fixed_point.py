"""Fixed point of every width, held against whole numbers."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import whole_numbers as whole
from networks import adaptive, moving
from number_kinds import cancelling, far, huge, mixed, normal, short, tiny, wide

from tiebreak.exact import fixed_point
from tiebreak.exact.bounds import candidates
from tiebreak.exact.evaluation import patches
from tiebreak.exact.fixed_point import BITS, MOST_DIGITS, Fixed, FixedPoint
from tiebreak.exact.graph import Affine, AveragePool2d, Conv2d, Linear, MaxPool2d, Node, Parameter
from tiebreak.numerics.geometry import PoolGeometry

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 40, 64, 130)
SQUARE = ((1, 1), (0, 0), (1, 1))


def value(fixed):
    """What the digits say."""
    digits = [digit.long().numpy().astype(object) for digit in fixed.digits]
    number = functools.reduce(lambda total, digit: total * 2**BITS + digit, digits, np.zeros_like(digits[0]))
    places = BITS * len(digits) - fixed.top
    return whole.Exact(number, places) if places >= 0 else whole.Exact(number * 2**-places, 0)


def check(fixed, truth):
    """The truth is within `error` units of the last place, and digits are small whole numbers."""
    assert fixed.digits.abs().max() <= 2**BITS
    assert torch.equal(fixed.digits, fixed.digits.round())
    assert fixed.error.isfinite().all()
    assert fixed.top % BITS == 0
    found = value(fixed)
    gap = whole.added(found, whole.Exact(-truth.numbers, truth.places, truth.divisor))
    unit = Fraction(2) ** (fixed.top - BITS * len(fixed.digits))
    for number, error in zip(gap.numbers.ravel(), fixed.error.flatten().tolist(), strict=True):
        assert abs(Fraction(number, gap.divisor) / 2**gap.places) <= Fraction(error) * unit


def small(fixed, truth, *, units):
    """The bound is a few units of the last place, that is, the width is not wasted."""
    check(fixed, truth)
    assert fixed.error.max() <= units


@pytest.mark.parametrize("kind", [normal, mixed, wide, short, tiny, huge, far])
@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_as_digits(kind, width):
    x = kind(torch.Generator().manual_seed(width), 3, 2, 3, 3)
    fixed = FixedPoint(width).batch(x)
    small(fixed, whole.exact(x), units=1)
    assert len(fixed.digits) == width


def test_enough_digits_are_exact():
    x = torch.tensor([[2.0**-1074, -(2.0**-1022), 1.0, -1.75 * 2.0**100]], dtype=torch.float64)
    assert not FixedPoint(MOST_DIGITS).batch(x).error.any()


@pytest.mark.parametrize("kind", [normal, mixed, cancelling, short, tiny, huge, far])
@pytest.mark.parametrize("width", WIDTHS)
def test_layers(kind, width):
    """Convolution, folded batch norm, average pools of 3 and 9, sums and concatenations."""
    generator = torch.Generator().manual_seed(width)
    draw = functools.partial(kind, generator)
    numbers, batch = FixedPoint(width), draw(2, 4, 6, 6)
    fixed, truth = numbers.batch(batch), whole.exact(batch)
    weight, bias = draw(4, 2, 3, 2), draw(4) / 3
    operation = Conv2d(Parameter(weight, "w"), Parameter(bias, "b"), (1, 1), (1, 0), (1, 1), 2)
    fixed = numbers.conv(fixed, operation)
    truth = whole.conv(truth, whole.exact(weight), operation, whole.exact(bias))
    check(fixed, truth)
    scale, shift = draw(4), draw(4)
    fixed = numbers.affine(fixed, Affine(scale, shift, shift, None, None))
    scale, shift = (whole.channelwise(whole.exact(part)) for part in (scale, shift))
    truth = whole.added(whole.product(truth, scale), shift)
    check(fixed, truth)
    both = numbers.concat([fixed, numbers.batch(batch[..., 1:])], 1)
    other = whole.exact(batch[..., 1:])
    check(both, _concat(truth, other))
    nine = torch.full((3, 2), 9.0).double()
    pool = AveragePool2d(moving(6, 3, 2, 1), moving(5, 3, 2, 0), nine)
    check(numbers.average(both, pool), whole.average(_concat(truth, other), pool))
    pool = AveragePool2d(
        adaptive(6, 4), adaptive(5, 2), torch.outer(torch.tensor([2.0, 2, 2, 2]), nine[0] / 3)
    )
    fixed, truth = numbers.average(fixed, pool), whole.average(truth, pool)
    check(fixed, truth)
    mask = torch.rand(fixed.error.shape, generator=generator) < 0.7
    fixed = numbers.masked(fixed, mask)
    truth = whole.Exact(truth.numbers * mask.numpy(), truth.places, truth.divisor)
    far_off = draw(*fixed.error.shape)
    fixed = numbers.add(fixed, numbers.batch(far_off))
    truth = whole.added(truth, whole.exact(far_off))
    check(fixed, truth)
    fixed = numbers.reshaped(fixed, (2, 32))
    truth = whole.Exact(truth.numbers.reshape(2, 32), truth.places, truth.divisor)
    weight, bias = draw(3, 32), draw(3) / 7
    fixed = numbers.linear(fixed, Linear(Parameter(weight, "w"), Parameter(bias, "b")))
    check(fixed, whole.linear(truth, whole.exact(weight), whole.exact(bias)))


def _concat(one, other):
    one, other = one.times(other.divisor), other.times(one.divisor)
    places = max(one.places, other.places)
    return whole.Exact(
        np.concatenate([one.at(places).numbers, other.at(places).numbers], 1), places, one.divisor
    )


@pytest.mark.parametrize("width", [2, 4, 8])
def test_more_products_than_one_exact_sum_holds(width):
    generator = torch.Generator().manual_seed(0)
    x, weight = (0.5 + normal(generator, *shape).abs() / 8 for shape in ((2, 9216), (2, 9216)))
    numbers = FixedPoint(width)
    fixed = numbers.linear(numbers.batch(x), Linear(Parameter(weight, None), None))
    check(fixed, whole.linear(whole.exact(x), whole.exact(weight)))


@pytest.mark.parametrize("width", WIDTHS)
def test_zeros_stay_zeros(width):
    """A layer of dead neurons, an image without light, weights of zero."""
    numbers, zeros = FixedPoint(width), torch.zeros(1, 2, 3, 3).double()
    for x, w in ((zeros, torch.ones(2, 2, 2, 2)), (zeros + 1, torch.zeros(2, 2, 2, 2))):
        operation = Conv2d(Parameter(w.double(), None), None, *SQUARE, 1)
        fixed = numbers.conv(
            numbers.conv(numbers.batch(x), operation), Conv2d(operation.weight, None, *SQUARE, 1)
        )
        check(fixed, whole.exact(torch.zeros(1, 2, 1, 1)))
        check(numbers.add(fixed, fixed), whole.exact(torch.zeros(1, 2, 1, 1)))


def test_what_is_left_of_a_long_cancellation_is_found():
    """10**300 - 10**300 + 10**-300 has a sign with digits enough; and with too few nothing is claimed."""
    x = torch.tensor([[1e300, 1e300, 1e-300]], dtype=torch.float64)
    operation = Linear(Parameter(torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64), None), None)
    for width in WIDTHS:
        numbers = FixedPoint(width)
        ball = numbers.centred(numbers.linear(numbers.batch(x), operation))
        assert bool(ball.value.abs() > ball.radius) == (width == 130)


def test_numbers_of_any_number_of_units_keep_their_sign_and_order():
    """Beyond the range of float64: 1e300 in units of 2**-2600 or so."""
    x = torch.tensor([1e300, -1e300, 1e-300, 2.0**-1074, 0.0, -1.0, 3e300, 3.1e300], dtype=torch.float64)
    numbers = FixedPoint(MOST_DIGITS)
    fixed = numbers.batch(x.reshape(1, 1, 1, 8))
    ball = numbers.centred(fixed)
    assert torch.equal((ball.value > ball.radius).flatten(), x > 0)
    assert torch.equal((ball.value < -ball.radius).flatten(), x < 0)
    node = Node(MaxPool2d(PoolGeometry.of((1, 8)), torch.zeros(0)), (0,), (1, 1, 1, 1), "pool")
    kept, is_open = candidates(*numbers.differences(fixed, node))
    assert kept.flatten().tolist() == [False] * 7 + [True]
    assert not is_open.any()
    unknown = Fixed(fixed.digits, fixed.top, torch.full_like(fixed.error, 1e301))  # a bound as large as that
    assert not bool((numbers.centred(unknown).value.abs() > numbers.centred(unknown).radius).any())
    assert candidates(*numbers.differences(unknown, node))[0].all()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sign_is_right_or_open(width):
    """Thousands of sums next to 0."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    x[:, 3:] = -x[:, :3] * (1 + 2.0**-47 * torch.randint(-1, 2, (400, 3), generator=generator))
    weight = torch.randn(3, 3, generator=generator, dtype=torch.float64).repeat(1, 2)
    numbers = FixedPoint(width)
    ball = numbers.centred(numbers.linear(numbers.batch(x), Linear(Parameter(weight, None), None)))
    truth = whole.linear(whole.exact(x), whole.exact(weight)).numbers
    positive, negative = (ball.value > ball.radius).numpy(), (ball.value < -ball.radius).numpy()
    assert (truth[positive] > 0).all()
    assert (truth[negative] < 0).all()
    if width >= 8:
        assert (positive | negative | (truth == 0)).all()


@pytest.mark.parametrize("width", [1, 3, 8, 40])
@pytest.mark.parametrize("kind", [normal, mixed, cancelling, short])
def test_what_is_asked_of_the_digits_encloses_the_truth(kind, width):
    """`centred`, and `differences` up to one number a window, in units of the last place."""
    x = kind(torch.Generator().manual_seed(width), 2, 3, 5, 4)
    x[0, 0, :2, :2] = x[0, 0, 0, 0]  # a tie
    numbers = FixedPoint(width)
    fixed = numbers.batch(x)
    fixed = Fixed(fixed.digits, fixed.top, fixed.error * 3)
    unit = Fraction(2) ** (fixed.top - BITS * width)
    ball = numbers.centred(fixed)
    _encloses(ball.value, ball.radius, [Fraction(number) / unit for number in x.flatten().tolist()])
    geometry = PoolGeometry.of(3, stride=2, padding=1)
    node = Node(MaxPool2d(geometry, torch.zeros(0)), (0,), (2, 3, 3, 2), "pool")
    ball, exists = numbers.differences(fixed, node)
    entries = patches(x, node, fill=math.nan)
    assert torch.equal(exists, ~entries.isnan())
    for window in range(entries[0].numel()):
        parts = (part.flatten(1)[:, window] for part in (entries, ball.value, ball.radius, exists))
        given, middle, radius, here = (part.tolist() for part in parts)
        truth = [Fraction(number) / unit if seen else None for number, seen in zip(given, here, strict=True)]
        # One shift makes all intervals hold.
        low = max(
            t - Fraction(m) - Fraction(r)
            for t, m, r in zip(truth, middle, radius, strict=True)
            if t is not None
        )
        high = min(
            t - Fraction(m) + Fraction(r)
            for t, m, r in zip(truth, middle, radius, strict=True)
            if t is not None
        )
        assert low <= high


def _encloses(middle, radius, truth):
    for m, r, t in zip(middle.flatten().tolist(), radius.flatten().tolist(), truth, strict=True):
        assert abs(Fraction(m) - t) <= Fraction(r)


class Careless(FixedPoint):
    """Broken: what is cut off is forgotten."""

    def _cut(self, digits, top, error, *, width):
        cut = super()._cut(digits, top, error, width=width)
        return Fixed(cut.digits, cut.top, cut.error * 0)


def test_a_bound_without_what_is_cut_off_is_caught():
    numbers = Careless(2)
    x, weight = (
        torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    fixed = numbers.linear(numbers.batch(x), Linear(Parameter(weight, None), None))
    with pytest.raises(AssertionError):
        check(fixed, whole.linear(whole.exact(x), whole.exact(weight)))


@pytest.mark.parametrize("kind", [normal, mixed, cancelling, tiny, huge, far])
def test_a_layer_in_parts_is_the_whole_layer(kind, monkeypatch):
    """Digits of a large weight are made some channels at a time; digits and bound are the same."""
    draw = functools.partial(kind, torch.Generator().manual_seed(0))
    batch, weight, matrix, bias = draw(2, 3, 4, 4), draw(5, 3, 2, 2), draw(7, 45), draw(5)
    conv = Conv2d(Parameter(weight, "w"), Parameter(bias, "b"), *SQUARE, 1)
    linear = Linear(Parameter(matrix, "m"), None)
    for width in (1, 4, 7):

        def layers(width=width):
            numbers = FixedPoint(width)
            first = numbers.conv(numbers.batch(batch), conv)
            return first, numbers.linear(first.reshaped((2, 45)), linear)

        whole_layers = layers()
        with monkeypatch.context() as patched:
            patched.setattr(fixed_point, "MOST_KEPT", 0)
            patched.setattr(fixed_point, "MOST_AT_ONCE", 30)
            parts = layers()
        for one, other in zip(whole_layers, parts, strict=True):
            assert one.top == other.top
            assert torch.equal(one.digits, other.digits)
            assert torch.allclose(one.error, other.error, rtol=2.0**-40, atol=0.0)
        truth = whole.conv(whole.exact(batch), whole.exact(weight), conv, whole.exact(bias))
        check(parts[0], truth)
