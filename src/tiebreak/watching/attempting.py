"""The last attempt at a trial, looked at from outside: does anybody work on it, and how far are they?"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiebreak.runner.claim import Ending, Holder


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAttempt:
    """The last attempt at a trial that has no record.

    Args:
        number: of the attempt, from 1.
        holder: who made it, if it is signed.
        ending: how it ended; None while it has not.
        reason: why it ended, in words.
        at: when it ended, UTC.
        is_alive: whether somebody works on it.
        done: steps done, as the heartbeat last said.
        total: all steps; 0 while that is not known.
    """

    number: int
    holder: Holder | None
    ending: Ending | None
    reason: str = ""
    at: str = ""
    is_alive: bool = False
    done: int = 0
    total: int = 0

    @property
    def share_done(self) -> float:
        """Share of the steps that are done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def last_attempt(folder: Path, *, lease_seconds: float, clock: FileClock) -> LastAttempt | None:
    """The last of the attempts in a folder `<replicate>.attempts`; None if there is none.

    A holder on this machine lives while its process does; another one while its heartbeat is no older than
    the lease, by the clock of the file system.
    """
    return next(reversed(attempts(folder, lease_seconds=lease_seconds, clock=clock, only_last=True)), None)


def attempts(
    folder: Path, *, lease_seconds: float, clock: FileClock, only_last: bool = False
) -> list[LastAttempt]:
    """Every attempt in a folder, oldest first; what cannot be read of one is left empty."""
    try:
        numbers = sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal())
    except OSError:
        return []
    return [
        _attempt(
            folder / str(number), lease_seconds=lease_seconds, clock=clock, may_live=number == numbers[-1]
        )
        for number in (numbers[-1:] if only_last else numbers)
    ]


def traceback_of(folder: Path) -> str:
    """The traceback of the attempt in a folder, if it ended with one."""
    return str((_tree(folder / "end.json") or {}).get("traceback", ""))


def _attempt(folder: Path, *, lease_seconds: float, clock: FileClock, may_live: bool) -> LastAttempt:
    end = _tree(folder / "end.json")
    signed = _tree(folder / "holder.json")
    holder = None
    if signed is not None and isinstance(signed.get("pid"), int):
        with suppress(TypeError):  # fields are missing
            holder = Holder.from_tree(signed)
    number = int(folder.name)
    if end is not None:
        ending = Ending.KILLED  # of an ending that this version does not know, only that it has ended
        with suppress(ValueError):
            ending = Ending(str(end.get("ending")))
        return LastAttempt(
            number=number,
            holder=holder,
            ending=ending,
            reason=str(end.get("reason", "")),
            at=str(end.get("at", "")),
        )
    text, beaten = _heartbeat(folder)
    done, _, total = text.partition("/")
    known = done.strip().isdecimal() and total.strip().isdecimal()
    return LastAttempt(
        number=number,
        holder=holder,
        ending=None,
        is_alive=may_live and _lives(holder, beaten, lease_seconds=lease_seconds, clock=clock),
        done=int(done) if known else 0,
        total=int(total) if known else 0,
    )


def _lives(holder: Holder | None, beaten: int, *, lease_seconds: float, clock: FileClock) -> bool:
    if holder is not None and holder.is_here:
        return not holder.is_gone()
    return clock.now() - beaten <= lease_seconds * 1e9


def _heartbeat(folder: Path) -> tuple[str, int]:
    """What the heartbeat says, and when it was last touched in nanoseconds."""
    try:
        with open(folder / "heartbeat", "rb") as file:  # opening asks a file server, a bare stat may not
            return file.read(64).decode("ascii", "replace"), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        with suppress(OSError):
            return "", folder.stat().st_mtime_ns
    return "", 0


def _tree(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None
