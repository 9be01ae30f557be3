"""Curves of trials: what a protocol measured epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiebreak.records.durable import RecordError
from tiebreak.records.record import Record
from tiebreak.records.session import Row
from tiebreak.records.store import RecordStore
from tiebreak.watching.glance import Glance
from tiebreak.watching.standing import Standing, State

MOST_CURVES = 60
"""Curves in one plot; more can be told apart by nobody."""

_KEPT_RECORDS = 200

_ALONG = {"epoch": "epoch", "drift": "epoch", "candidate": "candidate"}
"""Kinds of rows that make a curve, and the field that they are drawn along."""

_SIDES = ("jacobian", "copy")
_NOT_MEASURED = ("epoch", "step", "candidate", "draw", "pool", "test_images", *_SIDES)


@dataclass(kw_only=True)
class Curve:
    """One line of a plot.

    Args:
        trial: whose it is.
        label: what tells it from the trial's other curves; empty if it is the only one.
        points: place along the axis and value; None where the value is no finite number.
        state: how the trial ended.
        step: of the first non-finite number, if it diverged.
    """

    trial: str
    label: str
    state: str
    step: int | None
    points: list[tuple[float, float | None]] = field(default_factory=list)

    def to_tree(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "trial": self.trial,
            "label": self.label,
            "state": self.state,
            "step": self.step,
            "x": [place for place, _ in self.points],
            "y": [value for _, value in self.points],
        }


class Records:
    """Whole records, the last few hundred of which are kept in memory.

    Args:
        results: the results folder.
    """

    def __init__(self, results: Path) -> None:
        self.store = RecordStore(results, only_looks=True, notice=lambda text: None)
        self._kept: dict[str, tuple[Glance, Record]] = {}

    def read(self, standing: Standing) -> Record | None:
        """The record of a trial, its seal checked; None if there is none that can be read."""
        if standing.record is None:
            return None
        key = standing.trial.id
        kept = self._kept.get(key)
        if kept is not None and kept[0] is standing.record:
            return kept[1]
        try:
            record = self.store.read(standing.trial)
        except RecordError:
            return None
        if record is not None:
            while len(self._kept) >= _KEPT_RECORDS:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[key] = (standing.record, record)
        return record


def measured_fields(records: Iterable[Record]) -> tuple[str, ...]:
    """Names of the numbers that the records have curves of."""
    found: dict[str, None] = {}
    for record in records:
        for row in record.rows:
            if row["row"] in _ALONG:
                found.update(
                    dict.fromkeys(
                        name for name, value in row.items() if _is_number(value) and name not in _NOT_MEASURED
                    )
                )
    preferred = ("test_accuracy", "test_loss", "train_loss", "train_accuracy")
    return (
        *(name for name in preferred if name in found),
        *(name for name in found if name not in preferred),
    )


def curves(standing: Standing, record: Record, *, of: str) -> list[Curve]:
    """The curves of one measured number in one record; several where the protocol compares Jacobians."""
    found: dict[str, Curve] = {}
    diverged = standing.state is State.DIVERGED
    for row in record.rows:
        along = _ALONG.get(str(row["row"]))
        if along is None or of not in row:
            continue
        label = _label(row)
        curve = found.get(label)
        if curve is None:
            curve = found[label] = Curve(
                trial=standing.trial.id,
                label=label,
                state=str(standing.state),
                step=record.outcome.step if diverged else None,
            )
        value, place = row[of], row[along]
        if isinstance(place, int | float):
            finite = isinstance(value, int | float) and value - value == 0
            curve.points.append((float(place), float(value) if finite else None))  # type: ignore[arg-type]
    if not found and standing.record is not None:
        found[""] = Curve(
            trial=standing.trial.id, label="", state=str(standing.state), step=record.outcome.step
        )
    return list(found.values())


def _label(row: Row) -> str:
    words = [f"copy {row[name]}" if name == "copy" else str(row[name]) for name in _SIDES if row.get(name)]
    return " ".join(words)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
