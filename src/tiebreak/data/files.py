"""Images that stay in files until their batch is asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tiebreak.data.images import DataError, Images
from tiebreak.data.pixels import resized_crop_box

LOOKAHEAD = 2
"""Batches that are decoded ahead of the one in use."""

RUN = 16
"""Images that one thread decodes in a row: handing over one small image costs as much as decoding it."""

CHUNK = 256
"""Images decoded at once when a whole split goes to memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFiles:
    """Images in files, decoded by a few threads, always in the order asked for.

    Threads change the speed only: every image is a function of its file and, when cropped at random, of the
    numbers drawn for its place in the batch.

    Args:
        paths: one file an image.
        labels: int64 (n,), from 0, on the device that batches go to.
        image_size: side of the square images, in pixels.
        scaled: whether images are scaled and cropped to that size; otherwise they must have it.
        origin: the folder that they came from, for messages.
    """

    paths: tuple[Path, ...]
    labels: Int64[Tensor, " n"]
    image_size: int
    scaled: bool
    origin: str

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_bytes(self) -> int:
        """Size of all images once they are decoded, in bytes."""
        return len(self) * 3 * self.image_size**2

    def subset(self, index: Int64[Tensor, " k"]) -> ImageFiles:
        """The images at these positions, in this order."""
        labels = self.labels.index_select(0, index.to(self.labels.device))
        return replace(self, paths=tuple(self.paths[position] for position in index.tolist()), labels=labels)

    def to(self, device: torch.device | str) -> ImageFiles:
        """The same files, with batches that arrive on a device."""
        return replace(self, labels=self.labels.to(device))

    def in_memory(self) -> Images:
        """All of them decoded now."""
        chunks = torch.arange(len(self)).split(CHUNK)
        pixels = torch.empty(len(self), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for index, chunk in zip(chunks, self.read(chunks), strict=True):
            pixels[index] = chunk.cpu()
        return Images(pixels=pixels.to(self.labels.device), labels=self.labels, origin=self.origin)

    def read(
        self, indices: Iterable[Tensor], *, crops: Iterable[NDArray[np.float64]] | None = None
    ) -> Iterator[UInt8[Tensor, "k 3 H W"]]:
        """Pixels of one batch of positions after the other, on the device of the labels.

        Args:
            indices: int64 (k,) for each batch.
            crops: for each batch (k, tries, 4) uniform draws for `resized_crop_box`; None for the centre.

        Raises:
            DataError: a file that cannot be decoded or has another size.
        """
        draws = iter(crops) if crops is not None else None
        pending: deque[list[Future[list[NDArray[np.uint8]]]]] = deque()
        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
        try:
            for index in indices:
                positions = index.tolist()
                rows = [None] * len(positions) if draws is None else list(next(draws))
                pending.append(
                    [
                        pool.submit(self._decode_run, positions[run : run + RUN], rows[run : run + RUN])
                        for run in range(0, len(positions), RUN)
                    ]
                )
                if len(pending) > LOOKAHEAD:
                    yield self._collect(pending.popleft())
            while pending:
                yield self._collect(pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, decoded: list[Future[list[NDArray[np.uint8]]]]) -> Tensor:
        images = [image for run in decoded for image in run.result()]
        if not images:  # the share of a rank in a batch with fewer images than ranks
            shape = (0, 3, self.image_size, self.image_size)
            return torch.empty(shape, dtype=torch.uint8, device=self.labels.device)
        stacked = torch.from_numpy(np.stack(images))
        return stacked.permute(0, 3, 1, 2).contiguous().to(self.labels.device)

    def _decode_run(
        self, positions: Sequence[int], rows: Sequence[NDArray[np.float64] | None]
    ) -> list[NDArray[np.uint8]]:
        return [
            self._decode(self.paths[position], row) for position, row in zip(positions, rows, strict=True)
        ]

    def _decode(self, path: Path, draws: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        """One image as uint8 (H, W, 3)."""
        image = open_image(path)
        size = self.image_size
        if draws is not None:
            box = resized_crop_box(draws.tolist(), height=image.height, width=image.width)
            # Cropping first keeps pixels outside the rectangle out of the interpolation.
            crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
            image = crop.resize((size, size), Image.Resampling.BILINEAR)
        elif self.scaled:
            image = _centre(image, size=size)
        elif image.size != (size, size):
            raise DataError(
                f"{path} is {image.width}x{image.height} pixels where the first image under {self.origin} is "
                f"{size}x{size}. Set data.image_size to scale and crop all of them to one size."
            )
        return np.asarray(image)


def open_image(path: Path) -> Image.Image:
    """A decoded image in RGB.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be decoded ({type(error).__name__}: {error}; {_size_of(path)}). "
            "Replace the file or remove it."
        ) from None


def _size_of(path: Path) -> str:
    return f"{path.stat().st_size} bytes" if path.is_file() else "no such file"


def _centre(image: Image.Image, *, size: int) -> Image.Image:
    """The short side scaled to size * 256/224, the central square of that size cut out."""
    short = int(size * 256 / 224)
    width, height = image.size
    # The long side is cut to a whole number and the crop's corner rounded to even, as torchvision does.
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
