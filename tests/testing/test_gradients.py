"""The assertion against the family's rules, linear programs and mutants."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch.nn import functional

from tiebreak.design.axes import DesignError, PoolJacobian, Selection
from tiebreak.numerics.pooling import max_pool2d
from tiebreak.testing import assert_same_up_to_ties

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CONVEX = (
    PoolJacobian(),
    PoolJacobian(beta=1),
    PoolJacobian(beta=0.3),
    PoolJacobian(selection=Selection.LAST),
    PoolJacobian(selection=Selection.RANDOM, seed=5),
)
EXTRAPOLATING = tuple(PoolJacobian(beta=beta) for beta in (-3.0, 2.0, 10.0, 1e4))
GEOMETRIES = (
    {"kernel": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 3, "stride": 1, "padding": 1},
    {"kernel": (2, 3), "stride": (2, 1), "ceil_mode": True},
    {"kernel": 2, "stride": 1, "dilation": 2},
    {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True},
)
NAN, INF = math.nan, math.inf


def pooled(x: torch.Tensor, g: torch.Tensor, jacobian: PoolJacobian, **geometry) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(max_pool2d(x, jacobian=jacobian, **geometry), x, g)[0]


def native(x: torch.Tensor, g: torch.Tensor, **geometry) -> torch.Tensor:
    x = x.detach().requires_grad_()
    sizes = {"kernel_size": geometry["kernel"]} | {k: v for k, v in geometry.items() if k != "kernel"}
    return torch.autograd.grad(functional.max_pool2d(x, **sizes), x, g)[0]


def case(seed: int, geometry: dict, dtype: torch.dtype, *, specials: bool = False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 3, (2, 2, 6, 7), generator=generator).to(dtype).relu()
    if specials:
        for special in (NAN, INF, -INF, -0.0):
            x[torch.rand(x.shape, generator=generator) < 0.1] = special
    shape = max_pool2d(x, **geometry).shape
    return x, torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_rule_of_the_family_passes_against_torch(geometry, dtype) -> None:
    for seed in range(2):
        x, g = case(seed, geometry, dtype, specials=seed == 1)
        reference = native(x, g, **geometry)
        for jacobian in CONVEX:
            other = pooled(x, g, jacobian, **geometry)
            for convex in (False, True):
                assert_same_up_to_ties(reference, other, x=x, grad_output=g, convex=convex, **geometry)
        for jacobian in EXTRAPOLATING:
            other = pooled(x, g, jacobian, **geometry)
            share = 1 + abs(jacobian.beta)
            assert_same_up_to_ties(reference, other, x=x, grad_output=g, largest_share=share, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("beta", [-3.0, 10.0])
def test_extrapolation_is_not_convex(geometry, beta) -> None:
    x = torch.ones(1, 1, 6, 7, dtype=torch.float64)
    g = torch.ones(max_pool2d(x, **geometry).shape, dtype=torch.float64)
    other = pooled(x, g, PoolJacobian(beta=beta), **geometry)
    if geometry["kernel"] == 2:
        with pytest.raises(AssertionError, match="has a share outside of its window's gradient"):
            assert_same_up_to_ties(
                native(x, g, **geometry), other, x=x, grad_output=g, convex=True, **geometry
            )
    assert_same_up_to_ties(
        native(x, g, **geometry), other, x=x, grad_output=g, largest_share=1 + abs(beta), **geometry
    )


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_all_ones_adds_gradient_and_fails(geometry) -> None:
    x, g = case(0, geometry, torch.float64)
    other = pooled(x, g, PoolJacobian(selection=Selection.ALL_ONES), **geometry)
    with pytest.raises(AssertionError, match="grad_b loses or adds gradient"):
        assert_same_up_to_ties(native(x, g, **geometry), other, x=x, grad_output=g, **geometry)


# ---- mutants -----------------------------------------------------------------------------------------------


def windows_of(x: torch.Tensor, **geometry) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]], bool]]:
    """(index, tied entries, whether several) of each window of (N, C, H, W), one scalar at a time."""
    pair = {
        name: (value, value) if isinstance(value, int) else value
        for name, value in ({"stride": geometry["kernel"], "padding": 0, "dilation": 1} | geometry).items()
        if name != "ceil_mode"
    }
    output = max_pool2d(x, **geometry)
    for index in np.ndindex(*output.shape):
        places = []
        for a in range(pair["kernel"][0]):
            for b in range(pair["kernel"][1]):
                y = index[2] * pair["stride"][0] - pair["padding"][0] + a * pair["dilation"][0]
                z = index[3] * pair["stride"][1] - pair["padding"][1] + b * pair["dilation"][1]
                if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                    places.append((index[0], index[1], y, z))
        nans = [place for place in places if math.isnan(x[place].item())]
        top = max(x[place].item() for place in places) if not nans else None
        tied = nans[-1:] if nans else [place for place in places if x[place].item() == top]
        yield index, tied, len(tied) > 1


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_ulp_at_an_entry_in_no_tied_window_fails_unless_it_is_allowed(geometry, dtype) -> None:
    x, g = case(1, geometry, dtype)
    reference = native(x, g, **geometry)
    in_ties = {place for _, tied, several in windows_of(x, **geometry) if several for place in tied}
    rest = [place for place in np.ndindex(*x.shape) if place not in in_ties and reference[place] != 0]
    assert rest
    for place in rest[:3]:
        mutant = reference.clone()
        word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        mutant.view(word)[place] += 1
        with pytest.raises(AssertionError) as error:
            assert_same_up_to_ties(reference, mutant, x=x, grad_output=g, **geometry)
        text = str(error.value)
        assert f"the gradients differ at {place}, an entry in no tied window: grad_a=" in text
        assert "1 ulps apart (allowed: 0)" in text
        assert "its entries:" in text
        assert_same_up_to_ties(reference, mutant, x=x, grad_output=g, ulps=1, **geometry)
        with pytest.raises(AssertionError, match=r"grad_a is .* in no tied window"):  # both are wrong alike
            assert_same_up_to_ties(3 * reference, 3 * reference, x=x, grad_output=g, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_gradient_moved_from_a_tie_to_another_entry_fails(geometry) -> None:
    x, g = case(2, geometry, torch.float64)
    reference = native(x, g, **geometry)
    in_ties = {place for _, tied, several in windows_of(x, **geometry) if several for place in tied}
    outside = next(place for place in np.ndindex(*x.shape) if place not in in_ties)
    inside = next(place for place in sorted(in_ties) if reference[place] != 0)
    mutant = reference.clone()
    mutant[outside] += mutant[inside]
    mutant[inside] = 0
    with pytest.raises(AssertionError, match=re.escape(f"the gradients differ at {outside}")):
        assert_same_up_to_ties(reference, mutant, x=x, grad_output=g, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lost_gradient_fails(geometry, dtype) -> None:
    x, g = case(3, geometry, dtype)
    other = pooled(x, g, PoolJacobian(beta=1), **geometry)
    in_ties = sorted({place for _, tied, several in windows_of(x, **geometry) if several for place in tied})
    place = max(in_ties, key=lambda place: abs(other[place].item()))
    mutant = other.clone()
    mutant[place] = 0
    reference = native(x, g, **geometry)
    with pytest.raises(AssertionError, match="grad_b loses or adds gradient"):
        assert_same_up_to_ties(reference, mutant, x=x, grad_output=g, **geometry)
    with pytest.raises(AssertionError, match="grad_a loses or adds gradient"):
        assert_same_up_to_ties(mutant, reference, x=x, grad_output=g, **geometry)


def test_moving_between_ties_of_separate_windows_fails_and_within_one_passes() -> None:
    x = torch.ones(1, 2, 4)
    g = torch.tensor([[[1.0, 2.0]]])
    even = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]]])
    within, across = even.clone(), even.clone()
    within[0, 0, 0], within[0, 0, 1] = 0.0, 0.5
    across[0, 0, 0], across[0, 0, 2] = 0.0, 0.75
    assert_same_up_to_ties(even, within, x=x, grad_output=g, kernel=2, convex=True)
    with pytest.raises(AssertionError) as error:
        assert_same_up_to_ties(even, across, x=x, grad_output=g, kernel=2)
    assert str(error.value).splitlines()[:3] == [
        "grad_b loses or adds gradient: the tied window and those without a tie bring 1.0 to 4 tied entries, "
        "which hold 0.75 (allowed difference: 2.68e-07).",
        "Window (0, 0, 0) receives 1.0; its entries:",
        "  (0, 0, 0): x=1.0 (in a tied set), grad_a=0.25, grad_b=0.0, 1048576000 ulps apart",
    ]


def test_rounding_is_allowed_in_a_tied_window_and_not_more() -> None:
    x, g = torch.ones(1, 2, 2), torch.tensor([[[1.0]]])
    first = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    for ulps, passes in ((1, True), (3, True), (4, False)):  # an ulp above 1 is two unit roundoffs
        mutant = first.clone()
        mutant[0, 0, 0] += ulps * 2.0**-23
        if passes:
            assert_same_up_to_ties(first, mutant, x=x, grad_output=g, kernel=2)
        else:
            with pytest.raises(AssertionError, match="loses or adds"):
                assert_same_up_to_ties(first, mutant, x=x, grad_output=g, kernel=2)


def test_a_window_that_receives_zero_may_not_hand_anything_out() -> None:
    x, g = torch.ones(1, 2, 2), torch.zeros(1, 1, 1)
    zero = torch.zeros(1, 2, 2)
    cancelling = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])
    assert_same_up_to_ties(zero, -zero, x=x, grad_output=g, kernel=2)
    with pytest.raises(AssertionError, match="the gradients differ"):
        assert_same_up_to_ties(zero, cancelling, x=x, grad_output=g, kernel=2)


def test_nan_goes_to_the_last_and_signed_zeros_tie() -> None:
    g = torch.tensor([[[2.0]]])
    x = torch.tensor([[[NAN, 1.0], [NAN, 1.0]]])
    right, wrong = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    right[0, 1, 0], wrong[0, 0, 0] = 2.0, 2.0
    assert_same_up_to_ties(right, right, x=x, grad_output=g, kernel=2)
    with pytest.raises(AssertionError, match=re.escape("the gradients differ at (0, 0, 0)")):
        assert_same_up_to_ties(right, wrong, x=x, grad_output=g, kernel=2)
    zeros = torch.tensor([[[0.0, -0.0], [-1.0, -0.0]]])
    first, last = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    first[0, 0, 0], last[0, 1, 1] = 2.0, 2.0
    assert_same_up_to_ties(first, last, x=zeros, grad_output=g, kernel=2, convex=True)


def test_infinite_gradients_are_not_judged_in_ties_and_are_elsewhere() -> None:
    g = torch.tensor([[[INF, INF]]])
    x = torch.tensor([[[1.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    a = torch.tensor([[[INF, 0.0, 0.0, INF], [0.0, 0.0, 0.0, 0.0]]])
    b = torch.tensor([[[INF, INF, 0.0, INF], [0.0, 0.0, 0.0, 0.0]]])
    assert_same_up_to_ties(a, b, x=x, grad_output=g, kernel=2)
    b[0, 0, 3] = NAN
    with pytest.raises(AssertionError, match=re.escape("at (0, 0, 3)")):
        assert_same_up_to_ties(a, b, x=x, grad_output=g, kernel=2)
    finite, g = torch.zeros(1, 2, 4), torch.ones(1, 1, 2)
    finite[0, 0, 0] = finite[0, 0, 3] = 1.0
    infinite = finite.clone()
    infinite[0, 0, 1] = INF
    with pytest.raises(AssertionError, match="grad_b is inf at an entry that receives finite numbers only"):
        assert_same_up_to_ties(finite, infinite, x=x, grad_output=g, kernel=2)


def test_overflow_of_a_share_is_no_fault() -> None:
    x, g = torch.ones(1, 2, 2, dtype=torch.float16), torch.full((1, 1, 1), 60.0, dtype=torch.float16)
    one, other = (pooled(x, g, PoolJacobian(beta=beta), kernel=2) for beta in (0.0, 1e4))
    assert bool(other.isinf().any())
    assert_same_up_to_ties(one, other, x=x, grad_output=g, kernel=2, largest_share=1e4 + 1)


def test_underflow_of_a_share_is_no_fault() -> None:
    tiny = 2.0**-149
    x, g = torch.ones(1, 2, 2), torch.full((1, 1, 1), tiny)
    even = pooled(x, g, PoolJacobian(beta=1), kernel=2)
    assert even.count_nonzero() == 0
    assert_same_up_to_ties(native(x, g, kernel=2), even, x=x, grad_output=g, kernel=2, convex=True)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_strides_and_empty_batches_are_no_matter(order) -> None:
    x, g = case(4, GEOMETRIES[1], torch.float32)
    a, b = (pooled(x, g, jacobian, **GEOMETRIES[1]) for jacobian in CONVEX[:2])
    x, a = (tensor.contiguous(memory_format=order) for tensor in (x, a))
    assert_same_up_to_ties(a, b, x=x, grad_output=g, **GEOMETRIES[1])
    assert_same_up_to_ties(a[:0], b[:0], x=x[:0], grad_output=g[:0], **GEOMETRIES[1])


def test_what_does_not_belong_together_is_said() -> None:
    x, g = torch.ones(1, 2, 2), torch.ones(1, 1, 1)
    with pytest.raises(AssertionError, match="grad_a has shape"):
        assert_same_up_to_ties(x, torch.ones(1, 2, 3), x=x, grad_output=g, kernel=2)
    with pytest.raises(AssertionError, match="must have one dtype"):
        assert_same_up_to_ties(x, x.double(), x=x, grad_output=g, kernel=2)
    with pytest.raises(DesignError, match="grad_output must have the shape of the pool's output"):
        assert_same_up_to_ties(x, x, x=x, grad_output=torch.ones(1, 2, 1), kernel=2)
    with pytest.raises(DesignError, match="x must be"):
        assert_same_up_to_ties(x[0], x[0], x=x[0], grad_output=g, kernel=2)


# ---- against a linear program ------------------------------------------------------------------------------


def is_feasible(
    gradient: torch.Tensor, x: torch.Tensor, g: torch.Tensor, *, convex: bool, **geometry
) -> bool:
    """Whether shares exist, as a linear program over every pair of a window and a tied entry."""
    pairs = [
        (index, place) for index, tied, _ in windows_of(x, **geometry) for place in tied if g[index] != 0
    ]
    windows = sorted({index for index, _ in pairs})
    entries = list(np.ndindex(*x.shape))
    matrix = np.zeros((len(windows) + len(entries), len(pairs)))
    for column, (index, place) in enumerate(pairs):
        matrix[windows.index(index), column] = 1
        matrix[len(windows) + entries.index(place), column] = 1
    wanted = [g[index].item() for index in windows] + [gradient[place].item() for place in entries]
    bounds = [
        (min(0.0, g[index].item()), max(0.0, g[index].item())) if convex else (None, None)
        for index, _ in pairs
    ]
    if not pairs:
        return not any(wanted)
    return linprog(np.zeros(len(pairs)), A_eq=matrix, b_eq=wanted, bounds=bounds).status == 0


def verdict(a: torch.Tensor, b: torch.Tensor, **arguments) -> bool:
    try:
        assert_same_up_to_ties(a, b, **arguments)
    except AssertionError:
        return False
    return True


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_verdict_is_that_of_a_linear_program(seed) -> None:
    """Whole numbers, so that no rounding stands between the two; half of the gradients are nudged."""
    pick = random.Random(seed)
    geometry = pick.choice(
        [
            {"kernel": 2},
            {"kernel": 2, "stride": 1},
            {"kernel": 3, "stride": 2, "padding": 1},
            {"kernel": (1, 3), "stride": 1},
        ]
    )
    x = torch.tensor(
        [[[[pick.choice([0.0, 0.0, 1.0]) for _ in range(4)] for _ in range(4)]]], dtype=torch.float64
    )
    g = torch.zeros_like(max_pool2d(x, **geometry))
    for index in np.ndindex(*g.shape):
        g[index] = pick.randint(-3, 3)
    gradient = torch.zeros_like(x)
    convex_shares = pick.random() < 0.6
    for index, tied, _ in windows_of(x, **geometry):
        left = int(g[index])
        for place in tied[:-1]:
            low, high = sorted((0, left)) if convex_shares else (-6, 6)
            share = pick.randint(low, high) if g[index] != 0 else 0
            gradient[place] += share
            left -= share
        gradient[tied[-1]] += left
    nudges = pick.choice([0, 0, 1, 2])
    for _ in range(nudges):
        place = tuple(pick.randrange(size) for size in x.shape)
        gradient[place] += pick.choice([-1, 1])
    reference = native(x, g, **geometry)
    for convex in (False, True):
        wanted = is_feasible(gradient, x, g, convex=convex, **geometry)
        got = verdict(reference, gradient, x=x, grad_output=g, convex=convex, **geometry)
        assert got == wanted, (convex, geometry, x, g, gradient)
        if nudges == 0:
            assert wanted or (convex and not convex_shares)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    geometry=st.sampled_from(GEOMETRIES),
    dtype=st.sampled_from(DTYPES),
    beta=st.floats(0, 1),
)
def test_any_mixture_of_rules_passes_within_its_rounding(seed, geometry, dtype, beta) -> None:
    x, g = case(seed, geometry, dtype, specials=True)
    other = pooled(x, g, PoolJacobian(beta=beta), **geometry)
    assert_same_up_to_ties(native(x, g, **geometry), other, x=x, grad_output=g, convex=True, **geometry)
