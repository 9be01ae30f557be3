"""Images in memory, and what is said of a data set that cannot be had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tiebreak.design.axes import UserError


class DataError(UserError):
    """A data set that is missing, damaged or too small: the message names the file and says what to do."""


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


def no_images(*, channels: int, image_size: int, origin: str) -> Images:
    """An empty split, for a data set of which only the other one is on disk."""
    return Images(
        pixels=torch.empty(0, channels, image_size, image_size, dtype=torch.uint8),
        labels=torch.empty(0, dtype=torch.int64),
        origin=origin,
    )
