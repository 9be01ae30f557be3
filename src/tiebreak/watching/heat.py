"""Trials of a study over two axes, as a grid of numbers. A place without trials or results stays empty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tiebreak.watching.axes import REPLICATE, in_order, spelled
from tiebreak.watching.finding import Entry, final_result
from tiebreak.watching.gaps import Counts, share_nonzero
from tiebreak.watching.standing import State

STEPS = 10
"""Colours from the lowest to the highest number, less one."""


class Shown(StrEnum):
    """What a heat map shows of the trials at each place."""

    DONE = "done"
    DIVERGED = "diverged"
    NOT_LEARNED = "not_learned"
    FAILED = "failed"
    RESULT = "result"
    NONZERO = "nonzero"

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


_WORDS = {
    Shown.DONE: "share done",
    Shown.DIVERGED: "share diverged (of those done)",
    Shown.NOT_LEARNED: "share not learned (of those done)",
    Shown.FAILED: "share failed (of those done)",
    Shown.RESULT: "mean final accuracy",
    Shown.NONZERO: "mean share of nonzero gaps",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of the grid.

    Args:
        total: trials there; 0 where the study has none.
        done: of those, how many have a record.
        value: the number shown; None where nothing says it.
        num: trials that the number is taken over.
        note: what the number leaves out: trials that diverged, or are not done.
        step: colour, from 0 to `STEPS`; None without a number.
        query: the filter that finds these trials.
    """

    total: int
    done: int
    value: float | None
    num: int
    note: str
    step: int | None
    query: str


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A grid over two axes, with the range of its colours."""

    rows: str
    columns: str
    row_names: Sequence[str]
    column_names: Sequence[str]
    places: Sequence[Sequence[Place]]
    low: float
    high: float


def heat_map(
    entries: Iterable[Entry], *, rows: str, columns: str, shown: Shown, counts: Mapping[str, Counts]
) -> HeatMap:
    """Lay trials out over two axes.

    Args:
        entries: the trials.
        rows: axis from top to bottom.
        columns: axis from left to right.
        shown: which number.
        counts: of the gaps, by trial id; needed for `Shown.NONZERO` only.
    """
    groups: dict[tuple[Any, Any], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[_value(entry, rows), _value(entry, columns)].append(entry)
    tops, sides = in_order(key[1] for key in groups), in_order(key[0] for key in groups)
    numbers = {key: _number(members, shown, counts) for key, members in groups.items()}
    known = [value for value, _ in numbers.values() if value is not None]
    low, high = (0.0, 1.0) if shown is not Shown.RESULT or not known else (min(known), max(known))

    def place(side: Any, top: Any) -> Place:
        members = groups.get((side, top), [])
        value, num = numbers.get((side, top), (None, 0))
        step = None
        if value is not None:
            share = (value - low) / (high - low) if high > low else 1.0
            step = round(share * STEPS)
        return Place(
            total=len(members),
            done=sum(entry.standing.state.is_recorded for entry in members),
            value=value,
            num=num,
            note=_note(members, shown),
            step=step,
            query=f"{_condition(rows, side)} {_condition(columns, top)}",
        )

    return HeatMap(
        rows=rows,
        columns=columns,
        row_names=[spelled(side) for side in sides],
        column_names=[spelled(top) for top in tops],
        places=[[place(side, top) for top in tops] for side in sides],
        low=low,
        high=high,
    )


def _condition(axis: str, value: Any) -> str:
    text = spelled(value)
    return f'"{axis}={text}"' if " " in text or not text else f"{axis}={text}"


def _value(entry: Entry, axis: str) -> Any:
    return entry.standing.trial.replicate if axis == REPLICATE else entry.values.get(axis)


def _number(members: list[Entry], shown: Shown, counts: Mapping[str, Counts]) -> tuple[float | None, int]:
    """The number of a place and how many trials it is taken over."""
    states = [entry.standing.state for entry in members]
    done = sum(state.is_recorded for state in states)
    match shown:
        case Shown.DONE:
            return done / len(states), len(states)
        case Shown.DIVERGED | Shown.NOT_LEARNED | Shown.FAILED:
            return (states.count(State(shown)) / done if done else None), done
        case Shown.RESULT:
            found = [final_result(entry.standing) for entry in members]
        case Shown.NONZERO:
            found = [share_nonzero(counts.get(entry.standing.trial.id, {})) for entry in members]
    values = [value for value in found if value is not None]
    return (sum(values) / len(values) if values else None), len(values)


def _note(members: list[Entry], shown: Shown) -> str:
    if shown not in (Shown.RESULT, Shown.NONZERO):
        return ""
    states = [entry.standing.state for entry in members]
    said = [
        f"{states.count(state)} {words}"
        for state, words in ((State.DIVERGED, "diverged"), (State.FAILED, "failed"))
        if state in states
    ]
    undone = sum(not state.is_recorded for state in states)
    return ", ".join([*said, *([f"{undone} not done"] if undone else [])])
