"""Counts of kinks and ties against enumeration, against torch's own arithmetic, and known numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import HARDTANH, RELU, RELU6, piecewise_linear
from tiebreak.theory.enumeration import touches
from tiebreak.theory.machine import format_of
from tiebreak.theory.network import Sketch
from tiebreak.theory.rounding import touched_neuron, touched_window, weights_of

HALF_MORE = Fraction(3, 2)


def neuron(function, factor):
    sketch = Sketch("neuron")
    u, b = sketch.parameters("u", "b")
    return sketch.network((u * factor + b).through(function))


def window(factor):
    sketch = Sketch("window")
    u, b1, b2 = sketch.parameters("u", "b1", "b2")
    return sketch.network(sketch.largest([u + b1, u * factor + b2]))


def counted(network, kind):
    exact = touches(network, kind.machine_set())
    computed = touches(network, kind.machine_set(), arithmetic=kind)
    return int(exact.sum()), int(computed.sum()), int((exact & computed).sum())


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "fp16", "bf16"])
def test_ordinals_are_in_the_order_of_the_numbers(name):
    kind = format_of(name)
    numbers = kind.number_of(torch.arange(-kind.most, kind.most + 1))
    assert numbers.tolist() == [float(number) for number in kind.machine_set().numbers]


def test_ordinals_of_fp32_are_its_bits():
    ordinals = torch.tensor([0, 1, 2**23 - 1, 2**23, 0x3F800000, 0x7F7FFFFF])
    bits = ordinals.to(torch.int32).view(torch.float32).double()
    assert torch.equal(format_of("fp32").number_of(ordinals), bits)
    assert torch.equal(format_of("fp32").number_of(-ordinals), -bits + 0.0)
    assert format_of("fp32").most == 0x7F7FFFFF


@pytest.mark.parametrize("name", ["e2m1", "e3m2", "e2m3", "e4m3", "e5m2"])
@pytest.mark.parametrize("function", [RELU, HARDTANH, RELU6], ids=lambda function: function.name)
@pytest.mark.parametrize("factor", [Fraction(1), HALF_MORE, Fraction(-1, 2)], ids=str)
def test_a_neuron_is_counted_as_one_by_one(name, function, factor):
    kind = format_of(name)
    found = touched_neuron(function, kind, factor=factor)
    assert (found.exact, found.computed, found.both) == counted(neuron(function, factor), kind)
    assert found.points == kind.size**2
    assert found.missed == found.exact - found.both
    assert found.only_by_rounding == found.computed - found.both


@settings(max_examples=25)
@given(
    name=st.sampled_from(["e2m1", "e3m2", "e2m3"]),
    kinks=st.sets(st.integers(-4, 4), min_size=1, max_size=3),
    factor=st.sampled_from([-2, -1, "1/2", 1, "3/2", 2, 3]),
)
def test_any_kinks_and_factors_are_counted_as_one_by_one(name, kinks, factor):
    kind, factor = format_of(name), Fraction(factor)
    function = piecewise_linear("zigzag", kinks=sorted(kinks), slopes=range(len(kinks) + 1), value=0)
    found = touched_neuron(function, kind, factor=factor)
    assert (found.exact, found.computed, found.both) == counted(neuron(function, factor), kind)


@pytest.mark.parametrize("name", ["e2m1", "e3m2", "e2m3"])
@pytest.mark.parametrize("factor", [Fraction(1), HALF_MORE, Fraction(-1, 2)], ids=str)
def test_a_window_is_counted_as_one_by_one(name, factor):
    kind = format_of(name)
    found = touched_window(kind, factor=factor, weights=weights_of(kind, number=0, seed=0))
    assert (found.exact, found.computed, found.both) == counted(window(factor), kind)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_what_the_program_sees_is_what_torch_computes(name, dtype):
    kind = format_of(name)
    weights = torch.cat([weights_of(kind, number=40, seed=3), torch.tensor([0.0, 2 / 3, 1.0, 6.0, 0.125])])
    weights = weights.to(dtype).double()
    bias = kind.number_of(torch.arange(-kind.most, kind.most + 1)).to(dtype)
    of_neuron = of_window = 0
    for u in weights.to(dtype):
        held = u * 1.5
        total = held + bias
        of_neuron += int(((total == 1) | (total == -1)).sum())
        first, second = u + bias, held + bias
        values, counts = first[first.isfinite()].unique(return_counts=True)
        place = torch.searchsorted(values, second.contiguous()).clamp(max=len(values) - 1)
        of_window += int(counts[place][(values[place] == second) & second.isfinite()].sum())
    assert touched_neuron(HARDTANH, kind, factor=HALF_MORE, weights=weights).computed == of_neuron
    assert touched_window(kind, factor=HALF_MORE, weights=weights).computed == of_window


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_over_the_reals_it_is_what_rationals_say(name):
    kind = format_of(name)
    numbers = set(kind.machine_set().numbers)
    weights = weights_of(kind, number=100, seed=1)
    points = [Fraction(u) for u in weights.tolist()]
    exact = sum(kink - HALF_MORE * u in numbers for u in points for kink in (1, -1))
    assert touched_neuron(HARDTANH, kind, factor=HALF_MORE, weights=weights).exact == exact
    ties = sum(b + points[0] / 2 in numbers for b in numbers)
    assert touched_window(kind, factor=HALF_MORE, weights=weights[:1]).exact == ties


KINK_1 = piecewise_linear("kink at 1", kinks=[1], slopes=[0, 1], value=0)
KINK_6 = piecewise_linear("kink at 6", kinks=[6], slopes=[1, 0], value=6)


@pytest.mark.parametrize(
    ("function", "name", "factor", "exact", "computed"),
    [
        (RELU, "e4m3", "9/8", 31, 249),
        (RELU, "fp16", "9/8", 7067, 63031),
        (HARDTANH, "e4m3", "1", 162, 594),
        (HARDTANH, "e5m2", "1", 66, 534),
        (KINK_1, "fp16", "1", 24577, 88577),
        (KINK_6, "fp16", "1", 21507, 90115),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_known_numbers(function, name, factor, exact, computed):
    found = touched_neuron(function, format_of(name), factor=Fraction(factor))
    assert (found.exact, found.computed) == (exact, computed)


def test_no_weight_of_relu_has_more_than_one_touch_in_fp32():
    """What makes a draw of weights a fair one."""
    kind = format_of("fp32")
    for u in weights_of(kind, number=50, seed=0):
        found = touched_neuron(RELU, kind, factor=HALF_MORE, weights=u[None])
        assert found.exact <= found.computed <= 1


def test_drawn_weights_are_numbers_of_the_format():
    kind = format_of("e4m3")
    drawn = weights_of(kind, number=5000, seed=1)
    assert torch.equal(kind.rounded(drawn), drawn)
    assert len(drawn.unique()) == kind.size
    assert torch.equal(drawn, weights_of(kind, number=5000, seed=1))
    assert not torch.equal(drawn, weights_of(kind, number=5000, seed=2))


def test_what_cannot_be_counted_is_refused():
    weights = weights_of(format_of("e2m1"), number=0, seed=0)
    with pytest.raises(UserError, match=r"9/8 is no number of e2m1"):
        touched_neuron(RELU, format_of("e2m1"), factor=Fraction(9, 8))
    with pytest.raises(UserError, match=r"1/3 is no number of e4m3"):
        touched_window(format_of("e4m3"), factor=Fraction(1, 3), weights=weights)
    with pytest.raises(UserError, match="Take a format of 16 bits or fewer"):
        touched_window(format_of("fp32"), factor=Fraction(1), weights=weights)
