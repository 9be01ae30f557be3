"""Where a cell of this study is measured, and what all of its protocols ask of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tiebreak.data import load
from tiebreak.descent.activations import Activation
from tiebreak.descent.mlp import Criterion, Examples, Layout, Networks, draw_examples, examples
from tiebreak.design.axes import DataName
from tiebreak.design.cell import Data
from tiebreak.design.descent import OnNetworks
from tiebreak.design.descent_axes import Source


@dataclass(frozen=True, kw_only=True)
class Place:
    """The arithmetic and the surroundings of one trial.

    Args:
        dtype: what is computed and stored in.
        device: where.
        data_root: folder of the data sets.
        replicate: whose random draws.
        progress: is told how many of how many steps are done, and may end the trial.
    """

    dtype: torch.dtype
    device: torch.device
    data_root: Path
    replicate: int
    progress: Callable[[int, int], None]

    def seeds(self, num: int) -> tuple[int, ...]:
        """The seeds of the replicate's `num` problems; no two replicates share one."""
        return tuple(self.replicate * num + index for index in range(num))

    def numbers(self, values: tuple[float, ...]) -> Tensor:
        """The values in fp64 on the device."""
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def examples(self, setting: OnNetworks) -> tuple[Examples, Examples]:
        """What the networks are trained and tested on.

        Raises:
            DataError: the data are missing or damaged.
            UserError: fewer images than asked for, or a side that does not divide theirs.
        """
        if setting.data is Source.SYNTHETIC:
            train, test = draw_examples(
                num=setting.num_examples, num_test=setting.num_test, side=setting.side
            )
        else:
            dataset = load(Data(name=DataName(str(setting.data))), root=self.data_root)
            train = examples(dataset.train, num=setting.num_examples, side=setting.side)
            test = examples(dataset.test, num=setting.num_test, side=setting.side, scale=train.scale)
        return train.to(self.dtype, device=self.device), test.to(self.dtype, device=self.device)


def layout_of(
    setting: OnNetworks, *, data: Examples, derivative_at_zero: float = 0.0, fused_bias: bool = True
) -> Layout:
    """The networks that a setting describes, for these examples."""
    return Layout(
        widths=(data.inputs.shape[1], *[setting.width] * (setting.depth - 1), data.num_classes),
        activation=Activation(
            shape=setting.activation, delta=setting.delta, derivative_at_zero=derivative_at_zero
        ),
        gain=setting.gain,
        fused_bias=fused_bias,
    )


def networks_of(
    layout: Layout,
    *,
    seeds: tuple[int, ...],
    repeats: int,
    data: Examples,
    criterion: Criterion = Criterion.CROSS_ENTROPY,
) -> Networks:
    """`repeats` networks of each seed next to each other, all of a seed from the same weights."""
    runs = [seed for seed in seeds for _ in range(repeats)]
    return Networks(layout, seeds=runs, data=data, criterion=criterion)


def spread_steps(steps: int, *, num: int = 60) -> tuple[int, ...]:
    """Up to `num` steps from 0 to `steps` - 1, the first and the last among them, evenly on a log scale.

    Example:
        >>> spread_steps(1000, num=5)
        (0, 5, 31, 177, 999)
    """
    ratio = math.log(steps) / max(1, num - 1)
    return tuple(sorted({round(math.exp(ratio * index)) - 1 for index in range(num)} | {steps - 1}))
