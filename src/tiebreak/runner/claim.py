"""Who may run a trial: claims, signs of life, and how each attempt ended.

An attempt is a folder `<replicate>.attempts/<number>`, and making it is the claim: of several processes
exactly one can make it, on network file systems too. Numbers only grow, so the highest is the valid claim
and a process that was taken for dead and wakes up sees that it has lost. The holder signs with its process
and touches a heartbeat; who finds an attempt without an end asks whether its process still exists (same
machine) or whether its heartbeat is older than the lease, by the file server's clock.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tiebreak.records.durable import RecordError, explained, make_folder
from tiebreak.records.provenance import utc_now

LEASE_SECONDS = 120.0
"""A heartbeat older than this is that of a dead process; it is touched eight times a lease."""
LOG_VARIABLE = "TIEBREAK_LOG"
"""The environment variable that tells a worker the name of its log, relative to the results folder."""
MOST_ERRORS = 2
MOST_DEATHS = 5


class Claimed(RecordError):  # noqa: N818 - an answer, not an accident
    """Another live process runs this trial. The message says which and what to do.

    `is_here` tells whether that process is on this machine: from elsewhere only its heartbeat is seen.
    """

    def __init__(self, message: str, *, is_here: bool = True) -> None:
        super().__init__(message)
        self.is_here = is_here


class ClaimLost(Claimed):
    """This process was taken for dead and another one runs the trial now."""


class Exhausted(RecordError):  # noqa: N818 - an answer, not an accident
    """The trial has failed as often as a trial may; the message is the reason."""


class Ending(StrEnum):
    """How an attempt ended.

    `killed` (the process is gone, or hangs, on this machine) and `node_fail` (no sign of life from another
    one) are written by who finds it dead. `timeout` and `preempted`: the scheduler asked it to stop, at the
    end of the job's time or for a more urgent job. `superseded`: another was first.
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
        """A signature as it was written, perhaps by another version: unknown fields are left out."""
        return cls(**{item.name: tree[item.name] for item in fields(cls) if item.name in tree})

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
    """What is known of one attempt; `ending` is None while it has not ended."""

    number: int
    holder: Holder | None
    ending: Ending | None
    reason: str = ""


