"""Order, augmentation and noise as functions of (seed, epoch, batch)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak import data as feed
from tiebreak.data import Augmentation, Batch, DataError, DataSet, Images, num_batches, train_batches
from tiebreak.data.pixels import crop_flip, draw_crop_flip, normalisation_table, normalise
from tiebreak.data.streams import stream
from tiebreak.design.cell import Data

SEEDS = {"order_seed": 11, "augment_seed": 22}


def numbered(num_train=10, num_test=5, *, channels=3, size=8, augmentation=Augmentation.CROP_FLIP):
    """A data set whose labels are positions, so that a batch tells which images it took."""
    draw = torch.Generator().manual_seed(num_train)

    def images(num):
        shape = (num, channels, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
        return Images(pixels=pixels, labels=torch.arange(num), origin="the test")

    return DataSet(
        name="numbered",
        train=images(num_train),
        test=images(num_test),
        num_classes=num_train,
        mean=(0.4,) * channels,
        std=(0.3,) * channels,
        augmentation=augmentation,
    )


def described(batch_size, **fields):
    return Data(name="cifar10", batch_size=batch_size, **fields)


def epoch_of(dataset, data, **arguments):
    return list(train_batches(dataset, data=data, **({"epoch": 1} | SEEDS | arguments)))


def order_of(batches):
    return torch.cat([batch.labels for batch in batches]).tolist()


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images.view(torch.int32), other.images.view(torch.int32))
        assert torch.equal(one.labels, other.labels)


@settings(max_examples=30, deadline=None)
@given(num=st.integers(1, 40), batch_size=st.integers(1, 40), seed=st.integers(0, 2**63 - 1))
def test_an_epoch_holds_every_image_once(num, batch_size, seed):
    dataset, data = numbered(num), described(min(batch_size, num))
    batches = epoch_of(dataset, data, order_seed=seed)
    assert sorted(order_of(batches)) == list(range(num))
    assert len(batches) == num_batches(dataset, data) == -(-num // data.batch_size)
    assert all(len(batch.labels) == data.batch_size for batch in batches[:-1])


@settings(max_examples=30, deadline=None)
@given(
    num=st.integers(1, 30),
    batch_size=st.integers(1, 30),
    start=st.integers(0, 30),
    augment=st.booleans(),
    dither=st.sampled_from([0.0, 0.25]),
    shuffle=st.booleans(),
)
def test_resuming_gives_the_same_bits(num, batch_size, start, augment, dither, shuffle):
    dataset = numbered(num)
    data = described(min(batch_size, num), augment=augment, dither=dither)
    start = min(start, num_batches(dataset, data))
    whole = epoch_of(dataset, data, shuffle=shuffle)
    assert_same_bits(epoch_of(dataset, data, start=start, shuffle=shuffle), whole[start:])


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(1, 30),
    batch_size=st.integers(1, 30),
    num_ranks=st.integers(1, 5),
    augment=st.booleans(),
    dither=st.sampled_from([0.0, 0.1]),
)
def test_the_shares_of_all_ranks_are_the_batch_of_one_process(num, batch_size, num_ranks, augment, dither):
    dataset, data = numbered(num), described(min(num, batch_size), augment=augment, dither=dither)
    ranks = [epoch_of(dataset, data, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    joined = [
        Batch(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
        for parts in zip(*ranks, strict=True)
    ]
    assert_same_bits(joined, epoch_of(dataset, data))
    for parts in zip(*ranks, strict=True):
        sizes = [len(part.labels) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1


@given(num=st.integers(1, 30), batch_size=st.integers(1, 9), num_ranks=st.integers(1, 5))
def test_ranks_take_turns_with_test_batches(num, batch_size, num_ranks):
    dataset = numbered(1, num)
    turns = [
        list(feed.test_batches(dataset, batch_size=batch_size, first=rank, every=num_ranks))
        for rank in range(num_ranks)
    ]
    whole = list(feed.test_batches(dataset, batch_size=batch_size))
    again = [turns[number % num_ranks][number // num_ranks] for number in range(len(whole))]
    assert sum(map(len, turns)) == len(whole)
    assert_same_bits(again, whole)


def test_order_depends_on_the_order_seed_and_the_epoch_only():
    dataset, data = numbered(50), described(7)
    reference = order_of(epoch_of(dataset, data))
    same = [
        epoch_of(dataset, data, augment_seed=5),
        epoch_of(dataset, described(7, augment=True, dither=0.1)),
        epoch_of(dataset, described(20)),
    ]
    assert all(order_of(batches) == reference for batches in same)
    assert order_of(epoch_of(dataset, data, epoch=2)) != reference
    assert order_of(epoch_of(dataset, data, order_seed=12)) != reference


def test_unshuffled_order_is_the_stored_one():
    assert order_of(epoch_of(numbered(10), described(4), shuffle=False)) == list(range(10))


def test_augmentation_is_the_one_drawn_for_the_batch():
    dataset, data = numbered(10), described(4, augment=True)
    table = normalisation_table(dataset.mean, std=dataset.std)
    for number, batch in enumerate(epoch_of(dataset, data, epoch=3)):
        bits = stream("crop", seed=SEEDS["augment_seed"], epoch=3, batch=number)
        draw = draw_crop_flip(bits, num=len(batch.labels))
        expected = normalise(crop_flip(dataset.train.pixels[batch.labels], draw=draw), table=table)
        assert torch.equal(batch.images, expected)


def test_augmentation_changes_with_seed_epoch_and_batch():
    dataset = numbered(8)
    same_image = replace(dataset.train, pixels=dataset.train.pixels[:1].expand(8, -1, -1, -1).contiguous())
    dataset, data = replace(dataset, train=same_image), described(4, augment=True)
    first, second = epoch_of(dataset, data)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, epoch_of(dataset, data, epoch=2)[0].images)
    assert not torch.equal(first.images, epoch_of(dataset, data, augment_seed=1)[0].images)
    assert torch.equal(first.images, epoch_of(dataset, data, order_seed=1)[0].images)


def test_without_augmentation_images_are_normalised_only():
    dataset = numbered(6)
    (batch,) = epoch_of(dataset, described(6))
    table = normalisation_table(dataset.mean, std=dataset.std)
    assert torch.equal(batch.images, normalise(dataset.train.pixels[batch.labels], table=table))


def test_dither_adds_noise_of_the_given_size_and_keeps_the_crops():
    dataset = numbered(64, size=16)
    (clean,) = epoch_of(dataset, described(64, augment=True))
    (noisy,) = epoch_of(dataset, described(64, augment=True, dither=0.125))
    (louder,) = epoch_of(dataset, described(64, augment=True, dither=0.25))
    noise = (noisy.images - clean.images).double()
    num = noise.numel()
    assert abs(noise.mean()) < 5 * 0.125 / num**0.5
    assert abs(noise.std() / 0.125 - 1) < 5 / (2 * num) ** 0.5
    # Both sums are rounded once, at a size below 4: the same draws, doubled.
    assert (louder.images - clean.images - 2 * noise).abs().max() <= 3 * 4 * 2.0**-24


def test_test_batches_are_all_images_in_order():
    dataset = numbered(3, 11)
    batches = list(feed.test_batches(dataset, batch_size=4))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    assert order_of(batches) == list(range(11))
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(
        images, normalise(dataset.test.pixels, table=normalisation_table(dataset.mean, std=dataset.std))
    )


def test_batches_are_contiguous_fp32_and_int64():
    for batch in itertools.chain(
        epoch_of(numbered(), described(3, augment=True, dither=0.5)),
        feed.test_batches(numbered(), batch_size=2),
    ):
        assert isinstance(batch, Batch)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous()
        assert batch.labels.dtype == torch.int64


def test_stored_bytes_are_never_changed():
    dataset = numbered(9)
    before = dataset.train.pixels.clone()
    epoch_of(dataset, described(4, augment=True, dither=1.0))
    assert torch.equal(dataset.train.pixels, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_have_the_same_bits_on_cuda():
    dataset, data = numbered(40), described(16, augment=True, dither=0.1)
    for here, there in zip(epoch_of(dataset, data), epoch_of(dataset.to("cuda"), data), strict=True):
        assert there.images.is_cuda
        assert there.labels.is_cuda
        assert torch.equal(here.images, there.images.cpu())
        assert torch.equal(here.labels, there.labels.cpu())


def test_moving_a_data_set_keeps_its_batches():
    dataset, data = numbered(9), described(4, augment=True)
    assert_same_bits(epoch_of(dataset.to("cpu"), data), epoch_of(dataset, data))


def test_a_batch_above_the_data_is_refused():
    with pytest.raises(DataError, match=r"data\.batch_size=11 is more than the 10 training images"):
        train_batches(numbered(10), data=described(11), epoch=1, **SEEDS)


def test_an_undefined_augmentation_is_refused():
    dataset = numbered(augmentation=Augmentation.NONE)
    with pytest.raises(DataError, match=r"data\.augment=true, but no augmentation is defined for numbered"):
        train_batches(dataset, data=described(2, augment=True), epoch=1, **SEEDS)


def test_images_cropped_for_testing_are_not_augmented():
    dataset = numbered(augmentation=Augmentation.RESIZED_CROP)
    with pytest.raises(DataError, match=r"loaded with data\.augment=false"):
        train_batches(dataset, data=described(2, augment=True), epoch=1, **SEEDS)


@pytest.mark.parametrize("start", [-1, 6])
def test_a_start_outside_the_epoch_is_refused(start):
    with pytest.raises(ValueError, match=r"start must be from 0 to 5"):
        train_batches(numbered(10), data=described(2), epoch=1, start=start, **SEEDS)


def test_empty_splits_are_refused():
    with pytest.raises(DataError, match="numbered has no training images: there are none under the test"):
        num_batches(numbered(0), described(1))
    with pytest.raises(DataError, match="numbered has no test images"):
        feed.test_batches(numbered(3, 0), batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        feed.test_batches(numbered(), batch_size=0)
