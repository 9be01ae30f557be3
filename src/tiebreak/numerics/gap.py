"""The gap between two gradients: norms of their difference, accumulated in fp64.

Raw gaps are stored and zones are decided later, from the table, so no threshold lives here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 2.0**-480
"""A norm above this has a square well inside fp64's range."""


@dataclass(frozen=True, kw_only=True)
class TensorGap:
    """Norms of one tensor's difference, and the l2 norm of the reference."""

    l1: float = 0.0
    l2: float = 0.0
    sup: float = 0.0
    reference_l2: float = 0.0

    @property
    def relative(self) -> float:
        """Distance in l2 over the norm of the reference; 0 if both are 0."""
        return _ratio(self.l2, self.reference_l2)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Norms of the difference of two gradients.

    Attributes:
        l1: sum of absolute differences over all entries (the norm of the published thresholds).
        l2: Euclidean norm over all entries.
        sup_sum: sum over tensors of the largest absolute difference (the norm of the published volumes).
        sup: largest absolute difference of all entries.
        relative: l2 over the Euclidean norm of the reference gradient.
        tensors: the same by tensor.
    """

    l1: float
    l2: float
    sup_sum: float
    sup: float
    relative: float
    tensors: tuple[TensorGap, ...]

    @property
    def nonfinite(self) -> bool:
        """Whether an inf or NaN stands in either gradient."""
        return not all(
            math.isfinite(tensor.l1) and math.isfinite(tensor.reference_l2) for tensor in self.tensors
        )


class GapMeter:
    """Gaps of several gradients to one reference, whose norms are computed once.

    Args:
        reference: gradient tensors of any floating dtype, one a parameter.
    """

    def __init__(self, reference: Sequence[Tensor]) -> None:
        self._reference = tuple(reference)
        norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in self._reference]
        measured = torch.stack(norms).tolist() if norms else []
        self._norms = [_norm(*pair) for pair in zip(self._reference, measured, strict=True)]

    def to(self, other: Sequence[Tensor]) -> Gap:
        """The gap between the reference and `other`, in the same order of tensors.

        Finite tensors that are equal, or the same object, have a gap of exactly 0; 0.0 equals -0.0.
        Differences are taken in fp64: exact for fp16, rounded once for the wider formats.

        Raises:
            ValueError: another number of tensors, or a tensor of another shape.
        """
        if len(other) != len(self._reference):
            raise ValueError(f"the reference has {len(self._reference)} tensor(s), got {len(other)}.")
        for index, (first, second) in enumerate(zip(self._reference, other, strict=True)):
            if first.shape != second.shape:
                raise ValueError(
                    f"tensor {index} of the reference has shape {tuple(first.shape)}, "
                    f"got {tuple(second.shape)}."
                )
        tensors = tuple(
            _tensor_gap(first, second, norm)
            for first, second, norm in zip(self._reference, other, self._norms, strict=True)
        )
        l2 = math.hypot(*(gap.l2 for gap in tensors))
        return Gap(
            l1=sum(gap.l1 for gap in tensors),
            l2=l2,
            sup_sum=sum(gap.sup for gap in tensors),
            sup=max((gap.sup for gap in tensors), key=nan_first, default=0.0),
            relative=_ratio(l2, math.hypot(*self._norms)),
            tensors=tensors,
        )


def gap(reference: Sequence[Tensor], other: Sequence[Tensor]) -> Gap:
    """The gap between two gradients, given as sequences of tensors in the same order.

    Example:
        >>> gap([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])]).relative
        0.1
    """
    return GapMeter(reference).to(other)


def _tensor_gap(first: Tensor, second: Tensor, norm: float) -> TensorGap:
    if (first is second and math.isfinite(norm)) or torch.equal(first, second):
        return TensorGap(reference_l2=norm)
    difference = second.double() - first.double()
    norms = [torch.linalg.vector_norm(difference, order) for order in (1, 2, math.inf)]
    l1, l2, sup = torch.stack(norms).tolist()
    return TensorGap(l1=l1, l2=_norm(difference, l2), sup=sup, reference_l2=norm)


def _norm(tensor: Tensor, measured: float) -> float:
    """The Euclidean norm, taken again in units of the largest entry where its square left fp64's range."""
    if _TINY <= measured < math.inf or tensor.numel() == 0:
        return measured
    sup = float(torch.linalg.vector_norm(tensor, math.inf, dtype=torch.float64))
    if sup == 0.0 or not math.isfinite(sup):
        return measured
    return sup * float(torch.linalg.vector_norm(tensor.double() / sup))


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0.0:
        return 0.0 if numerator == 0.0 else math.inf
    return numerator / denominator


def nan_first(value: float) -> float:
    """A key by which a NaN is as large as infinity, so that `max` cannot pass over it.

    Example:
        >>> max([1.0, math.nan, 2.0], key=nan_first)
        nan
    """
    return math.inf if math.isnan(value) else value
