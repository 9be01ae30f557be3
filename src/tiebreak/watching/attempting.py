"""The last attempt at a trial, looked at from outside: does anybody work on it, and how far are they?"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from tiebreak.runner.attempt import Attempt, death, numbers_of, read_attempt


class FileClock:
    """The time of a file system, in nanoseconds, as it stamps files: ages are taken by it, not by ours.

    Asked at most once a moment: a file is made in the folder and removed. Where the folder takes none, the
    machine's own clock stands in, and `is_own` says so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: int | None = None
        self.is_own = False

    def forget(self) -> None:
        """The moment has passed."""
        self._asked = None

    def now(self) -> int:
        """The time of this moment."""
        if self._asked is None:
            probe = self._folder / f".tmp-probe-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                with open(probe, "xb") as file:
                    self._asked = os.fstat(file.fileno()).st_mtime_ns
                self.is_own = False
            except OSError:  # read-only: who only looks may not be able to ask
                self._asked = time.time_ns()
                self.is_own = True
            with suppress(OSError):
                probe.unlink()
        return self._asked


@dataclass(frozen=True, kw_only=True)
class LastAttempt(Attempt):
    """An attempt, and how it goes while it has not ended.

    Args:
        is_alive: whether somebody works on it.
        done: steps done, as the heartbeat last said.
        total: all steps; 0 while that is not known.
    """

    is_alive: bool = False
    done: int = 0
    total: int = 0

    @property
    def share_done(self) -> float:
        """Share of the steps that are done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def last_attempt(folder: Path, *, lease_seconds: float, clock: FileClock) -> LastAttempt | None:
    """The last of the attempts in a folder `<replicate>.attempts`; None if there is none."""
    return next(reversed(attempts(folder, lease_seconds=lease_seconds, clock=clock, only_last=True)), None)


def attempts(
    folder: Path, *, lease_seconds: float, clock: FileClock, only_last: bool = False
) -> list[LastAttempt]:
    """Every attempt in a folder, oldest first; what cannot be read of one is left empty."""
    try:
        numbers = numbers_of(folder)
    except OSError:
        return []
    return [
        _attempt(
            folder / str(number), lease_seconds=lease_seconds, clock=clock, may_live=number == numbers[-1]
        )
        for number in (numbers[-1:] if only_last else numbers)
    ]


def _attempt(folder: Path, *, lease_seconds: float, clock: FileClock, may_live: bool) -> LastAttempt:
    written = read_attempt(folder)
    is_alive, done, total = False, 0, 0
    if written.ending is None:
        text, beaten = _heartbeat(folder)
        is_alive = may_live and not death(
            written,
            silent_seconds=lambda: (clock.now() - beaten) / 1e9,
            lease_seconds=lease_seconds,
        )
        first, _, second = text.partition("/")
        if first.strip().isdecimal() and second.strip().isdecimal():
            done, total = int(first), int(second)
    return LastAttempt(
        **{item.name: getattr(written, item.name) for item in fields(written)},
        is_alive=is_alive,
        done=done,
        total=total,
    )


def _heartbeat(folder: Path) -> tuple[str, int]:
    """What the heartbeat says, and when it was last touched in nanoseconds."""
    try:
        with open(folder / "heartbeat", "rb") as file:  # opening asks a file server, a bare stat may not
            return file.read(64).decode("ascii", "replace"), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        with suppress(OSError):
            return "", folder.stat().st_mtime_ns
    return "", 0
