"""The near end of the mirror: a process fed through a queue, never waited for while trials run."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType

from tiebreak.design.cell import AnyTrial
from tiebreak.tracking.settings import Mode, Task, TrackingError, mirror_environment

PATIENCE_SECONDS = 90.0
_CAPACITY = 20_000
_POLL_SECONDS = 0.05


class Mirror:
    """A process that mirrors a study in W&B, as a context.

    Whatever becomes of it, the trials go on: `send` puts a line into a queue and returns; a thread feeds the
    process. When the process dies, hangs or cannot keep up, lines are dropped, `notice` is told once, and the
    records are as without a mirror. With `mode=disabled` nothing is started and nothing is imported.

    Args:
        task: what is mirrored, and where to.
        trials: those whose events may be sent, by id.
        command: how to start the process; the options of the task are appended.
        notice: is told a sentence, in the thread that calls.
        patience_seconds: at the end, how long the process may be silent before it is ended.
        capacity: lines that may wait.

    Example:
        >>> from pathlib import Path
        >>> from tiebreak.tracking.settings import Tracking
        >>> task = Task(tracking=Tracking(), study="demo", results=Path("results"))
        >>> with Mirror(task, trials={}, command=[], notice=print) as mirror:
        ...     mirror.send("{}", trial="")
    """

    def __init__(
        self,
        task: Task,
        *,
        trials: Mapping[str, AnyTrial],
        command: Sequence[str],
        notice: Callable[[str], None],
        patience_seconds: float = PATIENCE_SECONDS,
        capacity: int = _CAPACITY,
    ) -> None:
        self._task = task
        self._trials = trials
        self._command = command
        self._notice = notice
        self._patience_seconds = patience_seconds
        self._lines: queue.Queue[tuple[str, str] | None] = queue.Queue(capacity)
        self._answers: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._feeder = threading.Thread(target=self._feed, name="mirror-feeder", daemon=True)
        self._reader = threading.Thread(target=self._read, name="mirror-reader", daemon=True)
        self._is_ready = False
        self._has_told = False
        self._refusal = ""
        self._last_word = time.monotonic()
        self.num_mirrored = 0

    @property
    def pid(self) -> int | None:
        """Number of the process; None where none runs."""
        return self._process.pid if self._process is not None else None

    @property
    def has_failed(self) -> bool:
        """Whether something was not mirrored; `notice` was told what."""
        return self._has_told

    def __enter__(self) -> Mirror:
        """Start the process.

        Raises:
            TrackingError: it refuses, as with `mode=online` and no key; nothing has run then.
        """
        tracking = self._task.tracking
        if not tracking.is_on:
            return self
        try:
            self._process = subprocess.Popen(
                [*self._command, *self._task.to_arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=mirror_environment(tracking),
                bufsize=0,
                start_new_session=True,  # a Ctrl-C ends the trials; the mirror ends after them
            )
        except OSError as error:
            self._tell(f"it cannot be started: {error.strerror}")
            return self
        self._feeder.start()
        self._reader.start()
        try:
            if tracking.mode is Mode.ONLINE:  # the only mode that may be refused: for a missing key
                self._wait(lambda: self._is_ready)
            if self._refusal:
                raise TrackingError(self._refusal)
        except BaseException:  # a Ctrl-C too: nobody would end the process
            self._kill()
            raise
        return self

    def send(self, line: str, *, trial: str, wait: bool = False) -> None:
        """Hand over an event as a line of JSON.

        Args:
            line: see `tiebreak.runner.events.to_line`; without the line's end.
            trial: id of the trial that it is about; empty for none.
            wait: for room in the queue, as long as the process answers; else a full queue drops the line.
        """
        if self._process is None or (trial and trial not in self._trials):
            return
        self._listen()
        while not self._has_told:
            try:
                self._lines.put((trial, line), timeout=_POLL_SECONDS if wait else 0.0)
                return
            except queue.Full:
                if not wait or self._silent_seconds() > self._patience_seconds:
                    self._tell("it does not keep up, or hangs")
                self._listen()

    def export(self, trial: AnyTrial) -> None:
        """Have a trial mirrored from its record alone, waiting while the process is busy.

        Args:
            trial: one with a record.
        """
        self.send(json.dumps({"event": "ended", "trial": trial.id}), trial=trial.id, wait=True)

    def report(self) -> None:
        """Have the tables, figures and page of the study kept as artifacts."""
        self.send(json.dumps({"event": "report"}), trial="", wait=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the process end what it has, as long as it answers; then end it."""
        if self._process is None:
            return
        try:
            with suppress(queue.Full):
                self._lines.put(None, timeout=self._patience_seconds if not self._has_told else 0.0)
                self._last_word = time.monotonic()
                self._wait(lambda: False)
        finally:
            self._kill()
            self._listen()

    def _wait(self, is_enough: Callable[[], bool]) -> None:
        """Until it is enough, or the process has ended, or was silent for too long."""
        assert self._process is not None
        while not is_enough():
            if self._process.poll() is not None:
                self._reader.join()
                self._listen()
                return
            if self._silent_seconds() > self._patience_seconds:
                self._tell(f"it was silent for {self._patience_seconds:g} s")
                return
            time.sleep(_POLL_SECONDS)
            self._listen()

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._last_word

    def _kill(self) -> None:
        """End the process and what it started, and the threads with it."""
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._feeder.join(timeout=1.0)
        self._reader.join(timeout=1.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _feed(self) -> None:
        """Runs in a thread of its own: lines from the queue into the process, until None."""
        assert self._process is not None
        assert self._process.stdin is not None
        introduced = set()
        try:
            while (item := self._lines.get()) is not None:
                identity, line = item
                if identity and identity not in introduced:
                    introduced.add(identity)
                    self._write(self._introduction(self._trials[identity]))
                self._write(line)
            self._process.stdin.close()
        except OSError:  # it has gone; the reader tells
            return

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        rest = memoryview(f"{line}\n".encode())
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    @staticmethod
    def _introduction(trial: AnyTrial) -> str:
        tree = {"trial": trial.id, "cell": trial.cell.to_dict(), "replicate": trial.replicate}
        return json.dumps({"event": "trial", **tree})

    def _read(self) -> None:
        """Runs in a thread of its own: answers of the process, and a last one when it has gone."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError, UnicodeDecodeError):  # W&B's core may print to our stream
                answer = json.loads(line)
                if isinstance(answer, dict) and "event" in answer:
                    self._answers.put(answer)
        code = self._process.wait()
        self._answers.put({"event": "gone", "text": "" if code == 0 else f"its process ended ({code})"})

    def _listen(self) -> None:
        """Take in what the process has said; in the thread of the caller."""
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return
            self._last_word = time.monotonic()
            match answer["event"]:
                case "ready":
                    self._is_ready = True
                case "mirrored":
                    self.num_mirrored += 1
                case "refusal":
                    self._refusal = answer["text"]
                    self._has_told = True
                case "note":
                    self._notice(answer["text"])
                case "failed":
                    self._tell(answer["text"])
                case "gone" if answer["text"]:
                    self._tell(answer["text"])

    def _tell(self, why: str) -> None:
        """Say once that the mirror is no more; from then on nothing is sent."""
        if self._has_told:
            return
        self._has_told = True
        self._notice(
            f"The mirror in W&B ends here: {why}. The trials go on and their records are whole; "
            f"`tiebreak wandb-export {self._task.study or 'STUDY'}` makes the mirror from them."
        )
