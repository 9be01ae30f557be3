"""One measurement each: a trial goes in, rows come out."""

from __future__ import annotations

from tiebreak.design.cell import (
    Derivative,
    Drift,
    LrSearch,
    Noise,
    NormPool,
    TieMap,
    Train,
    Trajectory,
    Trial,
    ZeroProgram,
    Zones,
)
from tiebreak.records.session import Outcome, Session

__all__ = ["measure"]


def measure(trial: Trial, session: Session) -> Outcome:
    """Run the protocol that the trial's cell names.

    Raises:
        DesignError, DataError: the user's mistake.
        Stopped: after a checkpoint, when the session was asked to stop.
    """
    match trial.cell.measure:
        case Noise():
            from tiebreak.protocols.noise import measure_noise as protocol
        case Zones():
            from tiebreak.protocols.zones import measure_zones as protocol
        case Trajectory():
            from tiebreak.protocols.trajectory import measure_trajectory as protocol
        case Derivative():
            from tiebreak.protocols.derivative import measure_derivative as protocol
        case Train():
            from tiebreak.protocols.train import measure_train as protocol
        case Drift():
            from tiebreak.protocols.drift import measure_drift as protocol
        case LrSearch():
            from tiebreak.protocols.lr_search import measure_lr_search as protocol
        case ZeroProgram():
            from tiebreak.protocols.zero_program import measure_zero_program as protocol
        case TieMap():
            from tiebreak.protocols.tie_map import measure_tie_map as protocol
        case NormPool():
            from tiebreak.protocols.norm_pool import measure_norm_pool as protocol
    return protocol(trial, session)
