"""The official files of MNIST, Fashion-MNIST, CIFAR and SVHN, in miniature, against torchvision's readers."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from tiebreak.data import Augmentation, DataError, fashion_mnist, load, mnist
from tiebreak.design.cell import Data

MNIST_LIKE = {"mnist": (mnist, "MNIST"), "fashion_mnist": (fashion_mnist, "FashionMNIST")}


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture(params=list(MNIST_LIKE))
def idx_files(request, tmp_path, monkeypatch):
    """Name of the data set and folder with its four files, whose sums count as official."""
    module, folder = MNIST_LIKE[request.param]
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for number, (prefix, size) in enumerate((("train", 6), ("t10k", 4))):
        arrays = {
            f"{prefix}-images-idx3-ubyte": random_bytes(size, 28, 28, seed=number),
            f"{prefix}-labels-idx1-ubyte": random_bytes(size, seed=number) % 10,
        }
        for name, array in arrays.items():
            (raw / name).write_bytes(idx(array))
            monkeypatch.setitem(module.MD5, name, md5(idx(array)))
    return request.param, raw


def read(name, root, **fields):
    return load(Data(name=name, batch_size=1, **fields), root=root)


def pack(raw):
    for path in list(raw.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_as_torchvision_reads_them(idx_files, tmp_path, packed):
    name, raw = idx_files
    kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    theirs = {train: kind(tmp_path, train=train) for train in (True, False)}
    if packed:
        pack(raw)
    ours = read(name, tmp_path)
    for images, peer in ((ours.train, theirs[True]), (ours.test, theirs[False])):
        assert torch.equal(images.pixels[:, 0], peer.data)
        assert torch.equal(images.labels, peer.targets)
        assert images.labels.dtype == torch.int64
    assert (ours.name, ours.num_classes, ours.mean, ours.std) == (name, 10, (0.5,), (0.5,))
    assert ours.augmentation is Augmentation.NONE


def test_official_sums_belong_to_the_official_archives():
    """The sums of unpacked files cannot be looked up in torchvision; that there is one a file can."""
    for module, kind in ((mnist, datasets.MNIST), (fashion_mnist, datasets.FashionMNIST)):
        assert {f"{name}.gz" for name in module.MD5} == {filename for filename, _ in kind.resources}


def test_a_missing_idx_file(idx_files, tmp_path):
    name, raw = idx_files
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError,
        match=rf"neither .*t10k-labels-idx1-ubyte nor .*\.gz.*tiebreak fetch {name} data_root={tmp_path}`",
    ):
        read(name, tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 20, 100])
def test_a_truncated_archive(idx_files, tmp_path, keep):
    name, raw = idx_files
    pack(raw)
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz .*Delete it first\. Run `tiebreak fetch"
    ):
        read(name, tmp_path)


def test_a_damaged_archive(idx_files, tmp_path):
    name, raw = idx_files
    pack(raw)
    path = raw / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        read(name, tmp_path)


@pytest.mark.parametrize(
    "change", [lambda content: content[:-1], lambda content: content + b"\0", lambda _: b""]
)
def test_an_altered_idx_file(idx_files, tmp_path, change):
    name, raw = idx_files
    path = raw / "train-labels-idx1-ubyte"
    path.write_bytes(change(path.read_bytes()))
    size = path.stat().st_size
    with pytest.raises(DataError, match=rf"is not the official file: its content has {size} bytes and MD5"):
        read(name, tmp_path)


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))
    return [path.name, md5(path.read_bytes())]


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar_files(request, tmp_path, monkeypatch):
    """Name of the data set and folder with its batches, whose sums torchvision takes for official."""
    fine = request.param == "cifar100"
    kind = datasets.CIFAR100 if fine else datasets.CIFAR10
    key, num_classes = ("fine_labels", 100) if fine else ("labels", 10)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    for attribute in ("train_list", "test_list"):
        sums = []
        for number, (filename, _) in enumerate(getattr(kind, attribute)):
            content = {
                "data": random_bytes(3, 3072, seed=number),
                key: (random_bytes(3, seed=number) % num_classes).tolist(),
            }
            sums.append(write_pickle(folder / filename, content))
        monkeypatch.setattr(kind, attribute, sums)
    names = [str(label) for label in range(num_classes)]
    filename, sum_ = write_pickle(folder / kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", {"filename": filename, "key": kind.meta["key"], "md5": sum_})
    return request.param, folder


def test_cifar_as_torchvision_reads_it(cifar_files, tmp_path):
    name, _ = cifar_files
    kind = datasets.CIFAR100 if name == "cifar100" else datasets.CIFAR10
    ours = read(name, tmp_path, augment=True)
    for images, train in ((ours.train, True), (ours.test, False)):
        peer = kind(tmp_path, train=train)
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), peer.data)
        assert images.labels.tolist() == peer.targets
        assert images.pixels.is_contiguous()
    assert ours.augmentation is Augmentation.CROP_FLIP
    assert ours.num_classes == (100 if name == "cifar100" else 10)
    assert (ours.in_channels, ours.image_size) == (3, 32)


def test_cifar10_is_normalised_as_published(cifar_files, tmp_path):
    name, _ = cifar_files
    if name == "cifar10":
        dataset = read(name, tmp_path)
        assert (dataset.mean, dataset.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@pytest.mark.parametrize("which", ["first", "meta"])
def test_a_missing_cifar_file(cifar_files, tmp_path, which):
    name, folder = cifar_files
    meta = "batches.meta" if name == "cifar10" else "meta"
    path = folder / (meta if which == "meta" else "test_batch" if name == "cifar10" else "test")
    path.unlink()
    with pytest.raises(
        DataError,
        match=rf"{name}: .*{path.name} does not exist\. Run `tiebreak fetch {name} data_root={tmp_path}`",
    ):
        read(name, tmp_path)


def test_an_altered_cifar_file_is_not_unpickled(cifar_files, tmp_path):
    name, folder = cifar_files
    path = folder / ("data_batch_1" if name == "cifar10" else "train")
    path.write_bytes(b"cos\nabort\n(tR.")  # unpickling this would end the process
    with pytest.raises(DataError, match=rf"{path.name} is not the official file: it has 14 bytes and MD5"):
        read(name, tmp_path)


def test_an_absent_cifar_folder(tmp_path):
    with pytest.raises(DataError, match=r"cifar10: .*data_batch_1 does not exist"):
        read("cifar10", tmp_path)


@pytest.fixture
def svhn_files(tmp_path, monkeypatch):
    """Folder with three .mat files in the official layout, whose sums torchvision takes for official."""
    folder = tmp_path / "SVHN"
    folder.mkdir()
    split_list = {}
    for number, (split, (url, filename, _)) in enumerate(datasets.SVHN.split_list.items()):
        size = 5 + number
        labels = np.arange(1, size + 1, dtype=np.uint8).reshape(size, 1)
        labels[-1] = 10
        path = folder / filename
        scipy.io.savemat(path, {"X": random_bytes(32, 32, 3, size, seed=number), "y": labels})
        split_list[split] = [url, filename, md5(path.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return folder


@pytest.mark.parametrize("train_split", ["train", "extra"])
def test_svhn_as_the_matrices_say(svhn_files, tmp_path, train_split):
    ours = read("svhn", tmp_path, train_split=train_split)
    for images, split in ((ours.train, train_split), (ours.test, "test")):
        matrices = scipy.io.loadmat(svhn_files / f"{split}_32x32.mat")
        assert len(images) == matrices["X"].shape[-1]
        for position, label in enumerate(matrices["y"][:, 0]):
            assert images.labels[position] == label % 10
            image = images.pixels[position].permute(1, 2, 0).numpy()
            assert np.array_equal(image, matrices["X"][:, :, :, position])
    assert (ours.mean, ours.std, ours.num_classes) == ((0.5,) * 3, (0.5,) * 3, 10)
    assert ours.augmentation is Augmentation.NONE


def test_svhn_reads_only_the_splits_it_needs(svhn_files, tmp_path):
    (svhn_files / "extra_32x32.mat").unlink()
    read("svhn", tmp_path)
    with pytest.raises(DataError, match=r"extra_32x32\.mat does not exist"):
        read("svhn", tmp_path, train_split="extra")


def test_a_truncated_svhn_file(svhn_files, tmp_path):
    path = svhn_files / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"test_32x32\.mat is not the official file: it has 1000 bytes"):
        read("svhn", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn"])
def test_augmentation_that_the_published_runs_do_not_have(tmp_path, name):
    with pytest.raises(DataError, match=rf"data\.augment=true, but no augmentation is defined for {name}"):
        read(name, tmp_path, augment=True)
