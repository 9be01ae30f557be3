"""The rule that shares a window's gradient among its tied entries, as tensors.

A mask holds one bit an entry: uint8 of shape (planes, *output shape), entry j of a window in bit j % 8 of
plane j // 8. A bit is set where the entry equals the maximum; in a window with NaN only the last NaN is
marked, as PyTorch takes that one. So the lowest bit is always the entry that PyTorch's own pool picks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, Selection


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Format in which a share of the gradient is computed: fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def multiplicity(mask: Tensor) -> Tensor:
    """Number of set bits over all planes: the number of tied maxima of each window.

    Args:
        mask: uint8, (planes, ...).

    Returns:
        uint8 (int32 for windows of more than 255 entries), (...).

    Example:
        >>> multiplicity(torch.tensor([[0b1011], [0b1]], dtype=torch.uint8)).tolist()
        [4]
    """
    pairs = mask - ((mask >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    bits = (nibbles + (nibbles >> 4)) & 0x0F
    if len(mask) == 1:
        return bits[0]
    return bits.sum(0, dtype=torch.uint8 if len(mask) < 32 else torch.int32)


def has_entry(mask: Tensor, entry: int) -> Tensor:
    """Whether entry number `entry` of each window is marked: uint8 of 0 and 1, (...)."""
    return (mask[entry // 8] >> entry % 8) & 1


def marked(mask: Tensor, entry: int) -> Tensor:
    """`has_entry` for a mask in a signed integer format: all bits set where it is marked, none elsewhere."""
    return has_entry(mask, entry).neg_()


def favoured(mask: Tensor, *, jacobian: PoolJacobian) -> Tensor:
    """The one entry that the rule singles out, as a mask with a single bit a window.

    Args:
        mask: uint8, (planes, ...).
        jacobian: `last` and `random` single out one of the tied entries, the other selections the first.

    Returns:
        As mask; no bit where it has none.
    """
    if jacobian.selection is Selection.RANDOM:
        return _drawn(mask, seed=jacobian.seed)
    last = jacobian.selection is Selection.LAST
    single = _highest_bit(mask) if last else mask & -mask
    order = range(len(mask))
    earlier = None
    for plane in reversed(order) if last else order:
        if earlier is not None:
            single[plane].masked_fill_(earlier.bool(), 0)
        earlier = mask[plane] if earlier is None else earlier | mask[plane]
    return single


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


def shares(gradient: Tensor, number: Tensor, *, jacobian: PoolJacobian) -> tuple[Tensor, Tensor]:
    """What the favoured entry and each other tied entry get in the beta family, in the gradient's dtype.

    With n tied entries and incoming g each gets fl(beta * fl(g / n)) and the first fl((1 - beta) * g) on top
    (no such term at beta = 1), in `arithmetic_dtype` and rounded once. A window without a tie passes g on
    untouched.

    Args:
        gradient: of the output.
        number: of tied entries, in the integer format of as many bytes; of the gradient's shape.
        jacobian: the rule.

    Returns:
        (share of the first tied entry, share of each other one: of no meaning in windows without a tie).
    """
    wide = gradient.to(arithmetic_dtype(gradient.dtype))
    other = (wide / number.to(wide.dtype)).mul_(jacobian.beta)
    first = other if jacobian.beta == 1.0 else ((1.0 - jacobian.beta) * wide).add_(other)
    untied = gradient.view(number.dtype)
    change = first.to(gradient.dtype).view(number.dtype) ^ untied
    change.bitwise_and_((1 - number).bitwise_right_shift_(8 * number.element_size() - 1))  # all bits if tied
    return change.bitwise_xor_(untied).view(gradient.dtype), other.to(gradient.dtype)


def only(values: Tensor, kept: Tensor) -> Tensor:
    """The bits of `values` where `kept` is 1 or true and zero bits elsewhere, whatever the values are.

    A product with 0 would make NaN of infinity, and a select runs a third as fast.

    Args:
        values: floating point, or words.
        kept: bool or uint8 of 0 and 1, of the same shape.

    Returns:
        The words of the result as a signed integer dtype of the width of `values`.
    """
    word = WORDS[values.element_size()]
    return kept.view(torch.int8).neg().to(word).bitwise_and_(values.view(word))


WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer format of as many bytes as a number has."""


def _drawn(mask: Tensor, *, seed: int) -> Tensor:
    draws = window_draws(mask.shape[1:], seed=seed, device=mask.device)
    rank = (draws * multiplicity(mask)) >> 31
    single = torch.zeros_like(mask)
    for entry in range(8 * len(mask)):
        marked = has_entry(mask, entry)
        single[entry // 8] += (marked * (rank == 0)) << entry % 8
        rank -= marked
    return single


def _highest_bit(mask: Tensor) -> Tensor:
    for places in (1, 2, 4):
        mask = mask | (mask >> places)
    return mask ^ (mask >> 1)


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(word: Tensor, places: int) -> Tensor:
    """Logical shift to the right of int64."""
    return (word >> places) & ((1 << 64 - places) - 1)
