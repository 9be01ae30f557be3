"""Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 28x28 grey."""

from __future__ import annotations

from pathlib import Path

from tiebreak.data.dataset import DataSet
from tiebreak.data.idx import read_data_set

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""MD5 of the unpacked official files."""


def read(root: Path) -> DataSet:
    """The official pictures from `<root>/FashionMNIST/raw`, each file `.gz` or unpacked, checked by MD5.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.

    Raises:
        DataError: a missing, truncated or altered file.
    """
    return read_data_set(root / "FashionMNIST" / "raw", root=root, name="fashion_mnist", md5=MD5)
