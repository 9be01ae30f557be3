"""Which trials wait for a worker: those of launches that somebody still works on."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tiebreak.records.durable import RecordError
from tiebreak.runner.launch import Launch, launch_folders, read_launch
from tiebreak.runner.manifest import listed_trials
from tiebreak.runner.scheduler import HURRY_SECONDS, in_queue

QUEUE_SECONDS = 10.0
"""The scheduler is asked no more often: its controller serves everybody."""

Jobs = Callable[[Sequence[str]], Container[str] | None]
"""Tells which of the scheduler's jobs wait or run; None where it cannot be asked."""


def scheduled_jobs(jobs: Sequence[str]) -> Mapping[str, object] | None:
    """Those of SLURM's jobs that wait or run; None where the scheduler cannot be asked."""
    return in_queue(jobs, seconds=HURRY_SECONDS)


class Launches:
    """The launches under a results folder, and which of them are alive.

    Args:
        results: the results folder.
        ask: tells which of the scheduler's jobs wait or run.
    """

    def __init__(self, results: Path, *, ask: Jobs = scheduled_jobs) -> None:
        self._results = results
        self._ask = ask
        self._read: dict[Path, tuple[int, Launch]] = {}
        self._trials: dict[Path, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        self._asked_at = -QUEUE_SECONDS
        self._asked_about: frozenset[str] = frozenset()
        self._scheduled: Container[str] | None = None

    def found(self) -> tuple[Launch, ...]:
        """Every launch that can be read, by study and number."""
        present: dict[Path, tuple[int, Launch]] = {}
        for folder, stamp in launch_folders(self._results):
            known = self._read.get(folder)
            if known is None or known[0] != stamp:
                with suppress(RecordError):
                    known = (stamp, read_launch(folder))
            if known is not None:
                present[folder] = known
        self._read = present
        return tuple(launch for _, launch in present.values())

    def trials(self, launch: Launch) -> tuple[str, ...]:
        """Ids of the trials that a launch was made for, as its manifests list them."""
        paths = launch.manifests()
        stamps = tuple(_stamp(path) for path in paths)
        known = self._trials.get(launch.folder)
        if known is None or known[0] != stamps:
            known = (stamps, tuple(trial for path in paths for trial in listed_trials(path)))
            self._trials[launch.folder] = known
        return known[1]

    def alive(self, launches: Iterable[Launch], *, is_running: Callable[[str], bool]) -> list[Launch]:
        """Those that somebody works on, or will.

        A local launch lives while the process that watches it does; one on SLURM while the scheduler knows
        one of its jobs. Where neither can be asked from here, it lives while one of its trials runs.

        Args:
            launches: which ones.
            is_running: whether the trial of an id runs.
        """
        launches = list(launches)
        jobs = [job for launch in launches if launch.launcher == "slurm" for job in launch.jobs]
        scheduled = self._known_to_scheduler(frozenset(jobs)) if jobs else frozenset()
        found = []
        for launch in launches:
            if launch.launcher == "slurm" and scheduled is not None:
                lives = any(job in scheduled for job in launch.jobs)
            elif launch.launcher != "slurm" and launch.holder is not None and launch.holder.is_here:
                lives = not launch.holder.is_gone()
            else:
                lives = any(is_running(trial) for trial in self.trials(launch))
            if lives:
                found.append(launch)
        return found

    def _known_to_scheduler(self, jobs: frozenset[str]) -> Container[str] | None:
        now = time.monotonic()
        if jobs != self._asked_about or now - self._asked_at >= QUEUE_SECONDS:
            self._scheduled = self._ask(sorted(jobs))
            self._asked_about, self._asked_at = jobs, now
        return self._scheduled


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
