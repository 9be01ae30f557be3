"""Batches whose order is a function of (seed, epoch) and whose randomness one of (seed, epoch, batch).

| stream | keyed by | decides |
|---|---|---|
| `order` | order seed, epoch | the permutation of the training images |
| `crop` | augment seed, epoch, batch | crops by position in the batch; CIFAR's flips too |
| `flip` | augment seed, epoch, batch | flips after a resized crop |
| `dither` | augment seed, epoch, batch | the noise added to normalised inputs |

No stream depends on another or on what was fed before, so a run resumed at batch b sees the same bits, and
a cell with noise has the crops of the cell without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tiebreak.data.dataset import Augmentation, DataSet
from tiebreak.data.files import ImageFiles
from tiebreak.data.images import DataError, Images
from tiebreak.data.pixels import (
    NUM_TRIES,
    CropFlip,
    crop_flip,
    draw_crop_flip,
    flip,
    normalisation_table,
    normalise,
)
from tiebreak.data.streams import normals, permutation, stream, uniforms, whole_numbers
from tiebreak.design.cell import Data


class Batch(NamedTuple):
    """Images and their classes.

    Args:
        images: fp32 (N, C, H, W), normalised.
        labels: int64 (N,), from 0.
    """

    images: Float32[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]


def share(num: int, *, rank: int, num_ranks: int) -> slice:
    """Which of the `num` images of a batch a rank takes: a run of them, the first ranks one more if need be.

    Example:
        >>> [share(5, rank=rank, num_ranks=2) for rank in range(2)]
        [slice(0, 3, None), slice(3, 5, None)]
    """
    size, more = divmod(num, num_ranks)
    start = rank * size + min(rank, more)
    return slice(start, start + size + (rank < more))


def num_batches(dataset: DataSet, data: Data) -> int:
    """Batches in an epoch of training; the last may be shorter and is kept, as in the published runs.

    Raises:
        DataError: no training images, or fewer than one batch.
    """
    num_images = len(dataset.train)
    _require(dataset.train, name=dataset.name, split="training")
    if data.batch_size > num_images:
        raise DataError(
            f"data.batch_size={data.batch_size} is more than the {num_images} training images of "
            f"{dataset.name}. Use {num_images} or less."
        )
    return -(-num_images // data.batch_size)


def train_batches(
    dataset: DataSet,
    *,
    data: Data,
    epoch: int,
    order_seed: int,
    augment_seed: int,
    start: int = 0,
    shuffle: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """One epoch of training batches, from batch `start` on.

    Args:
        dataset: from `load`, on any device; batches are made there.
        data: how it is fed: batch size, augmentation, noise. What `load` was called with.
        epoch: number of the epoch.
        order_seed: decides the order, together with the epoch.
        augment_seed: decides crops, flips and noise, together with the epoch and the number of the batch.
        start: batches to skip, at no cost; the rest is the same bit for bit.
        shuffle: False to feed the images in their stored order.
        rank: of each batch only the `share` of this rank is made; an image has the bits that it has with one
            rank, as random draws go by its place in the whole batch.
        num_ranks: how many ranks share a batch.

    Returns:
        An iterator over ceil(n / batch_size) - start batches.

    Raises:
        DataError: no training images, fewer than one batch, or an augmentation that is not defined.
        ValueError: a start outside the epoch.

    Example:
        >>> from pathlib import Path
        >>> from tiebreak.data import load
        >>> data = Data(name="mnist5k", batch_size=1000)
        >>> digits = load(data, root=Path("data"))
        >>> epoch = train_batches(digits, data=data, epoch=1, order_seed=7, augment_seed=7, start=3)
        >>> [len(batch.labels) for batch in epoch]
        [1000]
    """
    count = num_batches(dataset, data)
    if not 0 <= start <= count:
        raise ValueError(f"start must be from 0 to {count}, the batches of an epoch, got {start}.")
    _require_augmentation(dataset, data=data)
    if shuffle:
        order = permutation(stream("order", seed=order_seed, epoch=epoch), num=len(dataset.train))
    else:
        order = torch.arange(len(dataset.train))
    if isinstance(dataset.train, Images):
        order = order.to(dataset.train.labels.device)
    chunks = [
        (len(chunk), share(len(chunk), rank=rank, num_ranks=num_ranks), chunk)
        for chunk in order.split(data.batch_size)
    ]
    return _train_batches(
        dataset, data=data, epoch=epoch, augment_seed=augment_seed, start=start, chunks=chunks
    )


def _train_batches(
    dataset: DataSet,
    *,
    data: Data,
    epoch: int,
    augment_seed: int,
    start: int,
    chunks: Sequence[tuple[int, slice, Tensor]],
) -> Iterator[Batch]:
    images, remaining = dataset.train, chunks[start:]
    indices = [index[part] for _, part, index in remaining]
    device = images.labels.device
    table = _table(dataset)

    def bits(name: str, batch: int):
        return stream(name, seed=augment_seed, epoch=epoch, batch=batch)

    resized = data.augment and dataset.augmentation is Augmentation.RESIZED_CROP
    if resized and isinstance(images, ImageFiles):
        crops = (
            uniforms(bits("crop", batch), shape=(num, NUM_TRIES, 4))[part]
            for batch, (num, part, _) in enumerate(remaining, start)
        )
        source = images.read(indices, crops=crops)
    else:
        source = images.read(indices)
    sizes = [(num, part) for num, part, _ in remaining]
    for batch, ((num, part), index, pixels) in enumerate(zip(sizes, indices, source, strict=True), start):
        if resized:
            mirrored = whole_numbers(bits("flip", batch), num=num, below=2)[part]
            pixels = flip(pixels, mirrored=mirrored)
        elif data.augment:
            draw = draw_crop_flip(bits("crop", batch), num=num)
            pixels = crop_flip(pixels, draw=CropFlip(*(item[part] for item in draw)))
        inputs = normalise(pixels, table=table)
        if data.dither:
            noise = normals(bits("dither", batch), shape=(num, *inputs.shape[1:]))[part]
            inputs += noise.mul_(data.dither).to(device)
        yield Batch(inputs, images.labels.index_select(0, index.to(device)))


def test_batches(
    dataset: DataSet,
    *,
    batch_size: int,
    first: int = 0,  # noqa: PT028 - no test, whatever its name
    every: int = 1,  # noqa: PT028
) -> Iterator[Batch]:
    """The test split once, in its stored order, normalised and nothing else.

    Args:
        dataset: from `load`, on any device.
        batch_size: images a batch; the last may be shorter and is kept.
        first: number of the first batch.
        every: from one batch to the next; the number of ranks where those share them.

    Raises:
        DataError: no test images.
        ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    _require(dataset.test, name=dataset.name, split="test")
    return _test_batches(dataset, chunks=torch.arange(len(dataset.test)).split(batch_size)[first::every])


