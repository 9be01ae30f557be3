"""One trial as text: a header, its rows, and a sealed closing line.

Each line is one JSON object. The header says what was run (`cell`, `replicate`) and where from
(`provenance`); every row is a flat object that names its kind in `"row"`; the closing line holds the
outcome and, as its last field, the SHA-256 of every byte of the file before `,"sha256":"`. A file without
that line is unfinished, a file whose sum differs is corrupt.

Numbers survive bit for bit: Python prints the shortest decimal that reads back as the same double. JSON has
no word for the numbers that are not finite, so they are the strings `"nan"`, `"inf"` and `"-inf"`; a *text*
that reads like one of them is stored as `{"text": "nan"}`, so the two are never confused. A NaN's payload
is not kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import SCHEMA, AnyCell, AnyTrial, Trial
from tiebreak.design.stored import read_cell
from tiebreak.records.durable import RecordError
from tiebreak.records.migrate import MIGRATIONS, Migration, identity, migrated
from tiebreak.records.session import Outcome, OutcomeKind, Row, Scalar

_SEAL = b',"sha256":"'
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class CorruptRecord(RecordError):  # noqa: N818 - names the thing found
    """Text that is not a whole record: unfinished, edited or damaged. The message says where."""


class NewerRecord(RecordError):  # noqa: N818 - names the thing found
    """A record of a later version of the program, which this one must not guess at."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of one trial.

    Args:
        trial: what was run.
        provenance: where, when and with which versions, as plain JSON values; see `provenance.collect`.
        rows: the measured rows in the order in which they were emitted.
        outcome: how the trial ended.
        elapsed_seconds: time spent measuring, over all attempts.

    """

    trial: AnyTrial
    provenance: Mapping[str, Any]
    rows: tuple[Row, ...]
    outcome: Outcome
    elapsed_seconds: float

    def to_text(self) -> str:
        """The record as JSON Lines, sealed.

        Raises:
            RecordError: a row that is not a flat object of scalars with its kind in `"row"`.
        """
        cell = self.trial.cell
        header = {
            "kind": "header",
            "schema": SCHEMA,
            "cell": cell.to_dict(),
            "cell_id": cell.id,
            "name": cell.name,
            "replicate": self.trial.replicate,
            "provenance": self.provenance,
        }
        closing = {
            "kind": "end",
            "outcome": {**asdict(self.outcome), "kind": str(self.outcome.kind)},
            "num_rows": len(self.rows),
            "elapsed_seconds": self.elapsed_seconds,
        }
        lines = [_dumps(header), *map(row_to_json, self.rows), _dumps(closing)]
        sealed = "\n".join(lines).removesuffix("}")
        digest = hashlib.sha256(sealed.encode()).hexdigest()
        return f'{sealed},"sha256":"{digest}"}}\n'


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the closing line of a record says."""

    outcome: Outcome
    num_rows: int
    elapsed_seconds: float


