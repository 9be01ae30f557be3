"""The exact pool out of PyTorch's own operations: for every geometry, dtype and device.

Each entry of the kernel is a strided view of the image; nothing is unfolded or padded. On the CPU the
bits are those of the compiled kernel: windows that share a pixel are added in ascending order, in the
storage format, as ATen does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.selection import arithmetic_dtype, chosen_entry, has_entry, multiplicity, shares


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window and the mask of the entries that equal it.

    Args:
        x: (N, C, H, W) or (C, H, W), floating point.
        geometry: the windows.

    Returns:
        Output in the dtype of x; mask as `tiebreak.numerics.selection` describes.
    """
    output = functional.max_pool2d(
        x, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.ceil_mode
    )
    mask = torch.zeros((geometry.num_planes, *output.shape), dtype=torch.uint8, device=x.device)
    for tap in geometry.taps((x.shape[-2], x.shape[-1])):
        tied = x[(..., *tap.pixels)] == output[(..., *tap.windows)]
        mask[(tap.entry // 8, ..., *tap.windows)] |= tied.view(torch.uint8) << (tap.entry % 8)
    if x.device.type != "cpu" or bool(output.isnan().any()):  # elsewhere, asking would wait for the device
        _mark_last_nan(mask, x, geometry=geometry)
    return output, mask


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
    # The CPU's own pool adds overlapping windows in the storage format, CUDA's in fp32 with one rounding.
    storage = gradient.dtype if gradient.device.type == "cpu" else arithmetic_dtype(gradient.dtype)
    result = torch.zeros(size, dtype=storage, device=gradient.device)
    chosen = chosen_entry(mask, num_entries=geometry.num_entries, jacobian=jacobian)
    own, other = shares(gradient, mask, jacobian=jacobian)
    several = jacobian.selection is Selection.ALL_ONES or jacobian.beta != 0.0
    nothing = torch.zeros((), dtype=gradient.dtype, device=gradient.device)
    for tap in reversed(list(geometry.taps((size[-2], size[-1])))):  # a pixel meets its windows in order
        at = (..., *tap.windows)
        part = torch.where(has_entry(mask, tap.entry)[at], other[at], nothing) if several else nothing
        result[(..., *tap.pixels)] += torch.where(chosen[at] == tap.entry, own[at], part)
    return result.to(gradient.dtype)


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
    chosen = chosen_entry(mask, num_entries=geometry.num_entries, jacobian=jacobian)
    single = torch.zeros(mask.shape[1:], dtype=wide.dtype, device=wide.device)
    total = torch.zeros_like(single)
    for tap in geometry.taps((vector.shape[-2], vector.shape[-1])):
        at, pixels = (..., *tap.windows), wide[(..., *tap.pixels)]
        nothing = torch.zeros_like(pixels)
        single[at] += torch.where(chosen[at] == tap.entry, pixels, nothing)
        total[at] += torch.where(has_entry(mask, tap.entry)[at], pixels, nothing)
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
        last[(..., *tap.windows)] = torch.where(
            x[(..., *tap.pixels)].isnan(), tap.entry, last[(..., *tap.windows)]
        )
    for plane in range(geometry.num_planes):
        bit = torch.where(last >> 3 == plane, 1 << (last & 7), 0).to(torch.uint8)
        mask[plane] = torch.where(last >= 0, bit, mask[plane])
