"""Equality of values, counted in units in the last place."""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FAR = 2**62
"""Stands for the distance of a NaN from a number, and for every larger one."""


def assert_same_forward(y_a: Tensor, y_b: Tensor, *, ulps: int = 0, signed_zeros: bool = False) -> None:
    """Asserts that two values of a pool are the same.

    A NaN equals any NaN. 0.0 equals -0.0 unless told otherwise: in a window that has both, which of them is
    the value is the choice of the rule at ties.

    Args:
        y_a: floating point.
        y_b: of the same shape and dtype.
        ulps: allowed distance; a maximum needs none.
        signed_zeros: whether 0.0 and -0.0 differ.

    Raises:
        AssertionError: naming the entry, both values and their distance.
        DesignError: something that is no tensor, or a tensor without numbers in order (meta, sparse).

    Example:
        >>> assert_same_forward(torch.tensor([0.0]), torch.tensor([-0.0]))
    """
    require_alike(y_a, y_b, names=("y_a", "y_b"))
    a, b = y_a.detach().cpu(), y_b.detach().cpu()
    wrong = ulps_apart(a, b) > ulps
    if signed_zeros:
        wrong |= (a == 0) & (b == 0) & (a.signbit() != b.signbit())
    if bool(wrong.any()):
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"values differ at {at}: {compared(a[at], b[at], names=('y_a', 'y_b'))} (allowed: {ulps}); "
            f"{int(wrong.sum())} of {wrong.numel()} entries differ."
        )


def ulps_apart(a: Tensor, b: Tensor) -> Tensor:
    """How many representable numbers lie from each entry of a to that of b; 0.0 and -0.0 are one.

    Args:
        a: float16, bfloat16, float32 or float64.
        b: of the same shape and dtype.

    Returns:
        int64; 0 for two NaN, 2**62 for one and for all that is as far or farther.

    Example:
        >>> ulps_apart(torch.tensor([1.0, 0.0]), torch.tensor([1.0 + 2**-23, -0.0])).tolist()
        [1, 0]
    """
    require_tensors(a=a, b=b)
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    is_near = (ranks_a.double() - ranks_b.double()).abs() < FAR
    distance = torch.where(is_near, (ranks_a - ranks_b).abs(), FAR)
    distance = torch.where(a.isnan() | b.isnan(), FAR, distance)
    return distance.masked_fill(a.isnan() & b.isnan(), 0)


def _ranks(values: Tensor) -> Tensor:
    word = _WORDS[values.element_size()]
    bits = values.contiguous().view(word).long()
    return torch.where(bits < 0, -(bits & torch.iinfo(word).max), bits)


def compared(a: Tensor, b: Tensor, *, names: tuple[str, str]) -> str:
    """Both numbers and their distance, for a message.

    Args:
        a: one number.
        b: another.
        names: of the two.
    """
    distance = int(ulps_apart(a, b))
    apart = "more than 2**62 ulps" if distance == FAR else f"{distance} ulps"
    return f"{names[0]}={a.item()!r}, {names[1]}={b.item()!r}, {apart} apart"


def require_alike(a: Tensor, b: Tensor, *, names: tuple[str, str]) -> None:
    """Asserts one shape and one dtype, of those that a pool has.

    Args:
        a: one tensor.
        b: another.
        names: of the two.

    Raises:
        AssertionError: saying what differs.
        DesignError: something that is no tensor with numbers in order.
    """
    require_tensors(**{names[0]: a, names[1]: b})
    if a.shape != b.shape:
        raise AssertionError(
            f"{names[0]} has shape {tuple(a.shape)}, {names[1]} has shape {tuple(b.shape)}: make them equal."
        )
    if a.dtype != b.dtype or not a.is_floating_point() or a.element_size() not in _WORDS:
        raise AssertionError(
            f"{names[0]} and {names[1]} must have one dtype, float16, bfloat16, float32 or float64, got "
            f"{a.dtype} and {b.dtype}."
        )


def require_tensors(**named: object) -> None:
    """Refuse what holds no numbers that could be compared.

    Args:
        named: by the name of the argument.

    Raises:
        DesignError: something that is no tensor, or a tensor on the meta device or of a sparse layout.
    """
    for name, given in named.items():
        if not isinstance(given, Tensor):
            raise DesignError(f"{name} must be a torch.Tensor, got {type(given).__name__}. Convert it first.")
        if given.is_meta or given.layout != torch.strided:
            got = "one on the meta device" if given.is_meta else f"layout {given.layout}"
            raise DesignError(f"{name} must be a dense tensor that holds numbers, got {got}.")
