"""The folders of cells under `records/`: which records and attempts lie in each, read when they changed.

A folder's time tells whether a file in it came or went, so a look at ten thousand trials whose records stand
is a few thousand questions to the file system and reads nothing. A file system's clock ticks coarsely: a
folder that changed within the last two seconds is looked into again, whatever its time says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tiebreak.records.durable import RecordError
from tiebreak.records.store import ATTEMPTS_SUFFIX
from tiebreak.watching.glance import Glance, glance

TICK_NS = 2_000_000_000
"""Coarsest step of a file system's clock that is reckoned with, in nanoseconds."""


@dataclass(slots=True, kw_only=True)
class CellFolder:
    """What was found in the folder of a cell.

    Args:
        stamp: the folder's time when it was looked into.
        seen_at: when that was, by a clock of this process's own.
        records: by replicate, a record at a glance, or why the file in its place is none.
        marks: by replicate, what tells whether the file is still the same.
        attempts: the replicates that somebody has attempted.
    """

    stamp: int
    seen_at: int
    records: dict[str, Glance | str] = field(default_factory=dict)
    marks: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    attempts: frozenset[str] = frozenset()


class CellFolders(Mapping[str, CellFolder]):
    """The folders of cells by their names, as they were when they were last looked at.

    Args:
        results: the results folder; it need not exist yet.
    """

    def __init__(self, results: Path) -> None:
        self._home = str(results / "records")
        self._known: dict[str, CellFolder] = {}

    def __getitem__(self, name: str) -> CellFolder:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def look(self) -> set[str]:
        """Bring them up to date; the names of those that were looked into, and of those that are gone."""
        stamps: dict[str, int] = {}
        with suppress(OSError), os.scandir(self._home) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        stamps[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
        looked_into = self._known.keys() - stamps.keys()
        newest, now = max(stamps.values(), default=0), time.monotonic_ns()
        for name in looked_into:
            del self._known[name]
        for name, stamp in stamps.items():
            known = self._known.get(name)
            if known is None or known.stamp != stamp:
                # Only one that is old by the folders' own clock can be taken as it stands.
                seen_at = now - TICK_NS if stamp < newest - TICK_NS else now
            elif now - known.seen_at < TICK_NS:
                seen_at = known.seen_at
            else:
                continue
            self._known[name] = self._read(name, stamp=stamp, seen_at=seen_at, known=known)
            looked_into.add(name)
        return looked_into

    def _read(self, name: str, *, stamp: int, seen_at: int, known: CellFolder | None) -> CellFolder:
        folder = CellFolder(stamp=stamp, seen_at=seen_at)
        attempts = []
        try:
            with os.scandir(f"{self._home}/{name}") as found:
                entries = list(found)
        except OSError:
            return folder
        for entry in entries:
            replicate, dot, suffix = entry.name.partition(".")
            if not dot or not replicate.isdecimal():
                continue
            if suffix == "jsonl":
                self._read_record(folder, replicate, entry, known)
            elif f".{suffix}" == ATTEMPTS_SUFFIX:
                attempts.append(replicate)
        folder.attempts = frozenset(attempts)
        return folder

    def _read_record(
        self, folder: CellFolder, replicate: str, entry: os.DirEntry[str], known: CellFolder | None
    ) -> None:
        try:
            stat = entry.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if known is not None and known.marks.get(replicate) == mark:
                folder.records[replicate] = known.records[replicate]
            else:
                folder.records[replicate] = glance(entry.path)
            folder.marks[replicate] = mark
        except FileNotFoundError:
            return
        except (RecordError, OSError) as error:
            folder.records[replicate] = str(error)
