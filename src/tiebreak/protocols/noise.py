"""The non-determinism floor: the same backward pass again and again, and how far it strays.

A gap between two Jacobians means something only above the gap between a Jacobian and itself.
"""

from __future__ import annotations

from itertools import islice

from tiebreak.design.cell import Noise, Trial
from tiebreak.numerics.gap import GapMeter
from tiebreak.protocols.backprop import gradient
from tiebreak.protocols.rows import gap_fields
from tiebreak.protocols.setting import prepare
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session


def measure_noise(trial: Trial, session: Session) -> Outcome:
    """Emit a `noise` row for each repeat: the gap to the first backward pass of the same batch.

    Forward and backward pass are both repeated; parameters and batch are not touched in between.
    """
    measure = trial.cell.measure
    assert isinstance(measure, Noise)
    with prepare(trial, session, once=True) as setting:
        model = setting.network(trial.cell.reference)
        parameters = tuple(model.parameters())
        total = setting.num_batches(measure.num_batches)
        checkpoint = session.restore()
        start = checkpoint.state["draws"] if checkpoint is not None else 0
        batches = islice(setting.train_batches(start=start), total - start)
        for draw, batch in enumerate(batches, start=start):
            meter = GapMeter(gradient(setting.loss(model, batch), parameters))
            rows: list[Row] = []
            for repeat in range(1, measure.num_repeats):
                gap = meter.to(gradient(setting.loss(model, batch), parameters))
                rows.append({"row": "noise", "draw": draw, "repeat": repeat, **gap_fields(gap)})
                if repeat + 1 < measure.num_repeats and session.wants_checkpoint():
                    session.save({}, {"draws": draw})  # repeats are compared within one process
            for row in rows:
                session.emit(row)
            session.progress(draw + 1, total)
            if draw + 1 < total and session.wants_checkpoint():
                session.save({}, {"draws": draw + 1})
    return Outcome(kind=OutcomeKind.COMPLETED)
