"""Which trials wait for a worker: those of launches that somebody still works on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tiebreak.records.durable import RecordError
from tiebreak.runner.launch import FOLDER, Launch, read_launch

_DESCRIPTION = "launch.json"
QUEUE_SECONDS = 10.0
"""The scheduler is asked no more often: its controller serves everybody."""

Jobs = Callable[[Sequence[str]], frozenset[str] | None]


def scheduled_jobs(jobs: Sequence[str]) -> frozenset[str] | None:
    """Those of SLURM's jobs that wait or run; None where the scheduler cannot be asked."""
    program = shutil.which("squeue")
    if program is None:
        return None
    words = [program, "--noheader", "--format=%F", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:  # that is: it has gone
        return None
    return frozenset(answer.stdout.split())


class Launches:
    """The launches under a results folder, and which of them are alive.

    Args:
        results: the results folder.
        ask: tells which of the scheduler's jobs wait or run.
    """

    def __init__(self, results: Path, *, ask: Jobs = scheduled_jobs) -> None:
        self._home = results / FOLDER
        self._ask = ask
        self._read: dict[Path, tuple[int, Launch]] = {}
        self._trials: dict[Path, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        self._asked_at = -QUEUE_SECONDS
        self._asked_about: frozenset[str] = frozenset()
        self._scheduled: frozenset[str] | None = None

    def found(self) -> tuple[Launch, ...]:
        """Every launch that can be read, by study and number."""
        present: dict[Path, tuple[int, Launch]] = {}
        for folder, stamp in sorted(_folders(self._home)):
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
        paths = sorted(launch.folder.glob("manifest*.jsonl"))
        stamps = tuple(_stamp(path) for path in paths)
        known = self._trials.get(launch.folder)
        if known is None or known[0] != stamps:
            known = (stamps, tuple(trial for path in paths for trial in _listed(path)))
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
                lives = not scheduled.isdisjoint(launch.jobs)
            elif launch.launcher != "slurm" and launch.holder is not None and launch.holder.is_here:
                lives = not launch.holder.is_gone()
            else:
                lives = any(is_running(trial) for trial in self.trials(launch))
            if lives:
                found.append(launch)
        return found

    def _known_to_scheduler(self, jobs: frozenset[str]) -> frozenset[str] | None:
        now = time.monotonic()
        if jobs != self._asked_about or now - self._asked_at >= QUEUE_SECONDS:
            self._scheduled = self._ask(sorted(jobs))
            self._asked_about, self._asked_at = jobs, now
        return self._scheduled


def _folders(home: Path) -> Iterator[tuple[Path, int]]:
    """Folders of launches with the time of their description; logs are not looked through."""
    try:
        entries = [entry for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for entry in entries:
        stamp = _stamp(Path(entry.path) / _DESCRIPTION) if entry.name.isdecimal() else 0
        if stamp:
            yield Path(entry.path), stamp
        elif not entry.name.isdecimal() or not (Path(entry.path) / "logs").is_dir():
            yield from _folders(Path(entry.path))


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _listed(path: Path) -> Iterator[str]:
    """Ids in a manifest; a line that is none (it is being written, or of another version) is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            yield str(json.loads(line)["trial"])
