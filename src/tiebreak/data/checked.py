"""Sentences about official files that are missing or altered, and the sums that tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiebreak.data.images import DataError

CHUNK_BYTES = 2**20


def advice(name: str, *, root: Path, folder: Path) -> str:
    """What to do about official files that are not there: the command, or where to put them by hand."""
    return f"Run `tiebreak fetch {name} data_root={root}`, or put the official files into {folder}."


def explain_refusal(
    folder: Path, *, root: Path, name: str, sums: Iterable[Sequence[str]], error: Exception
) -> DataError:
    """The sentence for a data set that torchvision refused to read, without saying which file is wrong.

    Args:
        folder: where its files belong.
        root: folder of the data sets.
        name: of the data set.
        sums: file name and MD5 of each file.
        error: what torchvision raised.

    Returns:
        An error to raise, naming the first file that is missing or has another sum.
    """
    remedy = advice(name, root=root, folder=folder)
    for filename, md5 in sums:
        path = folder / filename
        if not path.is_file():
            return DataError(f"{name}: {path} does not exist. {remedy}")
        got = md5_of(path)
        if got != md5:
            return DataError(
                f"{name}: {path} is not the official file: it has {path.stat().st_size} bytes and MD5 {got}, "
                f"not {md5}. Delete it first. {remedy}"
            )
    return DataError(f"{name}: {folder} cannot be read ({type(error).__name__}: {error}). {remedy}")


def md5_of(path: Path) -> str:
    """MD5 of a file's content, read in pieces."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
