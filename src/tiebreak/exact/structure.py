"""Batch norm in training mode: what can be proved without exact numbers.

Its square root and the statistics of the batch are not rational, so there are no residues. But a derivative
can be equal under every rule for a reason that needs no number: the tied entries of a window see the same
patch of the batch. Give every place of an activation a *class*, such that places of one class hold, channel
by channel, the same number whatever the weights are. If all tied entries of every window are of one class,
then what one rule sends elsewhere than another is, channel by channel, a difference d that adds up to 0 over
each class; and this stays true on the way down:

* a convolution's weights get sum d * patch, and patches are equal within a class: 0; its bias gets sum d = 0;
* its input gets sum_k w_k d: over the places of one class of its input that is, for each k, a sum of d over
  whole classes of the output: 0;
* ReLU, and batch norm with its statistics (which see sum d and sum d * x only), treat a class alike;
* another pool sends d by position within the window, and the classes of a window's entries are its class.

So D = 0. Which entries may be tied is decided by float64 with a bound (`bounds`), through batch norm too.
Classes are hashes: the batch through the same network with random weights modulo random primes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tiebreak.exact.bounds import UNIT, Ball, Balls, candidates, entries
from tiebreak.exact.classes import Classes, of_several_classes
from tiebreak.exact.evaluation import Decision, Evaluation, patches
from tiebreak.exact.graph import BatchNorm2d, Concat, Graph, MaxPool2d, Node, ReLU


@dataclass
class Structure:
    """What the classes say of a network, pool by pool.

    Attributes:
        live: windows in which several entries may be the maximum and let a gradient through.
        open: of these, windows whose entries are not all of one class, by the place of the pool.
    """

    live: int = 0
    open: dict[str, int] = field(default_factory=dict)


def structure(graph: Graph, *, primes: Sequence[int], seed: int) -> Structure:
    """Follow the classes of a network down to its last pool.

    Args:
        graph: the network, with batch norm in training mode somewhere.
        primes: moduli of the hashes.
        seed: of their random weights.

    Raises:
        NotCertifiableError: a pool behind an operation through which places cannot be followed.
    """
    keep: frozenset[int] = frozenset()
    balls = Evaluation(TrainingBalls(), graph, graph.batch, keep=keep)
    hashes = [Evaluation(Classes(prime, seed), graph, graph.batch, keep=keep) for prime in primes]
    found = Structure()
    none: dict[int, Decision] = {}
    for index in graph.pools:
        node = graph.nodes[index]
        source = node.inputs[0]
        ball = balls.advance(source, none)
        several, _ = candidates(*entries(ball, node))
        if zeros_are_dead(graph, source):
            # Where the maximum is 0 no gradient passes; where it is not, the zeros are not tied with it.
            alive = patches(~((ball.value == 0) & (ball.radius == 0)), node, fill=0)
            several = several & alive
        live = several.sum(0) > 1
        found.live += int(live.sum())
        if not bool(live.any()):
            continue
        differ = of_several_classes([lane.advance(source, none) for lane in hashes], node, several)
        number = int((differ & live).sum())
        if number:
            found.open[node.where] = found.open.get(node.where, 0) + number
    return found


def zeros_are_dead(graph: Graph, index: int) -> bool:
    """Whether a 0 at a node can only be one that a ReLU made."""
    node = graph.nodes[index]
    if isinstance(node.operation, ReLU):
        return True
    if isinstance(node.operation, MaxPool2d | Concat):
        return all(zeros_are_dead(graph, source) for source in node.inputs)
    return False


class TrainingBalls(Balls):
    """Enclosures that need no decision: a ReLU and a maximum are no further apart than what goes in."""

    def step(self, node: Node, inputs: Sequence[Ball], decision: Decision | None, *, num_images: int) -> Ball:
        """As for any numbers, without decisions."""
        if isinstance(node.operation, ReLU):
            x = inputs[0]
            negative = (x.value < -x.radius) | ((x.value == 0) & (x.radius == 0))
            return Ball(x.value.clamp(min=0).where(~negative, 0.0), x.radius.where(~negative, 0.0))
        if isinstance(node.operation, MaxPool2d):
            ball, exists = entries(inputs[0], node)
            several, _ = candidates(ball, exists)
            return Ball(
                ball.value.where(several, -torch.inf).amax(0), ball.radius.where(several, 0.0).amax(0)
            )
        if isinstance(node.operation, BatchNorm2d):
            return _normalised(inputs[0], node.operation)
        return super().step(node, inputs, decision, num_images=num_images)


def standardised(x: Ball, eps: float) -> tuple[Ball, Ball]:
    """The input of batch norm less its mean, and one over its deviation, with the bounds of their roundings.

    Args:
        x: (N, C, ...).
        eps: added to the variance.

    Returns:
        The centred input, of the shape of x; the factor, (1, C, 1, ...).
    """
    axes = tuple(axis for axis in range(x.value.dim()) if axis != 1)
    count = x.value.numel() // x.value.shape[1]
    gamma = (count + 8) * UNIT

    def mean(value: Tensor, radius: Tensor) -> Ball:
        size = value.abs().mean(axes, keepdim=True)
        return Ball(
            value.mean(axes, keepdim=True),
            (radius.mean(axes, keepdim=True) + 2 * gamma * size) * (1 + 2 * gamma) + 2.0**-1000,
        )

    centre = mean(x.value, x.radius)
    value = x.value - centre.value
    radius = (x.radius + centre.radius + 2 * UNIT * value.abs()) * (1 + 8 * UNIT)
    square = value * value
    spread = mean(square, (2 * value.abs() * radius + radius * radius + 2 * UNIT * square) * (1 + 16 * UNIT))
    variance = spread.value + eps
    slack = spread.radius + 4 * UNIT * variance
    lowest = (variance - slack) * (1 - 4 * UNIT)
    factor = variance.rsqrt()
    # 1 / sqrt is convex and falls, so the end near 0 is the one further away; NaN where it may be crossed.
    wide = ((lowest.rsqrt() - factor).abs() + 8 * UNIT * lowest.rsqrt()).where(lowest > 0, torch.inf)
    return Ball(value, radius), Ball(factor, wide)


def _normalised(x: Ball, operation: BatchNorm2d) -> Ball:
    """Batch norm with the statistics of the batch, each step with the bound of its rounding."""
    shape = [1, -1, *[1] * (x.value.dim() - 2)]
    centred, factor = standardised(x, operation.eps)
    scaled = centred.value * factor.value
    bound = centred.radius * (factor.value + factor.radius)
    bound = bound + centred.value.abs() * factor.radius + 2 * UNIT * scaled.abs()
    weight = (
        torch.ones_like(factor.value) if operation.weight is None else operation.weight.value.reshape(shape)
    )
    result = scaled * weight
    bound = (bound * weight.abs() + 2 * UNIT * result.abs()) * (1 + 32 * UNIT)
    if operation.bias is not None:
        result = result + operation.bias.value.reshape(shape)
        bound = bound + 2 * UNIT * result.abs()
    return Ball(result, bound * (1 + 32 * UNIT) + 2.0**-1000)
