"""A cell of this study to its rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tiebreak.descent import measure_kinks, measure_penalty, measure_rates, measure_stability
from tiebreak.descent.place import Place
from tiebreak.design.cell import Trial
from tiebreak.design.descent import (
    DescentCell,
    DescentMeasure,
    Floors,
    Kinks,
    Lasso,
    Pruning,
    Regression,
    Scalar,
    Sharpness,
    Training,
)
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session


def measure_descent(trial: Trial[DescentCell], session: Session) -> Outcome:
    """Measure a cell: all runs of its batch, boiled down to rows.

    A run that overflowed has its row, with inf or NaN in it, and the others of its batch are as without it:
    so the trial is completed. A trial takes seconds and keeps no state: one that is stopped begins anew.

    Raises:
        DataError, UserError: data that are missing, damaged or too few.
        Stopped: the session was asked to stop.
    """
    cell = trial.cell

    def progress(done: int, total: int) -> None:
        session.progress(done, total)
        if session.wants_checkpoint():
            session.save({}, {})

    place = Place(
        dtype=getattr(torch, cell.measure.precision.storage),
        device=torch.device(str(cell.execution.device)),
        data_root=session.data_root,
        replicate=trial.replicate,
        progress=progress,
    )
    with deterministic(cell.execution.deterministic), threads(cell.execution.num_threads):
        for row in list(_rows(cell.measure, place)):
            session.emit(row)
    session.progress(1, 1)
    return Outcome(kind=OutcomeKind.COMPLETED)


def _rows(measure: DescentMeasure, place: Place) -> Iterator[Row]:
    match measure:
        case Floors():
            return measure_rates.floors(measure, place)
        case Training():
            return measure_rates.training(measure, place)
        case Lasso():
            return measure_penalty.lasso(measure, place)
        case Pruning():
            return measure_penalty.pruning(measure, place)
        case Scalar():
            return measure_stability.scalar(measure, place)
        case Regression():
            return measure_stability.regression(measure, place)
        case Sharpness():
            return measure_stability.sharpness(measure, place)
        case Kinks():
            return measure_kinks.kinks(measure, place)
