"""Worker processes on one machine, watched: started, listened to, replaced when they die, asked to stop."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import RecordError
from tiebreak.records.store import attempts_of
from tiebreak.runner.attempt import LOG_VARIABLE, Ending, ask_to_end, end_of_asked
from tiebreak.runner.claim import Attempts
from tiebreak.runner.events import Event, Note, Refusal, TrialStarted, from_line
from tiebreak.runner.launch import Launch
from tiebreak.runner.worker import DONE, REFUSED, SIGNALS, STOPPED, Job

_SIGNAL_OF: Mapping[Ending, signal.Signals] = MappingProxyType(
    {ending: number for number, ending in SIGNALS.items()}
)


class Refused(RecordError):  # noqa: N818 - an answer, not an accident
    """Nothing can be run as things are; the message says why and what to do."""


class WorkersDied(RuntimeError):  # noqa: N818
    """Workers end before they begin a trial, so starting more would go on for ever."""


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


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What one worker is started with: its job, its environment and its log.

    A worker that dies is replaced by one with the same plan.
    """

    job: Job
    environment: Mapping[str, str]
    log: Path


def plan_workers(
    launch: Launch, jobs: Sequence[Job], *, name: str, trials: Sequence[AnyTrial], gpus: Sequence[str] = ()
) -> list[WorkerPlan]:
    """A plan for each job, the GPUs shared out in turn: as many to each as its trials have ranks.

    Args:
        launch: where logs go.
        jobs: of the workers.
        name: how the logs are called: `<name>-<number>.log`.
        trials: what they may be given to run.
        gpus: those of this machine that may be used, as CUDA_VISIBLE_DEVICES names them.
    """
    executions = [trial.cell.execution for trial in trials]
    num_threads = max((execution.num_threads for execution in executions), default=1)
    num_ranks = max((execution.num_ranks for execution in executions), default=1)
    whole = len(gpus) // num_ranks * num_ranks
    shares = [gpus[first : first + num_ranks] for first in range(0, whole, num_ranks)] or [gpus]
    found = []
    for number, job in enumerate(jobs):
        log = launch.log(f"{name}-{number}")
        environment = {**worker_environment(num_threads), LOG_VARIABLE: log}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(shares[number % len(shares)])
        found.append(WorkerPlan(job=job, environment=environment, log=launch.results / log))
    return found


@dataclass(kw_only=True)
class _Worker:
    plan: WorkerPlan
    process: subprocess.Popen[str]
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    begun: TrialStarted | None = None  # the last one


