"""A study on this machine: worker processes that share its trials.

The process that watches them never loads torch, and where nothing is left to do it starts nobody.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tiebreak.design.cell import Trial
from tiebreak.records.durable import RecordError
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.runner.events import Event, Note, Refusal, TrialEnded, TrialStarted, from_line
from tiebreak.runner.manifest import write_manifest
from tiebreak.runner.worker import DONE, REFUSED, STOPPED, Job


class Refused(RecordError):  # noqa: N818 - an answer, not an accident
    """Nothing can be run as things are; the message says why and what to do."""


class WorkersDied(RuntimeError):  # noqa: N818
    """Workers end before they begin a trial, so starting more would go on for ever."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run of a study came to.

    Args:
        total: trials of the study.
        done_before: those that had a record already.
        outcomes: of the trials recorded now, how many had each outcome.
        left: trials without a record: the run was stopped, or another run holds them.
        stopped: whether the run was asked to stop.
    """

    total: int
    done_before: int
    outcomes: dict[OutcomeKind, int] = field(default_factory=dict)
    left: tuple[Trial, ...] = ()
    stopped: bool = False

    @property
    def recorded(self) -> int:
        """Trials recorded by this run."""
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        """One or two sentences for the reader."""
        said = [f"{self.total} trials: {self.done_before} were done, {self.recorded} ran now"]
        if self.outcomes:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.outcomes.items()))
            said.append(f" ({kinds})")
        said.append(f", {len(self.left)} are left.")
        if self.stopped:
            said.append(" Stopped: give the same command again to go on where it was.")
        elif self.left:
            said.append(" Other processes hold them; give the same command again when those have ended.")
        return "".join(said)


def run_study(
    trials: Sequence[Trial],
    *,
    store: RecordStore,
    workers: int,
    command: Sequence[str],
    checkpoints: Path,
    data_root: Path,
    on_event: Callable[[Event], None],
    checkpoint_every_seconds: float = 30.0,
    lease_seconds: float = LEASE_SECONDS,
) -> Summary:
    """Run every trial that has no record yet.

    Ctrl-C, or SIGTERM, is passed on: running trials checkpoint, and the same command goes on from there; a
    second one ends the workers at once, which is as safe and loses the work since their last checkpoints. A
    worker that dies is replaced, and its trial goes on from its checkpoint, within the bounds on failures.

    Args:
        trials: those of a study; what is done already is left alone.
        store: where records are and go.
        workers: how many processes, at most one a trial.
        command: how to start a worker; the options of a `Job` are appended.
        checkpoints: folder of unfinished trials.
        data_root: folder of the data sets.
        on_event: is told what happens, in this thread.
        checkpoint_every_seconds: how much work may be lost.
        lease_seconds: how long a claim stands without a sign of life.

    Raises:
        Refused: a worker says that nothing can be run (missing data, full disk); the others have stopped.
        WorkersDied: workers end before they begin a trial; the message has the last line of one's standard
            error, and a note has the thirty lines before it.
        RecordError: `workers` is below 1, or a folder cannot be used.
    """
    if workers < 1:
        raise RecordError(f"The number of workers must be 1 or more, got {workers}.")
    todo = [trial for trial in trials if not store.is_done(trial)]
    done_before = len(trials) - len(todo)
    if not todo:
        return Summary(total=len(trials), done_before=done_before)
    outcomes: dict[OutcomeKind, int] = {}

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            outcomes[event.outcome.kind] = outcomes.get(event.outcome.kind, 0) + 1
        on_event(event)

    with tempfile.TemporaryDirectory(prefix="tiebreak-") as folder:
        manifest = Path(folder) / "manifest.jsonl"
        write_manifest(manifest, todo)
        count = min(workers, len(todo))
        jobs = [
            Job(
                manifest=manifest,
                index=index,
                of=count,
                results=store.root.absolute(),
                checkpoints=checkpoints.absolute(),
                data_root=data_root.absolute(),
                checkpoint_every_seconds=checkpoint_every_seconds,
                lease_seconds=lease_seconds,
            )
            for index in range(count)
        ]
        threads = max(trial.cell.execution.num_threads for trial in todo)
        crew = _Crew(jobs, command=command, environment=worker_environment(threads), listen=listen)
        crew.work(is_left=lambda: any(not store.is_done(trial) for trial in todo))
    left = tuple(trial for trial in todo if not store.is_done(trial))
    return Summary(
        total=len(trials), done_before=done_before, outcomes=outcomes, left=left, stopped=crew.is_stopping
    )


def worker_environment(num_threads: int) -> dict[str, str]:
    """The environment of a worker: this process's, with the thread counts and malloc's thresholds set.

    glibc gives large blocks back to the system at each step and asks for them again; with its thresholds
    raised a training step spends about a sixth less CPU time.
    """
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
        str(num_threads),
    )
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    return {**os.environ, **threads, **malloc}


@dataclass(kw_only=True)
class _Worker:
    job: Job
    process: subprocess.Popen[str]
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    has_begun: bool = False


class _Crew:
    """Worker processes, their events in one queue."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        command: Sequence[str],
        environment: dict[str, str],
        listen: Callable[[Event], None],
    ) -> None:
        self.is_stopping = False
        self._jobs = jobs
        self._command = list(command)
        self._environment = environment
        self._listen = listen
        self._news: queue.SimpleQueue[tuple[_Worker, Event | None]] = queue.SimpleQueue()
        self._working: list[_Worker] = []
        self._refusal = ""

    def work(self, *, is_left: Callable[[], bool]) -> None:
        """Start everybody and listen until the last has gone."""
        with _termination_as_interrupt():
            try:
                for job in self._jobs:
                    self._start(job)
                self._listen_to_all(is_left)
            except KeyboardInterrupt:
                self._stop_on_request(is_left)
            finally:
                for worker in self._working:  # only after an exception of ours, or a second Ctrl-C
                    worker.process.kill()
                    worker.process.wait()
        if self._refusal:
            raise Refused(self._refusal)

    def _stop_on_request(self, is_left: Callable[[], bool]) -> None:
        self._listen(Note(text="Stopping: each worker checkpoints and ends. Ctrl-C again ends them at once."))
        self._stop()
        try:
            self._listen_to_all(is_left)
        except KeyboardInterrupt:
            self._listen(
                Note(text="Ended at once. What is recorded is kept, the rest goes on from checkpoints.")
            )

    def _start(self, job: Job) -> None:
        process = subprocess.Popen(
            [*self._command, *job.to_arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment,
            start_new_session=True,  # a Ctrl-C is ours to pass on, once
        )
        worker = _Worker(job=job, process=process)
        self._working.append(worker)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: _Worker) -> None:
        """Runs in a thread of its own: lines become news, and the end of both streams is the last."""
        process = worker.process
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=worker.last_words.extend, args=(process.stderr,), daemon=True)
        errors.start()
        for line in process.stdout:
            self._news.put((worker, from_line(line)))
        errors.join()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        self._news.put((worker, None))

    def _listen_to_all(self, is_left: Callable[[], bool]) -> None:
        while self._working:
            worker, event = self._news.get()
            if event is None:
                self._working.remove(worker)
                self._see_off(worker, is_left)
                continue
            if isinstance(event, TrialStarted):
                worker.has_begun = True
            if isinstance(event, Refusal):
                if not self._refusal:
                    self._refusal = event.text
                    self._stop()
                continue
            self._listen(event)

    def _see_off(self, worker: _Worker, is_left: Callable[[], bool]) -> None:
        code = worker.process.returncode
        if code in (DONE, STOPPED, REFUSED) or self._refusal:
            return
        if self.is_stopping and code == -signal.SIGTERM:  # asked before it could listen
            return
        words = "".join(worker.last_words).strip()
        last_line = words.rpartition("\n")[2]
        self._listen(Note(text=f"Worker {worker.job.index} died ({_cause(code)}). {last_line}".strip()))
        if self.is_stopping or not is_left():
            return
        if not worker.has_begun:
            if not self._working:
                died = WorkersDied(
                    f"workers end before they begin a trial ({_cause(code)}), the last one with: "
                    f"{last_line or 'no word'}"
                )
                died.add_note(f"Its last words:\n{words}")  # in a traceback, not in the message
                raise died
            return
        self._start(worker.job)

    def _stop(self) -> None:
        self.is_stopping = True
        for worker in self._working:
            worker.process.terminate()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt meanwhile, as Ctrl-C does; only the main thread can see to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
