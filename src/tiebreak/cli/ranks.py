"""Ranks above 0 of a training: what they run, and what torchrun cannot start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli.ending import say
from tiebreak.design.axes import UserError
from tiebreak.design.cell import Cell
from tiebreak.design.stored import trial_of
from tiebreak.protocols.seat import seat_from_torchrun

if TYPE_CHECKING:
    from tiebreak.config import Run
    from tiebreak.design.cell import Trial
    from tiebreak.protocols.seat import Seat


def rank(words: Sequence[str]) -> int:
    """Be a rank above 0 of a training that another process on this machine runs."""
    from tiebreak.protocols.joining import end_with_rank_0, from_arguments

    trial, seat, data_root = from_arguments(words)
    end_with_rank_0()
    return _follow(trial, seat, data_root)


def follow_torchrun(run: Run, seat: Seat) -> int:
    """Be a rank above 0 that torchrun started; there is nothing to do for a trial that is recorded."""
    from tiebreak.records.store import RecordStore

    if RecordStore(run.results, only_looks=True).is_done(run.trial):
        return 0
    return _follow(trial_of(Cell, run.trial, asker="torchrun"), seat, run.data_root)


def _follow(trial: Trial, seat: Seat, data_root: Path) -> int:
    from tiebreak.protocols.joining import LOST
    from tiebreak.protocols.shared_session import FollowerSession
    from tiebreak.records.session import RankLost, Stopped
    from tiebreak.runner.loading import loading
    from tiebreak.runner.worker import stop_on_signals

    with loading():
        from tiebreak.protocols import measure
    with stop_on_signals() as stop:
        session = FollowerSession(seat=seat, data_root=data_root, stop=lambda: stop() is not None)
        try:
            measure(trial, session)
        except Stopped:
            return LOST
        except RankLost as lost:
            return say(f"rank {seat.rank} ends: {lost}", LOST)
    return 0


def refuse_torchrun(verb: str) -> None:
    """Make sure that torchrun did not start this verb in several processes.

    Raises:
        UserError: it did.
    """
    if (seat := seat_from_torchrun()) is not None and seat.size > 1:
        raise UserError(
            f"torchrun starts the ranks of one trial, with `tiebreak run`, got `{verb}` in {seat.size} "
            "processes. Leave torchrun out: each trial starts its own ranks on this machine."
        )
