"""What is written down of an attempt at a trial: who makes it, how it ended; and whether who makes it lives.

One answer for all who ask: a process that wants the trial, and one that only watches.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tiebreak.records.provenance import utc_now

LOG_VARIABLE = "TIEBREAK_LOG"
"""The environment variable that tells a worker the name of its log, relative to the results folder."""

_ASKED = "asked"
"""Name of the note that the process of an attempt is asked to end."""


class Ending(StrEnum):
    """How an attempt ended.

    `stopped`: somebody asked it to stop, whether or not it could still answer. `timeout` and `preempted`: the
    scheduler did, at the end of the job's time or for a more urgent job. `killed` (the process is gone, or
    hangs, on this machine) and `node_fail` (no sign of life from another one) are written by who finds it
    dead where nobody had asked. `superseded`: another was first.
    """

    RECORDED = "recorded"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    ERROR = "error"
    KILLED = "killed"
    NODE_FAIL = "node_fail"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a claim; enough to tell it from a later one that got the same number.

    Args:
        host: name of the machine or cluster node, for people.
        pid: its process number.
        started: when the process started, in the system's own clock ticks; empty where that is not known.
        machine: boot and process namespace; a pid means something only where they are ours.
        since: when the claim was made, UTC.
        job: number of the scheduler's job, such as `17_3`; empty without a scheduler.
        log: file that the process writes to, relative to the results folder; empty if there is none.
    """

    host: str
    pid: int
    started: str
    machine: str
    since: str
    job: str = ""
    log: str = ""

    @classmethod
    def this_process(cls) -> Holder:
        """The signature of the calling process."""
        pid = os.getpid()
        return cls(
            host=os.environ.get("SLURMD_NODENAME") or platform.node(),
            pid=pid,
            started=(_process(pid) or ("", False))[0],
            machine=_machine(),
            since=utc_now(),
            job=slurm_job(),
            log=os.environ.get(LOG_VARIABLE, ""),
        )

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Holder:
        """A signature as it was written, perhaps by another version: unknown fields are left out.

        Raises:
            ValueError: a field is missing, or not of its kind.
        """
        known = {item.name: tree[item.name] for item in fields(cls) if item.name in tree}
        pid, texts = known.get("pid"), [value for name, value in known.items() if name != "pid"]
        if not isinstance(pid, int) or not 0 < pid < 2**31:
            raise ValueError(f"a signature must have the number of a process, got {pid!r}")
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise ValueError("what a signature says besides the process must be texts")
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"a signature lacks fields: {error}") from None

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine since it was last started."""
        return self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether the process is known to be no more; False also where that cannot be known from here."""
        if not self.is_here:
            return False
        if (found := _process(self.pid)) is not None:
            start, is_zombie = found
            return is_zombie or start != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is written down of one attempt.

    Args:
        number: from 1.
        holder: who made it; None if the signature is missing or damaged.
        ending: how it ended; None while it has not.
        asked: what it was asked to end as; None if nobody is known to have asked.
        reason: why it ended, in words.
        at: when it ended, UTC.
        traceback: of the exception that ended it.
    """

    number: int
    holder: Holder | None
    ending: Ending | None
    asked: Ending | None = None
    reason: str = ""
    at: str = ""
    traceback: str = ""


def numbers_of(folder: Path) -> list[int]:
    """The numbers of the attempts in a folder `<replicate>.attempts`, ascending.

    Raises:
        OSError: the folder cannot be read.
    """
    names = (entry.name for entry in os.scandir(folder) if entry.name.isdecimal())
    return sorted(int(name) for name in names if str(int(name)) == name)


def read_attempt(folder: Path) -> Attempt:
    """What is written in the folder of an attempt; what is damaged there counts as not written.

    An ending of a later version, which this one does not know, is that of an attempt that was stopped: it
    has ended, and nobody can say that the trial is to blame.
    """
    signed, end = _tree(folder / "holder.json"), _tree(folder / "end.json")
    holder = None
    with suppress(ValueError):
        holder = Holder.from_tree(signed) if signed is not None else None
    if end is None:
        return Attempt(number=int(folder.name), holder=holder, ending=None, asked=_asked(folder))
    ending = Ending.STOPPED
    with suppress(ValueError):
        ending = Ending(str(end.get("ending")))
    return Attempt(
        number=int(folder.name),
        holder=holder,
        ending=ending,
        reason=str(end.get("reason") or ""),
        at=str(end.get("at") or ""),
        traceback=str(end.get("traceback") or ""),
    )


def ask_to_end(folder: Path, asked: Ending) -> None:
    """Note beside an attempt that its process is asked to end, if that can be written.

    Who is asked may be killed before it can say that it ended so. The note then tells a death that somebody
    wanted, of which a trial may have any number, from one that the trial may be to blame for.

    Args:
        folder: of the attempt.
        asked: what it is asked to end as.
    """
    with suppress(OSError):
        (folder / _ASKED).write_text(str(asked), encoding="ascii")


def end_of_asked(asked: Ending) -> tuple[Ending, str]:
    """How and why an attempt has ended whose process was asked to end and is gone without a word.

    That the job's time ends is told long before: a trial that finds no moment to checkpoint until then would
    not find one in the next job either, so this counts as a death.
    """
    if asked is Ending.TIMEOUT:
        why = "it was told that its job's time ends, and did not come to a checkpoint before it was killed"
        return Ending.KILLED, why
    return asked, "its process was ended after it was asked to stop"


def death(
    attempt: Attempt, *, silent_seconds: Callable[[], float], lease_seconds: float
) -> tuple[Ending, str] | None:
    """How and why an attempt that states no end has ended; None while its holder lives, as far as one sees.

    It is dead when its process is gone (this machine), or when it gave no sign of life within the lease. A
    sign from the future by more than that is none either: a live holder renews it by the same clock.

    Args:
        attempt: as it was read.
        silent_seconds: age of the last sign of life by the clock of the file system; asked if it matters.
        lease_seconds: how old the sign may be.
    """
    holder = attempt.holder
    if holder is not None and holder.is_gone():
        return end_of_asked(attempt.asked) if attempt.asked else (Ending.KILLED, "its process was gone")
    seconds = silent_seconds()
    if abs(seconds) <= lease_seconds:
        return None
    if attempt.asked:
        return end_of_asked(attempt.asked)
    is_here = holder is None or holder.is_here
    why = f"for {seconds:.0f} s" if seconds > 0 else f"but one from {-seconds:.0f} s in the future"
    return Ending.KILLED if is_here else Ending.NODE_FAIL, f"no sign of life {why}"


def slurm_job() -> str:
    """Number of the SLURM job that this process belongs to, `17_3` in an array; empty outside."""
    environment = os.environ
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    return environment.get("SLURM_JOB_ID", "")


def _process(pid: int) -> tuple[str, bool] | None:
    """Start of a process in clock ticks since boot, and whether it is a zombie; None if it cannot be seen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return fields[18], state in "ZX"


def _machine() -> str:
    """This boot of this machine, and the process namespace in it (containers share the first)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _asked(folder: Path) -> Ending | None:
    with suppress(OSError, ValueError):
        return Ending((folder / _ASKED).read_text(encoding="ascii").strip())
    return None


def _tree(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # written in one step, but a power cut can leave it empty
        return None
    return tree if isinstance(tree, dict) else None
