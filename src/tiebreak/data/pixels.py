"""From stored bytes to what a network sees: crop, flip and normalise, a whole batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.random import Philox
from torch import Tensor

from tiebreak.data.streams import whole_numbers

PADDING = 4
"""Zeros on each side of an image before it is cropped, in pixels."""


class CropFlip(NamedTuple):
    """Where each image of a batch is cropped, counted in the padded image, and whether it is mirrored.

    Args:
        top: int64 (N,), from 0 to twice the padding.
        left: int64 (N,), likewise.
        flip: int64 (N,), 0 or 1.
    """

    top: Int64[Tensor, " N"]
    left: Int64[Tensor, " N"]
    flip: Int64[Tensor, " N"]


def draw_crop_flip(bits: Philox, *, num: int) -> CropFlip:
    """One crop and one coin for each of `num` images.

    The position in the batch picks the draw, so the last, shorter batch of an epoch takes fewer of them.
    """
    crops = whole_numbers(bits, num=2 * num, below=2 * PADDING + 1).view(num, 2)
    return CropFlip(top=crops[:, 0], left=crops[:, 1], flip=whole_numbers(bits, num=num, below=2))


def crop_flip(pixels: UInt8[Tensor, "N C H W"], *, draw: CropFlip) -> UInt8[Tensor, "N C H W"]:
    """Each image with `PADDING` zeros around it, cropped to its own size, then mirrored where drawn.

    One gather on the flat batch: entry (n, c, y, x) of the result is entry (n, c, top + y, left + x) of the
    padded batch, or (n, c, top + y, left + W - 1 - x) where the image is mirrored.

    Args:
        pixels: uint8 (N, C, H, W), on any device.
        draw: crops and flips, on any device.

    Returns:
        uint8 (N, C, H, W), on the device of `pixels`.

    Source: random crop as trained with on CIFAR-10 since He et al., Deep residual learning, 2016.
    """
    num, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (PADDING,) * 4)
    # int32 positions are half the traffic of int64; a batch of 2**31 padded bytes needs the longer ones.
    kind = torch.int32 if padded.numel() < 2**31 else torch.int64
    place = {"dtype": kind, "device": pixels.device}
    top, left, flip = (item.to(**place).view(num, 1) for item in draw)
    column = torch.arange(width, **place)
    column = left + torch.where(flip.bool(), width - 1 - column, column)
    row = top + torch.arange(height, **place)
    padded_height, padded_width = padded.shape[-2:]
    plane = torch.arange(num * channels, **place).view(num, channels, 1, 1) * (padded_height * padded_width)
    flat = plane + (row.view(num, 1, height, 1) * padded_width + column.view(num, 1, 1, width))
    return padded.reshape(-1).index_select(0, flat.view(-1)).view(pixels.shape)


def flip(pixels: UInt8[Tensor, "N C H W"], *, mirrored: Int64[Tensor, " N"]) -> UInt8[Tensor, "N C H W"]:
    """Each image mirrored left to right where `mirrored` is 1."""
    chosen = mirrored.to(pixels.device).bool().view(-1, 1, 1, 1)
    return torch.where(chosen, pixels.flip(-1), pixels)


def normalisation_table(mean: Sequence[float], *, std: Sequence[float]) -> Float32[Tensor, "C 256"]:
    """What each of the 256 pixel values becomes in each channel: fl(fl(fl(v / 255) - mean) / std) in fp32.

    The three operations and their order are those of torchvision's `ToTensor` and `Normalize`, so looking a
    value up gives their bits. The table is always made on the CPU: CUDA divides by a constant as it
    multiplies by its reciprocal, and would give other bits.

    Args:
        mean: one number a channel.
        std: one number a channel, above 0.

    Returns:
        fp32 (C, 256) on the CPU.
    """
    values = torch.arange(256, dtype=torch.float32) / 255
    centre = torch.tensor(mean, dtype=torch.float32).view(-1, 1)
    return (values - centre) / torch.tensor(std, dtype=torch.float32).view(-1, 1)


def normalise(
    pixels: UInt8[Tensor, "N C H W"], *, table: Float32[Tensor, "C 256"]
) -> Float32[Tensor, "N C H W"]:
    """Every byte replaced by its entry in the table of its channel, by one gather.

    Args:
        pixels: uint8 (N, C, H, W).
        table: fp32 (C, 256) from `normalisation_table`, on the same device.

    Returns:
        fp32 (N, C, H, W).
    """
    channels = pixels.shape[1]
    offset = torch.arange(channels, dtype=torch.int32, device=pixels.device).view(1, channels, 1, 1) * 256
    return table.view(-1).index_select(0, (pixels + offset).reshape(-1)).view(pixels.shape)


class Box(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


NUM_TRIES = 10
"""Rectangles drawn for one resized crop before the central one is taken."""


def resized_crop_box(uniforms: Sequence[Sequence[float]], *, height: int, width: int) -> Box:
    """The rectangle of a random resized crop: the first of the drawn ones that fits into the image.

    Its area is uniform in [0.08, 1] of the image, the logarithm of its aspect (width by height) uniform in
    [log 3/4, log 4/3], its place uniform. If none fits, the largest central one with an aspect in that range.

    Args:
        uniforms: `NUM_TRIES` rows of four draws from [0, 1): area, aspect, top, left.
        height: of the image.
        width: of the image.

    Source: Szegedy et al., Going deeper with convolutions, 2015, section 6.
    """
    lowest, highest = 3 / 4, 4 / 3
    for area_draw, aspect_draw, top_draw, left_draw in uniforms:
        area = height * width * (0.08 + 0.92 * area_draw)
        aspect = lowest * (highest / lowest) ** aspect_draw
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(top_draw * (height - box_height + 1)), int(left_draw * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    box_width = min(width, round(height * highest))
    box_height = min(height, round(width / lowest))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
