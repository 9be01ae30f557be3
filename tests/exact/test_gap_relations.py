"""Norms that belong to one difference pass, and an edited one is named."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.exact.files import FloatGap
from tiebreak.exact.gap_relations import broken_relations
from tiebreak.numerics.gap import GapMeter

SHAPES = {"weight": (3, 4), "bias": (5,), "scale": ()}


def measured(reference, other):
    gap = GapMeter(reference).to(other)
    norms = {item.name: getattr(gap, item.name) for item in fields(FloatGap)}
    return FloatGap(**norms)


def tensors(seed, *, exponent=0, share=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in SHAPES.values():
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**exponent
        drawn.append((tensor * (torch.rand(shape, generator=generator) < share)).to(dtype))
    return drawn


def broken(*gaps):
    named = {f"rule{place}": gap for place, gap in enumerate(gaps)}
    return [field for field, _ in broken_relations(named, parameters=SHAPES)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    exponent=st.integers(-1060, 900),
    base=st.integers(-500, 900),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_norms_that_were_measured_always_pass(seed, exponent, base, share):
    """Whatever the sizes are: one entry or all of them, subnormal and huge, several rules."""
    reference = tensors(seed, exponent=base)
    others = [
        [
            one + step
            for one, step in zip(reference, tensors(seed + k, exponent=exponent, share=share), strict=True)
        ]
        for k in (1, 2)
    ]
    assert broken(*(measured(reference, other) for other in others)) == []


@pytest.mark.parametrize("spoilt", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["reference", "other", "both"])
def test_gaps_that_are_not_finite_pass_as_they_are(spoilt, where):
    reference, other = tensors(1), tensors(2)
    if where in ("reference", "both"):
        reference[0][0, 0] = spoilt
    if where in ("other", "both"):
        other[0] = reference[0].clone() if where == "both" else other[0]
        other[0][0, 0] = spoilt
    gap = measured(reference, other)
    assert gap.nonfinite
    assert broken(gap) == []


def test_gradients_of_zeros_pass():
    nothing = [torch.zeros(shape) for shape in SHAPES.values()]
    assert broken(measured(nothing, nothing), measured(nothing, tensors(1))) == []


GAP = measured(tensors(1), tensors(2, exponent=-3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, -1.0) for name in ("l1", "l2", "sup_sum", "sup", "relative")),
        *((name, 0.0) for name in ("l1", "l2", "sup_sum", "sup", "relative")),
        *((name, math.nan) for name in ("l1", "l2", "sup_sum", "sup", "relative")),
        *((name, 20 * getattr(GAP, name)) for name in ("l1", "l2", "sup_sum", "sup")),
        *((name, getattr(GAP, name) / 20) for name in ("l1", "l2", "sup_sum", "sup")),
        ("l1", math.inf),
        ("nonfinite", True),
    ],
)
def test_an_edited_norm_is_named(name, value):
    """Alone, or with the one other norm that it does not go with."""
    found = broken(replace(GAP, **{name: value}))
    assert f"rule0.{name}" in found
    assert len(found) == 1 or (len(found) == 2 and value not in (0, -1))


def test_a_norm_of_a_difference_that_is_none_is_named():
    zero = FloatGap(l1=0, l2=0, sup_sum=0, sup=0, relative=0, nonfinite=False)
    for name in ("l1", "l2", "sup_sum", "sup", "relative"):
        assert broken(replace(zero, **{name: 1e-9})) == [f"rule0.{name}"]


def test_all_rules_are_about_one_gradient():
    reference = tensors(1)
    gaps = [measured(reference, tensors(seed, exponent=-seed)) for seed in (2, 3, 4)]
    assert broken(*gaps) == []
    gaps[1] = replace(gaps[1], relative=gaps[1].relative * (1 + 1e-9))
    assert broken(*gaps) == ["rule1.relative"]
    assert broken(*gaps[:2]) == ["rule0.relative", "rule1.relative"]
