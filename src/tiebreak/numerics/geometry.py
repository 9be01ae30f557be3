"""Where the windows of a pool lie: kernel, stride, padding, dilation, ceil mode; and the order in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError

Size = int | Sequence[int]
"""One number, or (rows, columns)."""


@dataclass(frozen=True)
class Tap:
    """One entry of the kernel, with the windows in which it lies inside the image.

    Args:
        entry: number of the entry in its window, row by row from 0.
        windows: rows and columns of the output whose window has this entry.
        pixels: rows and columns of the input on which the entry then falls, in the same order.
    """

    entry: int
    windows: tuple[slice, slice]
    pixels: tuple[slice, slice]


@dataclass(frozen=True)
class PoolGeometry:
    """Shape and place of a pool's windows; every pair is (rows, columns).

    Entry (a, b) of window (i, j) lies on pixel (i * stride - padding + a * dilation, and so on); entries
    that fall outside the image do not exist, they are not zeros and not minus infinities.

    Args:
        kernel: entries of a window.
        stride: pixels from a window to the next.
        padding: pixels by which the first window starts before the image.
        dilation: pixels from an entry to the next.
        ceil_mode: whether a last window that is cut off by the border counts.

    Example:
        >>> PoolGeometry.of(3, stride=2, padding=1).output_size((112, 112))
        (56, 56)
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool

    @classmethod
    def of(
        cls,
        kernel: Size,
        *,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> PoolGeometry:
        """The geometry that these arguments, spelled as those of `torch.nn.MaxPool2d`, describe.

        Args:
            kernel: one number or (rows, columns), 1 or more.
            stride: as kernel; None for the kernel itself.
            padding: as kernel, 0 or more and at most half of the kernel.
            dilation: as kernel, 1 or more.
            ceil_mode: true or false.

        Raises:
            DesignError: a value outside these.
        """
        kernel = _pair(kernel, "kernel", least=1)
        stride = kernel if stride is None or stride == () else _pair(stride, "stride", least=1)
        padding = _pair(padding, "padding", least=0)
        dilation = _pair(dilation, "dilation", least=1)
        if any(2 * pad > size for size, pad in zip(kernel, padding, strict=True)):
            raise DesignError(
                f"padding of a pool must be at most half of its kernel, got padding={padding} with "
                f"kernel={kernel}. Use less padding."
            )
        if not isinstance(ceil_mode, bool):
            raise DesignError(f"ceil_mode of a pool must be True or False, got {ceil_mode!r}.")
        return cls(kernel, stride, padding, dilation, ceil_mode)

    @cached_property
    def num_entries(self) -> int:
        """Entries of a whole window."""
        return self.kernel[0] * self.kernel[1]

    @cached_property
    def num_planes(self) -> int:
        """Bytes that hold one bit an entry."""
        return -(-self.num_entries // 8)

    @cached_property
    def overlaps(self) -> bool:
        """Whether two windows may share a pixel."""
        return any(
            (size - 1) * step >= jump
            for size, step, jump in zip(self.kernel, self.dilation, self.stride, strict=True)
        )

    @cached_property
    def is_2x2(self) -> bool:
        """Whether this is the pool of the published study: 2x2 with stride 2 and nothing else."""
        return (
            self.kernel == self.stride == (2, 2)
            and self.padding == (0, 0)
            and self.dilation == (1, 1)
            and not self.ceil_mode
        )

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the output for an image of `size`.

        Raises:
            DesignError: the image is smaller than a window.
        """
        rows, columns = (
            self._num_windows(length, axis=axis) for axis, length in enumerate((size[0], size[1]))
        )
        if rows < 1 or columns < 1 or min(size) < 1:
            raise DesignError(
                f"a pool with kernel={self.kernel}, padding={self.padding} and dilation={self.dilation} has "
                f"no window in an image of {size[0]}x{size[1]} pixels. Use a larger image."
            )
        return rows, columns

    def taps(self, size: tuple[int, int]) -> Iterator[Tap]:
        """The entries of the kernel in row order, each with the windows of an image that have it."""
        output = self.output_size(size)
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                reach = [
                    self._reach(entry, length=size[axis], num_windows=output[axis], axis=axis)
                    for axis, entry in enumerate((row, column))
                ]
                if all(reach):
                    (windows_y, pixels_y), (windows_x, pixels_x) = reach  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
                    yield Tap(row * self.kernel[1] + column, (windows_y, windows_x), (pixels_y, pixels_x))

    def _num_windows(self, length: int, *, axis: int) -> int:
        span = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        room = length + 2 * self.padding[axis] - span
        stride = self.stride[axis]
        number = (-(-room // stride) if self.ceil_mode else room // stride) + 1
        if self.ceil_mode and (number - 1) * stride >= length + self.padding[axis]:
            number -= 1  # a window that starts behind the image is left out
        return number

    def _reach(self, entry: int, *, length: int, num_windows: int, axis: int) -> tuple[slice, slice] | None:
        stride = self.stride[axis]
        offset = entry * self.dilation[axis] - self.padding[axis]
        first = max(0, -(offset // stride))
        end = min(num_windows, (length - 1 - offset) // stride + 1)
        if end <= first:
            return None
        start = first * stride + offset
        return slice(first, end), slice(start, start + (end - first - 1) * stride + 1, stride)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The order in memory that PyTorch's own pool gives what it makes of x.

    Args:
        x: (N, C, H, W) or (C, H, W), any strides.
    """
    if x.dim() == 4 and not x.is_contiguous():
        batch, channels, rows, columns = x.stride()
        if x.shape[1] > 1 and channels <= columns <= rows <= batch:
            return torch.channels_last
    return torch.contiguous_format


def _pair(value: Size, name: str, *, least: int) -> tuple[int, int]:
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if len(items) in (1, 2) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= least for item in items
    ):
        return (items[0], items[-1])  # pyright: ignore[reportReturnType]
    raise DesignError(
        f"{name} of a pool must be a whole number, {least} or more, or a pair of them, got {value!r}."
    )
