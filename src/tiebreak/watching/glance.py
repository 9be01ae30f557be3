"""What a record says at its two ends: who made it and how it ended, without its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiebreak.design.cell import SCHEMA
from tiebreak.records.durable import RecordError, explained
from tiebreak.records.record import CorruptRecord, NewerRecord, row_from_json
from tiebreak.records.session import Outcome, OutcomeKind, Row

_BLOCK = 4096
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The header and the closing line of a record, and the last row before it.

    The seal is not checked, for which every byte would have to be read; `records.store` does so.

    Args:
        schema: of the cell, when it was written.
        outcome: how the trial ended.
        elapsed_seconds: what measuring took.
        num_rows: rows between header and closing line.
        started: when measuring began, UTC; empty where the record does not say.
        ended: when it ended, UTC; empty where the record does not say.
        commit: of the code; empty where it is not known.
        device_name: model of the device.
        last_row: the last measured row, if there is one.
    """

    schema: int
    outcome: Outcome
    elapsed_seconds: float
    num_rows: int
    started: str
    ended: str
    commit: str
    device_name: str
    last_row: Row | None


def glance(path: Path | str) -> Glance:
    """Read a record at both ends.

    Raises:
        CorruptRecord: it has no whole header or closing line.
        NewerRecord: a later version wrote it.
        StoreError: it cannot be read.
        FileNotFoundError: it is not there.
    """
    with explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(descriptor, 4 * _BLOCK + 1, 0)
            if len(content) <= 4 * _BLOCK:  # most are whole by then
                first, *before, last = _ends(content)
            else:
                size = os.fstat(descriptor).st_size
                first = _first_line(descriptor, size)
                *before, last = _last_lines(descriptor, size)
        finally:
            os.close(descriptor)
    try:
        header, closing = json.loads(first), json.loads(last)
        if header["schema"] > SCHEMA:
            place = Path(path)
            raise NewerRecord(
                f"The record {place.parent.name}/{place.stem} has schema {header['schema']}, and this "
                f"version reads up to {SCHEMA}. Update tiebreak to read it."
            )
        if closing["kind"] != "end" or "sha256" not in closing:
            raise CorruptRecord("it has no whole closing line, so it was cut short")
        provenance: Mapping[str, Any] = header["provenance"]
        return Glance(
            schema=header["schema"],
            outcome=Outcome(**{**closing["outcome"], "kind": OutcomeKind(closing["outcome"]["kind"])}),
            elapsed_seconds=float(closing["elapsed_seconds"]),
            num_rows=int(closing["num_rows"]),
            started=str(provenance.get("started") or ""),
            ended=str(provenance.get("ended") or ""),
            commit=str(provenance.get("commit") or ""),
            device_name=str(provenance.get("device_name") or ""),
            last_row=row_from_json(before[-1].decode()) if before and closing["num_rows"] else None,
        )
    except RecordError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(f"its ends are not those of a record: {type(error).__name__}: {error}") from None


def _ends(content: bytes) -> list[bytes]:
    """The first line and the last two; there must be two lines at least, each of them ended."""
    if not content.endswith(b"\n"):
        raise CorruptRecord("it has no whole closing line, so it was cut short")
    first, mark, rest = content.partition(b"\n")
    lines = rest[:-1].rsplit(b"\n", 2)[-2:]
    if not mark or not rest:
        raise CorruptRecord("it has no whole closing line, so it was cut short")
    return [first, *lines]


def _first_line(descriptor: int, size: int) -> bytes:
    """The first line; all of the first megabyte where no line ends in it."""
    block = os.pread(descriptor, _BLOCK, 0)
    while b"\n" not in block and len(block) < min(size, _LONGEST_LINE):
        more = os.pread(descriptor, len(block), len(block))
        if not more:
            break
        block += more
    return block.partition(b"\n")[0]


def _last_lines(descriptor: int, size: int) -> list[bytes]:
    """The last line, and before it the one before if it is no longer than a megabyte."""
    length = _BLOCK
    while True:
        start = max(0, size - length)
        block = os.pread(descriptor, size - start, start)
        if not block.endswith(b"\n"):
            raise CorruptRecord("it has no whole closing line, so it was cut short")
        lines = block.splitlines()
        if len(lines) > 2 or not start:
            return lines[-2:]
        if length >= _LONGEST_LINE:
            return lines[-1:]
        length *= 8
