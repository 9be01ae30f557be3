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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from tiebreak.design.axes import UserError
from tiebreak.design.cell import Trial
from tiebreak.records.durable import RecordError
from tiebreak.records.provenance import Origin
from tiebreak.records.session import Stopped
from tiebreak.records.store import RecordStore
from tiebreak.runner.checkpoint import CheckpointStore
from tiebreak.runner.claim import LEASE_SECONDS, Claimed
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

    SIGINT or SIGTERM: the running trial checkpoints after its step or draw and the worker ends; a second
    signal ends it at once. What is printed meanwhile goes to standard error: the events stay readable.

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

    def provenance(trial: Trial) -> Mapping[str, Any]:
        return origin_of(trial, origin=origin, kernel=kernel())

    with stop_on_signals() as stop:
        wire = _Wire(stream or sys.stdout, stop)
        with redirect_stdout(sys.stderr):
            bench = Bench(
                store=RecordStore(job.results, notice=lambda text: wire(Note(text=text))),
                checkpoints=CheckpointStore(job.checkpoints),
                measure=measure,
                data_root=job.data_root,
                provenance=provenance,
                on_event=wire,
                stop=stop.is_set,
                checkpoint_every_seconds=job.checkpoint_every_seconds,
                lease_seconds=job.lease_seconds,
                refusals=(UserError, *refusals),
            )
            try:
                _work(in_turn(read_manifest(job.manifest), index=job.index, of=job.of), bench=bench)
            except Stopped:
                return STOPPED
            except bench.refusals as error:
                wire(Refusal(text=str(error)))
                return REFUSED
    return DONE


def in_turn(trials: Sequence[Trial], *, index: int, of: int) -> list[Trial]:
    """The trials in the order in which worker `index` of `of` takes them: its own share, then the rest.

    Raises:
        RecordError: `index` is not one of 0 to `of` - 1.
    """
    if not 0 <= index < of:
        raise RecordError(f"A worker's index must be from 0 to {of - 1} with --of {of}, got {index}.")
    mine = list(trials[index::of])
    return mine + [trial for place, trial in enumerate(trials) if place % of != index]


def _work(trials: list[Trial], *, bench: Bench) -> None:
    """Run what can be run; ends when a whole pass found only trials that others hold."""
    while trials:
        held = []
        for trial in trials:
            if bench.stop():
                raise Stopped("The worker was asked to stop between two trials.")
            if bench.store.is_done(trial):
                continue
            try:
                run_trial(trial, bench=bench)
            except Claimed:
                held.append(trial)
        if len(held) == len(trials):
            return
        trials = held


@contextmanager
def stop_on_signals(
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[threading.Event]:
    """An event that the given signals set; a second signal acts as if there were no handler.

    The handlers that were there are put back. Only the main thread may use it.
    """
    stop = threading.Event()
    former = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: object) -> None:
        stop.set()
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

    def __init__(self, stream: TextIO, stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop

    def __call__(self, event: Event) -> None:
        try:
            print(to_line(event), file=self._stream, flush=True)
        except BrokenPipeError:
            self._stop.set()
            # What is still in the buffer would raise again when the interpreter closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
