"""Which rows are worth watching while a trial runs, and how they read as metrics.

A training curve is told row by row. Gaps and certificates come by the thousand: they are told as a summary
so far, after 1, 2, 4, 8, ... draws. What is told is a function of the rows alone, so a mirror that is rebuilt
from a record is the one that was watched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tiebreak.records.record import Record
from tiebreak.records.session import Row, Scalar

AXES = {
    "epoch": "epoch",
    "nonfinite": "step",
    "drift": "epoch",
    "candidate": "candidate",
    "best": "",
    "noise": "draw",
    "gaps": "draw",
    "certificates": "draw",
}
"""The kinds of rows that are told, each with the field it is drawn over."""

_SUMMARISED = {"gap": "gaps", "certificate": "certificates"}
_NAMES = frozenset({"row", "jacobian", "copy"})  # fields that are part of a metric's name


@dataclass
class _SoFar:
    """What a Jacobian's gaps or certificates come to so far."""

    num_draws: int = 0
    num_different: int = 0
    num_undecided: int = 0
    l2_max: float = 0.0
    relative_max: float = 0.0

    def add(self, row: Row) -> None:
        self.num_draws += 1
        if row["row"] == "certificate":
            different = row.get("different")
            self.num_different += different is True
            self.num_undecided += different is None
        elif row.get("nonfinite"):
            self.num_undecided += 1
        else:
            self.num_different += _number(row.get("gap_sup")) > 0.0
            self.l2_max = max(self.l2_max, _number(row.get("gap_l2")))
            self.relative_max = max(self.relative_max, _number(row.get("gap_relative")))


@dataclass
class Told:
    """What is told of one trial's rows, in their order.

    Example:
        >>> told = Told()
        >>> told.see({"row": "pool", "draw": 0})
        >>> told.see({"row": "best", "lr": 0.1})
        {'row': 'best', 'lr': 0.1}
    """

    _so_far: dict[tuple[Scalar, ...], _SoFar] = field(default_factory=dict)
    _last: dict[tuple[Scalar, ...], Row] = field(default_factory=dict)

    def see(self, row: Row) -> Row | None:
        """Take in a row that was emitted; what is to be told of it, if anything.

        Args:
            row: as the protocol emitted it; it is not kept.
        """
        kind = str(row["row"])
        if kind in AXES:
            return dict(row)
        if kind not in _SUMMARISED:
            return None
        key = (kind, row.get("epoch"), row.get("jacobian"))
        so_far = self._so_far.setdefault(key, _SoFar())
        so_far.add(row)
        self._last[key] = row
        return _summary(row, so_far) if so_far.num_draws & (so_far.num_draws - 1) == 0 else None

    def totals(self) -> Iterator[Row]:
        """The summaries over all rows so far, one for each kind, epoch and Jacobian."""
        for key, so_far in self._so_far.items():
            yield _summary(self._last[key], so_far)


def _summary(row: Row, so_far: _SoFar) -> Row:
    names = ("epoch", "draw", "jacobian")
    told: Row = {"row": _SUMMARISED[str(row["row"])], **{key: row[key] for key in names if key in row}}
    told["num_draws"] = so_far.num_draws
    if row["row"] == "gap":
        told |= {"num_nonzero": so_far.num_different, "num_nonfinite": so_far.num_undecided}
        told |= {"l2_max": so_far.l2_max, "relative_max": so_far.relative_max}
    else:
        told |= {"num_different": so_far.num_different, "num_undecided": so_far.num_undecided}
    return told


def told_rows(rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """What is told of all rows of a record, each with the index of the row after which it is told."""
    told = Told()
    for index, row in enumerate(rows):
        if (said := told.see(row)) is not None:
            yield index, said


def metrics(row: Row) -> dict[str, Scalar]:
    """A told row as metrics: `kind/field`, or `kind/jacobian/field` where the row is about one.

    Example:
        >>> metrics({"row": "drift", "epoch": 1, "jacobian": "minimal", "copy": 1, "distance_l2": 0.5})
        {'drift/epoch': 1, 'drift/minimal-1/distance_l2': 0.5}
    """
    kind = str(row["row"])
    who = f"{row['jacobian']}{f'-{copy}' if (copy := row.get('copy')) else ''}/" if "jacobian" in row else ""
    axes = {AXES[kind], "epoch", "step", "draw"}
    return {
        f"{kind}/{key}" if key in axes else f"{kind}/{who}{key}": value
        for key, value in row.items()
        if key not in _NAMES and value is not None
    }


def summary(record: Record) -> dict[str, Any]:
    """What is searched for when a trial has ended: its outcome, and the last value of every metric.

    A number that is not finite is spelled out as in the record, because W&B's summary has no word for NaN.

    Args:
        record: the trial's.
    """
    told = Told()
    rows = [said for row in record.rows if (said := told.see(row)) is not None]
    last = {key: value for row in (*rows, *told.totals()) for key, value in metrics(row).items()}
    outcome = record.outcome
    ending: dict[str, Any] = {
        "outcome": str(outcome.kind),
        "reason": outcome.reason,
        "elapsed_seconds": record.elapsed_seconds,
        "num_rows": len(record.rows),
    }
    if outcome.step is not None:
        ending["step"] = outcome.step
    return {key: _spelled(value) for key, value in (last | ending).items()}


def _spelled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else 0.0