def read_ending(path: Path) -> Ended:
    """The closing line of a record, read from the end of its file; its sum is not checked.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptRecord: the file does not end in a closing line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = 4096
        while True:
            file.seek(max(0, size - length))
            tail = file.read()
            line = tail.removesuffix(b"\n").rpartition(b"\n")[2]
            if len(line) + 1 < len(tail) or length >= size:
                break
            length *= 8  # a reason of many words
    try:
        closing = json.loads(line) if tail.endswith(b"\n") else {}
        if closing["kind"] != "end":
            raise CorruptRecord("its last line is no closing line, so it was cut short")
        return _ended(closing)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecord("it has no whole closing line, so it was cut short") from error


def _ended(closing: Mapping[str, Any]) -> Ended:
    return Ended(
        outcome=Outcome(**{**closing["outcome"], "kind": OutcomeKind(closing["outcome"]["kind"])}),
        num_rows=closing["num_rows"],
        elapsed_seconds=closing["elapsed_seconds"],
    )


def parse(
    content: bytes,
    *,
    place: str | None = None,
    known: AnyCell | None = None,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> Record:
    """Read a record back; an older one gets its cell brought to the present schema, its rows as they are.

    Args:
        content: the bytes of the file.
        place: id of the trial whose place the file stands in, compared with the header when given.
        known: the cell of that place, if it is at hand; the ids being equal, it is not built again.
        migrations: from each older schema, the function to the next.

    Raises:
        CorruptRecord: unfinished, edited or damaged, or the record of another trial.
        NewerRecord: written by a later version.
    """
    check_seal(content)
    try:
        header, *rows, closing = (json.loads(line, parse_constant=_refuse) for line in content.splitlines())
        schema, replicate, stored_id = header["schema"], header["replicate"], header["cell_id"]
        if schema > SCHEMA:
            raise NewerRecord(
                f"The record of {stored_id}/{replicate:04d} has schema {schema}, and this version reads up "
                f"to {SCHEMA}. Update tiebreak to read it."
            )
        _check_identity(header, place=place)
        ended = _ended(closing)
        if ended.num_rows != len(rows):
            raise CorruptRecord(f"the closing line counts {ended.num_rows} rows, and there are {len(rows)}")
        if known is None or known.id != stored_id:
            known = _present_cell(header["cell"], schema, migrations)
        return Record(
            trial=Trial(cell=known, replicate=replicate),
            provenance=header["provenance"],
            rows=tuple(_row_from_tree(row) for row in rows),
            outcome=ended.outcome,
            elapsed_seconds=ended.elapsed_seconds,
        )
    except RecordError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(
            f"its lines are not those of a record: {type(error).__name__}: {error}"
        ) from error


def check_seal(content: bytes) -> None:
    """Check that a record is finished and unchanged, without reading its rows.

    Raises:
        CorruptRecord: it is not.
    """
    sealed, mark, digest = content.rpartition(_SEAL)
    if (
        not mark
        or not sealed.rpartition(b"\n")[2].startswith(b'{"kind":"end"')
        or not digest.endswith(b'"}\n')
    ):
        raise CorruptRecord("it has no whole closing line, so it was cut short")
    if digest != f'{hashlib.sha256(sealed).hexdigest()}"}}\n'.encode():
        raise CorruptRecord(
            "its bytes do not have the sum that its closing line states, so they were changed"
        )


def row_to_json(row: Row) -> str:
    """One row as one line of JSON, without the line's end.

    Raises:
        RecordError: a row that is not flat, not scalar, or does not name its kind.

    Example:
        >>> row_to_json({"row": "gap", "gap_l2": float("inf"), "jacobian": "native"})
        '{"row":"gap","gap_l2":"inf","jacobian":"native"}'
    """
    if not isinstance(row.get("row"), str):
        raise RecordError(f'A row names its kind in the text field "row", got {row!r}.')
    return _dumps({key: _encoded(key, value) for key, value in row.items()})


def row_from_json(line: str) -> Row:
    """The inverse of `row_to_json`."""
    return _row_from_tree(json.loads(line, parse_constant=_refuse))


def _present_cell(tree: Mapping[str, Any], schema: int, migrations: Mapping[int, Migration]) -> AnyCell:
    try:
        return read_cell(migrated(tree, schema=schema, migrations=migrations))
    except DesignError as error:
        raise CorruptRecord(f"its cell cannot be: {error}") from error


def _check_identity(header: Mapping[str, Any], *, place: str | None) -> None:
    """Recompute the cell's id as its own schema did: the hash covers every field and the schema number."""
    found = identity(header["cell"], schema=header["schema"])
    if found != header["cell_id"]:
        raise CorruptRecord(
            f"its header states cell {header['cell_id']}, and its fields are those of {found}"
        )
    trial = f"{found}/{header['replicate']:04d}"
    if place is not None and trial != place:
        raise CorruptRecord(f"it is the record of {trial} in the place of {place}")


def _dumps(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _encoded(key: str, value: Scalar) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return {"text": str(value)} if value in _NOT_FINITE else value
    if value is None or isinstance(value, bool | int | float):
        return value
    raise RecordError(
        f"The field {key!r} of a row must be a number, a text, a truth value or None, got "
        f"{type(value).__name__}. Convert it, for example with float(...)."
    )


def _row_from_tree(tree: dict[str, Any]) -> Row:
    row = {key: _decoded(value) for key, value in tree.items()}
    if not isinstance(row.get("row"), str):
        raise CorruptRecord("a row does not name its kind")
    return row


def _decoded(value: Any) -> Scalar:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return cast(str, value["text"])
    return value


def _refuse(word: str) -> float:
    raise CorruptRecord(f"it holds the bare word {word}, which is not JSON")