# pytest collects functions by this prefix wherever a test module imports them.
test_batches.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def _test_batches(dataset: DataSet, *, chunks: Sequence[Tensor]) -> Iterator[Batch]:
    images, table = dataset.test, _table(dataset)
    labels = images.labels
    for index, pixels in zip(chunks, images.read(chunks), strict=True):
        yield Batch(normalise(pixels, table=table), labels.index_select(0, index.to(labels.device)))


def _table(dataset: DataSet) -> Tensor:
    return normalisation_table(dataset.mean, std=dataset.std).to(dataset.train.labels.device)


def _require(images: Images | ImageFiles, *, name: str, split: str) -> None:
    if not len(images):
        raise DataError(
            f"{name} has no {split} images: there are none under {images.origin}. Put them there."
        )


def _require_augmentation(dataset: DataSet, *, data: Data) -> None:
    if not data.augment:
        return
    if dataset.augmentation is Augmentation.NONE:
        raise DataError(
            f"data.augment=true, but no augmentation is defined for {dataset.name}. Use data.augment=false."
        )
    if dataset.augmentation is Augmentation.RESIZED_CROP and not isinstance(dataset.train, ImageFiles):
        raise DataError(
            f"{dataset.name} was loaded with data.augment=false, so its images are already cropped to one "
            "size. Load it with data.augment=true."
        )
