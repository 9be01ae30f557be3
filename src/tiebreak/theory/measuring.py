"""The protocols of the study of correctness: a trial goes in, rows come out."""

from __future__ import annotations

import time
from fractions import Fraction
from types import MappingProxyType

from tiebreak.design.cell import Trial
from tiebreak.design.correctness import Correctness, CorrectnessCell, Place, Touches
from tiebreak.design.enumeration import Enumeration
from tiebreak.numerics.determinism import deterministic, threads
from tiebreak.records.session import Outcome, OutcomeKind, Session
from tiebreak.theory.activations import HARDTANH, RELU, RELU6
from tiebreak.theory.counting import measure_counts
from tiebreak.theory.machine import format_of
from tiebreak.theory.rounding import touched_neuron, touched_window, weights_of
from tiebreak.theory.theorems import check_of

_FUNCTIONS = MappingProxyType({Place.RELU: RELU, Place.HARDTANH: HARDTANH, Place.RELU6: RELU6})


def measure_correctness(trial: Trial[CorrectnessCell], session: Session) -> Outcome:
    """Run the protocol that the trial's cell names.

    Raises:
        UserError: a factor that is no number of the format, or too many points.
        Stopped: after a checkpoint, when the session was asked to stop.
    """
    execution = trial.cell.execution
    with deterministic(execution.deterministic), threads(execution.num_threads):
        match trial.cell.measure:
            case Correctness():
                return _statement(trial.cell.measure, session)
            case Touches():
                return _touches(trial.cell.measure, session, seed=trial.seed("draws"))
            case Enumeration():
                seed, device = trial.seed("draws"), execution.device
                return measure_counts(trial.cell.measure, session, seed=seed, device=device)


def _touches(measure: Touches, session: Session, *, seed: int) -> Outcome:
    """Emit one row `touch`: the counts, and the bound on the share of the points."""
    kind, factor = format_of(measure.format), Fraction(measure.factor)
    weights = weights_of(kind, number=measure.num_weights, seed=seed)
    started = time.process_time()
    if measure.place is Place.WINDOW:
        found, num_kinks = touched_window(kind, factor=factor, weights=weights), 1
    else:
        function = _FUNCTIONS[measure.place]
        found, num_kinks = touched_neuron(function, kind, factor=factor, weights=weights), len(function.kinks)
    session.emit(
        {
            "row": "touch",
            "num_numbers": kind.size,
            "num_kinks": num_kinks,
            "bound": num_kinks / kind.size,
            "points": found.points,
            "exact": found.exact,
            "computed": found.computed,
            "only_by_rounding": found.only_by_rounding,
            "missed": found.missed,
            "seconds": time.process_time() - started,
        }
    )
    return Outcome(kind=OutcomeKind.COMPLETED)


def _statement(measure: Correctness, session: Session) -> Outcome:
    """Try a statement network by network; emit a row `statement` for each.

    A violation is a result and no failure: the row says how many there were, and the first.
    """
    check = check_of(measure.statement)
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
