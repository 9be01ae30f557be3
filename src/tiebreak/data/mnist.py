"""MNIST: 60,000 and 10,000 handwritten digits, 28x28 grey."""

from __future__ import annotations

from pathlib import Path

from tiebreak.data.dataset import DataSet
from tiebreak.data.idx import read_data_set

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the unpacked official files."""


def read(root: Path) -> DataSet:
    """The official digits from `<root>/MNIST/raw`, each file `.gz` or unpacked, checked by MD5.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998.

    Raises:
        DataError: a missing, truncated or altered file.
    """
    return read_data_set(root / "MNIST" / "raw", root=root, name="mnist", md5=MD5)
