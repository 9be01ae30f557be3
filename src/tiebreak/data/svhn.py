"""SVHN: house numbers, 32x32 in colour: 73,257 to train on, 26,032 to test on, 531,131 extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tiebreak.data.checked import explain_refusal
from tiebreak.data.dataset import DataSet
from tiebreak.data.images import Images


def read(root: Path, *, train_split: str) -> DataSet:
    """The official cropped digits from `<root>/SVHN/{train,test,extra}_32x32.mat`, checked by MD5.

    The files' label 10, the digit 0, becomes 0. The published runs train on `extra` *instead of* `train`.
    `extra` takes 1.6 GB of memory, and about twice that while it is read.

    Args:
        root: folder of the data sets.
        train_split: `train` or `extra`.

    Source: Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011.

    Raises:
        DataError: a missing or altered file.
    """
    return DataSet(
        name="svhn",
        train=_images(root, split=train_split),
        test=_images(root, split="test"),
        num_classes=10,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _images(root: Path, *, split: str) -> Images:
    from torchvision.datasets import SVHN

    folder = root / "SVHN"
    try:
        read = SVHN(folder, split=split)
    except (RuntimeError, OSError) as error:
        _, filename, md5 = SVHN.split_list[split]
        raise explain_refusal(folder, root=root, name="svhn", sums=[(filename, md5)], error=error) from None
    return Images(
        pixels=torch.from_numpy(np.ascontiguousarray(read.data)),
        labels=torch.from_numpy(read.labels.astype(np.int64)),
        origin=str(folder / SVHN.split_list[split][1]),
    )
