"""Steps of gradient descent, counted, checked for non-finite numbers, and resumable bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import Batch, test_batches
from tiebreak.design.axes import LossScale, PoolJacobian, Schedule
from tiebreak.design.cell import Optimizer
from tiebreak.protocols.optimizer import Updater
from tiebreak.protocols.setting import Setting
from tiebreak.records.session import Checkpoint

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite number of a run.

    `where` is loss, buffer (batch norm's running statistics), gradient, optimizer (its state) or parameter,
    in the order in which a step touches them; `tensor` is the buffer's or parameter's name. Of several
    gradients that overflow in one step, the one nearest to the loss is named: a backward pass runs from the
    last layer to the first.
    """

    where: str
    tensor: str


class Watch:
    """Looks for numbers that a step of training left non-finite.

    Args:
        model: in training.
        state: of the optimizer: the slots of each parameter by name.
    """

    def __init__(self, model: nn.Module, state: Mapping[Tensor, Mapping[str, Any]]) -> None:
        self._parameters = dict(model.named_parameters())
        self._buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._state = state

    def first_nonfinite(self, *, gradients_too: bool = False) -> NonFinite | None:
        """What the last step made non-finite first, or None.

        Args:
            gradients_too: look at the gradients in any case. Else they show in what they update.
        """
        slots = (value for state in self._state.values() for value in state.values())
        changed = [*self._parameters.values(), *self._buffers.values(), *filter(_is_float_tensor, slots)]
        if not gradients_too and _all_finite(changed):
            return None
        for name, buffer in self._buffers.items():
            if not _all_finite([buffer]):
                return NonFinite("buffer", name)
        for name, parameter in reversed(self._parameters.items()):
            if parameter.grad is not None and not _all_finite([parameter.grad]):
                return NonFinite("gradient", name)
        for name, parameter in self._parameters.items():
            if not _all_finite(filter(_is_float_tensor, self._state.get(parameter, {}).values())):
                return NonFinite("optimizer", name)
        for name, parameter in self._parameters.items():
            if not _all_finite([parameter]):
                return NonFinite("parameter", name)
        raise AssertionError("something was non-finite a moment ago")


@dataclass(frozen=True)
class Score:
    """Loss and accuracy on a split; the mean cross-entropy is taken in fp64 from the logits.

    `split` is `test`, or `held_out` where training images stand in for the test split.
    """

    split: str
    loss: float
    accuracy: float
    num_images: int
    chance: float


