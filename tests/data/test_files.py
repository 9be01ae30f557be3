"""Folders of images and ImageNet, against torchvision's folder reader and transforms."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms
from torchvision.transforms import functional

from tiebreak import data as feed
from tiebreak.data import Augmentation, DataError, ImageFiles, Images, files, load, loading, train_batches
from tiebreak.data.cifar import CIFAR10_MEAN
from tiebreak.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from tiebreak.data.pixels import NUM_TRIES, resized_crop_box
from tiebreak.data.streams import permutation, stream, uniforms, whole_numbers
from tiebreak.design.axes import DataName
from tiebreak.design.cell import Data
from tiebreak.design.content import digest

SEEDS = {"order_seed": 1, "augment_seed": 2}


def write_image(path, *, width=32, height=32, seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Smooth pictures, so that JPEG and scaling have something to keep.
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    picture.convert(mode).save(path)


def write_folder(
    root, *, name="pictures", splits=("train", "test"), classes=("cat", "dog"), num=3, size=(32, 32)
):
    seed = 0
    for split in splits:
        for label in classes:
            for number in range(num):
                seed += 1
                suffix = ("png", "jpg", "JPEG")[number % 3]
                write_image(
                    root / name / split / label / f"{number:03d}.{suffix}",
                    width=size[0],
                    height=size[1],
                    seed=seed,
                )
    return root / name


def described(**fields):
    return Data(**{"name": "image_folder", "folder": "pictures", "batch_size": 2} | fields)


def theirs(folder, transform):
    read = datasets.ImageFolder(folder, transform=transform)
    return torch.stack([image for image, _ in read]), torch.tensor(read.targets)


def test_images_of_one_size_as_torchvision_reads_them(tmp_path):
    folder = write_folder(tmp_path)
    dataset = load(described(), root=tmp_path)
    for images, split in ((dataset.train, "train"), (dataset.test, "test")):
        pixels, labels = theirs(folder / split, transforms.PILToTensor())
        assert isinstance(images, Images)
        assert torch.equal(images.pixels, pixels)
        assert torch.equal(images.labels, labels)
    assert (dataset.name, dataset.num_classes, dataset.image_size, dataset.in_channels) == (
        "pictures",
        2,
        32,
        3,
    )
    assert dataset.augmentation is Augmentation.CROP_FLIP
    assert dataset.mean == CIFAR10_MEAN


def test_images_of_another_size_are_normalised_as_imagenet(tmp_path):
    write_folder(tmp_path, size=(20, 20))
    dataset = load(described(), root=tmp_path)
    assert dataset.image_size == 20
    assert dataset.mean == IMAGENET_MEAN


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (61, 447), (500, 333)])
@pytest.mark.parametrize("image_size", [32, 224])
def test_scaled_images_are_torchvisions(tmp_path, size, image_size):
    folder = write_folder(tmp_path, num=1, size=size)
    dataset = load(described(image_size=image_size), root=tmp_path)
    scale = [transforms.Resize(int(image_size * 256 / 224)), transforms.CenterCrop(image_size)]
    pixels, _ = theirs(folder / "test", transforms.Compose([*scale, transforms.PILToTensor()]))
    assert torch.equal(dataset.test.pixels, pixels)
    normalised = transforms.Compose(
        [*scale, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    (batch,) = feed.test_batches(dataset, batch_size=10)
    assert torch.equal(batch.images, theirs(folder / "test", normalised)[0])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_colours_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / "pictures" / "train" / "cat" / f"one.{suffix}"
    write_image(path, mode=mode)
    dataset = load(described(batch_size=1), root=tmp_path)
    with Image.open(path) as image:
        assert torch.equal(dataset.train.pixels[0], functional.pil_to_tensor(image.convert("RGB")))


def test_resized_crops_are_the_drawn_ones(tmp_path):
    folder = write_folder(tmp_path, num=2, size=(90, 60))
    data = described(image_size=32, augment=True, batch_size=3)
    dataset = load(data, root=tmp_path)
    assert isinstance(dataset.train, ImageFiles)
    paths = [path for path, _ in datasets.ImageFolder(folder / "train").samples]
    order = permutation(stream("order", seed=1, epoch=4), num=4).split(3)
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    batches = list(train_batches(dataset, data=data, epoch=4, **SEEDS))
    for number, (batch, index) in enumerate(zip(batches, order, strict=True)):
        address = {"seed": 2, "epoch": 4, "batch": number}
        draws = uniforms(stream("crop", **address), shape=(len(index), NUM_TRIES, 4)).tolist()
        mirrored = whole_numbers(stream("flip", **address), num=len(index), below=2)
        for place, position in enumerate(index.tolist()):
            with Image.open(paths[position]) as image:
                box = resized_crop_box(draws[place], height=60, width=90)
                bilinear = transforms.InterpolationMode.BILINEAR
                expected = functional.resized_crop(image.convert("RGB"), *box, [32, 32], bilinear)
            if mirrored[place]:
                expected = functional.hflip(expected)
            assert torch.equal(batch.images[place], finish(expected))


def test_resized_crops_resume_bit_for_bit(tmp_path):
    write_folder(tmp_path, num=5, size=(40, 50))
    data = described(image_size=16, augment=True, batch_size=3, dither=0.1)
    dataset = load(data, root=tmp_path)
    whole = list(train_batches(dataset, data=data, epoch=1, **SEEDS))
    rest = list(train_batches(dataset, data=data, epoch=1, start=2, **SEEDS))
    assert len(whole) == 4
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_shares_of_streamed_images_are_those_of_one_process(tmp_path):
    """Also where the last batch has fewer images than there are ranks."""
    write_folder(tmp_path, num=5, size=(40, 50))
    data = described(image_size=16, augment=True, batch_size=4, dither=0.1)
    dataset = load(data, root=tmp_path)
    whole = list(train_batches(dataset, data=data, epoch=1, **SEEDS))
    ranks = [
        list(train_batches(dataset, data=data, epoch=1, **SEEDS, rank=rank, num_ranks=3)) for rank in range(3)
    ]
    assert [len(rank[-1].labels) for rank in ranks] == [1, 1, 0]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(one.images, torch.cat([part.images for part in parts]))
        assert torch.equal(one.labels, torch.cat([part.labels for part in parts]))


def test_streamed_and_stored_images_are_the_same(tmp_path, monkeypatch):
    write_folder(tmp_path, num=20)
    data = described(augment=True, batch_size=7)
    stored = load(data, root=tmp_path)
    streamed = load(data, root=tmp_path, once=True)
    assert isinstance(stored.train, Images)
    assert isinstance(streamed.train, ImageFiles)
    for workers in (1, 5):
        monkeypatch.setattr(files.os, "cpu_count", lambda workers=workers: workers)
        for one, other in zip(
            train_batches(stored, data=data, epoch=1, **SEEDS),
            train_batches(streamed, data=data, epoch=1, **SEEDS),
            strict=True,
        ):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    (one,), (other,) = (list(feed.test_batches(each, batch_size=99)) for each in (stored, streamed))
    assert torch.equal(one.images, other.images)


def test_images_asked_for_once_are_decoded_when_their_batch_is_near(tmp_path, monkeypatch):
    write_folder(tmp_path, num=40)
    data = described(batch_size=4)
    stored = load(data, root=tmp_path)
    opened = []
    decode = files.open_image
    monkeypatch.setattr(files, "open_image", lambda path: opened.append(path) or decode(path))
    unread = load(data, root=tmp_path, once=True)
    assert len(opened) <= 2  # one of each split, for the size
    opened.clear()
    batches = train_batches(unread, data=data, epoch=1, **SEEDS)
    first = next(batches)
    batches.close()
    assert torch.equal(first.images, next(iter(train_batches(stored, data=data, epoch=1, **SEEDS))).images)
    assert 4 <= len(opened) <= 4 * (1 + files.LOOKAHEAD)
    assert {path.parts[-3] for path in opened} == {"train"}


def test_subsets_are_decoded_alone(tmp_path):
    folder = write_folder(tmp_path, num=4)
    whole = load(described(train_size=8), root=tmp_path)
    for path in (folder / "train").rglob("*.*"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be decoded"):
        load(described(train_size=3, image_size=32), root=tmp_path)
    write_folder(tmp_path, num=4)
    assert torch.equal(load(described(train_size=3), root=tmp_path).train.pixels, whole.train.pixels[:3])


def test_an_abandoned_epoch_leaves_no_threads(tmp_path, monkeypatch):
    write_folder(tmp_path, num=20)
    monkeypatch.setattr(loading, "MEMORY_BYTES", 0)
    dataset = load(described(), root=tmp_path)
    batches = train_batches(dataset, data=described(), epoch=1, **SEEDS)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("augment", [False, True])
def test_imagenet_layout(tmp_path, augment):
    wnids = ("n01440764", "n01443537", "n01484850")
    write_folder(tmp_path, name="imagenet", splits=("train", "val"), classes=wnids, num=1, size=(40, 30))
    data = Data(name="imagenet", batch_size=3, augment=augment)
    dataset = load(data, root=tmp_path)
    assert (dataset.num_classes, dataset.image_size, dataset.mean) == (3, 224, IMAGENET_MEAN)
    assert dataset.augmentation is Augmentation.RESIZED_CROP
    (batch,) = train_batches(dataset, data=data, epoch=1, **SEEDS)
    assert batch.images.shape == (3, 3, 224, 224)
    assert sorted(batch.labels.tolist()) == [0, 1, 2]


def test_imagenet_validation_images_alone(tmp_path):
    write_folder(tmp_path, name="imagenet", splits=("val",), num=1, size=(40, 30))
    data = Data(name="imagenet", batch_size=64, image_size=32)
    dataset = load(data, root=tmp_path)
    assert len(list(feed.test_batches(dataset, batch_size=1))) == 2
    with pytest.raises(
        DataError, match=r"imagenet has no training images: there are none under .*imagenet/train"
    ):
        train_batches(dataset, data=data, epoch=1, **SEEDS)


def test_val_stands_in_for_test(tmp_path):
    write_folder(tmp_path, splits=("train", "val"), num=1)
    assert len(load(described(), root=tmp_path).test) == 2


def test_no_folder_at_all(tmp_path):
    with pytest.raises(DataError, match=r"pictures: neither .*pictures/train nor .*pictures/test exists"):
        load(described(), root=tmp_path)


def test_a_split_without_classes(tmp_path):
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"pictures/train has no class folders"):
        load(described(), root=tmp_path)


def test_a_class_without_images(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "train" / "zebra").mkdir()
    (folder / "train" / "zebra" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class folder .*zebra has no images"):
        load(described(), root=tmp_path)


def test_a_class_to_test_only(tmp_path):
    folder = write_folder(tmp_path)
    write_image(folder / "test" / "zebra" / "one.png")
    with pytest.raises(DataError, match=r"zebra is a class without training images"):
        load(described(), root=tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 400])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_corrupt_image(tmp_path, keep, suffix):
    folder = write_folder(tmp_path)
    path = folder / "train" / "dog" / f"999.{suffix}"
    write_image(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"999\.{suffix} cannot be decoded .*{keep} bytes.*Replace the file"):
        load(described(), root=tmp_path)


def test_images_of_two_sizes(tmp_path):
    folder = write_folder(tmp_path)
    write_image(folder / "train" / "dog" / "999.png", width=40, height=32)
    with pytest.raises(DataError, match=r"999\.png is 40x32 pixels .* is 32x32\. Set data\.image_size"):
        load(described(), root=tmp_path)
    assert load(described(image_size=32), root=tmp_path).image_size == 32


def test_images_that_are_not_square(tmp_path):
    write_folder(tmp_path, size=(40, 32))
    with pytest.raises(DataError, match=r"is 40x32 pixels, which is not square. Set data\.image_size"):
        load(described(), root=tmp_path)


@pytest.mark.parametrize("name", ["image_folder", "imagenet"])
def test_other_images_than_those_of_the_cell_are_refused(tmp_path, name):
    folder = "pictures" if name == "image_folder" else ""
    place = write_folder(tmp_path, name=folder or name, splits=("train", "val"), num=1)
    content = digest(DataName(name), root=tmp_path, folder=folder)
    data = Data(name=name, folder=folder, batch_size=1, image_size=8, content=content)
    assert len(load(data, root=tmp_path).train)
    shutil.copy(next(place.glob("train/*/*")), next(place.glob("train/*")) / "another.png")
    now = digest(DataName(name), root=tmp_path, folder=folder)
    with pytest.raises(DataError, match=rf"digest is {now}, and data.content={content}\. Put those back"):
        load(data, root=tmp_path)
    assert len(load(replace(data, content=""), root=tmp_path).train)
