"""Batches of the user's own: read as they are, or refused in a sentence."""

import re

import pytest
import torch
from safetensors.torch import save_file

from tiebreak.auditing.given import batch_of, read_batch, read_classes
from tiebreak.design.axes import UserError


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("images", "y")])
def test_a_batch_comes_as_it_is(tmp_path, names):
    images = torch.randn(2, 1, 3, 3).bfloat16()
    content = dict(zip(names, (images, torch.tensor([1, 0], dtype=torch.uint8)), strict=True))
    save_file(content, tmp_path / "b")
    read, labels = read_classes(tmp_path / "b")
    assert read.dtype is torch.bfloat16
    assert torch.equal(read, images)
    assert labels.dtype is torch.int64
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "got nothing."),
        ({"pixels": torch.ones(2, 3)}, "got pixels."),
        ({"images": torch.ones(2, 3), "x": torch.ones(2, 3)}, "a batch holds one tensor `images` (or `x`)"),
        ({"images": torch.ones(2, 3).int()}, "images must be floating point"),
        ({"images": torch.ones(0, 3)}, "images must have the shape (N, ...)"),
        ({"images": torch.full((2, 3), float("nan"))}, "images must be finite, got 6 infinities or NaNs"),
        ({"images": torch.ones(2, 3), "labels": torch.ones(3).int()}, "labels must be a tensor of 2"),
    ],
)
def test_a_batch_that_is_none_is_a_sentence(tmp_path, tensors, sentence):
    save_file(tensors, tmp_path / "b")
    for read in (read_batch, read_classes):
        with pytest.raises(UserError, match=re.escape(sentence)):
            read(tmp_path / "b")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, "must hold labels (or y), whole numbers of the shape (2,), got none."),
        (torch.ones(2), "got (2,) of torch.float32."),
        (torch.ones(2, 3).int(), "got (2, 3) of torch.int32."),
        (torch.ones(2, dtype=torch.complex64), "got (2,) of torch.complex64."),
    ],
)
def test_labels_that_are_no_classes_are_for_a_loss_of_the_users_only(tmp_path, labels, sentence):
    save_file({"x": torch.ones(2, 3)} | ({} if labels is None else {"y": labels}), tmp_path / "b")
    assert read_batch(tmp_path / "b").images.shape == (2, 3)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_classes(tmp_path / "b")


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize("how", ["meta", "sparse"])
def test_tensors_without_numbers_in_order_are_a_sentence(name, how):
    given = {"images": torch.ones(2, 1, 3, 3), "labels": torch.tensor([0, 1])}
    given[name] = given[name].to("meta") if how == "meta" else given[name].to_sparse()
    with pytest.raises(UserError, match=f"{name} must be a dense tensor that holds numbers, got"):
        batch_of(given)
