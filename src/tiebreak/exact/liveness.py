"""Where the adjoint of a value may be other than 0, whatever the loss, or its size decides what a pool takes.

A ReLU at 0 behind which all is off is of no consequence: its adjoint is 0, whatever AD takes at kinks. So is
one that a pool does not choose, unless it is tied with what the pool chooses, since nearby it may be ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Windows
from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    Concat,
    Conv2d,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Reshape,
)


def liveness(walk: Walk) -> dict[int, Tensor]:
    """Where the adjoint of a value may be other than 0, or its size decides what a pool chooses.

    Pools send the adjoint to the first of several maximal entries, ReLUs at 0 let it through. The other
    maximal entries are followed back to the layer whose movement decides between them.

    Args:
        walk: a part of a batch, decided.

    Returns:
        Masks of the shapes of the nodes, for ReLUs and max pools; one on which the output does not depend is
        missing.
    """
    graph = walk.graph
    shape = (len(walk.images), *graph.nodes[graph.output].shape[1:])
    live = {graph.output: walk.images.new_ones(shape, dtype=torch.bool)}
    rivals: dict[int, Tensor] = {}
    found: dict[int, Tensor] = {}
    for index in range(graph.output, 0, -1):
        here, beside = live.pop(index, None), rivals.pop(index, None)
        if here is None:
            continue
        node = graph.nodes[index]
        _add(live, node, _passed(walk, index, here))
        if isinstance(node.operation, MaxPool2d):
            _add(rivals, node, [_maximal(walk, index, here if beside is None else here | beside)])
        elif beside is not None and isinstance(node.operation, ReLU | Reshape | Concat):
            _add(rivals, node, _passed(walk, index, beside))
        if isinstance(node.operation, ReLU | MaxPool2d):
            found[index] = here if beside is None else here | beside
    return found


def _add(masks: dict[int, Tensor], node: Node, passed: Sequence[Tensor]) -> None:
    for source, one in zip(node.inputs, passed, strict=True):
        masks[source] = masks[source] | one if source in masks else one


def _passed(walk: Walk, index: int, here: Tensor) -> Sequence[Tensor]:
    """To what of its inputs a node passes an adjoint that is not 0."""
    node = walk.graph.nodes[index]
    shape = torch.Size((len(here), *walk.graph.nodes[node.inputs[0]].shape[1:]))
    match node.operation:
        case Conv2d() as operation:
            weight = _marks(operation.weight.value)
            back = contraction.exact_conv_input(_marks(here), weight, operation, size=shape, reduce=_as_it_is)
            return [back > 0.5]
        case Linear() as operation:
            return [_marks(here) @ _marks(operation.weight.value) > 0.5]
        case Affine() as operation:
            return [here & (operation.scale != 0).reshape((-1,) + (1,) * (here.dim() - 2))]
        case AveragePool2d() as operation:
            rows, columns = _marks(operation.rows), _marks(operation.columns)
            return [rows.t() @ _marks(here) @ columns > 0.5]
        case ReLU():
            decision = walk.decisions[index]
            assert isinstance(decision, Tensor)
            return [here & (decision | walk.zeros[index])]
        case MaxPool2d():
            windows = walk.decisions[index]
            assert isinstance(windows, Windows)
            into = _marks(here.new_zeros((*shape[:2], shape[2] * shape[3])))
            into.scatter_add_(-1, windows.chosen, _marks(here.flatten(2)))
            return [(into > 0.5).reshape(shape)]
        case Reshape():
            return [here.reshape(shape)]
        case Add():
            return [here] * len(node.inputs)
        case Concat(axis):
            return here.split([walk.graph.nodes[source].shape[axis] for source in node.inputs], axis)
        case _:
            raise AssertionError(f"{node.operation} is no step of a decided network")


def _maximal(walk: Walk, index: int, here: Tensor) -> Tensor:
    """All maximal entries of some windows of a pool."""
    node, windows = walk.graph.nodes[index], walk.decisions[index]
    assert isinstance(node.operation, MaxPool2d)
    assert isinstance(windows, Windows)
    rows, columns = walk.graph.nodes[node.inputs[0]].shape[2:]
    found = here.new_zeros((*here.shape[:2], rows, columns))
    for tap in node.operation.geometry.taps((rows, columns)):
        found[(..., *tap.pixels)] |= (here & windows.tied[tap.entry])[(..., *tap.windows)]
    return found


def _marks(x: Tensor) -> Tensor:
    """1 where a number is not 0: sums of such marks are 0 only where all are."""
    return (x != 0).to(torch.float64)


def _as_it_is(x: Tensor) -> Tensor:
    return x
