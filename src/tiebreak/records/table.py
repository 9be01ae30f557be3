"""Records as data frames. Every trial of a study has its row, measured or not; nothing is filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import AnyTrial
from tiebreak.design.study import Part, Study
from tiebreak.records.durable import RecordError
from tiebreak.records.record import Record
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore

MISSING = "missing"
"""The outcome, in a table, of a trial that has no record."""


class ReadOnce:
    """The records of a store, each read once however many tables are made of it, and kept until then.

    Args:
        store: where the records are.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._known: dict[str, Record | None] = {}

    def read(self, trial: AnyTrial) -> Record | None:
        """As `RecordStore.read` says it, at the first time."""
        if trial.id not in self._known:
            self._known[trial.id] = self._store.read(trial)
        return self._known[trial.id]


class PoolingError(RecordError):
    """Records of different devices, or of different versions of torch, were about to become one table."""


def trials_frame(
    store: RecordStore | ReadOnce,
    study: Study | Part,
    *,
    pool_devices: bool = False,
    pool_versions: bool = False,
) -> pd.DataFrame:
    """One row for each trial of a study or of one of its parts.

    Columns: `trial`, every axis of the cell (`Cell.axes`), `replicate`, `outcome` (`missing` if there is no
    record), `step` of the first non-finite number, `reason` of a failure, `elapsed_seconds`, and from the
    provenance `commit`, `dirty`, `device_name`, `cpu`, `torch` and `ended`.

    Args:
        store: where the records are.
        study: which trials.
        pool_devices: whether records of different devices may share the table.
        pool_versions: whether records of different versions of torch may.

    Raises:
        PoolingError: they come from different devices or versions, and that is not allowed.
    """
    pairs = _records(store, study, pool_devices=pool_devices, pool_versions=pool_versions)
    cells = {trial.cell.id: trial.cell for trial, _ in pairs}
    axes = {identity: cell.axes() for identity, cell in cells.items()}
    return _frame([_trial_row(trial, record, axes[trial.cell.id]) for trial, record in pairs])


def rows_frame(
    store: RecordStore | ReadOnce,
    study: Study | Part,
    *,
    row: str,
    axes: Sequence[str] | None = None,
    pool_devices: bool = False,
    pool_versions: bool = False,
) -> pd.DataFrame:
    """Every measured row of one kind, with the axes of its cell.

    Columns: `trial`, `cell`, `replicate`, `outcome` of its trial, the axes, then the fields of the row. An
    axis that has the name of a field (the learning rate that was asked for, and the one of the epoch) is
    called `cell_<axis>`. Numbers that are not finite stay; None becomes pandas' missing value.

    Args:
        store: where the records are.
        study: which trials.
        row: kind of the rows, such as `gap` or `epoch`.
        axes: names from `Cell.axes`; by default those that differ between the cells.
        pool_devices: whether records of different devices may share the table.
        pool_versions: whether records of different versions of torch may.

    Raises:
        DesignError: an axis that the study's cells do not have.
        PoolingError: the records come from different devices or versions, and that is not allowed.
    """
    cells = {trial.cell.id: trial.cell for trial in study.trials}
    trees = {identity: cell.axes() for identity, cell in cells.items()}
    chosen = _varying(trees.values()) if axes is None else list(axes)
    known = list(dict.fromkeys(name for tree in trees.values() for name in tree))
    for name in chosen:
        if name not in known:
            raise DesignError(f"The axis {name!r} is not one of this study's. They are: {', '.join(known)}.")
    chosen = [name for name in chosen if name not in ("cell", "replicate", "trial", "outcome")]
    measured = [
        (trial, record, fields)
        for trial, record in _records(store, study, pool_devices=pool_devices, pool_versions=pool_versions)
        if record is not None
        for fields in record.rows
        if fields["row"] == row
    ]
    taken = {name for *_, fields in measured for name in fields}
    called = {name: f"cell_{name}" if name in taken else name for name in chosen}
    if not measured:
        return pd.DataFrame(columns=["trial", "cell", "replicate", "outcome", *called.values()])
    return _frame(
        [
            {
                "trial": trial.id,
                "cell": trial.cell.id,
                "replicate": trial.replicate,
                "outcome": str(record.outcome.kind),
                **{called[name]: trees[trial.cell.id].get(name) for name in chosen},
                **{name: value for name, value in fields.items() if name != "row"},
            }
            for trial, record, fields in measured
        ]
    )


def _records(
    store: RecordStore | ReadOnce, study: Study | Part, *, pool_devices: bool, pool_versions: bool
) -> list[tuple[AnyTrial, Record | None]]:
    pairs = [(trial, store.read(trial)) for trial in study.trials]
    # A failed trial measured nothing.
    measured = [
        record.provenance
        for _, record in pairs
        if record is not None and record.outcome.kind is not OutcomeKind.FAILED
    ]
    if not pool_devices:
        devices = Counter(
            f"{origin.get('device', '?')} {origin.get('device_name', 'unknown')}" for origin in measured
        )
        _require_one(
            devices,
            f"The records of {study.name} come from different devices",
            "Run the study on one device, or put them into one table with --pool-devices "
            "(pool_devices=True in Python).",
        )
    if not pool_versions:
        versions = Counter(
            f"torch {origin.get('versions', {}).get('torch', 'unknown')}" for origin in measured
        )
        _require_one(
            versions,
            f"The records of {study.name} come from different versions of torch",
            "Run the study with one version, or put them into one table with --pool-versions "
            "(pool_versions=True in Python).",
        )
    return pairs


def _require_one(origins: Counter[str], trouble: str, advice: str) -> None:
    if len(origins) > 1:
        listed = ", ".join(f"{count} from {name}" for name, count in sorted(origins.items()))
        raise PoolingError(f"{trouble}: {listed}. Last bits differ between them. {advice}")


def _trial_row(trial: AnyTrial, record: Record | None, axes: Mapping[str, Any]) -> dict[str, Any]:
    provenance = record.provenance if record else {}
    outcome = record.outcome if record else None
    return {
        "trial": trial.id,
        **axes,
        "replicate": trial.replicate,
        "outcome": str(outcome.kind) if outcome else MISSING,
        "step": outcome.step if outcome else None,
        "reason": outcome.reason if outcome else "",
        "elapsed_seconds": record.elapsed_seconds if record else None,
        "commit": provenance.get("commit"),
        "dirty": provenance.get("dirty"),
        "device_name": provenance.get("device_name"),
        "cpu": provenance.get("cpu"),
        "torch": provenance.get("versions", {}).get("torch"),
        "ended": provenance.get("ended"),
    }


def _varying(trees: Iterable[Mapping[str, Any]]) -> list[str]:
    trees = list(trees)
    names = dict.fromkeys(name for tree in trees for name in tree)
    return [name for name in names if name != "cell" and len({tree.get(name) for tree in trees}) > 1]


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame whose columns keep their type where a value is missing: whole numbers stay whole."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pd.Series:
    kinds = {type(value) for value in values if value is not None}
    missing = any(value is None for value in values)
    if kinds and kinds <= {int, float} and float in kinds:
        return pd.Series(values, dtype="float64")
    if missing and kinds == {int}:
        return pd.Series(values, dtype="Int64")
    if missing and kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    return pd.Series(values, dtype=None if kinds and not missing else "object")
