"""Crop, flip and normalise, against one image at a time and against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms
from torchvision.transforms import functional

from tiebreak.data.cifar import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD
from tiebreak.data.image_folder import IMAGENET_MEAN, IMAGENET_STD
from tiebreak.data.pixels import (
    NUM_TRIES,
    CropFlip,
    crop_flip,
    draw_crop_flip,
    flip,
    normalisation_table,
    normalise,
    resized_crop_box,
)
from tiebreak.data.streams import stream, uniforms


def some_pixels(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (CIFAR10_MEAN, CIFAR10_STD),
        (CIFAR100_MEAN, CIFAR100_STD),
        (IMAGENET_MEAN, IMAGENET_STD),
        ((0.5,) * 3, (0.5,) * 3),
    ],
)
def test_normalised_bits_are_torchvisions(mean, std):
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16).clone()
    every_value[1] = every_value[1].flip(-1)
    ours = normalise(every_value, table=normalisation_table(mean, std=std))
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    theirs = torch.stack([pipeline(image.permute(1, 2, 0).numpy()) for image in every_value])
    assert ours.dtype == torch.float32
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


def test_normalised_bits_of_grey_images():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    ours = normalise(grey, table=normalisation_table((0.5,), std=(0.5,)))
    theirs = transforms.Normalize((0.5,), (0.5,))(transforms.ToTensor()(grey[0].permute(1, 2, 0).numpy()))
    assert torch.equal(ours[0].view(torch.int32), theirs.view(torch.int32))
    assert ours.min() == -1
    assert ours.max() == 1


def crop_flip_slowly(pixels, draw):
    """One entry at a time, from the definition."""
    result = torch.zeros_like(pixels)
    num, channels, height, width = pixels.shape
    for n in range(num):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    row = y + int(draw.top[n]) - 4
                    column = (width - 1 - x if draw.flip[n] else x) + int(draw.left[n]) - 4
                    if 0 <= row < height and 0 <= column < width:
                        result[n, c, y, x] = pixels[n, c, row, column]
    return result


@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_crop_and_flip_entry_by_entry(num, channels, height, width, seed):
    pixels = some_pixels(num, channels, height, width, seed=seed)
    draw = draw_crop_flip(stream("crop", seed=seed), num=num)
    assert torch.equal(crop_flip(pixels, draw=draw), crop_flip_slowly(pixels, draw))


def test_crop_and_flip_as_torchvision_on_pil_images():
    pixels = some_pixels(81, 3, 32, 32)
    place = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    draw = CropFlip(top=place[:, 0], left=place[:, 1], flip=torch.arange(81) % 2)
    ours = crop_flip(pixels, draw=draw)
    for index, image in enumerate(pixels):
        padded = functional.pad(functional.to_pil_image(image), [4])
        expected = functional.crop(padded, int(draw.top[index]), int(draw.left[index]), 32, 32)
        if draw.flip[index]:
            expected = functional.hflip(expected)
        assert torch.equal(ours[index], functional.pil_to_tensor(expected))


def test_crop_and_flip_take_strided_images():
    pixels = some_pixels(5, 3, 32, 32)
    draw = draw_crop_flip(stream("crop", seed=1), num=5)
    strided = pixels.to(memory_format=torch.channels_last)
    assert torch.equal(crop_flip(strided, draw=draw), crop_flip(pixels, draw=draw))


def test_draws_reach_every_crop_and_both_sides():
    draw = draw_crop_flip(stream("crop", seed=9), num=5000)
    assert set(zip(draw.top.tolist(), draw.left.tolist(), strict=True)) == {
        (top, left) for top in range(9) for left in range(9)
    }
    assert set(draw.flip.tolist()) == {0, 1}


def test_flip_mirrors_the_chosen_images():
    pixels = some_pixels(4, 3, 5, 7)
    mirrored = flip(pixels, mirrored=torch.tensor([0, 1, 1, 0]))
    for index, expected in enumerate([pixels[0], pixels[1].flip(-1), pixels[2].flip(-1), pixels[3]]):
        assert torch.equal(mirrored[index], expected)


@given(height=st.integers(1, 600), width=st.integers(1, 600), seed=st.integers(0, 2**32))
def test_resized_crop_stays_inside_and_in_range(height, width, seed):
    draws = uniforms(stream("crop", seed=seed), shape=(NUM_TRIES, 4)).tolist()
    box = resized_crop_box(draws, height=height, width=width)
    assert box.top >= 0
    assert box.left >= 0
    assert box.height >= 1
    assert box.width >= 1
    assert box.top + box.height <= height
    assert box.left + box.width <= width


def test_resized_crop_takes_the_first_rectangle_that_fits():
    too_wide, fits = [0.999, 0.999, 0.5, 0.5], [0.25, 0.5, 0.0, 0.999]
    draws = [too_wide] + [fits] * (NUM_TRIES - 1)
    box = resized_crop_box(draws, height=100, width=100)
    side = round(math.sqrt(100 * 100 * (0.08 + 0.92 * 0.25)))
    assert box == (0, 100 - side, side, side)


@pytest.mark.parametrize(("height", "width"), [(1000, 10), (10, 1000)])
def test_resized_crop_falls_back_to_the_centre(height, width):
    box = resized_crop_box([[0.999, 0.5, 0.0, 0.0]] * NUM_TRIES, height=height, width=width)
    # What torchvision does when its ten tries fail, stated by its parameters.
    if width < height:
        assert box == ((height - round(10 / (3 / 4))) // 2, 0, round(10 / (3 / 4)), 10)
    else:
        assert box == (0, (width - round(10 * 4 / 3)) // 2, 10, round(10 * 4 / 3))


def test_resized_crop_area_and_aspect_cover_their_ranges():
    boxes = [
        resized_crop_box(rows.tolist(), height=500, width=500)
        for rows in uniforms(stream("crop", seed=3), shape=(2000, NUM_TRIES, 4))
    ]
    areas = torch.tensor([box.height * box.width / 500**2 for box in boxes])
    aspects = torch.tensor([box.width / box.height for box in boxes])
    assert 0.078 < areas.min() < 0.09
    assert 0.95 < areas.max() <= 1
    assert 0.74 < aspects.min() < 0.77
    assert 1.30 < aspects.max() < 1.35
