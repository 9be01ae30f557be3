"""Where a trial stands and where a study stands: what a survey finds and every page shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from tiebreak.design.cell import AnyTrial
from tiebreak.design.study import Study
from tiebreak.records.session import OutcomeKind, Row
from tiebreak.runner.attempt import Ending
from tiebreak.runner.eta import Eta
from tiebreak.runner.launch import Launch
from tiebreak.watching.attempting import LastAttempt
from tiebreak.watching.glance import Glance


class State(StrEnum):
    """Where a trial stands: an outcome of its record, or what becomes of it while there is none."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    NOT_LEARNED = "not_learned"
    FAILED = "failed"
    RUNNING = "running"
    QUEUED = "queued"
    LEFT = "left"

    @property
    def is_recorded(self) -> bool:
        """Whether the trial has a record."""
        return self in _OF_OUTCOME.values()

    @classmethod
    def of(cls, outcome: OutcomeKind) -> State:
        """The state of a trial whose record has this outcome."""
        return _OF_OUTCOME[outcome]


_OF_OUTCOME = {
    OutcomeKind.COMPLETED: State.COMPLETED,
    OutcomeKind.DIVERGED: State.DIVERGED,
    OutcomeKind.NOT_LEARNED: State.NOT_LEARNED,
    OutcomeKind.FAILED: State.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one trial stands.

    Args:
        trial: which one.
        state: in a word.
        record: its record at a glance; None without one.
        place: cell id and replicate under which the record lies; an older schema's id may be another.
        attempt: the last attempt, of a trial without a record.
        damage: why the file in the record's place is none; empty if there is no such file.
    """

    trial: AnyTrial
    state: State
    record: Glance | None = None
    place: str = ""
    attempt: LastAttempt | None = None
    damage: str = ""

    @property
    def reason(self) -> str:
        """Why it failed, or why its last attempt ended; empty if nothing went wrong."""
        if self.record is not None:
            return self.record.outcome.reason
        if self.damage:
            return f"its record is damaged: {self.damage}"
        ending = self.attempt.ending if self.attempt else None
        if self.attempt is None or ending is None or ending in _ORDERLY:
            return ""
        return self.attempt.reason or str(ending)

    @property
    def last_row(self) -> Row | None:
        """The last row of the record, if there is one."""
        return self.record.last_row if self.record else None


_ORDERLY = (Ending.RECORDED, Ending.STOPPED, Ending.SUPERSEDED)


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """A study and where each of its trials stands.

    Args:
        study: its question and trials.
        standings: one a trial, in the study's order.
        former: trials that it was launched with and that are no longer its own: it was edited since.
        former_recorded: how many of those have a record.
        launches: of the study, oldest first.
        live: numbers of the launches that somebody works on.
        eta: knows what trials of the study took.
    """

    study: Study
    standings: tuple[Standing, ...]
    former: int = 0
    former_recorded: int = 0
    launches: tuple[Launch, ...] = ()
    live: tuple[int, ...] = ()
    eta: Eta = field(default_factory=Eta)

    @property
    def counts(self) -> dict[State, int]:
        """Trials in each state, also where there are none."""
        found = Counter(standing.state for standing in self.standings)
        return {state: found[state] for state in State}

    @property
    def done(self) -> int:
        """Trials with a record."""
        return sum(standing.state.is_recorded for standing in self.standings)

    @property
    def workers(self) -> int:
        """Processes that run a trial of this study now."""
        return len(
            {
                (standing.attempt.holder.host, standing.attempt.holder.pid, standing.attempt.holder.started)
                if standing.attempt and standing.attempt.holder
                else standing.trial.id
                for standing in self.standings
                if standing.state is State.RUNNING
            }
        )

    def seconds_left(self, *, workers: int | None = None) -> float | None:
        """Wall time until all trials have records; None while that is unknown, or nobody works.

        Args:
            workers: how many processes run at once; by default those that do.
        """
        workers = self.workers if workers is None else workers
        left = [standing for standing in self.standings if not standing.state.is_recorded]
        if not left:
            return 0.0
        if not workers:
            return None
        shares = {item.trial.id: item.attempt.share_done for item in left if item.attempt}
        return self.eta.seconds_left(
            [standing.trial for standing in left], workers=workers, shares_done=shares
        )


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a refresh found: ids of trials that stand elsewhere now, and names of studies that changed."""

    trials: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.trials or self.studies)
