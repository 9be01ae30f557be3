"""Where records lie: one file a trial, found by the trial's own identity."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import SCHEMA, AnyCell, AnyTrial
from tiebreak.design.stored import read_cell
from tiebreak.design.study import Part, Study
from tiebreak.records.durable import (
    TEMPORARY,
    RecordError,
    StoreError,
    create,
    explained,
    make_folder,
    replace,
)
from tiebreak.records.migrate import MIGRATIONS, Migration, former_ids, migrated
from tiebreak.records.record import (
    CorruptRecord,
    Ended,
    NewerRecord,
    Record,
    check_seal,
    parse,
    read_ending,
)
from tiebreak.records.session import OutcomeKind

ATTEMPTS_SUFFIX = ".attempts"
_log = logging.getLogger(__name__)


class AlreadyRecorded(RecordError):  # noqa: N818 - the answer of a race, not an accident
    """Another writer's record of this trial stands; ours was dropped."""


def attempts_of(trial: str, *, root: Path) -> Path:
    """The folder of the attempts at the trial of an id, in a results folder.

    Example:
        >>> attempts_of("3c00063419b3/0000", root=Path("results")).as_posix()
        'results/records/3c00063419b3/0000.attempts'
    """
    return root / "records" / f"{trial}{ATTEMPTS_SUFFIX}"


