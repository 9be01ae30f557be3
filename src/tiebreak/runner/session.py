"""One trial from claim to record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tiebreak.design.axes import UserError
from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import RecordError
from tiebreak.records.provenance import SETTLED, Origin, collect, utc_now
from tiebreak.records.record import Record, row_to_json
from tiebreak.records.session import Checkpoint, Outcome, OutcomeKind, RankLost, Row, Session, Stopped
from tiebreak.records.store import AlreadyRecorded, RecordStore
from tiebreak.runner.attempt import Ending, end_of_asked
from tiebreak.runner.checkpoint import CheckpointStore, Saved
from tiebreak.runner.claim import LEASE_SECONDS, Attempts, Claim, ClaimLost, Exhausted
from tiebreak.runner.events import (
    Listener,
    Note,
    TrialEnded,
    TrialLeft,
    TrialProgress,
    TrialRow,
    TrialStarted,
    ignore,
)
from tiebreak.tracking.told import Told

Measure = Callable[[AnyTrial, Session], Outcome]
_PROGRESS_SECONDS = 0.2


def origin_of(trial: AnyTrial, *, origin: Origin | None = None, kernel: str = "") -> Mapping[str, Any]:
    """The provenance of a trial that this process measures.

    Args:
        trial: whose.
        origin: the process's origin, kept between calls to look things up once.
        kernel: a word on the compiled kernel.
    """
    execution = trial.cell.execution
    return collect(
        str(execution.device),
        origin=origin,
        num_threads=execution.num_threads,
        deterministic=execution.deterministic,
        kernel=kernel,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything a trial needs besides itself; the same for all trials of a process.

    Args:
        store: where records go.
        checkpoints: where unfinished trials are kept.
        measure: runs the protocol that a trial's cell names.
        data_root: folder of the data sets.
        provenance: what a record says about its origin; times are added.
        on_event: is told what happens.
        stop: how the attempt ends if the process was asked to stop, else None; asked often.
        checkpoint_every_seconds: how much work may be lost.
        lease_seconds: how long a claim stands without a sign of life.
        refusals: exceptions that are the user's mistake or the machine's state (missing data, full disk):
            they pass through and do not count against the trial.
        retries: whether an attempt that failed is made again here; not where processes that this one did not
            start took part in it.
    """

    store: RecordStore
    checkpoints: CheckpointStore
    measure: Measure
    data_root: Path
    provenance: Callable[[AnyTrial], Mapping[str, Any]] = origin_of
    on_event: Listener = ignore
    stop: Callable[[], Ending | None] = lambda: None
    checkpoint_every_seconds: float = 30.0
    lease_seconds: float = LEASE_SECONDS
    refusals: tuple[type[Exception], ...] = (UserError,)
    retries: bool = True


class AttemptFailed(Exception):  # noqa: N818 - the trial may yet succeed
    """An attempt failed and is not made again in this process; the message says how to go on."""


def run_trial(trial: AnyTrial, *, bench: Bench) -> Outcome:
    """Run a trial to its record, or return the outcome that stands.

    An attempt that raises is made again from the last checkpoint. After two exceptions, or five attempts that
    died without a word, the trial gets a record without rows whose outcome is `failed`, with the reason:
    counted as such, and run again only after `RecordStore.reopen`.

    Returns:
        The outcome in the record.

    Raises:
        Stopped: `bench.stop` said so; the trial goes on from its checkpoint next time.
        Claimed: another live process runs the trial, or took it over.
        AttemptFailed: the attempt failed, and `bench.retries` is false.
        Exception: one of `bench.refusals`, which includes a `StoreError` from a full disk.
    """
    attempts = Attempts(bench.store.attempts_folder(trial), trial=trial.id, lease_seconds=bench.lease_seconds)
    while True:
        if (record := bench.store.read(trial)) is not None:
            return record.outcome
        try:
            claim = attempts.claim()
        except Exhausted as reason:
            _give_up(trial, str(reason), bench=bench)
            continue
        if bench.store.is_done(trial):  # recorded between our look and our claim
            claim.end(Ending.SUPERSEDED)
            continue
        bench.on_event(TrialStarted(trial=trial.id, name=trial.cell.name, attempt=claim.number))
        failure = _attempt(trial, claim=claim, bench=bench)
        if failure:
            text = f"Trial {trial.id} ({trial.cell.name}) raised {failure}"
            if not bench.retries:
                raise AttemptFailed(f"{text}. Give the same command again to go on from its last checkpoint.")
            bench.on_event(Note(text=text))


