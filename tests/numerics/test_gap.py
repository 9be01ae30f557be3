import doctest
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiebreak.numerics.gap as gap_module
from tiebreak.numerics.gap import GapMeter, gap

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
UNIT = 2.0**-53


def draw(dtype, *, shapes, seed, spread=8):
    """Numbers over a wide range of magnitudes, some equal in both, some zeros."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for shape in shapes:
        exponent = torch.randint(-spread, spread, shape, generator=generator)
        first = torch.ldexp(torch.randn(shape, generator=generator), exponent).to(dtype)
        change = torch.rand(shape, generator=generator) < 0.5
        second = torch.where(change, (first.double() * 1.25 + 2.0**-10).to(dtype), first)
        pairs.append((first, second))
    return [first for first, _ in pairs], [second for _, second in pairs]


def exact(reference, other):
    """The norms in rational numbers; roots are taken last, correctly rounded to within an ulp."""
    rows = []
    for first, second in zip(reference, other, strict=True):
        pairs = zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)
        steps = [abs(Fraction(b) - Fraction(a)) for a, b in pairs]
        rows.append(
            {
                "l1": sum(steps, Fraction(0)),
                "l2": sum((step**2 for step in steps), Fraction(0)),
                "sup": max(steps, default=Fraction(0)),
                "reference": sum((Fraction(a) ** 2 for a in first.flatten().tolist()), Fraction(0)),
            }
        )
    return rows


def root(square):
    """Square root of a Fraction, to the last bit or the one before."""
    shift = 2 * 600
    return float(Fraction(math.isqrt((square.numerator << shift) // square.denominator), 1 << (shift // 2)))


def near(measured, truth, *, roundings):
    """Whether a sum of nonnegative terms that was rounded so many times can be this."""
    truth = float(truth)
    return abs(measured - truth) <= roundings * UNIT * truth


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", [[(3, 4)], [(64,), (8, 3, 3, 3), (1,), ()], [(0,), (5,)]], ids=str)
def test_norms_are_those_of_rational_numbers(dtype, shapes):
    reference, other = draw(dtype, shapes=shapes, seed=len(shapes))
    rows, measured = exact(reference, other), gap(reference, other)
    terms = sum(tensor.numel() for tensor in reference) + 8
    assert near(measured.l1, sum(row["l1"] for row in rows), roundings=terms)
    assert near(measured.l2, root(sum(row["l2"] for row in rows)), roundings=terms)
    assert near(measured.sup_sum, sum(row["sup"] for row in rows), roundings=terms)
    assert near(measured.sup, max(row["sup"] for row in rows), roundings=1)
    relative = root(sum(row["l2"] for row in rows) / sum(row["reference"] for row in rows))
    assert near(measured.relative, relative, roundings=2 * terms)
    for tensor, row in zip(measured.tensors, rows, strict=True):
        assert near(tensor.l1, row["l1"], roundings=terms)
        assert near(tensor.l2, root(row["l2"]), roundings=terms)
        assert near(tensor.sup, row["sup"], roundings=1)
        assert near(tensor.reference_l2, root(row["reference"]), roundings=terms)
    assert not measured.nonfinite


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_norms_are_numpys(dtype):
    reference, other = draw(dtype, shapes=[(16, 8, 3, 3), (16,), (10, 128)], seed=3)
    arrays = [
        (first.double().numpy().ravel(), second.double().numpy().ravel())
        for first, second in zip(reference, other, strict=True)
    ]
    steps = [second - first for first, second in arrays]
    whole = np.concatenate(steps)
    measured = gap(reference, other)
    tolerance = 2 * whole.size * UNIT
    assert measured.l1 == pytest.approx(np.abs(whole).sum(), rel=tolerance)
    assert measured.l2 == pytest.approx(np.linalg.norm(whole), rel=tolerance)
    assert measured.sup_sum == pytest.approx(sum(np.abs(step).max() for step in steps), rel=tolerance)
    assert measured.sup == np.abs(whole).max()
    scale = np.linalg.norm(np.concatenate([first for first, _ in arrays]))
    assert measured.relative == pytest.approx(np.linalg.norm(whole) / scale, rel=2 * tolerance)


@given(
    first=st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    data=st.data(),
)
def test_the_difference_of_two_fp16_numbers_is_exact(first, data):
    number = st.floats(width=16, allow_nan=False, allow_infinity=False)
    second = data.draw(st.lists(number, min_size=len(first), max_size=len(first)))
    for a, b in zip(first, second, strict=True):
        measured = gap([torch.tensor([a], dtype=torch.float16)], [torch.tensor([b], dtype=torch.float16)])
        assert Fraction(measured.sup) == abs(Fraction(b) - Fraction(a))
        assert measured.sup == measured.l1


@given(a=st.floats(width=32, allow_nan=False, allow_infinity=False), data=st.data())
def test_a_wider_difference_is_rounded_once(a, data):
    """1 - 2**-60 is no fp64 number, so the difference of two fp32 numbers need not be one."""
    b = data.draw(st.floats(width=32, allow_nan=False, allow_infinity=False))
    measured = gap([torch.tensor([a])], [torch.tensor([b])])
    assert measured.sup == float(abs(Fraction(b) - Fraction(a)))


def test_many_small_fp16_entries_are_summed_in_fp64():
    """Half precision sums to 65504 at most, and single precision loses the small ones."""
    count = 100_000
    reference = torch.zeros(count, dtype=torch.float16)
    step = float(torch.tensor(0.1, dtype=torch.float16))
    other = torch.full((count,), step, dtype=torch.float16)
    other[0] = 60_000.0
    measured = gap([reference, reference + 1], [other, reference + 1])
    truth = Fraction(step) * (count - 1) + 60_000
    assert near(measured.l1, truth, roundings=count)
    assert near(measured.l2, root(Fraction(step) ** 2 * (count - 1) + 60_000**2), roundings=count)
    assert measured.sup == 60_000.0
    assert near(measured.tensors[1].reference_l2, math.sqrt(count), roundings=count)
    assert abs(measured.l1 - float(truth)) < 2.0**-24 * float(truth)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("same_object", [True, False])
def test_equal_gradients_have_a_gap_of_exactly_zero(dtype, same_object):
    reference, _ = draw(dtype, shapes=[(5, 5), (7,)], seed=0)
    other = reference if same_object else [tensor.clone() for tensor in reference]
    measured = gap(reference, other)
    assert (measured.l1, measured.l2, measured.sup_sum, measured.sup, measured.relative) == (0,) * 5
    assert not measured.nonfinite
    assert [tensor.relative for tensor in measured.tensors] == [0, 0]


def test_zeros_of_both_signs_are_no_gap():
    measured = gap([torch.tensor([0.0, -0.0, 1.0])], [torch.tensor([-0.0, 0.0, 1.0])])
    assert (measured.l1, measured.l2, measured.sup, measured.relative) == (0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_one_ulp_at_the_bottom_of_the_format_is_seen(dtype):
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    measured = gap([torch.zeros(3, dtype=dtype)], [torch.tensor([0.0, smallest, 0.0], dtype=dtype)])
    assert measured.sup == measured.l1 == smallest
    assert measured.relative == math.inf


NONFINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", NONFINITE, ids=str)
@pytest.mark.parametrize("where", ["reference", "other", "both", "the same tensor"])
@pytest.mark.parametrize("others_differ", [True, False])
def test_nan_and_infinity_are_said(value, where, others_differ):
    plain = [torch.ones(3), torch.ones(2)]
    broken = [torch.tensor([1.0, value, 1.0]), torch.ones(2)]
    reference = plain if where == "other" else broken
    other = {"other": broken, "reference": plain, "the same tensor": broken}.get(where)
    other = other or [tensor.clone() for tensor in broken]
    if others_differ:
        other = [other[0], other[1] + 1]
    measured = gap(reference, other)
    assert measured.nonfinite
    if where in ("reference", "other"):  # one gradient is finite and the other is not: no zero anywhere
        for norm in (measured.l1, measured.l2, measured.sup, measured.sup_sum):
            assert not math.isfinite(norm)
        assert measured.relative != 0
    if math.isnan(value):
        assert math.isnan(measured.l1)
        assert math.isnan(measured.sup)


def test_a_later_finite_tensor_does_not_hide_a_nan():
    reference = [torch.ones(2), torch.ones(2), torch.ones(2)]
    other = [torch.ones(2), torch.tensor([math.nan, 1.0]), torch.full((2,), 100.0)]
    measured = gap(reference, other)
    assert measured.nonfinite
    assert math.isnan(measured.sup)
    assert math.isnan(measured.l1)
    assert math.isnan(measured.l2)
    assert math.isnan(measured.relative)
    assert [math.isnan(tensor.sup) for tensor in measured.tensors] == [False, True, False]


def test_a_large_finite_gap_is_a_number():
    """The square of a norm may lie beyond fp64 where the norm does not."""
    reference = [torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    other = [torch.full((1,), 3e200, dtype=torch.float64), torch.full((1,), 4e200, dtype=torch.float64)]
    measured = gap(reference, other)
    assert measured.l1 == 7e200
    assert near(measured.l2, 5e200, roundings=4)
    assert measured.relative == math.inf
    assert not measured.nonfinite


@pytest.mark.parametrize("other", [[], [torch.ones(2)] * 2], ids=["fewer", "more"])
def test_another_number_of_tensors_is_refused(other):
    with pytest.raises(ValueError, match=r"1 tensor.*got [02]"):
        gap([torch.ones(2)], other)


@pytest.mark.parametrize("shape", [(1,), (3, 1), (4,), ()], ids=str)
def test_another_shape_is_refused_and_never_broadcast(shape):
    with pytest.raises(ValueError, match=r"tensor 1 .*\(3,\).*got"):
        gap([torch.ones(2), torch.ones(3)], [torch.ones(2), torch.zeros(shape)])


def test_no_tensors_have_no_gap():
    measured = gap([], [])
    assert (measured.l1, measured.l2, measured.sup, measured.sup_sum, measured.relative) == (0,) * 5
    assert not measured.nonfinite


def test_a_zero_reference_makes_any_difference_infinitely_large():
    measured = gap([torch.zeros(2)], [torch.tensor([0.0, 1.0])])
    assert measured.relative == math.inf
    assert measured.tensors[0].relative == math.inf


def test_the_gap_has_no_preferred_direction_but_its_scale_has():
    reference, other = draw(torch.float32, shapes=[(40,), (3, 3)], seed=9)
    there, back = gap(reference, other), gap(other, reference)
    assert (there.l1, there.l2, there.sup) == (back.l1, back.l2, back.sup)
    assert there.relative != back.relative


def test_a_meter_gives_what_single_gaps_give():
    reference, other = draw(torch.float16, shapes=[(20,), (4, 4)], seed=5)
    meter = GapMeter(reference)
    third = [tensor * 2 for tensor in other]
    assert meter.to(other) == gap(reference, other)
    assert meter.to(third) == gap(reference, third)
    assert meter.to(reference).l1 == 0


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=30)
def test_the_order_of_tensors_moves_last_bits_only(seed, dtype):
    reference, other = draw(dtype, shapes=[(9,), (2, 3), (30,), (1,)], seed=seed)
    order = list(range(4))
    random.Random(seed).shuffle(order)
    straight = gap(reference, other)
    shuffled = gap([reference[i] for i in order], [other[i] for i in order])
    assert shuffled.sup == straight.sup
    assert near(shuffled.l1, straight.l1, roundings=8)
    assert near(shuffled.l2, straight.l2, roundings=8)


def test_tensors_that_require_grad_or_are_strided_are_as_good():
    first = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    second = first + 1
    plain = gap([first], [second])
    strided = gap([first.t()], [second.t().contiguous()])
    tracked = gap([first.clone().requires_grad_()], [second.clone().requires_grad_()])
    assert strided.sup == tracked.sup == plain.sup
    assert near(strided.l1, plain.l1, roundings=24)
    assert tracked.l1 == plain.l1


def test_examples_run():
    assert doctest.testmod(gap_module).failed == 0
