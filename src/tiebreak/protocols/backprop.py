"""One forward pass, the gradient of every Jacobian.

All exact-forward Jacobians share the forward pass, so they share everything above the last pool that holds
a *live* tie: a tie whose choice may reach a parameter. Behind a ReLU with derivative 0 at 0 a tie at the
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
    return Observed(loss=loss, events=events, live=tuple(num_live(event) for event in events))


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
            *others, last = (event.output for event, count in zip(events, live, strict=True) if count)
            gradients = _below(loss, parameters, last, others, switch, jacobians)
    if gradients is None:
        gradients = tuple(
            gradient(loss, parameters, retain_graph=index < len(jacobians) - 1)
            for index in _each(switch, jacobians)
        )
    return Backprop(loss=loss.detach(), gradients=gradients, events=events, live=live)


def num_live(event: PoolEvent) -> int:
    """Ties that may reach a parameter: those at a value other than 0, or all where no ReLU stands before.

    An upper bound: a tie counts whether or not a gradient flows into it, or a parameter lies below it.

    Args:
        event: a pass whose tensors are still those of the graph.
    """
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
    others: Sequence[Tensor],
    switch: JacobianSwitch,
    jacobians: Sequence[PoolJacobian],
) -> tuple[tuple[Tensor, ...], ...] | None:
    """Gradients from one backward pass down to `cut` and one a Jacobian below; None if `cut` is no cut.

    It is one if no parameter reaches the loss both through it and around it (the two parts would have to be
    added), and if none of the `others`, the outputs of the other live pools, reaches the loss around it.
    """
    node = cut.grad_fn
    if node is None or loss.grad_fn is None:
        return None
    around = _nodes(loss.grad_fn, stop=node)
    above, below = _leaves(around), _leaves(_nodes(node, stop=None))
    if above & below or any(other.grad_fn in around for other in others):
        return None
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


def _nodes(start: Node, *, stop: Node | None) -> set[Node]:
    """The graph from `start` on, without `stop` and what only it leads to."""
    seen: set[Node] = set()
    stack = [] if start is stop else [start]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack.extend(
            following
            for following, _ in node.next_functions
            if following is not None and following is not stop
        )
    return seen


def _leaves(nodes: set[Node]) -> set[int]:
    """Ids of the tensors that these nodes accumulate into."""
    variables = (getattr(node, "variable", None) for node in nodes)
    return {id(variable) for variable in variables if variable is not None}
