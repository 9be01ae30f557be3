import doctest
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiebreak.design.axes as axes_module
from tiebreak.design.axes import (
    MINIMAL,
    NATIVE,
    PUBLISHED_BETAS,
    Arch,
    DesignError,
    Device,
    Forward,
    PoolJacobian,
    Precision,
    Selection,
    member,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


def exact_row(jacobian, num_tied):
    """The Jacobian's row at a window with `num_tied` maxima, in rational numbers, from the definition.

    native + beta (minimal - native), where native is a unit vector and minimal the mean of all of them.
    """
    native = [Fraction(int(entry == 0)) for entry in range(num_tied)]
    beta, mean = Fraction(jacobian.beta), Fraction(1, num_tied)
    return [entry + beta * (mean - entry) for entry in native]


# Section 1 of the specification of the published study, to the digits printed there, for 2, 3 and 4 maxima.
PUBLISHED_NORMS = {
    0: ("1", "1", "1"),
    1: (".707", ".577", ".500"),
    10: ("6.40", "7.37", "7.81"),
    100: ("70.0", "80.8", "85.7"),
    1_000: ("706", "816", "865"),
    10_000: ("7070", "8164", "8659"),
}


@pytest.mark.parametrize("beta", PUBLISHED_NORMS)
def test_norms_are_the_published_ones(beta):
    for num_tied, printed in zip((2, 3, 4), PUBLISHED_NORMS[beta], strict=True):
        digits = len(printed.partition(".")[2])
        assert abs(PoolJacobian(beta=beta).norm(num_tied) - float(printed)) <= 0.5 * 10**-digits


def test_the_published_grid_is_the_one_with_published_norms():
    assert tuple(PUBLISHED_NORMS) == PUBLISHED_BETAS
    assert PoolJacobian(beta=0) == NATIVE
    assert PoolJacobian(beta=1) == MINIMAL


@given(beta=st.floats(-1e6, 1e6), num_tied=st.integers(1, 200))
def test_norm_is_that_of_the_row_from_the_definition(beta, num_tied):
    jacobian = PoolJacobian(beta=beta)
    row = exact_row(jacobian, num_tied)
    assert sum(row) == 1
    squared = sum(entry**2 for entry in row)
    assert squared == 1 - (1 - Fraction(1, num_tied)) * Fraction(beta) * (2 - Fraction(beta))
    # 1 - beta + beta/k may cancel: its error is relative to max(1, |beta|), not to the result
    error = 16 * 2.0**-53 * max(1.0, abs(beta))
    assert abs(jacobian.norm(num_tied) - math.sqrt(squared)) <= error


@pytest.mark.parametrize("num_tied", [1, 2, 3, 4, 9])
def test_norms_of_the_named_rules(num_tied):
    assert PoolJacobian(selection=Selection.LAST).norm(num_tied) == 1
    assert PoolJacobian(selection=Selection.RANDOM, seed=5).norm(num_tied) == 1
    assert PoolJacobian(selection=Selection.ALL_ONES).norm(num_tied) == math.sqrt(num_tied)
    assert all(PoolJacobian(beta=beta).norm(1) == 1 for beta in (0, 1, 0.5, 2))


def test_norm_of_no_maximum_is_refused():
    with pytest.raises(ValueError, match="num_tied=0"):
        NATIVE.norm(0)


def test_minimal_has_the_least_norm_of_the_family():
    for num_tied in (2, 3, 4):
        least = MINIMAL.norm(num_tied)
        assert all(PoolJacobian(beta=beta).norm(num_tied) > least for beta in (-1, 0, 0.5, 0.999, 1.001, 2))


@given(first=finite, second=finite, forwards=st.tuples(*[st.sampled_from(Forward)] * 2))
def test_labels_tell_jacobians_apart(first, second, forwards):
    one, other = (
        PoolJacobian(beta=beta, forward=forward)
        for beta, forward in zip((first, second), forwards, strict=True)
    )
    assert (one.label == other.label) == (one == other)
    assert " " not in one.label


def test_labels_read_well():
    labels = {
        PoolJacobian(): "native",
        PoolJacobian(beta=1): "minimal",
        PoolJacobian(beta=100): "beta100",
        PoolJacobian(beta=0.5): "beta0.5",
        PoolJacobian(beta=-2): "beta-2",
        PoolJacobian(beta=1e4, forward=Forward.BLENDED): "beta10000-blended",
        PoolJacobian(forward="blended"): "native-blended",
        PoolJacobian(beta=1e3, forward="blended_value"): "beta1000-blended_value",
        PoolJacobian(beta=1, forward="blended_gradient"): "minimal-blended_gradient",
        PoolJacobian(selection="last"): "last",
        PoolJacobian(selection="random", seed=3): "random-s3",
        PoolJacobian(selection="all_ones"): "all_ones",
    }
    assert {jacobian.label: label for jacobian, label in labels.items()} == {x: x for x in labels.values()}


@pytest.mark.parametrize("beta", [0, -0.0, 0.0, False + 0])
def test_one_spelling_of_zero(beta):
    jacobian = PoolJacobian(beta=beta)
    assert jacobian == NATIVE
    assert math.copysign(1.0, jacobian.beta) == 1.0
    assert type(jacobian.beta) is float


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": math.nan}, ["pool.beta must be a finite number, got nan", "Use 0 for PyTorch's"]),
        ({"beta": math.inf}, ["pool.beta", "got inf"]),
        ({"beta": -math.inf}, ["pool.beta", "got -inf"]),
        ({"beta": "100"}, ["pool.beta", "got '100'"]),
        ({"beta": True}, ["pool.beta", "got True"]),
        ({"beta": None}, ["pool.beta", "got None"]),
        ({"beta": 1j}, ["pool.beta", "got 1j"]),
        ({"beta": 10**400}, ["pool.beta", "finite", "1329 bits"]),
        ({"beta": 10**5000}, ["pool.beta", "finite", "bits"]),
        (
            {"forward": "exactly"},
            ["pool.forward must be one of exact, blended, blended_value, blended_gradient, got 'exactly'"],
        ),
        (
            {"forward": []},
            ["pool.forward must be one of exact, blended, blended_value, blended_gradient, got []"],
        ),
        ({"selection": "first"}, ["pool.selection must be one of beta, last, random, all_ones", "'first'"]),
        ({"selection": "last", "beta": 2}, ["pool.beta", "beta=2", "selection=last", "Leave beta out"]),
        ({"selection": "last", "forward": "blended"}, ["pool.forward=blended", "selection=last", "exact"]),
        ({"seed": 1}, ["pool.seed", "seed=1", "selection=beta", "Leave seed out"]),
        ({"seed": -1, "selection": "random"}, ["pool.seed must be a whole number, 0 or more", "got -1"]),
        ({"seed": 1.5, "selection": "random"}, ["pool.seed", "got 1.5"]),
        ({"seed": True, "selection": "random"}, ["pool.seed", "got True"]),
        ({"seed": 2**63, "selection": "random"}, ["pool.seed", str(2**63)]),
        ({"seed": 10**5000, "selection": "random"}, ["pool.seed", "bits"]),
    ],
)
def test_what_a_jacobian_cannot_be(fields, words):
    with pytest.raises(DesignError) as caught:
        PoolJacobian(**fields)
    for word in words:
        assert word in str(caught.value)


