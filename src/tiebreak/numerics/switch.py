"""A Jacobian that can change between the forward and the backward pass, and what a forward pass leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tiebreak.design.axes import NATIVE, PoolJacobian
from tiebreak.numerics.geometry import PoolGeometry


@dataclass(frozen=True, eq=False)
class PoolEvent:
    """One eager forward pass of a pool, as the tensors that it left.

    Args:
        input: what was pooled; the very tensor of the graph.
        output: the pooled tensor, of the graph too, so that a backward pass can stop or start there.
        mask: tied entries, uint8 of shape (planes, *output shape): bit j % 8 of plane j // 8 says that entry
            j of the window (row by row) equals its maximum. In a window with NaN only the last NaN is marked.
        geometry: the windows.
    """

    input: Tensor
    output: Tensor
    mask: Tensor
    geometry: PoolGeometry


@dataclass(eq=False)
class JacobianSwitch:
    """A Jacobian that can be changed between the forward and the backward pass.

    Pools that hold the same switch read `jacobian` when their backward pass runs, so one retained graph
    serves any number of Jacobians with bits equal to those of separate runs.

    Args:
        jacobian: the rule in force.
        events: None, or a list to which each eager forward pass appends its `PoolEvent`, in order.

    Example:
        >>> import torch
        >>> from tiebreak.design.axes import MINIMAL
        >>> from tiebreak.numerics.pooling import max_pool2d
        >>> x = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> switch = JacobianSwitch(NATIVE)
        >>> y = max_pool2d(x, kernel=2, jacobian=switch).sum()
        >>> torch.autograd.grad(y, x, retain_graph=True)[0].flatten().tolist()
        [1.0, 0.0, 0.0, 0.0]
        >>> switch.jacobian = MINIMAL
        >>> torch.autograd.grad(y, x)[0].flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    jacobian: PoolJacobian = NATIVE
    events: list[PoolEvent] | None = field(default=None)

    def __deepcopy__(self, memo: dict[int, Any]) -> JacobianSwitch:
        """A switch of its own that records if this one does; what is recorded here belongs to a graph."""
        events = None if self.events is None else []
        return memo.setdefault(id(self), JacobianSwitch(self.jacobian, events))


_observer: ContextVar[Callable[[PoolEvent], None] | None] = ContextVar("observer of pools", default=None)


@contextmanager
def observed(observer: Callable[[PoolEvent], None]) -> Iterator[None]:
    """Call `observer` with the event of each eager forward pass of any pool, switch or none.

    Args:
        observer: called in the order of the passes, in the thread that entered the context only.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def observer() -> Callable[[PoolEvent], None] | None:
    """Who wants to hear of pools in this context."""
    return _observer.get()