def _attempt(trial: AnyTrial, *, claim: Claim, bench: Bench) -> str:
    """Measure and record once; returns the exception in words if there was one, else nothing."""
    session = _Attempt(trial, claim=claim, bench=bench)
    ending, reason, trace = Ending.SUPERSEDED, "", ""
    try:
        outcome = bench.measure(trial, session)
        claim.check()
        record = session.record(outcome)
        bench.store.write(record)
        ending = Ending.RECORDED
        with suppress(RecordError):  # the record stands; a checkpoint that stays is only space
            bench.checkpoints.remove(trial)
        bench.on_event(
            TrialEnded(trial=trial.id, outcome=record.outcome, elapsed_seconds=record.elapsed_seconds)
        )
    except AlreadyRecorded:
        bench.on_event(TrialLeft(trial=trial.id))
    except ClaimLost:
        bench.on_event(TrialLeft(trial=trial.id))
        raise
    except (Stopped, KeyboardInterrupt, SystemExit):
        ending = bench.stop() or Ending.STOPPED
        bench.on_event(TrialLeft(trial=trial.id))
        raise
    except bench.refusals as error:
        ending, reason = Ending.REFUSED, str(error)
        bench.on_event(TrialLeft(trial=trial.id))
        raise
    except RankLost as lost:
        ending, reason = Ending.KILLED, _impersonal(f"{type(lost).__name__}: {lost}", bench=bench)
        if (asked := bench.stop()) is not None:  # the other ranks were asked too, and could not wait for us
            ending = end_of_asked(asked)[0]
            bench.on_event(TrialLeft(trial=trial.id))
            raise Stopped(f"Trial {trial.id} was stopped, and its ranks lost each other.") from lost
    except Exception as error:
        ending, trace = Ending.ERROR, traceback.format_exc()
        reason = _impersonal(f"{type(error).__name__}: {error}", bench=bench)
    finally:
        claim.end(ending, reason=reason, traceback=trace)
    return reason


def _give_up(trial: AnyTrial, reason: str, *, bench: Bench) -> None:
    outcome = Outcome(kind=OutcomeKind.FAILED, reason=reason)
    now = utc_now()
    provenance = {**bench.provenance(trial), "started": now, "ended": now}
    record = Record(trial=trial, provenance=provenance, rows=(), outcome=outcome, elapsed_seconds=0.0)
    with suppress(AlreadyRecorded):
        bench.store.write(record)
        bench.on_event(TrialEnded(trial=trial.id, outcome=outcome, elapsed_seconds=0.0))


def _impersonal(text: str, *, bench: Bench) -> str:
    """The text without the paths of this machine: it may end in a record, and records are shared."""
    places = {
        bench.data_root: "<data>",
        bench.store.root: "<results>",
        bench.checkpoints.root: "<checkpoints>",
        Path.cwd(): ".",
        Path.home(): "~",
    }
    for place, name in places.items():
        if place != place.parent:  # "/" and "." are in every text
            text = text.replace(str(place.absolute()), name)
    return text


class _Attempt:
    """The session of one attempt; see `tiebreak.records.session.Session`."""

    def __init__(self, trial: AnyTrial, *, claim: Claim, bench: Bench) -> None:
        self._trial = trial
        self._claim = claim
        self._bench = bench
        self._rows: list[Row] = []
        self._told = Told()
        self._started = utc_now()
        self._earlier_seconds = 0.0
        self._begin = self._last_save = time.monotonic()
        self._last_progress = -1.0

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        # Asked for only when measuring has begun, so that torch is there to name the GPU.
        return dict(self._bench.provenance(self._trial))

    @property
    def data_root(self) -> Path:
        return self._bench.data_root

    def emit(self, row: Row) -> None:
        row_to_json(row)  # a row that cannot be kept is told where it is made
        self._rows.append(dict(row))
        if (said := self._told.see(row)) is not None:
            self._bench.on_event(TrialRow(trial=self._trial.id, index=len(self._rows) - 1, row=said))

    def restore(self) -> Checkpoint | None:
        saved = self._bench.checkpoints.read(self._trial, note=self._note)
        if saved is None:
            return None
        changed = [key for key, value in self._origin().items() if saved.origin.get(key) != value]
        if changed:
            self._note(
                f"Trial {self._trial.id} starts from the beginning: its checkpoint was written with another "
                f"{', '.join(changed)}, and a record has one origin."
            )
            return None
        self._rows[:] = saved.rows
        for row in saved.rows:  # told before; sums go on from there
            self._told.see(row)
        self._earlier_seconds, self._started = saved.elapsed_seconds, saved.started
        return saved.checkpoint

    def save(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self._claim.check()
        saved = Saved(
            checkpoint=Checkpoint(tensors=tensors, state=state),
            rows=tuple(self._rows),
            elapsed_seconds=self._elapsed_seconds(),
            started=self._started,
            origin=self._origin(),
        )
        self._bench.checkpoints.write(self._trial, saved)
        self._last_save = time.monotonic()
        if self._bench.stop():
            raise Stopped(f"Trial {self._trial.id} was stopped; it goes on from its checkpoint.")

    def wants_checkpoint(self) -> bool:
        due = time.monotonic() - self._last_save >= self._bench.checkpoint_every_seconds
        return due or self._bench.stop() is not None

    def progress(self, done: int, total: int) -> None:
        self._claim.progress(done, total)
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_SECONDS or done >= total:
            self._last_progress = now
            self._bench.on_event(TrialProgress(trial=self._trial.id, done=done, total=total))

    def record(self, outcome: Outcome) -> Record:
        if outcome.reason:
            outcome = replace(outcome, reason=_impersonal(outcome.reason, bench=self._bench))
        return Record(
            trial=self._trial,
            provenance={**self._provenance, "started": self._started, "ended": utc_now()},
            rows=tuple(self._rows),
            outcome=outcome,
            elapsed_seconds=self._elapsed_seconds(),
        )

    def _elapsed_seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._begin

    def _origin(self) -> dict[str, Any]:
        return {key: self._provenance[key] for key in SETTLED if key in self._provenance}

    def _note(self, text: str) -> None:
        self._bench.on_event(Note(text=text))
