"""One CSV file of the published repository as numbers, with words on every row that does not count or is odd.

The file is taken apart field by field: a reader of tables would shift the columns of a row that is too long
and fill one that is too short.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tiebreak.report.wording import count, listed

MOST_BYTES = 64 * 2**20
"""Size of a file from which on it is passed over; the largest that was published has half a megabyte."""

_LARGEST = sys.float_info.max
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns that a kind of file must have; others are passed over.

    Args:
        whole: keys that are whole numbers from 0 on.
        finite: keys that are finite numbers. A row counts only if all its keys are numbers.
        measured: what was measured, with the smallest and largest value that it can have.
    """

    whole: tuple[str, ...]
    finite: tuple[str, ...]
    measured: Mapping[str, tuple[float, float]]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which what is wrong is said."""
        return (*self.whole, *self.finite, *self.measured)


LOSS = (0.0, _LARGEST)
SHARE = (0.0, 1.0)
PERCENT = (0.0, 100.0)


class UnreadableError(Exception):
    """A file none of whose rows counts; the message says why and follows the file's name."""


def read_rows(path: Path, columns: Columns) -> tuple[pd.DataFrame, list[str]]:
    """The rows that count, and words on the others.

    Args:
        path: the file; UTF-8, with or without a byte order mark, any line ends.
        columns: which it must have.

    Returns:
        `columns.names` as floats, empty fields as NaN, with the numbers of the lines as index; and what is
        odd, words that follow the file's name.

    Raises:
        UnreadableError: there is no row that counts.
    """
    header, lines = _fields(_text(path))
    _require(header, columns.names)
    whole = {number: fields for number, fields in lines.items() if len(fields) == len(header)}
    remarks = []
    if broken := sorted(lines.keys() - whole.keys()):
        remarks.append(
            f"has {count(len(broken), 'row')} of another length than the header ({_at(broken)}); passed over"
        )
    frame, spelled = _numbers(whole, {name: header.index(name) for name in columns.names})
    if spelled:
        first, (name, word) = next(iter(spelled.items()))
        remarks.append(
            f"holds what is no number in {count(len(spelled), 'row')} ({_at([*spelled])}; {name} on line "
            f"{first} is {word!r}); passed over"
        )
    for name in (*columns.whole, *columns.finite):
        kept, kind = np.isfinite(frame[name]), "is empty or no finite number"
        if name in columns.whole:
            kept &= (frame[name] >= 0) & (frame[name] % 1 == 0)
            kind = "is empty, negative or no whole number"
        if not kept.all():
            odd = frame.index[~kept].tolist()
            remarks.append(f"has {count(len(odd), 'row')} whose {name} {kind} ({_at(odd)}); passed over")
        frame = frame[kept]
    if not len(frame):
        raise UnreadableError("; ".join([*remarks, "has no row that counts; it was passed over"]))
    return frame, [*remarks, *_outside(frame, columns.measured)]


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise UnreadableError("is no file that can be read; it was passed over")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UnreadableError(
                f"has {size / 2**20:.0f} MiB, more than the {MOST_BYTES / 2**20:.0f} MiB that are read; it "
                "was passed over"
            )
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error}); it was passed over") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(f"cannot be read as a table ({error}); it was passed over") from None


def _fields(text: str) -> tuple[list[str], dict[int, list[str]]]:
    """The header, and the fields of each row by the number of its line; empty lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: dict[int, list[str]] = {}
    try:
        header = next(filter(None, reader), [])
        for fields in filter(None, reader):
            lines[reader.line_num] = fields
    except csv.Error as error:
        raise UnreadableError(f"cannot be read as a table ({error}); it was passed over") from None
    if not header:
        raise UnreadableError("cannot be read as a table (it is empty); it was passed over")
    return [name.strip() for name in header], lines


def _require(header: Sequence[str], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in header]:
        raise UnreadableError(f"has no column {', '.join(missing)}; it was passed over")
    if twice := [name for name in names if header.count(name) > 1]:
        raise UnreadableError(f"has more than one column {', '.join(twice)}; it was passed over")


def _numbers(
    lines: Mapping[int, Sequence[str]], places: Mapping[str, int]
) -> tuple[pd.DataFrame, dict[int, tuple[str, str]]]:
    """The rows as floats; of each row that is none, its line with the column and the word that is none."""
    numbers: dict[int, list[float]] = {}
    spelled: dict[int, tuple[str, str]] = {}
    for line, fields in lines.items():
        values = {name: _number(fields[place]) for name, place in places.items()}
        found = [value for value in values.values() if value is not None]
        if len(found) == len(values):
            numbers[line] = found
        else:
            name = next(name for name, value in values.items() if value is None)
            spelled[line] = name, fields[places[name]][:40]
    frame = pd.DataFrame.from_dict(numbers, orient="index", columns=[*places], dtype=float)
    return frame, spelled


def _number(word: str) -> float | None:
    """What a field holds: NaN if it is empty, None if it is no number; 1e400 is infinite."""
    word = word.strip()
    if not word:
        return math.nan
    try:
        return None if "_" in word else float(word)
    except ValueError:
        return None


def _outside(frame: pd.DataFrame, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """Words on values that a quantity cannot have. NaN is a result, and is counted with the runs."""
    remarks = []
    for name, (low, high) in ranges.items():
        odd = frame.index[(frame[name] < low) | (frame[name] > high)].tolist()
        if odd:
            words = "negative or infinite" if high == _LARGEST else f"outside {low:g} to {high:g}"
            remarks.append(
                f"has {count(len(odd), 'row')} whose {name} is {words} ({_at(odd)}); kept as it stands"
            )
    return remarks


def _at(lines: Sequence[int]) -> str:
    """Where rows are.

    Example:
        >>> _at([3]), _at([3, 5]), _at([3, 5, 7, 9, 11])
        ('line 3', 'lines 3 and 5', 'lines 3, 5, 7 and 2 more')
    """
    shown = [str(line) for line in lines[:_SHOWN]]
    more = [f"{len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return f"line{'s' if len(lines) > 1 else ''} {listed([*shown, *more])}"
