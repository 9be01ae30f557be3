"""The protocols of the study of correctness: a trial goes in, rows come out."""

from __future__ import annotations

import time

from tiebreak.design.cell import Trial
from tiebreak.design.correctness import CorrectnessCell
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.records.session import Outcome, OutcomeKind, Session
from tiebreak.theory.theorems import check_of


def measure_correctness(trial: Trial[CorrectnessCell], session: Session) -> Outcome:
    """Try a statement network by network; emit a row `statement` for each.

    A violation is a result and no failure: the row says how many there were, and the first.
    """
    execution = trial.cell.execution
    check = check_of(trial.cell.measure.statement)
    with deterministic(execution.deterministic), threads(execution.num_threads):
        checkpoint = session.restore()
        begin = checkpoint.state["networks"] if checkpoint is not None else 0
        for number, ground in enumerate(check.grounds[begin:], start=begin + 1):
            started = time.process_time()
            tally = ground.run()
            session.emit(
                {
                    "row": "statement",
                    "theorem": check.theorem,
                    "words": check.words,
                    "is_control": check.is_control,
                    "network": ground.network.name,
                    "machine": ground.machine.name,
                    "num_numbers": len(ground.machine),
                    "num_parameters": len(ground.network.parameters),
                    "points": tally.points,
                    "violations": tally.violations,
                    "witness": tally.witness,
                    "seconds": time.process_time() - started,
                }
            )
            session.progress(number, len(check.grounds))
            if number < len(check.grounds) and session.wants_checkpoint():
                session.save({}, {"networks": number})
    return Outcome(kind=OutcomeKind.COMPLETED)
