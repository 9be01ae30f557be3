"""ImageNet: `<root>/imagenet/{train,val}/<wnid>/*.JPEG`, streamed from its files."""

from __future__ import annotations

from pathlib import Path

from tiebreak.data.dataset import DataSet
from tiebreak.data.image_folder import read_splits
from tiebreak.design.axes import DataName
from tiebreak.design.content import splits

IMAGE_SIZE = 224


def read(root: Path, *, image_size: int) -> DataSet:
    """ImageNet from `<root>/imagenet`, or the part of it that is there.

    Classes are the folders found, in the order of their names: all 1,000 give torchvision's numbering. The
    short side is scaled to 256/224 of the size and the centre cut out; augmentation is the random resized
    crop with a flip. With `val` alone there is nothing to train on, and asking for it is an error.

    Args:
        root: folder of the data sets.
        image_size: side of the images in pixels; 0 for 224.

    Source: Russakovsky et al., ImageNet large scale visual recognition challenge, 2015.

    Raises:
        DataError: neither split is there, or a class folder is empty.
    """
    train, val = splits(DataName.IMAGENET, root=root)
    return read_splits(train=train, test=val, name="imagenet", image_size=image_size or IMAGE_SIZE)
