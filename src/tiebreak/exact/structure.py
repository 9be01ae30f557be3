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

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.bounds import UNIT, Ball, Balls, candidates, entries
from tiebreak.exact.dyadic import last_place, log2_largest, reduce_, residues
from tiebreak.exact.evaluation import Decision, Evaluation, Numbers, Windows, patches
from tiebreak.exact.graph import (
    Affine,
    AveragePool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    ReLU,
)
from tiebreak.exact.primes import NUM_PRIMES


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


def of_several_classes(classes: Sequence[Tensor], node: Node, marked: Tensor) -> Tensor:
    """Windows of a pool whose marked entries are not all of one class.

    Args:
        classes: of the pool's input, (N, 1, H, W) each, from hashes modulo several primes.
        node: the pool.
        marked: (entries, N, C, rows, columns) bool.

    Returns:
        (N, C, rows, columns) bool.
    """
    first = marked.int().argmax(0, keepdim=True)
    differ = torch.zeros_like(marked[0])
    for one in classes:
        seen = patches(one, node, fill=0.0).expand(-1, -1, marked.shape[2], -1, -1)
        differ |= ((seen != seen.gather(0, first)) & marked).any(0)
    return differ


def num_hashes(graph: Graph, *, log2_error: float) -> int:
    """So many primes that the bound of `log2_collision` is at most half of what may go wrong.

    The other half is for the residues of `separation`.
    """
    number = 1
    while log2_collision(graph, num_primes=number) > log2_error - 1:
        number += 1
    return number


def log2_collision(graph: Graph, *, num_primes: int) -> float:
    """Bound of log2 of the probability that different patches got one class in any window.

    It counts every window, and not those that float64 left open: these are the machine's. The difference of
    two hashes is a polynomial in the random weights, of degree `hash_degree` at most, and
    not 0 unless the prime divides a difference of two pixels (Schwartz and Zippel).
    """
    bits = max(0.0, log2_largest(graph.batch) + 1 + last_place(graph.batch))
    each = hash_degree(graph) / 2**20 + max(1, math.floor(bits / 20)) / NUM_PRIMES
    windows = sum(
        math.prod(node.shape) * node.operation.geometry.num_entries
        for node in graph.nodes
        if isinstance(node.operation, MaxPool2d)
    )
    return num_primes * math.log2(each) + math.log2(max(1, windows))


def hash_degree(graph: Graph) -> int:
    """Bound of the degree of a hash in its random weights: 3 for an average pool, at most 1 for others."""
    return 3 * len(graph.nodes)


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


class Classes(Numbers[Tensor]):
    """Hashes of what each place sees of the batch: (N, 1, rows, columns) residues, one for all channels."""

    def __init__(self, prime: int, seed: int) -> None:
        self.prime = prime
        self._random = torch.Generator().manual_seed((seed ^ (prime << 20)) % 2**63)

    def reduce(self, x: Tensor) -> Tensor:
        """x modulo the prime, in place."""
        return reduce_(x, prime=self.prime)

    def _drawn(self, *shape: int, like: Tensor) -> Tensor:
        half = self.prime // 2
        drawn = torch.randint(-half, half + 1, shape, generator=self._random)
        return drawn.to(like.device, torch.float64)

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        """A sum with random weights and a random constant, so that an absent entry is no entry of 0."""
        total = self._drawn(1, like=parts[0])
        for part in parts:
            total = self.reduce(total + self.reduce(part * self._drawn(1, like=part)))
        return total

    def batch(self, x: Tensor) -> Tensor:
        """Pixels with all their channels."""
        if x.dim() != 4:
            raise NotCertifiableError(_NO_PLACES.format("a batch that is not (N, C, H, W)"))
        return self._mixed(residues(x, prime=self.prime).split(1, 1))

    def conv(self, x: Tensor, operation: Conv2d) -> Tensor:
        """Patches, the border of the image told from every pixel."""
        weight = self._drawn(1, 1, *operation.weight.value.shape[2:], like=x)
        place = Conv2d(
            operation.weight, None, operation.stride, operation.padding, operation.dilation, groups=1
        )
        return self.reduce(
            contraction.exact_conv(x, weight, place, reduce=self.reduce) + self._drawn(1, like=x)
        )

    def average(self, x: Tensor, operation: AveragePool2d) -> Tensor:
        """Patches of an average pool, with how many entries they have."""
        for matrix, along_rows in ((operation.rows, True), (operation.columns, False)):
            entry = (matrix.cumsum(1) - 1).clamp(min=0).long()
            weights = self._drawn(int(entry.max()) + 1, like=x)[entry] * matrix
            if along_rows:
                x = contraction.exact_product(weights, x, reduce=self.reduce)
            else:
                x = contraction.exact_product(x, weights.t(), reduce=self.reduce)
        number = operation.divisor.expand_as(x) % self.prime
        return self._mixed([x, number])

    def affine(self, x: Tensor, operation: Affine) -> Tensor:
        """The same for every place of a channel."""
        return x

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same for every place."""
        return x

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """Both."""
        return self._mixed([first, second])

    def concat(self, values: Sequence[Tensor], axis: int) -> Tensor:
        """All, place by place."""
        if axis != 1:
            raise NotCertifiableError(_NO_PLACES.format(f"a concatenation along axis {axis}"))
        return self._mixed(values)

    def linear(self, x: Tensor, operation: Linear) -> Tensor:
        """No places."""
        raise NotCertifiableError(_NO_PLACES.format("a linear layer"))

    def gathered(self, x: Tensor, windows: Windows) -> Tensor:
        """Not asked for: a window's class is that of all its entries."""
        raise AssertionError("a class is not chosen")

    def reshaped(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """No places."""
        raise NotCertifiableError(_NO_PLACES.format("a change of shape"))

    def step(
        self, node: Node, inputs: Sequence[Tensor], decision: Decision | None, *, num_images: int
    ) -> Tensor:
        """As for any numbers; what treats all places of a channel alike leaves their classes as they are."""
        if isinstance(node.operation, ReLU | BatchNorm2d):
            return inputs[0]
        if isinstance(node.operation, MaxPool2d):
            # A window that the border cuts has entries of class 0, which no entry inside has but by chance.
            return self._mixed(list(patches(inputs[0], node, fill=0.0)))
        return super().step(node, inputs, decision, num_images=num_images)


_NO_PLACES = (
    "undecided, because batch norm in training mode is certified by following places of the images, and "
    "there is a max pool behind {}."
)
