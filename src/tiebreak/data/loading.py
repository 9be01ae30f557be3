"""From the description of a data set to its images: read, cut to size, hold out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tiebreak.data import cifar, fashion_mnist, image_folder, imagenet, mnist, mnist5k, svhn
from tiebreak.data.batches import num_batches
from tiebreak.data.dataset import Augmentation, DataSet
from tiebreak.data.download import PAGES
from tiebreak.data.files import ImageFiles
from tiebreak.data.images import DataError, Images
from tiebreak.data.streams import permutation, stream
from tiebreak.design.axes import DataName
from tiebreak.design.cell import Data
from tiebreak.design.content import digest

MEMORY_BYTES = 2 * 2**30
"""Splits of image files up to this size are decoded once and kept, where images are asked for again; larger
ones are streamed every epoch."""

_AUGMENTED = (DataName.CIFAR10, DataName.CIFAR100, DataName.IMAGENET, DataName.IMAGE_FOLDER)


def load(data: Data, *, root: Path, once: bool = False) -> DataSet:
    """The data set that a cell describes, on the CPU.

    Without a size, splits keep their official order. With `train_size`, `test_size` or `held_out` the split
    is first shuffled, always the same way, so a smaller subset is the head of a larger one and no replicate
    sees another subset. `held_out` takes the last images of the shuffled training split away from training
    and puts them in the place of the test split (`test_size` then counts among them).

    Images in files are decoded once where a split takes at most 2 GiB, and streamed otherwise, or where each
    epoch crops them anew, or where no image is asked for twice. The bits are the same.

    Args:
        data: which data set, how much of it.
        root: folder of the data sets. `mnist5k` needs none.
        once: whether no image is asked for twice: images in files then stay files, and those of the batches
            asked for are decoded, with a few ahead.

    Returns:
        uint8 images and int64 labels; `DataSet.to` moves them to another device.

    Raises:
        DataError: the data are missing or damaged, or there are fewer images than asked for. A damaged file
            that is not decoded here is told when its batch is.

    Example:
        >>> digits = load(Data(name="mnist5k", train_size=1000), root=Path("data"))
        >>> len(digits.train), len(digits.test), digits.num_classes
        (1000, 1000, 10)
    """
    if data.augment and data.name not in _AUGMENTED:
        raise DataError(
            f"data.augment=true, but no augmentation is defined for {data.name}: the published runs crop and "
            f"flip CIFAR only (defined here: {', '.join(_AUGMENTED)}). Use data.augment=false."
        )
    dataset = _select(_read(data, root=Path(root)), data=data)
    _require_content(data, root=Path(root))
    streams_crops = data.augment and dataset.augmentation is Augmentation.RESIZED_CROP
    if not once:
        dataset = replace(
            dataset,
            train=dataset.train if streams_crops else _settled(dataset.train),
            test=_settled(dataset.test),
        )
    if len(dataset.train):
        num_batches(dataset, data)  # raises for a batch size above the data
    return dataset


def _read(data: Data, *, root: Path) -> DataSet:
    if data.name is not DataName.MNIST5K and not root.is_dir():
        command = f", or run `tiebreak fetch {data.name} data_root={root}`" if data.name in PAGES else ""
        raise DataError(
            f"the data root {root} is not a folder. Set data_root to the folder that holds the data sets"
            f"{command}."
        )
    match data.name:
        case DataName.MNIST:
            return mnist.read(root)
        case DataName.MNIST5K:
            return mnist5k.read()
        case DataName.FASHION_MNIST:
            return fashion_mnist.read(root)
        case DataName.CIFAR10:
            return cifar.read_cifar10(root)
        case DataName.CIFAR100:
            return cifar.read_cifar100(root)
        case DataName.SVHN:
            return svhn.read(root, train_split=data.train_split)
        case DataName.IMAGENET:
            return imagenet.read(root, image_size=data.image_size)
        case DataName.IMAGE_FOLDER:
            return image_folder.read(root, folder=data.folder, image_size=data.image_size)


def _require_content(data: Data, *, root: Path) -> None:
    """The images of a folder must be those that the cell names; one that names none takes what is there."""
    if data.content and data.content != (found := digest(data.name, root=root, folder=data.folder)):
        raise DataError(
            f"the images of {data.folder or data.name} in {root} are not those of this trial: their digest "
            f"is {found or 'none'}, and data.content={data.content}. Put those back, or leave data.content "
            "out to measure the present ones."
        )


def _select(dataset: DataSet, *, data: Data) -> DataSet:
    train, test = dataset.train, dataset.test
    if data.held_out or data.train_size:
        order = permutation(stream("subset-train", seed=0), num=len(train))
        kept = len(train) - data.held_out
        if kept < 1:
            raise DataError(
                f"data.held_out={data.held_out} leaves nothing to train on: {dataset.name} has {len(train)} "
                f"training images in {train.origin}. Hold out fewer."
            )
        _require_size(data.train_size, available=kept, key="data.train_size", name=dataset.name)
        train, held_out = train.subset(order[:kept][: data.train_size or kept]), order[kept:]
        if data.held_out:
            test = dataset.train.subset(held_out)
    if data.test_size:
        _require_size(data.test_size, available=len(test), key="data.test_size", name=dataset.name)
        order = permutation(stream("subset-test", seed=0), num=len(test))
        test = test.subset(order[: data.test_size])
    return replace(dataset, train=train, test=test)


def _require_size(size: int, *, available: int, key: str, name: str) -> None:
    if size > available:
        raise DataError(
            f"{key}={size} is more than the {available} images of {name} that there are. Use 0 for all."
        )


def _settled(images: Images | ImageFiles) -> Images | ImageFiles:
    if isinstance(images, ImageFiles) and images.num_bytes <= MEMORY_BYTES:
        return images.in_memory()
    return images
