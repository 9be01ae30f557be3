"""CIFAR-10 and CIFAR-100: 50,000 and 10,000 photographs, 32x32 in colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiebreak.data.checked import explain_refusal
from tiebreak.data.dataset import Augmentation, DataSet
from tiebreak.data.images import Images

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""As the published runs use them."""

CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Mean and standard deviation of the 50,000 training images by channel; no published choice is known."""


def read_cifar10(root: Path) -> DataSet:
    """The official batches from `<root>/cifar-10-batches-py`, checked by MD5.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Raises:
        DataError: a missing or altered file.
    """
    from torchvision.datasets import CIFAR10

    return _read(root, kind=CIFAR10, name="cifar10", num_classes=10, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def read_cifar100(root: Path) -> DataSet:
    """The official batches from `<root>/cifar-100-python`, checked by MD5; labels are the 100 fine classes.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Raises:
        DataError: a missing or altered file.
    """
    from torchvision.datasets import CIFAR100

    return _read(root, kind=CIFAR100, name="cifar100", num_classes=100, mean=CIFAR100_MEAN, std=CIFAR100_STD)


def _read(
    root: Path,
    *,
    kind: type[CIFAR10],
    name: str,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> DataSet:
    folder = root / kind.base_folder
    try:
        # The batches are pickles: torchvision opens one only after its MD5 is found right.
        train, test = (_images(kind(root, train=split), origin=str(folder)) for split in (True, False))
    except (RuntimeError, OSError) as error:
        sums = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        raise explain_refusal(folder, root=root, name=name, sums=sums, error=error) from None
    return DataSet(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        mean=mean,
        std=std,
        augmentation=Augmentation.CROP_FLIP,
    )


def _images(read: CIFAR10, *, origin: str) -> Images:
    pixels = np.ascontiguousarray(read.data.transpose(0, 3, 1, 2))
    return Images(
        pixels=torch.from_numpy(pixels), labels=torch.tensor(read.targets, dtype=torch.int64), origin=origin
    )
