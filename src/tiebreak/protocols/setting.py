"""What every protocol starts from: the data, the network and the arithmetic of a trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import Batch, DataSet, load, num_batches, train_batches
from tiebreak.design.axes import DesignError, Device, MemoryFormat, PoolJacobian
from tiebreak.design.cell import Cell, Noise, NormPool, Trial, Zones
from tiebreak.models import build
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.numerics.precision import arithmetic, as_fed, autocast, cast
from tiebreak.protocols.ranks import ALONE, Ranks

_MEMORY = {
    MemoryFormat.CONTIGUOUS: torch.contiguous_format,
    MemoryFormat.CHANNELS_LAST: torch.channels_last,
}


@dataclass(frozen=True)
class Setting:
    """A trial with its data loaded and its device found.

    Attributes:
        trial: what is measured.
        dataset: the images, on the trial's device.
        device: where the arithmetic runs.
        ranks: the processes that share each training batch and the evaluation.
    """

    trial: Trial
    dataset: DataSet
    device: torch.device
    ranks: Ranks = ALONE

    @property
    def cell(self) -> Cell:
        """The trial's cell."""
        return self.trial.cell

    def network(self, jacobian: PoolJacobian | JacobianSwitch) -> nn.Module:
        """The replicate's network, drawn in fp32 on the CPU, then cast and moved; in training mode."""
        model = build(
            self.cell.network,
            num_classes=self.dataset.num_classes,
            in_channels=self.dataset.in_channels,
            jacobian=jacobian,
            seed=self.trial.seed("init"),
        )
        model = cast(model, self.cell.precision).to(self.device)
        return model.to(memory_format=_MEMORY[self.cell.execution.memory_format]).train()

    def num_batches(self, asked: int) -> int:
        """`asked`, or all batches of an epoch where 0 are asked for.

        Raises:
            DesignError: an epoch has fewer.
        """
        total = num_batches(self.dataset, self.cell.data)
        if asked > total:
            raise DesignError(
                f"protocol.num_batches={asked} is more than the {total} batches of "
                f"{self.cell.data.batch_size} images that an epoch has. Use {total} or less, or 0 for all."
            )
        return asked or total

    def inputs(self, batch: Batch) -> Batch:
        """The batch in the trial's precision, memory format and device."""
        images = as_fed(batch.images.to(self.device), self.cell.precision)
        images = images.contiguous(memory_format=_MEMORY[self.cell.execution.memory_format])
        return Batch(images, batch.labels.to(self.device))

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and mean cross-entropy, in the cell's arithmetic.

        The loss is taken in the dtype of the logits, as the published code takes it; under autocast, which
        widens it, in fp32.
        """
        with autocast(self.cell.precision, device=self.device):
            logits = model(batch.images)
            return logits, functional.cross_entropy(logits, batch.labels)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The second result of `forward`."""
        return self.forward(model, batch)[1]

    def train_batches(self, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch in the replicate's order, from the `start`-th on, ready to use.

        Of each batch only the images of this rank, which may be none where a batch has fewer than ranks.
        """
        batches = train_batches(
            self.dataset,
            data=self.cell.data,
            epoch=epoch,
            order_seed=self.trial.seed("order"),
            augment_seed=self.trial.seed("augment"),
            start=start,
            rank=self.ranks.rank,
            num_ranks=self.ranks.size,
        )
        return (self.inputs(batch) for batch in batches)


class Place(Protocol):
    """Where the data sets are: a session, or a run that was composed."""

    @property
    def data_root(self) -> Path:
        """Folder of the data sets."""
        ...


@contextmanager
def prepare(trial: Trial, place: Place, *, ranks: Ranks = ALONE, once: bool = False) -> Iterator[Setting]:
    """Load the data, check the device, and compute as the cell says while the trial runs.

    Args:
        trial: what is measured.
        place: where the data sets are.
        ranks: the processes that share the trial, each with the device of its number.
        once: whether the trial asks for no image twice.

    Raises:
        DesignError: device=cuda without a CUDA device, or a batch of one image where batch norm needs two.
        DataError: the data set is missing or damaged.
    """
    with computing(trial, ranks=ranks) as device:
        dataset = load(trial.cell.data, root=place.data_root, once=once).to(device)
        setting = Setting(trial=trial, dataset=dataset, device=device, ranks=ranks)
        _require_pairs(setting)
        yield setting


@contextmanager
def computing(trial: Trial, *, ranks: Ranks = ALONE) -> Iterator[torch.device]:
    """Compute as the cell says, on the device that is given, without any data.

    Args:
        trial: what is measured.
        ranks: the processes that share the trial.

    Raises:
        DesignError: device=cuda without a CUDA device.
    """
    execution = trial.cell.execution
    if execution.device is Device.CUDA and not torch.cuda.is_available():
        raise DesignError(
            "device=cuda needs a CUDA device and this torch sees none. Use device=cpu, or install a torch "
            "that was built for CUDA."
        )
    is_numbered = ranks.size > 1 and execution.device is Device.CUDA
    device = torch.device(f"{execution.device}:{ranks.local}" if is_numbered else str(execution.device))
    with (
        deterministic(execution.deterministic),
        threads(execution.num_threads),
        arithmetic(trial.cell.precision, device=device),
    ):
        yield device


def _require_pairs(setting: Setting) -> None:
    """Refuse a share of one image where batch norm needs two now, and not at the end of an epoch."""
    data, measure = setting.cell.data, setting.cell.measure
    num_images, available = len(setting.dataset.train), num_batches(setting.dataset, data)
    used = measure.num_batches if isinstance(measure, Noise | Zones | NormPool) else 0
    sizes = {data.batch_size}
    if used == 0 or used >= available:
        sizes.add(num_images % data.batch_size or data.batch_size)
    num_ranks = setting.ranks.size
    lone = next((size for size in sorted(sizes) if size < 2 * num_ranks), None)
    if lone is None:
        return
    model = setting.network(setting.cell.reference)
    image = torch.zeros(1, setting.dataset.in_channels, *[setting.dataset.image_size] * 2)
    try:
        with torch.no_grad():
            setting.loss(model, setting.inputs(Batch(image, torch.zeros(1, dtype=torch.int64))))
    except ValueError:  # torch's batch norm, where a channel has a single value
        shared = f", shared by {num_ranks} ranks" if num_ranks > 1 else ""
        raise DesignError(
            f"{setting.cell.network.arch} with batch norm needs two images in every batch of a process, and "
            f"data.batch_size={data.batch_size} makes a batch of {lone} out of {num_images} images{shared}. "
            "Choose another batch size."
        ) from None
