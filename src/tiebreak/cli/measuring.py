"""Which room measures a trial: the one of the study that its cell belongs to."""

from __future__ import annotations

from tiebreak.design.cell import AnyTrial, Cell
from tiebreak.design.correctness import CorrectnessCell
from tiebreak.design.descent import DescentCell
from tiebreak.design.stored import trial_of
from tiebreak.records.session import Outcome, Session


def measure(trial: AnyTrial, session: Session) -> Outcome:
    """Run the protocol that the trial's cell names.

    Raises:
        UserError: the user's mistake.
        Stopped: after a checkpoint, when the session was asked to stop.
    """
    if isinstance(trial.cell, CorrectnessCell):
        from tiebreak.theory.measuring import measure_correctness

        return measure_correctness(trial_of(CorrectnessCell, trial, asker="theory"), session)
    if isinstance(trial.cell, DescentCell):
        from tiebreak.descent.measure import measure_descent

        return measure_descent(trial_of(DescentCell, trial, asker="descent"), session)
    from tiebreak.protocols import measure as measure_pooling

    return measure_pooling(trial_of(Cell, trial, asker="protocols"), session)
