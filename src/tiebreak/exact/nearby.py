"""Which places of an activation hold one function of the parameters near a point, as hashes.

`classes` tells this whatever the weights are, and so counts every pixel that a place sees. At a point some of
them are seen through ReLUs that are off, or by entries that a pool does not choose, and are of no consequence
nearby. A class here is that of a channel, 0 where the value is 0 and stays so, and follows the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.classes import Classes, no_places, of_several_classes
from tiebreak.exact.dyadic import residues
from tiebreak.exact.evaluation import Decision, Windows, gather, patches
from tiebreak.exact.graph import Conv2d, MaxPool2d, Node, ReLU


class Nearby(Classes):
    """Hashes of functions near a point: (N, channels, rows, columns) residues.

    The decision of a ReLU says where it is not off; where its argument is 0 it is not.
    """

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
        differ = of_several_classes([x], node, windows.tied)
        if not bool(differ.any()):
            return gather(x, windows)
        tied = patches(x, node, fill=0.0) * windows.tied
        return torch.where(differ, self._mixed(list(tied)), gather(x, windows))
