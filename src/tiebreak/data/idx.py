"""Reader of IDX files, the format of MNIST and its relatives, packed with gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from tiebreak.data.checked import advice
from tiebreak.data.dataset import DataSet
from tiebreak.data.images import DataError, Images

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of each split, without the suffix `.gz` that any of them may have."""


def read_data_set(folder: Path, *, root: Path, name: str, md5: dict[str, str]) -> DataSet:
    """Ten classes of grey images from four IDX files, pixels scaled to [-1, 1] (mean 0.5, std 0.5).

    Args:
        folder: holds the files, unpacked or as `.gz`; where both are there, the unpacked one counts.
        root: folder of the data sets.
        name: of the data set.
        md5: for each file, MD5 of its unpacked content.

    Raises:
        DataError: a missing, truncated or altered file.
    """
    remedy = advice(name, root=root, folder=folder)
    splits = {}
    for split, (pixels, labels) in FILES.items():
        splits[split] = Images(
            pixels=read_idx(folder / pixels, md5=md5[pixels], remedy=remedy).unsqueeze(1),
            labels=read_idx(folder / labels, md5=md5[labels], remedy=remedy).to(torch.int64),
            origin=str(folder),
        )
    return DataSet(name=name, num_classes=10, mean=(0.5,), std=(0.5,), **splits)


def read_idx(path: Path, *, md5: str, remedy: str) -> torch.Tensor:
    """The array in an IDX file of unsigned bytes.

    Args:
        path: of the unpacked file; `<path>.gz` is read where it is absent.
        md5: of the unpacked content.
        remedy: the sentence that ends every message: what to do.

    Returns:
        uint8 tensor of the shape that the file states.

    Raises:
        DataError: the file is missing, truncated or altered.
    """
    packed = path.with_name(path.name + ".gz")
    found = path if path.is_file() else packed
    try:
        content = found.read_bytes()
        if found is packed:
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"neither {path} nor {packed.name} beside it exists. {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{found} cannot be read ({type(error).__name__}: {error}). Delete it first. {remedy}"
        ) from None
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != md5:
        raise DataError(
            f"{found} is not the official file: its content has {len(content)} bytes and MD5 {got}, "
            f"not {md5}. Delete it first. {remedy}"
        )
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each as a big-endian int32.
    num_dimensions = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=num_dimensions, offset=4)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_dimensions)
    return torch.from_numpy(values.reshape(tuple(shape)).copy())