class RecordStore:
    """The records and studies under one results folder.

    A record appears whole or not at all, and the first writer of a trial wins. One that is found damaged is
    renamed to `<name>.corrupt-<n>`, told to `notice`, and from then on the trial counts as not done.

    Args:
        root: the results folder; it need not exist yet.
        notice: receives a sentence about each record that was set aside; by default a warning is logged.
        migrations: from each older schema of a cell, the function to the next.
        only_looks: leave a damaged record where it is; it is told and counts as not done all the same.

    Example:
        >>> [record.outcome for record in RecordStore(Path("/nonexistent")).records()]
        []
    """

    def __init__(
        self,
        root: Path,
        *,
        notice: Callable[[str], None] = _log.warning,
        migrations: Mapping[int, Migration] = MIGRATIONS,
        only_looks: bool = False,
    ) -> None:
        self.root = Path(root)
        self._only_looks = only_looks
        self._told: set[Path] = set()
        self._notice = notice
        self._migrations = migrations

    def path(self, trial: AnyTrial) -> Path:
        """The file of a trial's record, whether or not it is there.

        A record of an older schema still lies under the id that the cell had then, and is found there.
        """
        home = self._place(trial.cell.id, trial)
        if not home.exists():
            for former in former_ids(trial.cell, migrations=self._migrations):
                if (old := self._place(former, trial)).exists():
                    return old
        return home

    def _place(self, identity: str, trial: AnyTrial) -> Path:
        return self.root / "records" / identity / f"{trial.replicate:04d}.jsonl"

    def attempts_folder(self, trial: AnyTrial) -> Path:
        """The folder beside the record that keeps how each attempt at the trial went."""
        return attempts_of(trial.id, root=self.root)

    def read(self, trial: AnyTrial) -> Record | None:
        """The record of a trial; None if there is none or it was damaged and has been set aside.

        Raises:
            NewerRecord: it was written by a later version.
            StoreError: the file is there and cannot be read.
        """
        return self._read(self.path(trial), known=trial.cell)

    def is_done(self, trial: AnyTrial) -> bool:
        """Whether an undamaged record stands: its sum is checked, its rows are not read.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self.path(trial)
        found = _content(path)
        if found is None:
            return False
        content, inode = found
        try:
            check_seal(content)
        except CorruptRecord as damage:
            self._set_aside(path, inode=inode, damage=damage)
            return False
        return True

    def done(self, trials: Iterable[AnyTrial]) -> frozenset[str]:
        """Ids of those of these trials whose undamaged records stand; `is_done` of each, for thousands.

        Raises:
            StoreError: a file or folder is there and cannot be read.
        """
        return frozenset(trial.id for trial in self.present(trials) if self.is_done(trial))

    def present(self, trials: Iterable[AnyTrial]) -> list[AnyTrial]:
        """Those of these trials that have a file, damaged or not: one look at each cell's folder.

        Raises:
            StoreError: a folder is there and cannot be read.
        """
        trials = list(trials)
        home = self.root / "records"
        names = _names_in(home)
        cells = {trial.cell.id: trial.cell for trial in trials}
        strangers = names - cells.keys()
        files: dict[str, set[str]] = {}
        for identity, cell in cells.items():
            files[identity] = _names_in(home / identity) if identity in names else set()
            if strangers:  # folders of other studies, or of cells as an older schema called them
                for former in strangers.intersection(former_ids(cell, migrations=self._migrations)):
                    files[identity] |= _names_in(home / former)
        return [trial for trial in trials if f"{trial.replicate:04d}.jsonl" in files[trial.cell.id]]

    def ending(self, trial: AnyTrial) -> Ended | None:
        """How a trial ended, from the last line of its record alone; None if it has none or it is damaged.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self.path(trial)
        with explained(path):
            try:
                return read_ending(path)
            except (FileNotFoundError, CorruptRecord):
                return None

    def write(self, record: Record) -> Path:
        """Keep a record, for good: it is never replaced.

        Returns:
            The file.

        Raises:
            AlreadyRecorded: another writer was first; its record stands.
            StoreError: it cannot be written; no partial file is left.
        """
        path = self.path(record.trial)
        try:
            create(path, record.to_text().encode())
        except (FileExistsError, FileNotFoundError):  # the winner may have swept our unfinished file
            if not path.exists():
                raise
            raise AlreadyRecorded(
                f"Trial {record.trial.id} has a record already. The first one stands; this one was dropped."
            ) from None
        for leftover in path.parent.glob(f"{TEMPORARY}{path.name}-*"):  # of writers that were killed
            with suppress(OSError):
                leftover.unlink()
        return path

    def records(self) -> Iterator[Record]:
        """Every record, by cell id and replicate; those of an older schema brought to the present one.

        Raises:
            NewerRecord: one was written by a later version.
            StoreError: one cannot be read.
        """
        for path in sorted(self.root.glob("records/*/*.jsonl")):
            record = self._read(path)
            if record is not None and self.path(record.trial) == path:  # else a later copy stands for it
                yield record

    def reopen(self, trial: AnyTrial, *, outcome: OutcomeKind = OutcomeKind.FAILED) -> bool:
        """Set the record of a trial that ended so aside, so that it is run again.

        It is kept among the attempts as `<outcome>-<number of the last attempt before it>.jsonl`; those
        attempts no longer count towards the bound on failures.

        Returns:
            Whether there was such a record. One with another outcome is never touched.
        """
        record = self.read(trial)
        if record is None or record.outcome.kind is not outcome:
            return False
        folder = self.attempts_folder(trial)
        with explained(folder):
            make_folder(folder)
            last = max((int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()), default=0)
            try:
                os.replace(self.path(trial), folder / f"{outcome}-{last}.jsonl")
            except FileNotFoundError:
                return False  # another process was faster
        return True

    def set_aside_as(self, trial: AnyTrial) -> OutcomeKind | None:
        """The outcome in the last record of a trial that `reopen` set aside; None if it set none aside."""
        found = []
        for path in self.attempts_folder(trial).glob("*-*.jsonl"):
            outcome, _, number = path.stem.rpartition("-")
            if number.isdecimal() and outcome in list(OutcomeKind):
                found.append((int(number), path.stat().st_mtime_ns, OutcomeKind(outcome)))
        return max(found)[2] if found else None

    def migrate(self) -> int:
        """Re-stamp what an older schema wrote: each record's cell, id and place, and the studies.

        Rows, outcome and provenance stay the same bytes. A record appears in its new place before the old
        file goes, so that one killed here, or another process doing the same, loses nothing; asking again
        goes on. Nothing needs this to be read: an address in a table is the present id, and after this it is
        that of the file too.

        Returns:
            How many records were moved.

        Raises:
            StoreError: one cannot be written; it stands where it was.
        """
        moved = 0
        present = f'{{"kind":"header","schema":{SCHEMA},'.encode()
        for path in sorted(self.root.glob("records/*/*.jsonl")):
            with explained(path), suppress(FileNotFoundError), path.open("rb") as file:
                if file.readline().startswith(present):
                    continue
            record = self._read(path)
            if record is None:  # damaged, or another process was faster
                continue
            home = self._place(record.trial.cell.id, record.trial)
            with suppress(FileExistsError):
                create(home, record.to_text().encode())
            with suppress(OSError):  # none were kept, or the new place has its own
                os.rename(path.with_suffix(ATTEMPTS_SUFFIX), home.with_suffix(ATTEMPTS_SUFFIX))
            with explained(path):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # the old folder stays if something else is in it
                path.parent.rmdir()
            moved += 1
        for name in self.studies():
            self.write_study(self.read_study(name))
        return moved

    def study_path(self, name: str) -> Path:
        """The file of a study, whether or not it is there."""
        return self.root / "studies" / f"{name}.json"

    def write_study(self, study: Study) -> Path:
        """Keep what a study asks and which trials answer it; replaces what stood under its name.

        A file that says the same already is left as it is, so its time tells when the study last changed.

        Raises:
            StoreError: it cannot be written; the old file stands.
        """
        cells = {cell.id: cell.to_dict() for part in study.parts for cell in part.cells}
        tree = {
            "schema": SCHEMA,
            "name": study.name,
            "question": study.question,
            "hypothesis": study.hypothesis,
            "parts": [
                {
                    "name": part.name,
                    "num_replicates": part.num_replicates,
                    "cells": [cell.id for cell in part.cells],
                    "trials": [trial.id for trial in part.trials],
                }
                for part in study.parts
            ],
            "cells": cells,
        }
        path = self.study_path(study.name)
        content = (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode()
        found = _content(path)
        if found is None or found[0] != content:
            replace(path, content)
        return path

    def read_study(self, name: str) -> Study:
        """A study that was kept, its cells brought to the present schema.

        Raises:
            RecordError: there is none of this name, it is damaged, or a later version wrote it.
        """
        path = self.study_path(name)
        found = _content(path)
        if found is None:
            known = ", ".join(self.studies()) or "none yet"
            raise RecordError(f"There is no study {name!r} at {path}. Studies that were run: {known}.")
        try:
            study = _study_from_tree(json.loads(found[0]), self._migrations)
        except NewerRecord:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path} is not a study file ({error}). Run the study again: that rewrites it."
            ) from error
        if study.name != name:
            raise RecordError(
                f"{path} states the name {study.name!r}: it is a copy, or was renamed. Move it away, or back."
            )
        return study

    def studies(self) -> tuple[str, ...]:
        """Names of the studies that were kept."""
        folder = self.root / "studies"
        return tuple(
            path.relative_to(folder).with_suffix("").as_posix()
            for path in sorted(folder.rglob("*.json"))
            if not path.name.startswith(TEMPORARY)
        )

    def _read(self, path: Path, *, known: AnyCell | None = None) -> Record | None:
        found = _content(path)
        if found is None:
            return None
        content, inode = found
        place = f"{path.parent.name}/{path.stem}"
        try:
            return parse(content, place=place, known=known, migrations=self._migrations)
        except CorruptRecord as damage:
            self._set_aside(path, inode=inode, damage=damage)
            return None

    def _set_aside(self, path: Path, *, inode: int, damage: CorruptRecord) -> None:
        if self._only_looks:
            if path not in self._told:
                self._told.add(path)
                self._notice(f"The record {path} is damaged: {damage}. A run sets it aside and begins anew.")
            return
        with explained(path):
            number = 1
            while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
                number += 1
            try:
                os.rename(path, aside)
            except FileNotFoundError:
                return  # another process was faster
            if (
                aside.stat().st_ino != inode
            ):  # ... and has already put a good record in its place: give it back
                with suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
                return
        self._notice(
            f"The record {path} is damaged: {damage}. It was renamed to {aside.name}; its trial is run again."
        )


