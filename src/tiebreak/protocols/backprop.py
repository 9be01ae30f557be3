"""One forward pass, the gradient of every Jacobian.

All exact-forward Jacobians share the forward pass, so they share everything above the last pool that holds
a *live* tie: a tie whose choice can reach a parameter. Behind a ReLU with derivative 0 at 0 a tie at the
value 0 is dead, whatever flows into it. Without a live tie all gradients are the same bits and one backward
pass serves all; with one, the backward pass is shared down to that pool's output and repeated below it.
The results are the bits of separate runs; a test holds it for every architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from tiebreak.design.axes import PoolJacobian
from tiebreak.numerics.pooling import JacobianSwitch, PoolEvent
from tiebreak.numerics.ties import live_ties, tie_counts


@dataclass(frozen=True)
class Backprop:
    """Gradients of one loss for several Jacobians.

    Attributes:
        loss: the loss, a scalar on the graph's device, detached.
        gradients: one tuple of tensors a Jacobian, in the order of the parameters. A tensor that cannot
            differ from the first Jacobian's is the same object.
        events: the pools in forward order.
        live: the number of live ties a pool.
    """

    loss: Tensor
    gradients: tuple[tuple[Tensor, ...], ...]
    events: tuple[PoolEvent, ...]
    live: tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """A loss with its graph, the pools it passed in forward order, and each pool's number of live ties."""

    loss: Tensor
    events: tuple[PoolEvent, ...]
    live: tuple[int, ...]


def observe(closure: Callable[[], Tensor], *, switch: JacobianSwitch) -> Observed:
    """Run `closure` once and note what every pool that reads `switch` saw."""
    before, switch.events = switch.events, []
    try:
        loss = closure()
        events = tuple(switch.events)
    finally:
        switch.events = before
    return Observed(loss=loss, events=events, live=tuple(_live(event) for event in events))


def gradient(loss: Tensor, parameters: Sequence[Tensor], *, retain_graph: bool = False) -> tuple[Tensor, ...]:
    """Gradient of a scalar, zeros for a parameter that it does not reach."""
    return torch.autograd.grad(
        loss, tuple(parameters), retain_graph=retain_graph, allow_unused=True, materialize_grads=True
    )


def backprop(
    closure: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    switch: JacobianSwitch,
    jacobians: Sequence[PoolJacobian],
    prune: bool = True,
) -> Backprop:
    """Gradients of `closure()` for each Jacobian from one forward pass.

    Args:
        closure: runs the forward pass and returns a scalar loss; called once.
        parameters: leaves to differentiate with respect to; one that the loss does not reach gets zeros.
        switch: the switch that every pool of the network reads its Jacobian from.
        jacobians: exact-forward Jacobians; the first is the reference.
        prune: share the backward pass; `False` runs it whole for each Jacobian.

    Returns:
        Gradients bit for bit those of a separate run of each Jacobian.
    """
    switch.jacobian = jacobians[0]
    observed = observe(closure, switch=switch)
    loss, events, live = observed.loss, observed.events, observed.live
    gradients = None
    if prune:
        if not any(live):
            shared = gradient(loss, parameters)
            gradients = (shared,) * len(jacobians)
        else:
            deepest = max(index for index, count in enumerate(live) if count)
            gradients = _below(loss, parameters, events[deepest].output, switch, jacobians)
    if gradients is None:
        gradients = tuple(
            gradient(loss, parameters, retain_graph=index < len(jacobians) - 1)
            for index in _each(switch, jacobians)
        )
    return Backprop(loss=loss.detach(), gradients=gradients, events=events, live=live)


def _live(event: PoolEvent) -> int:
    """Ties that may reach a parameter: those at a value other than 0, or all where no ReLU stands before."""
    source = event.input.grad_fn
    if source is not None and source.name() == "ReluBackward0":
        return live_ties(event)
    return tie_counts(event).tied


def _each(switch: JacobianSwitch, jacobians: Sequence[PoolJacobian]):
    for index, jacobian in enumerate(jacobians):
        switch.jacobian = jacobian
        yield index


def _below(
    loss: Tensor,
    parameters: Sequence[Tensor],
    cut: Tensor,
    switch: JacobianSwitch,
    jacobians: Sequence[PoolJacobian],
) -> tuple[tuple[Tensor, ...], ...] | None:
    """Gradients from one backward pass down to `cut` and one a Jacobian below; None if `cut` is no cut."""
    node = cut.grad_fn
    if node is None or loss.grad_fn is None:
        return None
    above = _leaves(loss.grad_fn, stop=node)
    below = _leaves(node, stop=None)
    if above & below:
        return None  # a parameter reaches the loss on both sides: the two parts would have to be added
    upper = [index for index, parameter in enumerate(parameters) if id(parameter) not in below]
    lower = [index for index, parameter in enumerate(parameters) if id(parameter) in below]
    *shared, upstream = torch.autograd.grad(
        loss,
        (*(parameters[index] for index in upper), cut),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    leaves = tuple(parameters[index] for index in lower)
    results = []
    for position in _each(switch, jacobians):
        own = torch.autograd.grad(cut, leaves, upstream, retain_graph=position < len(jacobians) - 1)
        merged = dict(zip(upper, shared, strict=True)) | dict(zip(lower, own, strict=True))
        results.append(tuple(merged[index] for index in range(len(parameters))))
    return tuple(results)


def _leaves(start: Node, *, stop: Node | None) -> set[int]:
    """Ids of the leaf tensors that the graph from `start` accumulates into, without passing `stop`."""
    seen: set[Node] = {start} if stop is None else {start, stop}
    stack = [] if start is stop else [start]
    leaves: set[int] = set()
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return leaves
