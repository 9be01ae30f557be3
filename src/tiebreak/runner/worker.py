"""A process that works through the trials of a manifest together with others.

Worker i of n runs trials i, i + n, i + 2n, ... and then helps with the others'. What another live process
holds is passed over and looked at again at the end. Events go to standard output, one line of JSON each.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from tiebreak.design.axes import UserError
from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import RecordError
from tiebreak.records.provenance import Origin
from tiebreak.records.session import Stopped
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.checkpoint import CheckpointStore
from tiebreak.runner.claim import LEASE_SECONDS, Attempts, Claimed
from tiebreak.runner.events import Event, Note, Refusal, to_line
from tiebreak.runner.manifest import read_manifest
from tiebreak.runner.session import Bench, Measure, origin_of, run_trial

DONE = 0
REFUSED = 2
STOPPED = 75
"""Exit code of a worker that was asked to stop: try again later (`EX_TEMPFAIL`)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told on its command line.

    Args:
        manifest: file of the trials; see `tiebreak.runner.manifest`.
        index: which worker this is, from 0.
        of: how many workers there are.
        results: the results folder.
        checkpoints: the folder of unfinished trials.
        data_root: the folder of the data sets.
        checkpoint_every_seconds: how much work may be lost.
        lease_seconds: how long a claim stands without a sign of life.

    Example:
        >>> job = Job(manifest=Path("m"), index=0, of=2, results=Path("r"), checkpoints=Path("c"),
        ...           data_root=Path("d"))
        >>> Job.from_arguments(job.to_arguments()) == job
        True
    """

    manifest: Path
    index: int
    of: int
    results: Path
    checkpoints: Path
    data_root: Path
    checkpoint_every_seconds: float = 30.0
    lease_seconds: float = LEASE_SECONDS

    def to_arguments(self) -> list[str]:
        """The job as options of a command line."""
        return [word for option, name, _ in _OPTIONS for word in (option, str(getattr(self, name)))]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Job:
        """The inverse of `to_arguments`; what is wrong is told as argparse does, with exit code 2."""
        parser = argparse.ArgumentParser(prog="tiebreak worker", description=__doc__)
        for option, name, kind in _OPTIONS:
            default = getattr(cls, name, None)
            parser.add_argument(option, dest=name, type=kind, default=default, required=default is None)
        return cls(**vars(parser.parse_args(arguments)))


_OPTIONS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("--manifest", "manifest", Path),
    ("--index", "index", int),
    ("--of", "of", int),
    ("--results", "results", Path),
    ("--checkpoints", "checkpoints", Path),
    ("--data-root", "data_root", Path),
    ("--checkpoint-every-seconds", "checkpoint_every_seconds", float),
    ("--lease-seconds", "lease_seconds", float),
)


def main_loop(
    job: Job,
    *,
    measure: Measure,
    refusals: tuple[type[Exception], ...] = (),
    kernel: Callable[[], str] = lambda: "",
    stream: TextIO | None = None,
) -> int:
    """Work through a manifest until every trial is done or held by another live process.

    SIGINT or SIGTERM: the running trial checkpoints after its step or draw and the worker ends. A second
    signal asks for the same: SLURM sends one to every process of a job, and the crew passes its own on. What
    is printed meanwhile goes to standard error: the events stay readable.

    Args:
        job: which trials, and where things are.
        measure: runs the protocol that a trial's cell names.
        refusals: exceptions that are the user's mistake, besides `UserError`.
        kernel: a word on the compiled kernel for the provenance; asked once, at the first trial.
        stream: where events go; standard output if left out.

    Returns:
        Exit code: 0 all done, 2 refused (the sentence was an event), 75 stopped.
    """
    origin, kernel = Origin(), cache(kernel)

    def provenance(trial: AnyTrial) -> Mapping[str, Any]:
        return origin_of(trial, origin=origin, kernel=kernel())

    with stop_on_signals(is_patient=True) as stop:
        wire = _Wire(stream or sys.stdout, stop)
        with redirect_stdout(sys.stderr):
            bench = Bench(
                store=RecordStore(job.results, notice=lambda text: wire(Note(text=text))),
                checkpoints=CheckpointStore(job.checkpoints),
                measure=measure,
                data_root=job.data_root,
                provenance=provenance,
                on_event=wire,
                stop=stop,
                checkpoint_every_seconds=job.checkpoint_every_seconds,
                lease_seconds=job.lease_seconds,
                refusals=(UserError, *refusals),
            )
            try:
                trials = in_turn(read_manifest(job.manifest), index=job.index, of=job.of)
                _work(trials, bench=bench, wait=stop.wait)
            except Stopped:
                return STOPPED
            except bench.refusals as error:
                wire(Refusal(text=str(error)))
                return REFUSED
    return DONE


def in_turn(trials: Sequence[AnyTrial], *, index: int, of: int) -> list[AnyTrial]:
    """The trials in the order in which worker `index` of `of` takes them: its own share, then the rest.

    Raises:
        RecordError: `index` is not one of 0 to `of` - 1.
    """
    if not 0 <= index < of:
        raise RecordError(f"A worker's index must be from 0 to {of - 1} with --of {of}, got {index}.")
    mine = list(trials[index::of])
    return mine + [trial for place, trial in enumerate(trials) if place % of != index]


def _work(trials: list[AnyTrial], *, bench: Bench, wait: Callable[[float], bool]) -> None:
    """Run what can be run; ends when a whole pass found only trials that others hold.

    Of a holder on another machine only the heartbeat is seen: one that died a moment ago looks alive. Such
    trials are looked at again until their holders have shown life or lost the trial.
    """
    while trials:
        held: list[AnyTrial] = []
        is_elsewhere = False
        begun = time.monotonic()
        for trial in trials:
            if bench.stop():
                raise Stopped("The worker was asked to stop between two trials.")
            if bench.store.is_done(trial):
                continue
            try:
                run_trial(trial, bench=bench)
            except Claimed as claimed:
                held.append(trial)
                is_elsewhere |= not claimed.is_here
        has_run = len(held) < len(trials)
        if not has_run and not (is_elsewhere and _someone_died(held, bench=bench, wait=wait, since=begun)):
            return
        trials = held


def _someone_died(
    trials: Sequence[AnyTrial], *, bench: Bench, wait: Callable[[float], bool], since: float
) -> bool:
    """Whether, of these trials held by others, one becomes free before each holder has shown life anew."""
    silent = {trial: Attempts(bench.store.attempts_folder(trial), trial=trial.id) for trial in trials}
    beats = {trial: attempts.heartbeat() for trial, attempts in silent.items()}
    while silent:
        if time.monotonic() - since > bench.lease_seconds:
            return True
        if wait(bench.lease_seconds / 16):
            return True  # the next pass sees that it was asked to stop
        for trial in list(silent):
            if silent[trial].heartbeat() != beats[trial] or bench.store.is_done(trial):
                del silent[trial]
    return False


class StopRequest:
    """Whether this process was asked to stop, and how its attempt then ends."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._ending = Ending.STOPPED

    def __call__(self) -> Ending | None:
        """How the attempt ends; None while nobody asked."""
        return self._ending if self._asked.is_set() else None

    def ask(self, ending: Ending = Ending.STOPPED) -> None:
        """Ask; who asks first decides how it ends."""
        if not self._asked.is_set():
            self._ending = ending
            self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long or until somebody asks; whether somebody did."""
        return self._asked.wait(seconds)


SIGNALS: Mapping[signal.Signals, Ending] = MappingProxyType(
    {
        signal.SIGINT: Ending.STOPPED,
        signal.SIGTERM: Ending.STOPPED,
        signal.SIGUSR1: Ending.TIMEOUT,
        signal.SIGUSR2: Ending.PREEMPTED,
    }
)
"""What a worker is told by which signal."""


@contextmanager
def stop_on_signals(
    signals: Mapping[signal.Signals, Ending] = SIGNALS, *, is_patient: bool = False
) -> Iterator[StopRequest]:
    """A request that the given signals make; a second one of a kind acts as if there were no handler.

    The handlers that were there are put back. Only the main thread may use it.

    Args:
        signals: which ones, and how the attempt then ends.
        is_patient: a second signal asks for the same as the first; for a process that others watch over.
    """
    stop = StopRequest()
    former = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: object) -> None:
        stop.ask(signals[signal.Signals(number)])
        if not is_patient:
            signal.signal(number, signal.SIG_DFL)

    try:
        for number in signals:
            signal.signal(number, ask)
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Wire:
    """Sends events as lines; when nobody listens any more, the worker stops."""

    def __init__(self, stream: TextIO, stop: StopRequest) -> None:
        self._stream = stream
        self._stop = stop

    def __call__(self, event: Event) -> None:
        try:
            print(to_line(event), file=self._stream, flush=True)
        except BrokenPipeError:
            self._stop.ask()
            # What is still in the buffer would raise again when the interpreter closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
