"""A folder of tables: CSV files with an index that says what each was made from and what its bytes were.

A table without rows is not written. Nothing is read from a file that is not the one that was written.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.design.study import Study
from tiebreak.records import durable
from tiebreak.records.store import RecordStore
from tiebreak.records.table import MISSING
from tiebreak.report.tables import Frames, build_tables, read_frames
from tiebreak.report.wording import data_words

INDEX = "index.json"
"""File beside the tables that says what each was made from."""

CHECKSUM = "sha256"
"""Key of the index under which the checksum of a table's file stands."""


class TableError(UserError):
    """Tables that cannot be made for want of records, or that are not what `tabulate` wrote: edited by hand,
    lost, or of a version without checksums."""


def write_tables(
    store: RecordStore,
    study: Study,
    folder: Path,
    *,
    command: str | None = None,
    pool_devices: bool = False,
    pool_versions: bool = False,
) -> dict[str, pd.DataFrame]:
    """Make every table of a study and write it to `folder`, with an index of provenance.

    Floats are written in their shortest spelling that reads back to the same number. Tables of an earlier
    run that have no rows now are removed.

    Args:
        store: where the records are.
        study: whose tables.
        folder: made if absent; `<table>.csv` and `index.json` are written.
        command: what to type to make them again, if not `tiebreak tabulate` with this results folder.
        pool_devices: let records of different devices into one table.
        pool_versions: let records of different versions of torch into one table.

    Returns:
        The tables by name.

    Raises:
        PoolingError: records of different devices or versions, unless they may be pooled.
    """
    frames = read_frames(store, study, pool_devices=pool_devices, pool_versions=pool_versions)
    tables = build_tables(frames)
    if command is None:
        flags = pooling_flags(devices=pool_devices, versions=pool_versions)
        command = f"tiebreak tabulate {arguments(study.name, store.root)}{flags}"
    keep_tables(tables, table_index(tables, frames, study=study.name, command=command), folder)
    return tables


def keep_tables(
    tables: Mapping[str, pd.DataFrame], index: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Write tables and their index, with the checksum of each file, so that a later edit is found.

    Args:
        tables: by name; those of an earlier index that are not among them are removed.
        index: what is known of each table, by name.
        folder: made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(read_index(folder)) - set(tables):
        (folder / f"{stale}.csv").unlink(missing_ok=True)
    entries: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        content = to_csv(table).encode()
        durable.replace(folder / f"{name}.csv", content)
        entries[name] = {**index[name], CHECKSUM: hashlib.sha256(content).hexdigest()}
    durable.replace(folder / INDEX, (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode())


def pooling_flags(*, devices: bool, versions: bool) -> str:
    """What a command needs to pool as asked; begins with a blank."""
    return (" --pool-devices" if devices else "") + (" --pool-versions" if versions else "")


def arguments(study: str, results: Path) -> str:
    """What a verb needs to find a study: its name, and the results folder unless it is `results` itself.

    A folder below the working directory is named from there, so that the command holds in any checkout.

    Example:
        >>> arguments("demo", Path("results/demo"))
        'demo results=results/demo'
        >>> arguments("demo", Path("results"))
        'demo'
    """
    here = Path.cwd()
    place = results.absolute()
    place = place.relative_to(here) if place.is_relative_to(here) else place
    named = [] if place == Path("results") else [f"results={place.as_posix()}"]
    return shlex.join([study, *named])


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV text, LF line ends; an empty field is a number that is missing, undefined or NaN."""
    return table.to_csv(index=False, lineterminator="\n")


def table_index(
    tables: Mapping[str, pd.DataFrame], frames: Frames, *, study: str, command: str
) -> dict[str, dict[str, Any]]:
    """What each table was made from: study, commits, devices, number of records, command, dates, rows, and a
    remark on images that are not the official ones.

    Raises:
        TableError: several studies together, as those of the paper, of which none has a record.
    """
    if not len(frames.trials):
        raise TableError(
            f"no study of {study} has a record, so `{command}` has nothing to make tables from. Run one into "
            "that results folder first, for example `tiebreak study paper/zero_program`."
        )
    entries = {}
    for name, table in tables.items():
        made = frames.trials[frames.trials["outcome"] != MISSING]
        if "cell" in table:  # else it is about all cells together
            made = made[made["cell"].isin(table["cell"])]
        ended = sorted(_texts(made, "ended"))
        entries[name] = {
            "study": study,
            "command": command,
            "rows": len(table),
            "records": len(made),
            "commits": sorted(set(_texts(made, "commit"))),
            "devices": sorted(set(_texts(made, "device_name"))),
            "torch": sorted(set(_texts(made, "torch"))),
            "dirty": bool((made["dirty"] == True).any()),  # noqa: E712 - None is neither
            "first": ended[0] if ended else None,
            "last": ended[-1] if ended else None,
            "remark": _remark(frames.cells[frames.cells["cell"].isin(made["cell"])]),
        }
    return entries


def _remark(cells: pd.DataFrame) -> str:
    if "data" not in cells:  # of a study whose cells are about no images
        return ""
    again = sorted(name for name in set(data_words(cells.dropna(subset="data"))) if "jpeg" in name)
    return f"images of {', '.join(again)} are JPEG re-compressions, not the official bytes" if again else ""


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that `write_tables` left in a folder, floats bit for bit.

    Raises:
        TableError: a file is not the one that was written.
    """
    return {
        name: _typed(pd.read_csv(io.BytesIO(_unedited(folder / f"{name}.csv", made)), dtype=str))
        for name, made in read_index(folder).items()
    }


def _unedited(path: Path, made: Mapping[str, Any]) -> bytes:
    """The bytes of a table's file, if they are those that were written."""
    advice = f"Make it again from the records: {made.get('command', 'tiebreak tabulate')}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"{path} is named in {INDEX} and is not there. {advice}") from None
    if CHECKSUM not in made:
        raise TableError(f"{path} has no checksum in {INDEX}: an older version wrote it. {advice}")
    if hashlib.sha256(content).hexdigest() != made[CHECKSUM]:
        raise TableError(
            f"{path} is not what was made from the records: it was edited since. Nothing is drawn from it. "
            f"{advice}"
        )
    return content


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """The index of a folder of tables; empty if there is none."""
    path = folder / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# Names that may look like numbers: a cell id can be all digits, or 123e45678901.
_TEXTS = ("trial", "cell", "reference_cell", "commit", "jacobian", "reference", "folder", "reason", "torch")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {name: column if name in _TEXTS else _parsed(column) for name, column in table.items()}
    )


def _parsed(column: pd.Series) -> pd.Series:
    """Text as truth values or numbers if every field is one; Python's own reading of a float is exact."""
    known = column.dropna()
    if len(known) and known.isin(["True", "False"]).all():
        return column.map({"True": True, "False": False})
    try:
        if len(known) and not known.str.contains(r"[.einEIN]", regex=True).any():
            return column.map(int, na_action="ignore").astype(int if len(known) == len(column) else "Int64")
        return column.map(float, na_action="ignore").astype(float)
    except ValueError:
        return column


def _texts(frame: pd.DataFrame, column: str) -> Iterable[str]:
    return [] if column not in frame else [str(value) for value in frame[column].dropna()]
