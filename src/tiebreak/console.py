"""What a run shows on a terminal: bars, an estimate of the time left, sentences.

On a terminal the bars are live; elsewhere (a log, CI) a line is written every tenth of the way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tiebreak.design.cell import AnyTrial
from tiebreak.records.session import OutcomeKind
from tiebreak.runner.eta import Eta
from tiebreak.runner.events import Event, Note, TrialEnded, TrialLeft, TrialProgress, TrialRow, TrialStarted


class StudyProgress:
    """Follows the events of a study.

    Args:
        trials: those without a record.
        done_before: those with one.
        workers: how many run at once.
        eta: knows what trials measured earlier took.
        console: where to write.
    """

    def __init__(
        self, trials: Sequence[AnyTrial], *, done_before: int, workers: int, eta: Eta, console: Console
    ) -> None:
        self._left = {trial.id: trial for trial in trials}
        self._total = len(trials) + done_before
        self._workers = workers
        self._eta = eta
        self._shares: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._outcomes: dict[OutcomeKind, int] = {}
        self._console = console
        self._last_tenth = -1
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._study = self._progress.add_task(
            "study", total=self._total, completed=done_before, note=self._note()
        )

    @contextmanager
    def shown(self) -> Iterator[StudyProgress]:
        """Draw while the block runs."""
        with self._progress:
            yield self

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case TrialRow():  # nothing is shown of it, and there may be many
                return
            case TrialStarted():
                self._tasks[event.trial] = self._progress.add_task(
                    f"  {event.name}", total=None, note=f"replicate {event.trial.partition('/')[2]}"
                )
            case TrialProgress() if event.trial in self._tasks:
                self._shares[event.trial] = event.done / max(1, event.total)
                self._progress.update(self._tasks[event.trial], completed=event.done, total=event.total)
            case TrialEnded():
                self._end(event)
            case TrialLeft():
                self._forget(event.trial)
            case Note():
                self._console.print(event.text, highlight=False, markup=False)
            case _:
                pass
        self._progress.update(
            self._study, completed=self._total - len(self._left), note=self._note(), refresh=False
        )

    def _end(self, event: TrialEnded) -> None:
        trial = self._left.pop(event.trial, None)
        self._forget(event.trial)
        if trial is None:
            return
        self._outcomes[event.outcome.kind] = self._outcomes.get(event.outcome.kind, 0) + 1
        if event.outcome.kind is not OutcomeKind.FAILED:
            self._eta.add(trial.cell, elapsed_seconds=event.elapsed_seconds)
        tenth = 10 * (self._total - len(self._left)) // self._total
        if not self._console.is_terminal and tenth > self._last_tenth:
            self._last_tenth = tenth
            done = self._total - len(self._left)
            self._console.print(f"{done} of {self._total} trials. {self._note()}", highlight=False)

    def _forget(self, trial: str) -> None:
        self._shares.pop(trial, None)
        task = self._tasks.pop(trial, None)
        if task is not None:
            self._progress.remove_task(task)

    def _note(self) -> str:
        seconds = self._eta.seconds_left(self._left.values(), workers=self._workers, shares_done=self._shares)
        left = f"about {duration(seconds)} left" if seconds is not None else "time left unknown"
        counts = [f"{count} {kind}" for kind, count in sorted(self._outcomes.items())]
        return "; ".join([left, *counts])


class TrialProgressLine:
    """Follows the events of a single trial."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._console = console
        self._task: TaskID | None = None
        self._begin = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[TrialProgressLine]:
        """Draw while the block runs."""
        with self._progress:
            yield self

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case TrialStarted():
                self._task = self._progress.add_task(event.name, total=None, left="")
                self._begin = time.monotonic()
            case TrialProgress() if self._task is not None:
                passed = time.monotonic() - self._begin
                left = passed * (event.total - event.done) / max(1, event.done)
                self._progress.update(
                    self._task, completed=event.done, total=event.total, left=f"about {duration(left)} left"
                )
            case Note():
                self._console.print(event.text, highlight=False, markup=False)
            case _:
                pass


def duration(seconds: float) -> str:
    """Seconds in the words of a person.

    Example:
        >>> duration(75), duration(4000), duration(200000)
        ('1 min 15 s', '1 h 7 min', '2 d 8 h')
    """
    whole = max(0, round(seconds))
    for large, small, size in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= size:
            part = {"h": 3600, "min": 60, "s": 1}[small]
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


def make_console() -> Console:
    """The console that people read: standard error, so that standard output stays for results."""
    return Console(file=sys.stderr, soft_wrap=True)