def test_member_names_every_option():
    with pytest.raises(DesignError, match=r"^device must be one of cpu, cuda, got 'gpu'\.$"):
        member(Device, "gpu", key="device")
    assert member(Arch, "vgg11", key="arch") is Arch.VGG11
    assert member(Arch, Arch.VGG11, key="arch") is Arch.VGG11


def test_unit_roundoffs_are_those_of_the_formats():
    import torch

    for precision in (Precision.FP16, Precision.BF16, Precision.FP32, Precision.FP64):
        eps = torch.finfo(getattr(torch, precision.storage)).eps
        assert precision.unit_roundoff == eps / 2
    assert (
        Precision.FP16_ROUNDED.unit_roundoff == Precision.AMP16.unit_roundoff == Precision.FP16.unit_roundoff
    )
    assert Precision.AMPBF16.unit_roundoff == Precision.BF16.unit_roundoff
    assert Precision.TF32.unit_roundoff == 2.0**-11  # ten stored bits of significand and the hidden one
    assert Precision.E4M3.unit_roundoff == torch.finfo(torch.float8_e4m3fn).eps / 2
    assert Precision.E5M2.unit_roundoff == torch.finfo(torch.float8_e5m2).eps / 2
    for precision in Precision:
        narrow = precision in (Precision.E4M3, Precision.E5M2)
        assert precision.is_eight_bit is narrow
        assert precision.working_roundoff == (2.0**-24 if narrow else precision.unit_roundoff)
    assert {precision for precision in Precision if precision.is_mixed} == {
        Precision.AMP16,
        Precision.AMPBF16,
    }
    assert all(
        precision.storage == "float32"
        for precision in Precision
        if precision.is_mixed or precision.is_eight_bit
    )


def test_examples_run():
    assert doctest.testmod(axes_module).failed == 0
