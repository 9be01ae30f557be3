"""Who may run a trial: claims, signs of life, and how each attempt ended.

An attempt is a folder `<replicate>.attempts/<number>`, and making it is the claim: of several processes
exactly one can make it, on network file systems too. Numbers only grow, so the highest is the valid claim
and a process that was taken for dead and wakes up sees that it has lost. The holder signs with its process
and touches a heartbeat; who finds an attempt without an end asks whether it still lives (`attempt.death`).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiebreak.records.durable import RecordError, explained, make_folder
from tiebreak.records.provenance import utc_now
from tiebreak.runner.attempt import Attempt, Ending, Holder, death, numbers_of, read_attempt

LEASE_SECONDS = 120.0
"""A heartbeat older than this is that of a dead process; it is touched eight times a lease."""
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
        reopened_after = self._reopened_after()
        return [self._attempt(number) for number in self._numbers() if number > reopened_after]

    def claim(self) -> Claim:
        """Begin a new attempt.

        Raises:
            Claimed: a live process holds the trial.
            Exhausted: it failed too often.
            StoreError: the folder cannot be written.
        """
        while True:
            # Another process may claim at this very moment, or somebody remove the folder: look again then.
            with explained(self.folder), suppress(FileExistsError, FileNotFoundError):
                make_folder(self.folder)
                numbers = self._numbers()
                last = numbers[-1] if numbers else 0
                if last:
                    self._settle(self._attempt(last))
                if reason := self.failure():
                    raise Exhausted(reason)
                (self.folder / str(last + 1)).mkdir()
                return Claim(self, number=last + 1)

    def failure(self) -> str:
        """Why the trial is not tried again, or nothing if it may be."""
        history = self.history()
        endings = Counter(attempt.ending for attempt in history)
        if endings[Ending.ERROR] >= MOST_ERRORS:
            reason = next(attempt.reason for attempt in reversed(history) if attempt.ending is Ending.ERROR)
            return f"{endings[Ending.ERROR]} attempts raised an exception, the last one: {reason}"
        deaths = [attempt for attempt in history if attempt.ending in (Ending.KILLED, Ending.NODE_FAIL)]
        if len(deaths) >= MOST_DEATHS:
            last = deaths[-1].reason
            said = f"{len(deaths)} attempts died without a word (killed, or out of memory)"
            return f"{said}, the last one: {last}" if last else said
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
        dead = death(
            last,
            silent_seconds=lambda: self._silent_seconds(last.number),
            lease_seconds=self.lease_seconds,
        )
        if dead is None:
            raise Claimed(self._sentence(last), is_here=last.holder is None or last.holder.is_here)
        ending, reason = dead
        self.write_end(last.number, ending, reason=reason)

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
        return read_attempt(self.folder / str(number))

    def _numbers(self) -> list[int]:
        with suppress(FileNotFoundError):
            return numbers_of(self.folder)
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
        # A full disk, say, or a folder that was removed: without an end it counts as dead once we are gone.
        with suppress(RecordError, FileNotFoundError):
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


def _written_beside(path: Path, tree: dict[str, Any]) -> Path:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(tree), encoding="utf-8")
    return temporary
