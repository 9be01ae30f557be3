"""Random bits with an address."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.data.streams import normals, permutation, stream, uniforms, whole_numbers


def test_bits_are_pinned():
    """A NumPy that changed Philox, or a change of the address, would move every stored number."""
    assert permutation(stream("order", seed=0, epoch=1), num=8).tolist() == PINNED_PERMUTATION
    assert whole_numbers(stream("crop", seed=0, epoch=1, batch=2), num=8, below=9).tolist() == PINNED_CROPS
    assert stream("dither", seed=2**63 - 1).random_raw() == PINNED_RAW


PINNED_PERMUTATION = [3, 2, 6, 7, 0, 4, 5, 1]
PINNED_CROPS = [5, 2, 7, 0, 2, 4, 0, 2]
PINNED_RAW = 16532391171126729389


@given(num=st.integers(0, 300), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_permutation_holds_every_number_once(num, seed, epoch):
    order = permutation(stream("order", seed=seed, epoch=epoch), num=num)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(num))


def test_every_part_of_the_address_counts():
    addresses = [
        ("order", 0, 0, 0),
        ("crop", 0, 0, 0),
        ("order", 1, 0, 0),
        ("order", 2**32, 0, 0),  # torch.Generator on the CPU would take this for seed 0
        ("order", 0, 1, 0),
        ("order", 0, 0, 1),
        ("order", 11, 1, 0),
        ("order", 1, 11, 0),
    ]
    first = {
        stream(name, seed=seed, epoch=epoch, batch=batch).random_raw()
        for name, seed, epoch, batch in addresses
    }
    assert len(first) == len(addresses)


def global_numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002 - the very thing that must not be touched


def test_streams_leave_the_global_generators_alone():
    torch_before, numpy_before = torch.get_rng_state(), global_numpy_state()
    permutation(stream("order", seed=3), num=10)
    normals(stream("dither", seed=3), shape=(4, 4))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(global_numpy_state(), numpy_before)


@given(seed=st.integers(0, 2**63 - 1))
def test_uniforms_lie_on_their_grid(seed):
    drawn = uniforms(stream("crop", seed=seed), shape=(5, 3))
    assert drawn.shape == (5, 3)
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    assert (drawn * 2.0**53 == np.floor(drawn * 2.0**53)).all()


@pytest.mark.parametrize("below", [2, 9])
def test_whole_numbers_are_even(below):
    num = 90_000
    counts = torch.bincount(whole_numbers(stream("crop", seed=5), num=num, below=below), minlength=below)
    assert len(counts) == below
    share = 1 / below
    deviation = (counts - num * share) / (num * share * (1 - share)) ** 0.5
    assert deviation.abs().max() < 5


def test_normals_have_their_moments():
    drawn = normals(stream("dither", seed=5), shape=(200, 500)).double()
    assert abs(drawn.mean()) < 5 / 100_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 100_000) ** 0.5
