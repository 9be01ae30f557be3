"""What is left of a network when its small weights are set to 0: by threshold, by share, by exact zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tiebreak.descent.mlp import Examples, Networks


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """R networks after pruning.

    Args:
        share_removed: of the weights, those that are 0 now, (R,).
        accuracy: on the examples asked for, (R,).
    """

    share_removed: Float64[Tensor, " R"]
    accuracy: Float64[Tensor, " R"]


def weights_of(points: Sequence[Tensor]) -> Float[Tensor, "R P"]:
    """All weights of every run in one row, biases left out, in the dtype of the points."""
    return torch.cat([point.flatten(1) for point in points[::2]], 1)


def prune_below(networks: Networks, threshold: float, *, data: Examples) -> Pruned:
    """Set weights of size below a threshold to 0; the threshold 0 removes nothing and counts the zeros.

    Args:
        networks: R of them; they stay as they are.
        threshold: 0 or more.
        data: to measure the accuracy on.
    """
    return _masked(networks, [point.abs() < threshold for point in networks.points[::2]], data=data)


def prune_share(networks: Networks, share: float, *, data: Examples) -> Pruned:
    """Set this share of the weights of each network, its smallest ones over all layers, to 0.

    Of weights of one size those of earlier layers go first.

    Args:
        networks: R of them; they stay as they are.
        share: in [0, 1], of the weights of one network, rounded down to a whole number of them.
        data: to measure the accuracy on.
    """
    sizes = weights_of(networks.points).abs()
    order = sizes.argsort(dim=1, stable=True)
    removed = torch.zeros_like(sizes, dtype=torch.bool)
    removed.scatter_(1, order[:, : int(share * sizes.shape[1])], True)
    layers = networks.points[::2]
    parts = removed.split([layer[0].numel() for layer in layers], dim=1)
    return _masked(
        networks, [part.reshape(layer.shape) for part, layer in zip(parts, layers, strict=True)], data=data
    )


def _masked(networks: Networks, masks: Sequence[Tensor], *, data: Examples) -> Pruned:
    points = list(networks.points)
    for layer, mask in enumerate(masks):
        points[2 * layer] = points[2 * layer].masked_fill(mask, 0.0)
    return Pruned(
        share_removed=(weights_of(points) == 0).double().mean(1),
        accuracy=networks.accuracy(data, points=points),
    )
