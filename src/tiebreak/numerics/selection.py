"""The rule that shares a window's gradient among its tied entries, as tensors.

A mask holds one bit an entry: uint8 of shape (planes, *output shape), entry j of a window in bit j % 8 of
plane j // 8. A bit is set where the entry equals the maximum; in a window with NaN only the last NaN is
marked, as PyTorch takes that one. So the lowest bit is always the entry that PyTorch's own pool picks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, Selection

NO_ENTRY = 255
"""Number of the chosen entry where a window has none; kernels of more entries use int32 and -1."""


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Format in which a share of the gradient is computed: fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def multiplicity(mask: Tensor) -> Tensor:
    """Number of set bits over all planes: the number of tied maxima of each window.

    Args:
        mask: uint8, (planes, ...).

    Returns:
        uint8 (int32 for windows of more than 255 entries), (...).
    """
    pairs = mask - ((mask >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    bits = (nibbles + (nibbles >> 4)) & 0x0F
    if len(mask) == 1:
        return bits[0]
    return bits.sum(0, dtype=torch.uint8 if len(mask) < 32 else torch.int32)


def has_entry(mask: Tensor, entry: int) -> Tensor:
    """Whether each window's entry number `entry` is tied, as bool."""
    return (mask[entry // 8] & (1 << entry % 8)).bool()


def window_draws(shape: torch.Size, *, seed: int, device: torch.device) -> Tensor:
    """A number in [0, 2**31) for each window that depends on the seed and the window's place only.

    The place is the flat index of the window in the (N, C, rows, columns) output, row-major whatever the
    memory format. The function is the finaliser of SplitMix64 at index * 0x9E3779B97F4A7C15 + seed, modulo
    2**64, of which the upper 31 bits are kept: no state, so any backend in any order draws the same.

    Args:
        shape: of the output.
        seed: of the selection.
        device: where the numbers are wanted.

    Returns:
        int64, of `shape`.

    Source:
        G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    z = torch.arange(shape.numel(), dtype=torch.int64, device=device).view(shape)
    z = z * _signed(0x9E3779B97F4A7C15) + seed
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 33)


def chosen_entry(mask: Tensor, *, num_entries: int, jacobian: PoolJacobian) -> Tensor:
    """The one entry that the rule singles out: the first, last or a random tied one.

    Args:
        mask: uint8, (planes, ...).
        num_entries: of the kernel.
        jacobian: its selection decides; `beta` and `all_ones` single out the first.

    Returns:
        Its number, of shape (...), uint8 for kernels of up to 255 entries, int32 above; NO_ENTRY (or -1)
        in a window without a set bit.
    """
    small = num_entries <= NO_ENTRY
    chosen = torch.full_like(mask[0], NO_ENTRY) if small else torch.full_like(mask[0], -1, dtype=torch.int32)
    if jacobian.selection is Selection.RANDOM:
        draws = window_draws(mask.shape[1:], seed=jacobian.seed, device=mask.device)
        rank = (draws * multiplicity(mask)) >> 31
        for entry in range(num_entries):
            tied = has_entry(mask, entry)
            chosen.masked_fill_(tied & (rank == 0), entry)
            rank -= tied.long()
        return chosen
    entries = range(num_entries)
    for entry in entries if jacobian.selection is Selection.LAST else reversed(entries):
        chosen.masked_fill_(has_entry(mask, entry), entry)
    return chosen


def shares(gradient: Tensor, mask: Tensor, *, jacobian: PoolJacobian) -> tuple[Tensor, Tensor]:
    """What the singled-out entry and each other tied entry get, in the gradient's dtype.

    With n tied entries and incoming g the beta family gives fl(beta * fl(g / n)) to each of them and the
    first fl((1 - beta) * g) on top (no such term at beta = 1), in `arithmetic_dtype` and rounded once. A
    window without a tie passes g on untouched.

    Args:
        gradient: of the output.
        mask: of the output, (planes, *shape of the gradient).
        jacobian: the rule.

    Returns:
        (share of the entry that `chosen_entry` names, share of each other tied entry).
    """
    if jacobian.selection is Selection.ALL_ONES:
        return gradient, gradient
    if jacobian.selection is not Selection.BETA or jacobian.beta == 0.0:
        return gradient, torch.zeros_like(gradient)
    number = multiplicity(mask)
    wide = gradient.to(arithmetic_dtype(gradient.dtype))
    other = jacobian.beta * (wide / number)
    first = other if jacobian.beta == 1.0 else other + (1.0 - jacobian.beta) * wide
    alone = number <= 1
    return (
        torch.where(alone, gradient, first.to(gradient.dtype)),
        torch.where(alone, gradient, other.to(gradient.dtype)),
    )


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(word: Tensor, places: int) -> Tensor:
    """Logical shift to the right of int64."""
    return (word >> places) & ((1 << 64 - places) - 1)
