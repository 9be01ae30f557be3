"""The identity of a folder's images, against a listing written otherwise."""

import hashlib
import shutil

import pytest

from tiebreak.design.axes import DataName
from tiebreak.design.content import digest, splits

FOLDER = DataName.IMAGE_FOLDER


@pytest.fixture
def root(tmp_path):
    for place, size in {
        "photos/train/cat/1.png": 5,
        "photos/train/cat/0.JPG": 7,
        "photos/train/dog/a.webp": 1,
        "photos/test/cat/9.png": 4,
    }.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path


def of(root, name=FOLDER, folder="photos"):
    return digest(name, root=root, folder=folder)


def test_the_digest_is_that_of_the_sorted_paths_and_sizes(root):
    listed = b"test/cat/9.png\0004\ntrain/cat/0.JPG\0007\ntrain/cat/1.png\0005\ntrain/dog/a.webp\0001\n"
    assert of(root) == hashlib.sha256(listed).hexdigest()[:12]


def test_a_copy_elsewhere_has_the_same_digest(root, tmp_path):
    shutil.copytree(root / "photos", tmp_path / "elsewhere" / "others")
    assert of(tmp_path / "elsewhere", folder="others") == of(root)


@pytest.mark.parametrize("change", ["size", "name", "class", "split", "gone", "more"])
def test_other_images_have_another_digest(root, change):
    before, image = of(root), root / "photos/train/cat/1.png"
    match change:
        case "size":
            image.write_bytes(bytes(6))
        case "name":
            image.rename(image.with_name("2.png"))
        case "class":
            image.rename(root / "photos/train/dog/1.png")
        case "split":
            image.rename(root / "photos/test/cat/1.png")
        case "gone":
            image.unlink()
        case "more":
            image.with_name("2.png").write_bytes(b"")
    assert of(root) != before


def test_what_is_no_image_does_not_matter(root):
    before = of(root)
    (root / "photos/train/cat/notes.txt").write_text("x")
    (root / "photos/train/list.png").write_text("x")
    (root / "photos/train/.hidden").mkdir()
    (root / "photos/train/.hidden/1.png").write_text("x")
    (root / "photos/val").mkdir()
    assert of(root) == before


def test_val_stands_for_test_where_there_is_none(root):
    before = of(root)
    (root / "photos/test").rename(root / "photos/val")
    assert splits(FOLDER, root=root, folder="photos")[1].name == "val"
    assert of(root) not in ("", before)
    (root / "photos").rename(root / "imagenet")
    assert splits(DataName.IMAGENET, root=root) == (root / "imagenet/train", root / "imagenet/val")
    assert of(root, DataName.IMAGENET, "") == digest(FOLDER, root=root, folder="imagenet")


def test_without_images_there_is_no_digest(tmp_path):
    assert of(tmp_path) == ""
    (tmp_path / "photos/train/cat").mkdir(parents=True)
    assert of(tmp_path) == ""
