"""The exact pool out of PyTorch's own operations: for every geometry, dtype and device.

Each entry of the kernel is a strided view of the image; nothing is unfolded or padded. On the CPU the
bits are those of the compiled kernel: windows that share a pixel are added in ascending order, in the
storage format, as ATen does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.numerics.geometry import PoolGeometry, memory_format_of
from tiebreak.numerics.selection import (
    WORDS,
    arithmetic_dtype,
    favoured,
    has_entry,
    marked,
    multiplicity,
    only,
    shares,
)


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window and the mask of the entries that equal it.

    Args:
        x: (N, C, H, W) or (C, H, W), floating point.
        geometry: the windows.

    Returns:
        Output in the dtype and memory format of x; mask as `tiebreak.numerics.selection` describes.
    """
    if geometry.is_2x2 and x.device.type == "cpu" and memory_format_of(x) == torch.contiguous_format:
        found = _forward_2x2(x, size=geometry.output_size((x.shape[-2], x.shape[-1])))
        if found is not None:
            return found
    output = functional.max_pool2d(
        x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.ceil_mode
    )
    mask = torch.zeros((geometry.num_planes, *output.shape), dtype=torch.uint8, device=x.device)
    for tap in geometry.taps((x.shape[-2], x.shape[-1])):
        tied = x[(..., *tap.pixels)] == output[(..., *tap.windows)]
        mask[(tap.entry // 8, ..., *tap.windows)].add_(tied.view(torch.uint8), alpha=1 << tap.entry % 8)
    # The sum of the maxima is NaN if one of them is. Elsewhere than on the CPU to ask would be to wait.
    if x.device.type != "cpu" or bool(output.sum().isnan()):
        _mark_last_nan(mask, x, geometry=geometry)
    return output, mask


def _forward_2x2(x: Tensor, *, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """`forward` from a dense copy of each entry: a fourth of the time that PyTorch's own pool takes.

    The largest of four numbers has the same bits in whatever order they are compared, unless there is a NaN,
    or a -0.0 beside a 0.0: None then.
    """
    rows, columns = size
    blocks = x[..., : 2 * rows, : 2 * columns].unflatten(-1, (columns, 2)).unflatten(-3, (rows, 2))
    entries = blocks.movedim((-3, -1), (0, 1)).contiguous().flatten(0, 1)
    word, half = WORDS[x.element_size()], WORDS[min(4, x.element_size())]  # int64 has no fast minimum
    # A -0.0 begins with the smallest word; another number may hold it too, and then the definition does.
    if x.numel() == 0 or bool(entries.view(half).amin() == torch.iinfo(half).min):
        return None
    output = entries.amax(0)
    if bool(output.sum().isnan()):
        return None
    # As words and into words: a comparison of floats whose result is bool takes seven times as long.
    equal = entries.view(word).eq_(output.view(word))
    for entry in range(1, 4):
        equal[0].add_(equal[entry], alpha=1 << entry)
    return output, equal[:1].to(torch.uint8)


def scatter(
    gradient: Tensor, mask: Tensor, *, size: torch.Size, geometry: PoolGeometry, jacobian: PoolJacobian
) -> Tensor:
    """The backward pass: the transposed Jacobian applied to the gradient of the output.

    Args:
        gradient: of the output.
        mask: from `forward`.
        size: shape of the input.
        geometry: the windows.
        jacobian: the rule at ties.

    Returns:
        The gradient of the input, of `size`.
    """
    several = jacobian.selection is Selection.BETA and jacobian.beta != 0.0
    one = mask if jacobian.selection is Selection.ALL_ONES else favoured(mask, jacobian=jacobian)
    result = torch.empty(size, dtype=gradient.dtype, device=gradient.device)
    images = result.view(-1, size[-2], size[-1])
    gradient = gradient.reshape(-1, *gradient.shape[-2:])
    mask, one = mask.flatten(1, -3), one.flatten(1, -3)
    for part in _slabs(images):
        _add_scattered(
            images[part].zero_(),
            gradient[part] + 0.0,  # 0.0 for -0.0, as adding to a cleared buffer gives
            mask[:, part],
            one[:, part],
            geometry=geometry,
            jacobian=jacobian if several else None,
        )
    return result


def _add_scattered(
    images: Tensor,
    gradient: Tensor,
    mask: Tensor,
    one: Tensor,
    *,
    geometry: PoolGeometry,
    jacobian: PoolJacobian | None,
) -> None:
    """`scatter` into some cleared images; without a Jacobian each entry in `one` gets the whole gradient."""
    word = WORDS[gradient.element_size()]
    own, others, first = gradient, None, one.to(word)
    other = gradient.view(word)
    if jacobian is not None:
        number = multiplicity(mask).to(word)
        own, other = (share.add_(0.0) for share in shares(gradient, number, jacobian=jacobian))
        other, others = other.view(word), (mask ^ one).to(word)
    own = own.view(word)
    # The CPU's own pool adds overlapping windows in the storage format, CUDA's in fp32 with one rounding.
    wide = geometry.overlaps and images.device.type != "cpu"
    result = images.to(arithmetic_dtype(images.dtype)) if wide else images
    # From the last entry to the first, a pixel meets its windows in ascending order.
    for tap in reversed(list(geometry.taps((images.shape[-2], images.shape[-1])))):
        at = (..., *tap.windows)
        part = marked(first, tap.entry)[at].bitwise_and_(own[at])
        if others is not None and tap.entry:  # entry 0 is the first wherever it is tied
            part |= marked(others, tap.entry)[at].bitwise_and_(other[at])
        if geometry.overlaps:
            result[(..., *tap.pixels)] += part.view(images.dtype)
        else:
            result[(..., *tap.pixels)] = part.view(images.dtype)
    if result is not images:
        images.copy_(result)


def _slabs(images: Tensor) -> Iterator[slice]:
    """Runs of images whose temporaries stay in the cache of a CPU; all images elsewhere."""
    pixels = images.shape[-2] * images.shape[-1]
    step = max(1, (1 << 19) // pixels) if images.device.type == "cpu" else max(1, len(images))
    return (slice(start, start + step) for start in range(0, len(images), step))


def gather(vector: Tensor, mask: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> Tensor:
    """The Jacobian applied forward: the derivative of `scatter` with respect to the gradient.

    Args:
        vector: in the space of the input.
        mask: from `forward`.
        geometry: the windows.
        jacobian: the rule at ties.

    Returns:
        A vector in the space of the output, computed in `arithmetic_dtype` and rounded once.
    """
    wide = vector.to(arithmetic_dtype(vector.dtype))
    first = favoured(mask, jacobian=jacobian)
    single = torch.zeros(mask.shape[1:], dtype=wide.dtype, device=wide.device)
    total = torch.zeros_like(single)
    for tap in geometry.taps((vector.shape[-2], vector.shape[-1])):
        at, pixels = (..., *tap.windows), wide[(..., *tap.pixels)]
        single[at] += only(pixels, has_entry(first, tap.entry)[at]).view(wide.dtype)
        total[at] += only(pixels, has_entry(mask, tap.entry)[at]).view(wide.dtype)
    if jacobian.selection is Selection.ALL_ONES:
        return total.to(vector.dtype)
    if jacobian.selection is not Selection.BETA or jacobian.beta == 0.0:
        return single.to(vector.dtype)
    number = multiplicity(mask)
    mixed = jacobian.beta * (total / number)
    if jacobian.beta != 1.0:
        mixed = mixed + (1.0 - jacobian.beta) * single
    return torch.where(number <= 1, single, mixed).to(vector.dtype)


def _mark_last_nan(mask: Tensor, x: Tensor, *, geometry: PoolGeometry) -> None:
    last = torch.full(mask.shape[1:], -1, dtype=torch.int32, device=x.device)
    for tap in geometry.taps((x.shape[-2], x.shape[-1])):
        at = (..., *tap.windows)
        last[at] = torch.where(x[(..., *tap.pixels)].isnan(), tap.entry, last[at])
    for plane in range(geometry.num_planes):
        bit = torch.where(last >> 3 == plane, 1 << (last & 7), 0).to(torch.uint8)
        mask[plane] = torch.where(last >= 0, bit, mask[plane])