def _names_in(folder: Path) -> set[str]:
    """What lies in a folder; nothing if it is not there."""
    with explained(folder):
        try:
            return set(os.listdir(folder))
        except FileNotFoundError:
            return set()


def _content(path: Path) -> tuple[bytes, int] | None:
    """The bytes of a file and its inode; None if it is not there."""
    with explained(path):
        try:
            with path.open("rb") as file:
                return file.read(), os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise StoreError(f"{path} should be a file and is a folder. Move it away.") from None


def _study_from_tree(tree: Mapping[str, Any], migrations: Mapping[int, Migration]) -> Study:
    if tree["schema"] > SCHEMA:
        raise NewerRecord(
            f"The study {tree['name']} has schema {tree['schema']}, and this version reads up to {SCHEMA}. "
            "Update tiebreak to read it."
        )
    cells = {
        identity: read_cell(migrated(cell, schema=tree["schema"], migrations=migrations))
        for identity, cell in tree["cells"].items()
    }
    if tree["schema"] == SCHEMA and any(identity != cell.id for identity, cell in cells.items()):
        raise DesignError("a cell does not have the id it is listed under")
    return Study(
        name=_text(tree, "name"),
        question=_text(tree, "question"),
        hypothesis=_text(tree, "hypothesis"),
        parts=tuple(
            Part(
                name=part["name"],
                cells=tuple(cells[identity] for identity in part["cells"]),
                num_replicates=part["num_replicates"],
            )
            for part in tree["parts"]
        ),
    )


def _text(tree: Mapping[str, Any], key: str) -> str:
    if not isinstance(tree[key], str):
        raise DesignError(f"{key} must be a text, got {tree[key]!r}")
    return tree[key]
