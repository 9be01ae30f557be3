"""Which implementation of the exact pool runs: one place that decides, the same bits behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian
from tiebreak.numerics import pool_torch
from tiebreak.numerics.geometry import PoolGeometry


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window and the mask of its tied entries."""
    return pool_torch.forward(x, geometry=geometry)


def scatter(
    gradient: Tensor, mask: Tensor, *, size: torch.Size, geometry: PoolGeometry, jacobian: PoolJacobian
) -> Tensor:
    """The transposed Jacobian applied to the gradient of the output."""
    return pool_torch.scatter(gradient, mask, size=size, geometry=geometry, jacobian=jacobian)


def gather(vector: Tensor, mask: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> Tensor:
    """The Jacobian applied forward."""
    return pool_torch.gather(vector, mask, geometry=geometry, jacobian=jacobian)
