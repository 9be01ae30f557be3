"""Gaps and certified labels along training: the same run of SGD seen through every number format.

The network is trained in fp32 with PyTorch's rule at ties, so replicate k passes through the same parameters
in every cell; at each stop a copy is rounded to the cell's precision and compared there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import NATIVE, Precision
from tiebreak.design.cell import Trial
from tiebreak.design.settings import AlongTraining
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.numerics.precision import cast
from tiebreak.protocols.certified import certificate_rows
from tiebreak.protocols.rows import gap_fields, nonfinite_row
from tiebreak.protocols.setting import Setting, prepare
from tiebreak.protocols.training import NonFinite, Watch
from tiebreak.protocols.zones import draw_gaps, pool_rows
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session

Stop = Callable[[Setting, nn.Module, JacobianSwitch, int, int], Iterator[Row]]
"""The rows of a stop: from the setting, the network at its point, its switch, epoch, and number of draws."""


def measure_trajectory(trial: Trial, session: Session) -> Outcome:
    """Emit the rows of protocol zones at each stop, with the `epoch` that lies behind it."""
    return along_training(trial, session, stop=_stop)


def along_training(trial: Trial, session: Session, *, stop: Stop) -> Outcome:
    """Train, and emit the rows of each stop.

    A run that is interrupted goes on from its last step of training; a stop is seen whole or not at all.
    Training that goes non-finite ends the trial with a `nonfinite` row; the stops before it are kept.

    Args:
        trial: its measure says how long and how often.
        session: takes the rows.
        stop: looks at a point.
    """
    measure = trial.cell.measure
    assert isinstance(measure, AlongTraining)
    switch = JacobianSwitch(NATIVE)
    with prepare(trial, session) as setting:
        wide = replace(setting, trial=replace(trial, cell=replace(trial.cell, precision=Precision.FP32)))
        model = wide.network(NATIVE)
        optimizer = torch.optim.SGD(model.parameters(), lr=measure.lr, momentum=measure.momentum)
        first, position = _resume(session, model, optimizer)
        watch = Watch(model, optimizer.state)
        steps = wide.num_batches(0)
        for epoch in range(first, measure.num_epochs + 1):
            if position == 0 and (epoch % measure.every == 0 or epoch == measure.num_epochs):
                seen = wide.network(switch)
                seen.load_state_dict(model.state_dict())
                seen = cast(seen, trial.cell.precision)
                for row in stop(setting, seen, switch, epoch, measure.num_batches):
                    session.emit(row)
                session.progress(epoch + 1, measure.num_epochs + 1)
            if epoch == measure.num_epochs:
                break
            for batch in wide.train_batches(epoch=epoch, start=position):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(batch.images), batch.labels)
                position += 1
                found = None if bool(loss.isfinite()) else NonFinite("loss", "")
                if found is None:
                    loss.backward()
                    optimizer.step()
                    found = watch.first_nonfinite()
                if found is not None:
                    step = epoch * steps + position
                    session.emit(nonfinite_row(found, step=step, epoch=epoch + 1))
                    return Outcome(kind=OutcomeKind.DIVERGED, step=step)
                if position < steps and session.wants_checkpoint():
                    session.save(_tensors(model, optimizer), {"epoch": epoch, "position": position})
            position = 0
    return Outcome(kind=OutcomeKind.COMPLETED)


def _tensors(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Every tensor that the next step depends on, by name."""
    named = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            named[f"momentum.{name}"] = momentum
    return named


def _resume(session: Session, model: nn.Module, optimizer: torch.optim.SGD) -> tuple[int, int]:
    """Put back what `_tensors` gave; the epoch, and the batches of it that lie behind."""
    checkpoint = session.restore()
    if checkpoint is None:
        return 0, 0
    saved = checkpoint.tensors
    model.load_state_dict({name: saved[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        if f"momentum.{name}" in saved:
            momentum = saved[f"momentum.{name}"].to(parameter.device, copy=True)
            optimizer.state[parameter]["momentum_buffer"] = momentum
    return checkpoint.state["epoch"], checkpoint.state["position"]


def _stop(
    setting: Setting, model: nn.Module, switch: JacobianSwitch, epoch: int, num_batches: int
) -> Iterator[Row]:
    """The rows of some batches at one point."""
    cell = setting.cell
    compared = cell.jacobians[1:]
    for draw, batch in enumerate(islice(setting.train_batches(epoch=epoch), num_batches)):
        result = draw_gaps(
            model, lambda batch=batch: setting.loss(model, batch), switch=switch, jacobians=cell.jacobians
        )
        at = {"epoch": epoch, "draw": draw}
        for jacobian, gap in zip(compared, result.gaps, strict=True):
            row: Row = {"row": "gap", "jacobian": jacobian.label, "beta": jacobian.beta}
            yield row | at | gap_fields(gap) | {"live_ties": result.live_ties}
        for row in pool_rows(result.events, margins=False):
            yield row | at
        seed = setting.trial.seed(f"certify {epoch} {draw}")
        rows = certificate_rows(setting, model, batch, compared=compared, gaps=result.gaps, seed=seed)
        for row in rows:
            yield row | at
