"""Which images lie in a folder: a digest that tells one set of files from another, without opening any."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tiebreak.design.axes import DataName

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
"""Files with another suffix are passed over; upper case counts as lower case."""


def splits(name: DataName, *, root: Path, folder: str = "") -> tuple[Path, Path]:
    """The folders of the training and of the test split of `imagenet` or `image_folder`, there or not.

    ImageNet's second split is `val`; another folder's is `test` or, where there is no `test`, `val`.

    Args:
        name: `imagenet` or `image_folder`.
        root: folder of the data sets.
        folder: name of the image folder.
    """
    place = root / (folder or str(name))
    test, val = place / "test", place / "val"
    uses_val = name is DataName.IMAGENET or (val.is_dir() and not test.is_dir())
    return place / "train", val if uses_val else test


def digest(name: DataName, *, root: Path, folder: str = "") -> str:
    """First 12 hexadecimal digits of SHA-256 over path and size of every image of both splits, sorted.

    Paths are relative to the data set's folder, so a copy elsewhere has the same digest. Two files of one
    path and one size are taken for the same image; their bytes are not read.

    Args:
        name: `imagenet` or `image_folder`.
        root: folder of the data sets.
        folder: name of the image folder.

    Returns:
        The digest; empty if neither split has an image.

    Raises:
        OSError: a folder that cannot be read.
    """
    found = sorted(
        (f"{split.name}/{label.name}/{image.name}", image.stat().st_size)
        for split in splits(name, root=root, folder=folder)
        if split.is_dir()
        for label in os.scandir(split)
        if label.is_dir() and not label.name.startswith(".")
        for image in os.scandir(label)
        if os.path.splitext(image.name)[1].lower() in SUFFIXES
    )
    if not found:
        return ""
    text = "".join(f"{path}\0{size}\n" for path, size in found)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