def learning_rate(optimizer: Optimizer, *, epoch: int, num_epochs: int) -> float:
    """The rate in the `epoch`-th epoch, counted from 0: a function, so a resumed run has no state to lose."""
    if optimizer.schedule is Schedule.COSINE:
        return optimizer.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / num_epochs))
    if optimizer.schedule is Schedule.STEP:
        return optimizer.lr * optimizer.step_factor ** (epoch // optimizer.step_epochs)
    return optimizer.lr


class Training:
    """One network in training: model, optimizer, loss scaler, running sums of the epoch.

    Args:
        setting: trial, data and device.
        jacobian: of every pool.
        optimizer: the optimizer of the cell, perhaps with another learning rate.
        num_epochs: over which the schedule runs.
    """

    def __init__(
        self, setting: Setting, *, jacobian: PoolJacobian, optimizer: Optimizer, num_epochs: int
    ) -> None:
        self._setting = setting
        self._settings = optimizer
        self._num_epochs = num_epochs
        self.model: nn.Module = setting.network(jacobian)
        self._optimizer = Updater(optimizer, self.model.parameters())
        self._watch = Watch(self.model, self._optimizer.state)
        self._scaler = torch.amp.GradScaler(
            setting.device.type, enabled=optimizer.loss_scale is LossScale.DYNAMIC
        )
        self.step_count = 0
        self._loss_sum = 0.0
        self._num_correct = 0
        self._num_seen = 0

    def start_epoch(self, epoch: int, *, continued: bool = False) -> float:
        """Set the rate of the `epoch`-th epoch (from 0) and return it.

        The running sums are cleared unless the epoch is `continued` after a restore.
        """
        lr = learning_rate(self._settings, epoch=epoch, num_epochs=self._num_epochs)
        self._optimizer.lr = lr
        if not continued:
            self._loss_sum, self._num_correct, self._num_seen = 0.0, 0, 0
        return lr

    def step(self, batch: Batch) -> NonFinite | None:
        """One step; what was first non-finite in it, or None.

        A gradient that overflows under dynamic loss scaling is no divergence while the scale can fall: the
        scaler skips the step and lowers it, as it is meant to.
        """
        self._optimizer.zero_grad()
        self.step_count += 1
        loss, weight, is_finite = self._forward(batch)
        if not is_finite:
            return NonFinite("loss", "")
        scale = self._scaler.get_scale()
        scaled = self._scaler.scale(loss)
        if weight:  # without images there is nothing to differentiate
            scaled.backward()
        if self._setting.ranks.size > 1:
            self._merge(weight)
        self._scaler.step(cast(torch.optim.Optimizer, self._optimizer))
        self._scaler.update()
        unscalable = self._scaler.get_scale() < scale <= 1.0
        return self._watch.first_nonfinite(gradients_too=unscalable)

    def _forward(self, batch: Batch) -> tuple[Tensor, float, bool]:
        """This rank's part of the mean loss, its share of the batch, and whether all losses are finite."""
        num = len(batch.labels)
        if num:
            logits, loss = self._setting.forward(self.model, batch)
            value, num_correct = loss.item(), int((logits.argmax(1) == batch.labels).sum())
        else:
            loss, value, num_correct = torch.zeros((), device=self._setting.device), 0.0, 0
        total, correct, seen, num_nonfinite = self._setting.ranks.totals(
            [value * num, num_correct, num, not math.isfinite(value)]
        )
        if num_nonfinite:
            return loss, 0.0, False
        self._loss_sum += total
        self._num_correct += int(correct)
        self._num_seen += int(seen)
        weight = num / seen
        return (loss if weight == 1.0 else loss * weight), weight, True

    def _merge(self, weight: float) -> None:
        """Give every rank the gradient of the whole batch, and the mean over the batch of the buffers.

        Batch norm's statistics are those of each share; its running ones are averaged, so that all ranks
        evaluate the same network.
        """
        if not weight:
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            for buffer in filter(lambda buffer: not buffer.is_floating_point(), self.model.buffers()):
                buffer += 1  # batch norm counts its batches
        ranks = self._setting.ranks
        ranks.add(parameter.grad for parameter in self.model.parameters() if parameter.grad is not None)
        ranks.add(filter(_is_float_tensor, self.model.buffers()), weight=weight)

    def require_same_on_all_ranks(self, when: str) -> None:
        """Compare weights, buffers and optimizer over the ranks, by hash.

        Args:
            when: for the message: `at the start`.

        Raises:
            RanksDifferError: a rank has others than rank 0.
        """
        self._setting.ranks.require_same(self.tensors(), when)

    @property
    def epoch_loss(self) -> float:
        """Mean training loss over the epoch's steps so far; NaN before the first."""
        return self._loss_sum / self._num_seen if self._num_seen else math.nan

    @property
    def epoch_accuracy(self) -> float:
        """Share of the epoch's training images so far that were classified rightly when they were used."""
        return self._num_correct / self._num_seen if self._num_seen else math.nan

    def evaluate(self) -> Score:
        """Loss and accuracy on the test split (or the held-out images), in the cell's own arithmetic."""
        return evaluate(self._setting, self.model)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        named = {f"{prefix}model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        slots = self._optimizer.tensors()
        return named | {f"{prefix}optimizer.{name}": tensor for name, tensor in slots.items()}

    def state(self) -> dict[str, Any]:
        """Everything else that the next step depends on, as JSON values."""
        return {
            "step_count": self.step_count,
            "loss_sum": self._loss_sum,
            "num_correct": self._num_correct,
            "num_seen": self._num_seen,
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint, state: Mapping[str, Any], prefix: str = "") -> None:
        """Put back what `tensors` and `state` gave."""
        self.model.load_state_dict(_named(checkpoint.tensors, f"{prefix}model."))
        self._optimizer.restore(_named(checkpoint.tensors, f"{prefix}optimizer."))
        self._scaler.load_state_dict(dict(state["scaler"]))
        self.step_count = state["step_count"]
        self._loss_sum = state["loss_sum"]
        self._num_correct = state["num_correct"]
        self._num_seen = state["num_seen"]


def evaluate(setting: Setting, model: nn.Module) -> Score:
    """Score a model on the data set's test split.

    Ranks take turns with the batches, and what each batch gave is added in the order of the batches: the
    score has the same bits however many ranks there are.
    """
    was_training, ranks = model.training, setting.ranks
    model.eval()
    total = len(setting.dataset.test)
    losses, hits = ([0.0] * -(-total // _EVALUATION_BATCH) for _ in range(2))
    with torch.no_grad():
        raws = test_batches(setting.dataset, batch_size=_EVALUATION_BATCH, first=ranks.rank, every=ranks.size)
        for place, raw in enumerate(raws):
            batch, number = setting.inputs(raw), ranks.rank + place * ranks.size
            logits, _ = setting.forward(model, batch)
            loss = functional.cross_entropy(logits.double(), batch.labels, reduction="sum")
            losses[number], hits[number] = loss.item(), float((logits.argmax(1) == batch.labels).sum())
    model.train(was_training)
    summed = ranks.totals([*losses, *hits])
    loss_sum, num_correct = 0.0, int(sum(summed[len(losses) :]))
    for loss in summed[: len(losses)]:  # one after the other: `sum` rounds in another way from Python 3.12 on
        loss_sum += loss
    commonest = int(torch.bincount(setting.dataset.test.labels.cpu()).max())
    return Score(
        split="held_out" if setting.cell.data.held_out else "test",
        loss=loss_sum / total,
        accuracy=num_correct / total,
        num_images=total,
        chance=commonest / total,
    )


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _is_float_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    found = [tensor.detach() for tensor in tensors]
    if not found:
        return True
    norms = torch._foreach_norm(found, math.inf)  # pyright: ignore[reportPrivateImportUsage]
    return all(bool(torch.stack(group).isfinite().all()) for group in _by_kind(norms))


def _by_kind(norms: Iterable[Tensor]) -> list[list[Tensor]]:
    """Scalars that can be stacked: of one dtype and device (Adam counts its steps in fp32 on the CPU)."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for norm in norms:
        groups.setdefault((norm.dtype, norm.device), []).append(norm)
    return list(groups.values())
