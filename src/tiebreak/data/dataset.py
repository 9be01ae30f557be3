"""What a data set is: two splits of images, how many classes, how pixels are normalised and augmented."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from tiebreak.data.files import ImageFiles
from tiebreak.data.images import Images


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