class Attempts:
    """The attempts at one trial.

    Args:
        folder: where they are kept; see `RecordStore.attempts_folder`.
        trial: id of the trial, for messages.
        lease_seconds: how old a heartbeat may be.
    """

    def __init__(self, folder: Path, *, trial: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self.folder = folder
        self.trial = trial
        self.lease_seconds = lease_seconds

    def history(self) -> list[Attempt]:
        """Every attempt since the trial was last reopened, oldest first."""
        return [self._attempt(number) for number in self._numbers() if number > self._reopened_after()]

    def claim(self) -> Claim:
        """Begin a new attempt.

        Raises:
            Claimed: a live process holds the trial.
            Exhausted: it failed too often.
            StoreError: the folder cannot be written.
        """
        while True:
            with explained(self.folder):
                make_folder(self.folder)
                numbers = self._numbers()
                last = numbers[-1] if numbers else 0
                if last:
                    self._settle(self._attempt(last))
                if reason := self.failure():
                    raise Exhausted(reason)
                with suppress(FileExistsError):  # another process claimed in this very moment: look again
                    (self.folder / str(last + 1)).mkdir()
                    return Claim(self, number=last + 1)

    def failure(self) -> str:
        """Why the trial is not tried again, or nothing if it may be."""
        history = self.history()
        endings = Counter(attempt.ending for attempt in history)
        if endings[Ending.ERROR] >= MOST_ERRORS:
            reason = next(attempt.reason for attempt in reversed(history) if attempt.ending is Ending.ERROR)
            return f"{endings[Ending.ERROR]} attempts raised an exception, the last one: {reason}"
        deaths = endings[Ending.KILLED] + endings[Ending.NODE_FAIL]
        if deaths >= MOST_DEATHS:
            return f"{deaths} attempts died without a word (killed, or out of memory)"
        return ""

    def latest(self) -> int:
        """Number of the last attempt; 0 if there was none."""
        return max(self._numbers(), default=0)

    def last_ending(self) -> Ending | None:
        """How the last attempt ended, also where nobody has written it down yet; None if none has ended."""
        latest = self.latest()
        if not latest:
            return None
        attempt = self._attempt(latest)
        if attempt.ending is not None:
            return attempt.ending
        with suppress(Claimed, FileNotFoundError):
            self._settle(attempt)
        return self._attempt(latest).ending

    def heartbeat(self) -> tuple[int, int]:
        """Number of the last attempt and when it last gave a sign of life: does it give another?"""
        latest = self.latest()
        try:
            return latest, (self.folder / str(latest) / "heartbeat").stat().st_mtime_ns
        except OSError:
            return latest, 0

    def write_end(self, number: int, ending: Ending, *, reason: str = "", traceback: str = "") -> None:
        """State how an attempt ended; what was stated first stands."""
        tree = {"ending": str(ending), "at": utc_now(), "reason": reason, "traceback": traceback}
        path = self.folder / str(number) / "end.json"
        with explained(path), suppress(FileExistsError):
            temporary = _written_beside(path, tree)
            try:
                os.link(temporary, path)
            finally:
                temporary.unlink()

    def _settle(self, last: Attempt) -> None:
        """See to it that the last attempt has ended, or say who holds it."""
        if last.ending is not None:
            return
        if last.holder is not None and last.holder.is_gone():
            self.write_end(last.number, Ending.KILLED, reason="its process was gone")
            return
        silent_seconds = self._silent_seconds(last.number)
        is_here = last.holder is None or last.holder.is_here
        if silent_seconds > self.lease_seconds:
            ending = Ending.KILLED if is_here else Ending.NODE_FAIL
            self.write_end(last.number, ending, reason=f"no sign of life for {silent_seconds:.0f} s")
            return
        raise Claimed(self._sentence(last), is_here=is_here)

    def _sentence(self, attempt: Attempt) -> str:
        holder = attempt.holder
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another process"
        return (
            f"Trial {self.trial} is being run by {who} (attempt {attempt.number}). "
            "Wait for it, or end that process: the trial then goes on from its checkpoint."
        )

    def _silent_seconds(self, number: int) -> float:
        """Age of the heartbeat by the clock of the file system, which need not agree with ours."""
        probe = self.folder / f".tmp-probe-{os.getpid()}-{secrets.token_hex(4)}"
        with open(probe, "wb") as file:
            now = os.fstat(file.fileno()).st_mtime
        probe.unlink()
        attempt = self.folder / str(number)
        try:
            with open(attempt / "heartbeat", "rb") as file:  # opening asks the server, a bare stat may not
                return now - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return now - attempt.stat().st_mtime

    def _attempt(self, number: int) -> Attempt:
        folder = self.folder / str(number)
        holder, end = _read(folder / "holder.json"), _read(folder / "end.json")
        return Attempt(
            number=number,
            holder=Holder.from_tree(holder) if holder else None,
            ending=Ending(end["ending"]) if end else None,
            reason=end["reason"] if end else "",
        )

    def _numbers(self) -> list[int]:
        with suppress(FileNotFoundError):
            return sorted(int(entry.name) for entry in os.scandir(self.folder) if entry.name.isdigit())
        return []

    def _reopened_after(self) -> int:
        marks = [path.stem.rpartition("-")[2] for path in self.folder.glob("*-*.jsonl")]
        return max((int(mark) for mark in marks if mark.isdigit()), default=0)


class Claim:
    """The right to run a trial, kept alive by a thread until it is ended.

    Made by `Attempts.claim`.
    """

    def __init__(self, attempts: Attempts, *, number: int) -> None:
        self.number = number
        self._attempts = attempts
        self._ended = threading.Event()
        self._done_of = (0, 0)
        folder = attempts.folder / str(number)
        self._heartbeat = folder / "heartbeat"
        try:
            signed = _written_beside(folder / "holder.json", asdict(Holder.this_process()))
            os.replace(signed, folder / "holder.json")
            self._heartbeat.write_text(_shares(0, 0), encoding="ascii")
        except OSError:  # disk full, say: an unsigned claim would keep others waiting for its lease
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{number}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the claim still stands.

        Raises:
            ClaimLost: a later attempt exists.
        """
        latest = self._attempts.latest()
        if latest != self.number:
            raise ClaimLost(
                f"Trial {self._attempts.trial} was taken over (attempt {latest}): this process, attempt "
                f"{self.number}, gave no sign of life for {self._attempts.lease_seconds:g} s. It leaves it."
            )

    def progress(self, done: int, total: int) -> None:
        """Steps done out of all steps, for who looks at the heartbeat; written with its next beat."""
        self._done_of = (done, total)

    def end(self, ending: Ending, *, reason: str = "", traceback: str = "") -> None:
        """Give the claim up and say how the attempt ended, if that can be written."""
        self._ended.set()
        self._thread.join()
        with suppress(RecordError):  # a full disk, say: without an end it counts as dead once we are gone
            self._attempts.write_end(self.number, ending, reason=reason, traceback=traceback)

    def _beat(self) -> None:
        while not self._ended.wait(self._attempts.lease_seconds / 8):
            with (
                suppress(OSError),
                self._heartbeat.open("r+b") as file,
            ):  # the same bytes: a full disk takes them
                file.write(_shares(*self._done_of).encode("ascii"))
            with suppress(OSError):  # a file server may be away for a while; the lease decides
                os.utime(self._heartbeat)


def _shares(done: int, total: int) -> str:
    """Steps done out of all steps, in as many characters for every number."""
    return f"{done}/{total}".ljust(24)


def slurm_job() -> str:
    """Number of the SLURM job that this process belongs to, `17_3` in an array; empty outside."""
    environment = os.environ
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    return environment.get("SLURM_JOB_ID", "")


def _written_beside(path: Path, tree: dict[str, Any]) -> Path:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(tree), encoding="utf-8")
    return temporary


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # written in one step, but a power cut can leave it empty
        return None


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
