"""Which places of an activation hold one function of the parameters near a point, as hashes.

`classes` tells this whatever the weights are, and so counts every pixel that a place sees. At a point some of
them are seen through ReLUs that are off, or by entries that a pool does not choose, and are of no consequence
nearby. A class here is that of a channel, 0 where the value is 0 and stays so, and follows the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.classes import Classes, no_places
from tiebreak.exact.dyadic import residues
from tiebreak.exact.evaluation import Decision, Windows, gather, patches
from tiebreak.exact.graph import Affine, Conv2d, MaxPool2d, Node, ReLU


class Nearby(Classes):
    """Hashes of functions near a point: (N, channels, rows, columns) residues.

    The decision of a ReLU says where it is not off; where its argument is 0 it is not.

    Args:
        prime: the modulus.
        seed: of the random weights.
        mixed: windows whose maximal entries are not all of one class, by pool: what all primes together say,
            so that one prime by itself takes nothing for equal. Filled in before a pool is passed.
    """

    def __init__(self, prime: int, seed: int, *, mixed: Mapping[Node, Tensor]) -> None:
        super().__init__(prime, seed)
        self._several = mixed

    def batch(self, x: Tensor) -> Tensor:
        """Pixels, channel by channel; the border is a pixel of 0."""
        if x.dim() != 4:
            raise no_places("a batch that is not (N, C, H, W)")
        return residues(x, prime=self.prime)

    def conv(self, x: Tensor, operation: Conv2d) -> Tensor:
        """Patches of all channels: the channels that come out differ by their weights alone."""
        weight = operation.weight.value
        drawn = self._drawn(1, x.shape[1], *weight.shape[2:], like=x)
        spec = Conv2d(
            operation.weight, None, operation.stride, operation.padding, operation.dilation, groups=1
        )
        found = contraction.exact_conv(x, drawn, spec, reduce=self.reduce) + self._drawn(1, like=x)
        return self.reduce(found).expand(-1, len(weight), -1, -1)

    def affine(self, x: Tensor, operation: Affine) -> Tensor:
        """No longer 0 where x is: a shift of 0 can be moved."""
        return self._mixed([x])

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """0 where a ReLU is off."""
        return x * mask

    def concat(self, values: Sequence[Tensor], axis: int) -> Tensor:
        """Channel after channel."""
        if axis != 1:
            raise no_places(f"a concatenation along axis {axis}")
        return torch.cat(list(values), axis)

    def step(
        self, node: Node, inputs: Sequence[Tensor], decision: Decision | None, *, num_images: int
    ) -> Tensor:
        """As for any numbers; ReLUs and pools follow their decisions."""
        if isinstance(node.operation, ReLU):
            assert isinstance(decision, Tensor)
            return self.masked(inputs[0], decision)
        if isinstance(node.operation, MaxPool2d):
            assert isinstance(decision, Windows)
            return self._pool(inputs[0], node, decision)
        return super().step(node, inputs, decision, num_images=num_images)

    def _pool(self, x: Tensor, node: Node, windows: Windows) -> Tensor:
        """That of the chosen entry where all maximal ones have it, else a hash of them all."""
        differ = self._several[node]
        if not bool(differ.any()):
            return gather(x, windows)
        tied = patches(x, node, fill=0.0) * windows.tied
        return torch.where(differ, self._mixed(list(tied)), gather(x, windows))
