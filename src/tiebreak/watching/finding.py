"""Trials found by what a person types: `precision=fp16 beta=100,1000 state=diverged lenet`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiebreak.design.axes import UserError
from tiebreak.watching.axes import REPLICATE, Axes, spelled
from tiebreak.watching.standing import Standing, StudyView
from tiebreak.watching.status import word

STATE = "state"
RESULT = "result"
ELAPSED = "elapsed"
ENDED = "ended"


class FilterError(UserError):
    """A filter that cannot be understood; the message says which word."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial as it is filtered and sorted: its standing, the values of its axes, and its words."""

    standing: Standing
    values: Mapping[str, Any]
    words: str

    @property
    def result(self) -> float | None:
        """The number that a trial of its protocol is about, where the last row has it."""
        return final_result(self.standing)


@dataclass(frozen=True, slots=True)
class Condition:
    """One word of a filter. Several values: any of them. Without an axis: text that must occur."""

    axis: str
    values: tuple[str, ...]
    negated: bool = False

    def holds(self, entry: Entry) -> bool:
        """Whether a trial passes."""
        if not self.axis:
            found = self.values[0] in entry.words
        elif self.axis == STATE:
            found = str(entry.standing.state) in self.values
        elif self.axis == REPLICATE:
            found = str(entry.standing.trial.replicate) in self.values
        else:
            found = spelled(entry.values.get(self.axis)) in self.values
        return found is not self.negated


def final_result(standing: Standing) -> float | None:
    """Final test accuracy of a training that reached its end, best validation accuracy of a search.

    A share in [0, 1]; None where the trial has none: it diverged, failed, is not done, or is about gaps.
    """
    row = standing.last_row
    if row is None or standing.record is None or standing.state not in ("completed", "not_learned"):
        return None
    name = {"epoch": "test_accuracy", "best": "validation_accuracy"}.get(str(row["row"]), "")
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and value == value else None


class Index:
    """The trials of a study, ready to be found.

    Args:
        view: the study as it stands.
        former: the index of an earlier view, whose entries are taken over where nothing changed.
    """

    def __init__(self, view: StudyView, *, former: Index | None = None) -> None:
        self.view = view
        same = former is not None and former.view.study is view.study
        self.axes = former.axes if former is not None and same else Axes(view.study)
        known = former._known if former is not None and same else {}
        names: dict[str, str] = {}  # replicates of a cell share one
        self._known: dict[str, Entry] = {}
        for standing in view.standings:
            trial = standing.trial
            key = trial.id
            entry = known.get(key)
            if entry is None or entry.standing is not standing:
                values = self.axes.of_cell(trial.cell.id)
                name = names.get(trial.cell.id) or names.setdefault(trial.cell.id, trial.cell.name)
                words = f"{name} {key} {word(standing.state)} {standing.reason}".lower()
                entry = Entry(standing=standing, values=values, words=words)
            self._known[key] = entry
        self.entries: Sequence[Entry] = tuple(self._known.values())

    def entry(self, trial: str) -> Entry | None:
        """The trial of an id."""
        return self._known.get(trial)

    def names(self) -> tuple[str, ...]:
        """Axes that can be sorted by and laid out: those that vary, and the replicate."""
        return (*self.axes.varying, REPLICATE)

    def conditions(self, text: str) -> list[Condition]:
        """What a filter asks for.

        Raises:
            FilterError: an open quotation mark, or an axis that the study's cells do not have.
        """
        try:
            words = shlex.split(text, comments=False)
        except ValueError:
            raise FilterError("the filter has a quotation mark without its partner.") from None
        found = []
        for item in words:
            axis, sign, value = item.partition("=")
            negated = axis.endswith("!")
            axis = axis.removesuffix("!")
            if not sign:
                found.append(Condition(axis="", values=(item.lower(),)))
            elif axis in self.axes.known or axis in (STATE, REPLICATE):
                found.append(Condition(axis=axis, values=tuple(value.split(",")), negated=negated))
            else:
                raise FilterError(
                    f"{axis!r} is no axis of this study. Those that vary are {', '.join(self.names())}; "
                    "state=... filters by state, and a word without = by text."
                )
        return found

    def found(self, text: str) -> list[Entry]:
        """The trials that pass every word of a filter, in the study's order.

        Raises:
            FilterError: the filter cannot be understood.
        """
        entries = list(self.entries)
        for condition in self.conditions(text):
            entries = [entry for entry in entries if condition.holds(entry)]
        return entries


def ordered(entries: Iterable[Entry], *, by: str) -> list[Entry]:
    """Trials by an axis, `state`, `result`, `elapsed` or `ended`; a minus sign in front turns it round.

    What has no value comes last either way.
    """
    name, present, missing = by.removeprefix("-"), [], []
    for entry in entries:
        value = _value(entry, name)
        if value is None:
            missing.append(entry)
        else:
            present.append(((isinstance(value, str), value), entry))  # numbers before words
    present.sort(key=lambda pair: pair[0], reverse=by.startswith("-"))
    return [*(entry for _, entry in present), *missing]


def _value(entry: Entry, name: str) -> Any:
    standing = entry.standing
    if name == STATE:
        return str(standing.state)
    if name == REPLICATE:
        return standing.trial.replicate
    if name == RESULT:
        return final_result(standing)
    if name == ELAPSED:
        return standing.record.elapsed_seconds if standing.record else None
    if name == ENDED:
        return (standing.record.ended or None) if standing.record else None
    return entry.values.get(name)
