"""Gaps and certified labels along training: the same run of SGD seen through every number format.

The network is trained in fp32 with PyTorch's rule at ties, so replicate k passes through the same parameters
in every cell; at each stop a copy is rounded to the cell's precision and compared there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import nn
from torch.nn import functional

from tiebreak.design.axes import NATIVE, Precision
from tiebreak.design.cell import Trajectory, Trial
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.numerics.precision import cast
from tiebreak.protocols.certified import certificate_rows
from tiebreak.protocols.rows import gap_fields
from tiebreak.protocols.setting import Setting, prepare
from tiebreak.protocols.zones import draw_gaps, pool_rows
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session


def measure_trajectory(trial: Trial, session: Session) -> Outcome:
    """Emit the rows of protocol zones at each stop, with the `epoch` that lies behind it.

    A run that is interrupted starts again: it is a function of the cell and the replicate, and short.
    """
    measure = trial.cell.measure
    assert isinstance(measure, Trajectory)
    switch = JacobianSwitch(NATIVE)
    with prepare(trial, session) as setting:
        wide = replace(setting, trial=replace(trial, cell=replace(trial.cell, precision=Precision.FP32)))
        for epoch, model in _trained(wide, measure):
            if epoch % measure.every and epoch != measure.num_epochs:
                continue
            seen = wide.network(switch)
            seen.load_state_dict(model.state_dict())
            seen = cast(seen, trial.cell.precision)
            for row in _stop(setting, seen, switch, epoch, measure.num_batches):
                session.emit(row)
            session.progress(epoch + 1, measure.num_epochs + 1)
    return Outcome(kind=OutcomeKind.COMPLETED)


def _trained(wide: Setting, measure: Trajectory) -> Iterator[tuple[int, nn.Module]]:
    """The network in fp32 before training and after each epoch."""
    model = wide.network(NATIVE)
    optimizer = torch.optim.SGD(model.parameters(), lr=measure.lr, momentum=measure.momentum)
    yield 0, model
    for epoch in range(measure.num_epochs):
        for batch in wide.train_batches(epoch=epoch):
            optimizer.zero_grad()
            functional.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
        yield epoch + 1, model


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
