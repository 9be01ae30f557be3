"""Images in folders: `<folder>/<split>/<class>/<image>`, any size, always read as RGB."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tiebreak.data.cifar import CIFAR10_MEAN, CIFAR10_STD
from tiebreak.data.dataset import Augmentation, DataSet
from tiebreak.data.files import ImageFiles, open_image
from tiebreak.data.images import DataError, Images, no_images
from tiebreak.design.axes import DataName
from tiebreak.design.content import SUFFIXES, splits

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The usual ones, of torchvision's reference training."""


def read(root: Path, *, folder: str, image_size: int) -> DataSet:
    """A folder of images with one sub-folder a split and one sub-sub-folder a class.

    The splits are `train` and `test` (or, where there is no `test`, `val`). One of them may be absent: then
    it is empty, and feeding it is an error. Classes are numbered in the order of their names.

    `image_size=0` takes the pixels as they are stored: all images must be square and of one size, and
    augmentation is CIFAR's. Otherwise the short side is scaled to 256/224 of `image_size`, the centre is cut
    out, and augmentation is ImageNet's random resized crop. Images of 32x32 as stored are normalised with
    CIFAR-10's constants, all others with ImageNet's.

    Args:
        root: folder of the data sets.
        folder: name of this one.
        image_size: side of the images in pixels, or 0 for their own.

    Raises:
        DataError: no such folder, no images, an empty class, a test class that has no training images.
    """
    train, test = splits(DataName.IMAGE_FOLDER, root=root, folder=folder)
    return read_splits(train=train, test=test, name=folder, image_size=image_size)


def read_splits(*, train: Path, test: Path, name: str, image_size: int) -> DataSet:
    """A data set from two folders of class folders, at least one of which exists.

    Raises:
        DataError: as `read`.
    """
    present = [path for path in (train, test) if path.is_dir()]
    if not present:
        raise DataError(
            f"{name}: neither {train} nor {test} exists. Put images into "
            f"{train}/<class>/ and {test}/<class>/, or set data_root to the folder that holds {name}."
        )
    classes = _class_names(present[0])
    for path in present[1:]:
        unknown = sorted(set(_class_names(path)) - set(classes))
        if unknown:
            raise DataError(
                f"{path / unknown[0]} is a class without training images: {present[0]} has no such folder "
                f"({len(unknown)} of these). Add the training images or remove the class."
            )
    listed = {path: _list_images(path, classes=classes) for path in present}
    first = listed[present[0]][0][0]
    size = image_size or _side_of(first)

    def images(path: Path) -> Images | ImageFiles:
        if path not in listed:
            return no_images(channels=3, image_size=size, origin=str(path))
        paths, labels = listed[path]
        return ImageFiles(
            paths=paths, labels=labels, image_size=size, scaled=bool(image_size), origin=str(path)
        )

    cifar_like = not image_size and size == 32
    return DataSet(
        name=name,
        train=images(train),
        test=images(test),
        num_classes=len(classes),
        mean=CIFAR10_MEAN if cifar_like else IMAGENET_MEAN,
        std=CIFAR10_STD if cifar_like else IMAGENET_STD,
        augmentation=Augmentation.RESIZED_CROP if image_size else Augmentation.CROP_FLIP,
    )


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise DataError(f"{folder} has no class folders. Put images into {folder}/<class>/.")
    return names


def _list_images(folder: Path, *, classes: list[str]) -> tuple[tuple[Path, ...], torch.Tensor]:
    """Files sorted by class, then by name, and their labels."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        place = folder / name
        if not place.is_dir():
            continue
        names = sorted(
            entry.name for entry in os.scandir(place) if Path(entry.name).suffix.lower() in SUFFIXES
        )
        if not names:
            raise DataError(
                f"class folder {place} has no images ({', '.join(sorted(SUFFIXES))}). Fill it or remove it."
            )
        paths += [place / name for name in names]
        labels += [label] * len(names)
    return tuple(paths), torch.tensor(labels, dtype=torch.int64)


def _side_of(path: Path) -> int:
    image = open_image(path)
    if image.width != image.height:
        raise DataError(
            f"{path} is {image.width}x{image.height} pixels, which is not square. "
            "Set data.image_size to scale and crop all images to one size."
        )
    return image.width
