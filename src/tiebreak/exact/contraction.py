"""Sums of products in float64 that do not round: convolutions, products with matrices and their adjoints.

Operands are integers of at most `LARGEST` in size, so that a sum of at most `MOST_PRODUCTS` products stays
below 2**53 and is exact in whatever order it is added. Longer sums are split, and each part is reduced before
the parts are added. That the library adds plain products (no Winograd, no Fourier transform, no emulation) is
tested once a device against integers; on CUDA every convolution is a matrix product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.exact.graph import Conv2d, NotCertifiableError

LARGEST = 2**20
"""Largest size of an operand."""

MOST_PRODUCTS = 8160
"""Most products in a sum; 32 fewer than 2**53 / LARGEST**2, so that a reduction has room."""

Reduce = Callable[[Tensor], Tensor]
"""Brings integers below 2**53 back to operands, in place."""


def conv(x: Tensor, weight: Tensor, spec: Conv2d) -> Tensor:
    """Cross-correlation without bias as one plain sum of products an output.

    Args:
        x: (N, C, H, W) float64.
        weight: (out, C / groups, rows, columns) float64.
        spec: stride, padding, dilation and groups.
    """
    if x.device.type == "cpu":
        return functional.conv2d(x, weight, None, spec.stride, spec.padding, spec.dilation, spec.groups)
    columns = functional.unfold(x, weight.shape[2:], spec.dilation, spec.padding, spec.stride)
    columns = columns.reshape(len(x), spec.groups, -1, columns.shape[-1])
    matrix = weight.reshape(spec.groups, -1, columns.shape[2])
    return (matrix @ columns).reshape(len(x), len(weight), *output_size(x, weight, spec))


def output_size(x: Tensor, weight: Tensor, spec: Conv2d) -> tuple[int, int]:
    """Rows and columns of a convolution's result."""
    return tuple(  # pyright: ignore[reportReturnType]
        (x.shape[2 + axis] + 2 * spec.padding[axis] - spec.dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
        // spec.stride[axis]
        + 1
        for axis in range(2)
    )


def exact_conv(x: Tensor, weight: Tensor, spec: Conv2d, *, reduce: Reduce) -> Tensor:
    """`conv` of operands, reduced; split over the channels that go in."""
    total = None
    for part in conv_parts(x, weight, spec):
        total = _plus(total, reduce(part))
    assert total is not None
    return total if weight.shape[1] <= _channels(weight) else reduce(total)


def conv_parts(x: Tensor, weight: Tensor, spec: Conv2d) -> Iterator[Tensor]:
    """Terms of `conv` of operands, each exact; one unless there are too many channels."""
    require_exact(x.device)
    step = _channels(weight)
    if weight.shape[1] <= step:
        yield conv(x, weight, spec)
        return
    for part in _parts(weight.shape[1], step):
        yield conv(_of_groups(x, part, spec.groups), weight[:, part].contiguous(), spec)


def exact_conv_input(
    gradient: Tensor, weight: Tensor, spec: Conv2d, *, size: torch.Size, reduce: Reduce
) -> Tensor:
    """Adjoint of `conv` in its input, for operands, reduced; split over the channels that come out."""
    require_exact(gradient.device)
    per_group = len(weight) // spec.groups
    step = _channels(weight)
    if per_group <= step:
        return reduce(_conv_input(gradient, weight, spec, size))
    total = None
    for part in _parts(per_group, step):
        some = _of_groups(gradient, part, spec.groups)
        rows = weight.reshape(spec.groups, per_group, *weight.shape[1:])[:, part]
        rows = rows.reshape(-1, *weight.shape[1:])
        total = _plus(total, reduce(_conv_input(some, rows, spec, size)))
    assert total is not None
    return reduce(total)


def exact_conv_weight(
    x: Tensor, gradient: Tensor, spec: Conv2d, *, shape: torch.Size, reduce: Reduce
) -> Tensor:
    """Adjoint of `conv` in its weight, summed over the batch, for operands, reduced.

    Split over images, and over rows of the output where one image is too many.
    """
    require_exact(x.device)
    rows, columns = gradient.shape[2:]
    band = max(1, min(rows, MOST_PRODUCTS // columns))
    if columns > MOST_PRODUCTS:
        raise NotCertifiableError(
            f"not certifiable, because a row of {columns} outputs is more than the {MOST_PRODUCTS} products "
            "that one exact sum holds. Use smaller images."
        )
    if band < rows:
        x = functional.pad(x, (spec.padding[1],) * 2 + (spec.padding[0],) * 2)
    total = None
    for first in range(0, rows, band):
        last = min(first + band, rows)
        some, start = gradient, x
        place = spec
        if band < rows:
            some = gradient[:, :, first:last]
            reach = (last - first - 1) * spec.stride[0] + spec.dilation[0] * (shape[2] - 1) + 1
            start = x[:, :, first * spec.stride[0] : first * spec.stride[0] + reach]
            place = Conv2d(spec.weight, None, spec.stride, (0, 0), spec.dilation, spec.groups)
        images = max(1, MOST_PRODUCTS // ((last - first) * columns))
        for part in _parts(len(x), images):
            total = _plus(total, reduce(_conv_weight(start[part], some[part], place, shape)))
    assert total is not None
    return reduce(total)


def exact_product(first: Tensor, second: Tensor, *, reduce: Reduce) -> Tensor:
    """Matrix product of operands, reduced; split over the inner axis."""
    require_exact(first.device)
    if first.shape[-1] <= MOST_PRODUCTS:
        return reduce(first @ second)
    total = None
    for part in _parts(first.shape[-1], MOST_PRODUCTS):
        total = _plus(total, reduce(first[..., part] @ second[..., part, :]))
    assert total is not None
    return reduce(total)


def _conv_input(gradient: Tensor, weight: Tensor, spec: Conv2d, size: torch.Size) -> Tensor:
    if gradient.device.type == "cpu":
        return _backward(gradient, gradient.new_empty(size), weight, spec, of_input=True)
    matrix = weight.reshape(spec.groups, len(weight) // spec.groups, -1)
    columns = matrix.transpose(1, 2) @ gradient.reshape(len(gradient), spec.groups, matrix.shape[1], -1)
    columns = columns.reshape(len(gradient), -1, columns.shape[-1])
    return functional.fold(
        columns, tuple(size[2:]), tuple(weight.shape[2:]), spec.dilation, spec.padding, spec.stride
    )


def _conv_weight(x: Tensor, gradient: Tensor, spec: Conv2d, shape: torch.Size) -> Tensor:
    if x.device.type == "cpu":
        return _backward(gradient, x, gradient.new_empty(shape), spec, of_input=False)
    columns = functional.unfold(x, tuple(shape[2:]), spec.dilation, spec.padding, spec.stride)
    columns = columns.reshape(len(x), spec.groups, -1, columns.shape[-1])
    rows = gradient.reshape(len(x), spec.groups, shape[0] // spec.groups, -1)
    # One matrix product a group, the batch laid along the inner axis.
    columns = columns.permute(1, 2, 0, 3).flatten(2)
    rows = rows.permute(1, 2, 0, 3).flatten(2)
    return (rows @ columns.transpose(1, 2)).reshape(shape)


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, spec: Conv2d, *, of_input: bool) -> Tensor:
    return torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        spec.stride,
        spec.padding,
        spec.dilation,
        False,
        (0, 0),
        spec.groups,
        (of_input, not of_input, False),
    )[0 if of_input else 1]


def _channels(weight: Tensor) -> int:
    """Channels of a kernel of this size that one exact sum holds."""
    entries = weight.shape[2] * weight.shape[3]
    if entries > MOST_PRODUCTS:
        raise NotCertifiableError(
            f"not certifiable, because a kernel of {entries} entries is more than the {MOST_PRODUCTS} "
            "products that one exact sum holds. Use a smaller kernel."
        )
    return MOST_PRODUCTS // entries


def _of_groups(x: Tensor, part: slice, groups: int) -> Tensor:
    """Some channels of each group."""
    return x.reshape(len(x), groups, -1, *x.shape[2:])[:, :, part].reshape(len(x), -1, *x.shape[2:])


def _parts(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


@functools.cache
def require_exact(device: torch.device) -> None:
    """Compare the longest sums of the largest operands with integers, once a device.

    Raises:
        NotCertifiableError: this machine's float64 sums round.
    """
    generator = torch.Generator().manual_seed(0)
    on_cpu: dict[str, Any] = {"generator": generator, "device": "cpu"}
    entries = lambda *shape: torch.randint(LARGEST - 64, LARGEST + 1, shape, **on_cpu)  # noqa: E731
    signs = lambda *shape: 1 - 2 * (torch.rand(shape, **on_cpu) < 0.01).long()  # noqa: E731
    channels, side = 906, 3  # 906 * 9 = 8154 products
    x, weight = entries(2, channels, 4, 5), entries(2, channels, side, side)
    weight = weight * signs(2, channels, side, side)
    spec = Conv2d(None, None, (1, 1), (1, 1), (1, 1), 1)  # pyright: ignore[reportArgumentType]
    columns = functional.unfold(x.double(), side, padding=1).long()
    true = (weight.flatten(1)[None, :, :, None] * columns[:, None]).sum(2).reshape(2, 2, 4, 5)
    wide, w = x.double().to(device), weight.double().to(device)
    agree = torch.equal(conv(wide, w, spec).cpu().long(), true)
    gradient = entries(2, 2, 4, 5)
    back = _conv_weight(wide, gradient.double().to(device), spec, weight.shape).cpu().long()
    rows = gradient.flatten(2)[:, :, None] * columns[:, None]
    agree &= torch.equal(back, rows.sum((0, 3)).reshape(weight.shape))
    spread = _conv_input(gradient.double().to(device), w, spec, x.shape).cpu().long()
    scattered = torch.zeros(2, channels, 6, 7, dtype=torch.int64, device="cpu")
    for row in range(side):
        for column in range(side):
            scattered[:, :, row : row + 4, column : column + 5] += torch.einsum(
                "nohw,oc->nchw", gradient, weight[:, :, row, column]
            )
    agree &= torch.equal(spread, scattered[:, :, 1:-1, 1:-1])
    if not agree:
        raise NotCertifiableError(
            f"not certifiable on {device}, because its float64 convolutions are not plain sums of products: "
            "the self-test against integers failed. Certify on the CPU."
        )