class Crew:
    """Workers, their events in one queue.

    A signal is passed on: running trials checkpoint and the workers end; a second one of the same kind ends
    them at once, which is as safe and loses the work since their last checkpoints. Whoever is killed after a
    signal, by a scheduler that waits no longer, has been stopped. A worker that dies otherwise is replaced,
    and its trial goes on from its checkpoint, within the bounds on failures.

    Args:
        plans: one for each worker.
        command: how to start a worker; the options of its `Job` are appended.
        listen: is told what happens, in the thread that calls `work`.
        meaning: what a request to stop means to the attempts, where a scheduler knows more than its signal.
    """

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        command: Sequence[str],
        listen: Callable[[Event], None],
        meaning: Callable[[Ending], Ending] = lambda ending: ending,
    ) -> None:
        self.asked: Ending | None = None
        self._plans = plans
        self._command = list(command)
        self._meaning = meaning
        self._listen = listen
        self._news: queue.SimpleQueue[tuple[_Worker, Event | None] | signal.Signals] = queue.SimpleQueue()
        self._working: list[_Worker] = []
        self._refusal = ""

    def work(self, *, is_left: Callable[[], bool]) -> None:
        """Start everybody and listen until the last has gone; `asked` then tells whether a signal ended it.

        Args:
            is_left: whether there is still something for a worker to do.

        Raises:
            Refused: a worker says that nothing can be run (missing data, full disk); the others have stopped.
            WorkersDied: workers end before they begin a trial; the message has the last line of one's
                standard error, and a note has the thirty lines before it.
        """
        with _signals(self._news.put):
            try:
                for plan in self._plans:
                    self._start(plan)
                self._listen_to_all(is_left)
            except KeyboardInterrupt:
                self.asked = self.asked or Ending.STOPPED
                self._listen(
                    Note(text="Ended at once. What is recorded is kept, the rest goes on from checkpoints.")
                )
            finally:
                for worker in self._working:  # only after an exception of ours, or a second Ctrl-C
                    worker.process.kill()
                for worker in self._working:
                    worker.process.wait()
                    _say_ended(worker, Ending.STOPPED, "it was ended at once, as asked")
        if self._refusal:
            raise Refused(self._refusal)

    def _start(self, plan: WorkerPlan) -> None:
        process = subprocess.Popen(
            [*self._command, *plan.job.to_arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(plan.environment),
            start_new_session=True,  # a Ctrl-C is ours to pass on, once
        )
        worker = _Worker(plan=plan, process=process)
        self._working.append(worker)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: _Worker) -> None:
        """Runs in a thread of its own: lines become news, and the end of both streams is the last."""
        process = worker.process
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_keep, args=(process.stderr, worker), daemon=True)
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
            news = self._news.get()
            if isinstance(news, signal.Signals):
                self._stop(news)
                continue
            worker, event = news
            if event is None:
                self._working.remove(worker)
                self._see_off(worker, is_left)
                continue
            if isinstance(event, TrialStarted):
                worker.begun = event
                if self.asked:  # it began before the signal reached it
                    ask_to_end(_attempt_of(worker, event), self.asked)
            if isinstance(event, Refusal):
                if not self._refusal:
                    self._refusal = event.text
                    self._terminate(Ending.STOPPED)
                continue
            self._listen(event)

    def _see_off(self, worker: _Worker, is_left: Callable[[], bool]) -> None:
        code = worker.process.returncode
        if code in (DONE, STOPPED, REFUSED) or self._refusal:
            return
        if self.asked:
            _say_ended(worker, *end_of_asked(self.asked))
            if -code in SIGNALS:  # asked before it could listen
                return
        words = "".join(worker.last_words).strip()
        last_line = words.rpartition("\n")[2]
        self._listen(Note(text=f"Worker {worker.plan.job.index} died ({_cause(code)}). {last_line}".strip()))
        if self.asked or not is_left():
            return
        if worker.begun is None:
            if not self._working:
                died = WorkersDied(
                    f"workers end before they begin a trial ({_cause(code)}), the last one with: "
                    f"{last_line or 'no word'}"
                )
                died.add_note(f"Its last words:\n{words}")  # in a traceback, not in the message
                raise died
            return
        self._start(worker.plan)

    def _stop(self, number: signal.Signals) -> None:
        if self.asked is not None:  # who asks first decides
            return
        again = " Ctrl-C again ends them at once." if number is signal.SIGINT else ""
        self._listen(Note(text=f"Stopping: each worker checkpoints and ends.{again}"))
        self.asked = self._meaning(SIGNALS[number])
        for worker in self._working:
            if worker.begun is not None:
                ask_to_end(_attempt_of(worker, worker.begun), self.asked)
        self._terminate(self.asked)

    def _terminate(self, ending: Ending) -> None:
        for worker in self._working:
            worker.process.send_signal(_SIGNAL_OF[ending])


def _keep(lines: Iterable[str], worker: _Worker) -> None:
    """Take in what a worker writes to its standard error: the last words, and all of it in the log.

    A log that cannot be written (a full disk) is no reason to stop listening.
    """
    for line in lines:
        worker.last_words.append(line)
        with suppress(OSError), worker.plan.log.open("a", encoding="utf-8", errors="replace") as log:
            log.write(line)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _attempt_of(worker: _Worker, begun: TrialStarted) -> Path:
    return attempts_of(begun.trial, root=worker.plan.job.results) / str(begun.attempt)


def _say_ended(worker: _Worker, ending: Ending, reason: str) -> None:
    """State how the attempt of a worker that has gone ended, unless it said so itself."""
    if worker.begun is None:
        return
    folder = attempts_of(worker.begun.trial, root=worker.plan.job.results)
    with suppress(RecordError, FileNotFoundError):
        Attempts(folder, trial=worker.begun.trial).write_end(worker.begun.attempt, ending, reason=reason)


@contextmanager
def _signals(tell: Callable[[signal.Signals], None]) -> Iterator[None]:
    """The first signal of a kind is told, a second raises KeyboardInterrupt, and later ones are ignored.

    What is told goes into a queue and interrupts nothing. Only the main thread can see to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: set[int] = set()
    has_raised = False

    def handle(number: int, frame: object) -> None:
        nonlocal has_raised
        if has_raised:
            return
        if number in met:
            has_raised = True
            raise KeyboardInterrupt
        met.add(number)
        tell(signal.Signals(number))

    former = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
