"""What each place of an activation sees of the batch, as hashes: which tied entries come from equal patches.

Places of one class hold the same number in every channel, whatever the weights are. A hash is the batch
through the same network with random weights modulo a random prime; why classes decide is said in `structure`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.dyadic import last_place, log2_largest, reduce_, residues
from tiebreak.exact.evaluation import Decision, Numbers, Windows, patches
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
    Reshape,
)
from tiebreak.exact.primes import NUM_PRIMES


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
            raise no_places("a batch that is not (N, C, H, W)")
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
            raise no_places(f"a concatenation along axis {axis}")
        return self._mixed(values)

    def linear(self, x: Tensor, operation: Linear) -> Tensor:
        """No places."""
        raise no_places("a linear layer")

    def gathered(self, x: Tensor, windows: Windows) -> Tensor:
        """Not asked for: a window's class is that of all its entries."""
        raise AssertionError("a class is not chosen")

    def reshaped(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """No places."""
        raise no_places("a change of shape")

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


def no_places(what: str) -> NotCertifiableError:
    """The mistake of asking for the places of a max pool's input behind an operation that has none."""
    return NotCertifiableError(
        "undecided, because whether tied entries come from equal patches is told by following places of the "
        f"images, and there is a max pool behind {what}."
    )


def other_classes(classes: Sequence[Tensor], node: Node, marked: Tensor) -> Tensor:
    """Marked entries of a pool's windows whose class is not that of the window's first marked entry.

    Args:
        classes: of the pool's input, (N, 1, H, W) each, from hashes modulo several primes.
        node: the pool.
        marked: (entries, N, C, rows, columns) bool.

    Returns:
        As `marked`.
    """
    first = marked.int().argmax(0, keepdim=True)
    differ = torch.zeros_like(marked)
    for one in classes:
        seen = patches(one, node, fill=0.0).expand(-1, -1, marked.shape[2], -1, -1)
        differ |= (seen != seen.gather(0, first)) & marked
    return differ


def of_several_classes(classes: Sequence[Tensor], node: Node, marked: Tensor) -> Tensor:
    """Windows of a pool whose marked entries are not all of one class: (N, C, rows, columns) bool.

    Args:
        classes: as for `other_classes`.
        node: the pool.
        marked: (entries, N, C, rows, columns) bool.
    """
    return other_classes(classes, node, marked).any(0)


def has_places(graph: Graph, index: int) -> bool:
    """Whether every operation up to a node is one through which places of the images can be followed."""
    return graph.batch.dim() == 4 and not any(
        isinstance(node.operation, Linear | Reshape)
        or (isinstance(node.operation, Concat) and node.operation.axis != 1)
        for node in graph.nodes[: index + 1]
    )


def num_hashes(graph: Graph, *, log2_error: float) -> int:
    """So many primes that the bound of `log2_collision` is at most half of what may go wrong.

    The other half is for the residues of `separation`.
    """
    number = 1
    while log2_collision(graph, num_primes=number) > log2_error - 1:
        number += 1
    return number


def log2_collision(graph: Graph, *, num_primes: int, more_pairs: int = 0) -> float:
    """Bound of log2 of the probability that different patches got one class in any window, or any pair more.

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
    return num_primes * math.log2(each) + math.log2(max(1, windows + more_pairs))


def hash_degree(graph: Graph) -> int:
    """Bound of the degree of a hash in its random weights: 3 for an average pool, at most 1 for others."""
    return 3 * len(graph.nodes)
