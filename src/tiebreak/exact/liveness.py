"""Where the adjoint of a value may be other than 0, whatever the loss.

A ReLU at 0 that a pool does not choose, or behind which all is off, is of no consequence: its adjoint is 0,
whatever AD takes at kinks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Windows
from tiebreak.exact.graph import Add, Affine, AveragePool2d, Concat, Conv2d, Linear, MaxPool2d, ReLU, Reshape


def liveness(walk: Walk) -> dict[int, Tensor]:
    """Where the adjoint of a node's value may be other than 0, for ReLUs and max pools.

    Pools send it to the first of several maximal entries, ReLUs at 0 let it through.

    Args:
        walk: a part of a batch, decided.

    Returns:
        Masks of the shapes of the nodes; a node on which the output does not depend is missing.
    """
    nodes, images = walk.graph.nodes, walk.images
    live: dict[int, Tensor] = {
        walk.graph.output: images.new_ones(
            (len(images), *nodes[walk.graph.output].shape[1:]), dtype=torch.bool
        )
    }
    for index in range(walk.graph.output, 0, -1):
        node = nodes[index]
        here = live.get(index)
        if here is None:
            continue
        shape = torch.Size((len(images), *nodes[node.inputs[0]].shape[1:]))
        match node.operation:
            case Conv2d() as operation:
                weight = _marks(operation.weight.value)
                back = contraction.exact_conv_input(
                    _marks(here), weight, operation, size=shape, reduce=_as_it_is
                )
                passed = [back > 0.5]
            case Linear() as operation:
                passed = [_marks(here) @ _marks(operation.weight.value) > 0.5]
            case Affine() as operation:
                passed = [here & (operation.scale != 0).reshape((-1,) + (1,) * (here.dim() - 2))]
            case AveragePool2d() as operation:
                rows, columns = _marks(operation.rows), _marks(operation.columns)
                passed = [rows.t() @ _marks(here) @ columns > 0.5]
            case ReLU():
                decision = walk.decisions[index]
                assert isinstance(decision, Tensor)
                passed = [here & (decision | walk.zeros[index])]
            case MaxPool2d():
                windows = walk.decisions[index]
                assert isinstance(windows, Windows)
                into = images.new_zeros((*shape[:2], shape[2] * shape[3]))
                into.scatter_add_(-1, windows.chosen, here.flatten(2).to(into.dtype))
                passed = [(into > 0.5).reshape(shape)]
            case Reshape():
                passed = [here.reshape(shape)]
            case Add():
                passed = [here] * len(node.inputs)
            case Concat(axis):
                passed = here.split([nodes[source].shape[axis] for source in node.inputs], axis)
            case _:
                raise AssertionError(f"{node.operation} is no step of a decided network")
        for source, one in zip(node.inputs, passed, strict=True):
            live[source] = live[source] | one if source in live else one
        if not isinstance(node.operation, ReLU | MaxPool2d):
            del live[index]
    return live


def _marks(x: Tensor) -> Tensor:
    """1 where a number is not 0: sums of such marks are 0 only where all are."""
    return (x != 0).to(torch.float64)


def _as_it_is(x: Tensor) -> Tensor:
    return x
