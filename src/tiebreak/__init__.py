"""Does the derivative that max-pooling takes at a tie matter, and when?

Example:
    >>> import torch
    >>> from tiebreak import PoolJacobian, max_pool2d
    >>> x = torch.ones(1, 1, 2, 2, requires_grad=True)
    >>> max_pool2d(x, kernel=2, jacobian=PoolJacobian(beta=1)).backward()
    >>> x.grad.flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiebreak.design.axes import MINIMAL, NATIVE, Forward, PoolJacobian, Precision, Selection
from tiebreak.design.cell import Cell, Trial

if TYPE_CHECKING:
    from tiebreak.auditing import audit
    from tiebreak.exact.certify import certify
    from tiebreak.models.rewrite import rewrite_pools
    from tiebreak.numerics.normpool import norm_pool2d
    from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d, max_pool2d
    from tiebreak.numerics.relu import ReLU, relu
    from tiebreak.protocols.zones import zones

__version__ = "0.1.0"

__all__ = [
    "MINIMAL",
    "NATIVE",
    "Cell",
    "Forward",
    "JacobianSwitch",
    "MaxPool2d",
    "PoolJacobian",
    "Precision",
    "ReLU",
    "Selection",
    "Trial",
    "audit",
    "certify",
    "max_pool2d",
    "norm_pool2d",
    "relu",
    "rewrite_pools",
    "zones",
]

# Names that need torch are imported when they are used: reading tables and `--help` must not wait for it.
_LAZY = {
    "JacobianSwitch": "tiebreak.numerics.pooling",
    "MaxPool2d": "tiebreak.numerics.pooling",
    "ReLU": "tiebreak.numerics.relu",
    "audit": "tiebreak.auditing",
    "certify": "tiebreak.exact.certify",
    "max_pool2d": "tiebreak.numerics.pooling",
    "norm_pool2d": "tiebreak.numerics.normpool",
    "relu": "tiebreak.numerics.relu",
    "rewrite_pools": "tiebreak.models.rewrite",
    "zones": "tiebreak.protocols.zones",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tiebreak' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
