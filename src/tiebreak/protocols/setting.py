"""What every protocol starts from: the data, the network and the arithmetic of a trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import Batch, DataSet, load, train_batches
from tiebreak.design.axes import DesignError, Device, MemoryFormat, PoolJacobian
from tiebreak.design.cell import Cell, Trial
from tiebreak.models import build
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.numerics.precision import arithmetic, autocast, cast, dtype_of
from tiebreak.records.session import Session

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
    """

    trial: Trial
    dataset: DataSet
    device: torch.device

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

    def inputs(self, batch: Batch) -> Batch:
        """The batch in the trial's dtype, memory format and device."""
        images = batch.images.to(self.device, dtype_of(self.cell.precision))
        images = images.contiguous(memory_format=_MEMORY[self.cell.execution.memory_format])
        return Batch(images, batch.labels.to(self.device))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The forward pass, autocast where the precision is a mixed one."""
        with autocast(self.cell.precision, device=self.device):
            return model(batch.images)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy in the dtype of the logits, as the published code takes it."""
        with autocast(self.cell.precision, device=self.device):
            return functional.cross_entropy(model(batch.images), batch.labels)

    def train_batches(self, *, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch in the replicate's order, from the `start`-th on, ready to use."""
        batches = train_batches(
            self.dataset,
            data=self.cell.data,
            epoch=epoch,
            order_seed=self.trial.seed("order"),
            augment_seed=self.trial.seed("augment"),
            start=start,
        )
        return (self.inputs(batch) for batch in batches)


@contextmanager
def prepare(trial: Trial, session: Session) -> Iterator[Setting]:
    """Load the data, check the device, and compute as the cell says while the trial runs.

    Raises:
        DesignError: device=cuda without a CUDA device.
        DataError: the data set is missing or damaged.
    """
    execution = trial.cell.execution
    if execution.device is Device.CUDA and not torch.cuda.is_available():
        raise DesignError(
            "device=cuda needs a CUDA device and torch sees none. Use device=cpu or device=auto."
        )
    device = torch.device(str(execution.device))
    with (
        deterministic(execution.deterministic),
        threads(execution.num_threads),
        arithmetic(trial.cell.precision, device=device),
    ):
        dataset = load(trial.cell.data, root=session.data_root).to(device)
        yield Setting(trial=trial, dataset=dataset, device=device)
