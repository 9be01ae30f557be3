"""What a data set is: two splits of images, how many classes, how pixels are normalised and augmented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tiebreak.design.axes import UserError

if TYPE_CHECKING:
    from tiebreak.data.files import ImageFiles


class DataError(UserError):
    """A data set that is missing, damaged or too small: the message names the file and says what to do."""


class Augmentation(StrEnum):
    """What `data.augment=true` means for a data set.

    `none`: nothing is defined and asking for it is refused. `crop_flip`: four pixels of zeros around the
    image, a crop of its own size anywhere in it, a horizontal flip half of the time. `resized_crop`: a crop
    of random area (8 to 100 %) and aspect (3/4 to 4/3) scaled to the image size, and the flip.
    """

    NONE = "none"
    CROP_FLIP = "crop_flip"
    RESIZED_CROP = "resized_crop"


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images in memory, as they are on disk: bytes, not yet normalised.

    Args:
        pixels: uint8 (n, C, H, W) with H = W, on any device.
        labels: int64 (n,), on the same device, from 0.
        origin: the file or folder that they came from, for messages.
    """

    pixels: UInt8[Tensor, "n C H W"]
    labels: Int64[Tensor, " n"]
    origin: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.pixels.shape[-1]

    def subset(self, index: Int64[Tensor, " k"]) -> Images:
        """The images at these positions, in this order."""
        index = index.to(self.labels.device)
        return replace(
            self, pixels=self.pixels.index_select(0, index), labels=self.labels.index_select(0, index)
        )

    def to(self, device: torch.device | str) -> Images:
        """The same images on a device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def read(self, indices: Iterable[Tensor]) -> Iterator[UInt8[Tensor, "k C H W"]]:
        """Pixels of one batch of positions after the other, on the images' device."""
        for index in indices:
            yield self.pixels.index_select(0, index.to(self.pixels.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A data set with its two splits.

    Args:
        name: its spelling in configurations and tables.
        train: what is trained on; empty if only the test split is on disk.
        test: what is tested on: the test split, or the held-out training images that replace it.
        num_classes: labels are below this number.
        mean: subtracted from pixels in [0, 1], one number a channel.
        std: what the difference is divided by, one number a channel.
        augmentation: what `data.augment=true` means here.
    """

    name: str
    train: Images | ImageFiles
    test: Images | ImageFiles
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = Augmentation.NONE

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.test.image_size

    def to(self, device: torch.device | str) -> DataSet:
        """The same data set with both splits on a device, where batches are then made.

        Random draws stay on the CPU, so order, crops and noise have the same bits on every device.
        Images that are streamed from files are moved batch by batch.
        """
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def no_images(*, channels: int, image_size: int, origin: str) -> Images:
    """An empty split, for a data set of which only the other one is on disk."""
    return Images(
        pixels=torch.empty(0, channels, image_size, image_size, dtype=torch.uint8),
        labels=torch.empty(0, dtype=torch.int64),
        origin=origin,
    )
