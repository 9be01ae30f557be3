"""Weight distance between runs that differ in the pool Jacobian and in nothing else.

All runs start from the same weights and see the same batches in the same order. A Jacobian listed twice is
a control: what separates its two runs is non-determinism.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiebreak.data import num_batches
from tiebreak.design.cell import Drift, Trial
from tiebreak.numerics.gap import gap
from tiebreak.protocols.rows import nonfinite_row
from tiebreak.protocols.setting import prepare
from tiebreak.protocols.training import Training
from tiebreak.records.session import Outcome, OutcomeKind, Session


def measure_drift(trial: Trial, session: Session) -> Outcome:
    """Emit a `drift` row for each further Jacobian after each epoch: distance to the first one's weights.

    A run that goes non-finite stops being stepped; its rows carry `nonfinite` and NaN distances from then
    on. The trial diverges only if the reference run does, and then ends with a `nonfinite` row.
    """
    measure = trial.cell.measure
    assert isinstance(measure, Drift)
    jacobians = trial.cell.jacobians
    with prepare(trial, session) as setting:
        runs = [
            Training(setting, jacobian=jacobian, optimizer=measure.optimizer, num_epochs=measure.num_epochs)
            for jacobian in jacobians
        ]
        alive = [True] * len(runs)
        steps = num_batches(setting.dataset, trial.cell.data)
        first, position = 0, 0
        checkpoint = session.restore()
        if checkpoint is not None:
            first, position = checkpoint.state["epoch"], checkpoint.state["position"]
            alive = list(checkpoint.state["alive"])
            for index, run in enumerate(runs):
                run.restore(checkpoint, checkpoint.state["runs"][index], prefix=f"run{index}.")
        for epoch in range(first, measure.num_epochs):
            for run in runs:
                run.start_epoch(epoch, continued=position > 0)
            for batch in setting.train_batches(epoch=epoch, start=position):
                position += 1
                for index, run in enumerate(runs):
                    found = run.step(batch) if alive[index] else None
                    if found is None:
                        continue
                    alive[index] = False
                    if index == 0:
                        session.emit(nonfinite_row(found, step=run.step_count, epoch=epoch + 1))
                        return Outcome(kind=OutcomeKind.DIVERGED, step=run.step_count)
                session.progress(epoch * steps + position, steps * measure.num_epochs)
                if position < steps and session.wants_checkpoint():
                    _save(session, runs, alive, epoch=epoch, position=position)
            _emit(trial, session, runs, alive, epoch=epoch)
            position = 0
            if epoch + 1 < measure.num_epochs and session.wants_checkpoint():
                _save(session, runs, alive, epoch=epoch + 1, position=0)
    return Outcome(kind=OutcomeKind.COMPLETED)


def _emit(trial: Trial, session: Session, runs: list[Training], alive: list[bool], *, epoch: int) -> None:
    reference = _weights(runs[0].model)
    seen: dict[str, int] = {}
    for index, (jacobian, run) in enumerate(zip(trial.cell.jacobians, runs, strict=True)):
        copy = seen.get(jacobian.label, 0)
        seen[jacobian.label] = copy + 1
        distance = gap(reference, _weights(run.model)) if alive[index] else None
        session.emit(
            {
                "row": "drift",
                "epoch": epoch + 1,
                "step": run.step_count,
                "jacobian": jacobian.label,
                "copy": copy,
                "distance_l1": distance.l1 if distance else math.nan,
                "distance_l2": distance.l2 if distance else math.nan,
                "test_accuracy": run.evaluate().accuracy if alive[index] else None,
                "nonfinite": not alive[index],
            }
        )


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _save(session: Session, runs: list[Training], alive: list[bool], *, epoch: int, position: int) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for index, run in enumerate(runs):
        tensors |= run.tensors(f"run{index}.")
    session.save(
        tensors,
        {
            "epoch": epoch,
            "position": position,
            "alive": alive,
            "runs": [run.state() for run in runs],
        },
    )
