"""Rows of the bridge: a network in training meets a kink exactly, or not, and the derivative there matters,
or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tiebreak.descent.mlp import Examples, Networks
from tiebreak.descent.place import Place, layout_of, networks_of
from tiebreak.descent.pruning import weights_of
from tiebreak.descent.steps import Rule
from tiebreak.design.descent import Kinks
from tiebreak.design.descent_axes import Kink, Method
from tiebreak.records.session import Row


def kinks(setting: Kinks, place: Place) -> Iterator[Row]:
    """A `kinks` row a derivative, seed, learning rate and look.

    The networks of all derivatives take their steps together from the same weights, so whatever is between
    them came from kinks that were hit. Hits are counted in every step, where its gradient is taken.
    """
    data, test = place.examples(setting)
    seeds = place.seeds(setting.num_seeds)
    runs = [(index, rate) for index in range(len(seeds)) for rate in setting.lrs]
    lr = torch.tensor([rate for _, rate in runs], device=place.device)
    penalty = torch.full_like(lr, setting.weight_penalty) if setting.weight_penalty else None
    batches, trained = [], []
    for derivative in setting.derivatives:
        at_relu = derivative if setting.kink is Kink.RELU else 0.0
        networks = networks_of(
            layout_of(setting, data=data, derivative_at_zero=at_relu, fused_bias=setting.fused_bias),
            seeds=seeds,
            repeats=len(setting.lrs),
            data=data,
        )
        batches.append(networks)
        trained.append(
            networks.train(
                lr=lr,
                rule=Rule(method=Method.GD),
                steps=setting.steps,
                penalty=penalty,
                derivative_at_zero=derivative if setting.kink is Kink.PENALTY else 0.0,
            )
        )
    counts = [_Hits(networks, data) for networks in batches]
    for taken in range(1, setting.steps + 1):
        losses = []
        for networks_hits, steps in zip(counts, trained, strict=True):
            networks_hits.count()
            losses.append(next(steps))
        if taken % setting.every == 0 or taken == setting.steps:
            yield from _look(setting, batches, counts, losses, runs=runs, step=taken, test=test)
        place.progress(taken, setting.steps)


class _Hits:
    """How often the kinks of R networks were hit so far.

    Args:
        networks: as they are trained.
        data: what they are trained on.
    """

    def __init__(self, networks: Networks, data: Examples) -> None:
        self._networks = networks
        self._data = data
        num_runs = networks.points[0].shape[0]
        self.relu = torch.zeros(num_runs, dtype=torch.int64, device=data.inputs.device)
        self.weight = torch.zeros_like(self.relu)
        self.num_relu = 0
        self.num_weight = 0

    @torch.no_grad()
    def count(self) -> None:
        """Count at the present points."""
        *hidden, _ = self._networks.affine(self._networks.points)
        for given in hidden:
            self.relu += (given == 0).sum((1, 2))
            self.num_relu += given[0].numel()
        weights = weights_of(self._networks.points)
        self.weight += (weights == 0).sum(1)
        self.num_weight += weights.shape[1]


def _look(
    setting: Kinks,
    batches: Sequence[Networks],
    counts: Sequence[_Hits],
    losses: Sequence[Tensor],
    *,
    runs: list[tuple[int, float]],
    step: int,
    test: Examples,
) -> Iterator[Row]:
    reference = _flat(batches[0])
    length = reference.norm(dim=1)
    for derivative, networks, hits, loss in zip(setting.derivatives, batches, counts, losses, strict=True):
        apart = (_flat(networks) - reference).norm(dim=1) / length
        accuracy = networks.accuracy(test)
        for run, (index, rate) in enumerate(runs):
            yield {
                "row": "kinks",
                "derivative": derivative,
                "seed": index,
                "lr": rate,
                "step": step,
                "train_loss": float(loss[run]),
                "test_accuracy": float(accuracy[run]),
                "relu_hits": int(hits.relu[run]),
                "relu_seen": hits.num_relu,
                "weight_hits": int(hits.weight[run]),
                "weight_seen": hits.num_weight,
                "distance": float(apart[run]),
            }


def _flat(networks: Networks) -> Tensor:
    """All parameters of every run in one row, fp64."""
    return torch.cat([point.flatten(1) for point in networks.points], 1).double()
