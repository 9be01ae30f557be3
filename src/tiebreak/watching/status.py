"""A study's standing in numbers: as a tree for programs, and as text for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tiebreak.console import duration
from tiebreak.design.study import Study
from tiebreak.watching.axes import Axes, in_order, spelled
from tiebreak.watching.standing import State, StudyView
from tiebreak.watching.survey import Survey

FORMAT = 1
"""Number of the layout of `tree`."""

MOST_VALUES = 12
"""An axis with more values than this is left out of the text; the tree has it."""

MOST_FAILURES = 10
"""Distinct reasons in the text; the tree has all."""

_WORDS = {
    State.COMPLETED: "completed",
    State.DIVERGED: "diverged",
    State.NOT_LEARNED: "not learned",
    State.FAILED: "failed",
    State.RUNNING: "running",
    State.QUEUED: "queued",
    State.LEFT: "left",
}
_STYLES = {
    State.COMPLETED: "green",
    State.DIVERGED: "red",
    State.NOT_LEARNED: "yellow",
    State.FAILED: "bold red",
    State.RUNNING: "cyan",
    State.QUEUED: "blue",
    State.LEFT: "dim",
}


def word(state: State) -> str:
    """The state in words.

    Example:
        >>> word(State.NOT_LEARNED)
        'not learned'
    """
    return _WORDS[state]


def tree(survey: Survey, views: Iterable[StudyView]) -> dict[str, Any]:
    """Everything `tiebreak status` says, as plain JSON values; docs/watching.md names every field."""
    return {
        "format": FORMAT,
        "results": str(survey.results),
        "studies": [_study_tree(view) for view in views],
        "notices": list(survey.notices),
    }


def failures(view: StudyView) -> list[tuple[str, list[str]]]:
    """First line of each reason, and the ids of its trials: the commonest first."""
    found: dict[str, list[str]] = defaultdict(list)
    for item in view.standings:
        if item.reason:
            found[first_line(item.reason)].append(item.trial.id)
    return sorted(found.items(), key=lambda pair: -len(pair[1]))


def first_line(text: str) -> str:
    """The first line that says something, without what a terminal would obey.

    Example:
        >>> first_line("  \\n a b \\n c")
        'a b'
    """
    return next((harmless(line.strip()) for line in text.splitlines() if line.strip()), "")


def harmless(text: str) -> str:
    """The text without what a terminal would obey.

    Example:
        >>> harmless("red \x1b[31m")
        'red ·[31m'
    """
    return "".join(sign if sign.isprintable() else "·" for sign in text)


def by_axis(view: StudyView, axes: Axes) -> dict[str, list[tuple[Any, dict[State, int]]]]:
    """For each axis that varies, its values and the trials in each state."""
    found: dict[str, dict[Any, Counter[State]]] = {name: defaultdict(Counter) for name in axes.varying}
    per_cell: dict[str, Counter[State]] = defaultdict(Counter)
    for item in view.standings:
        per_cell[item.trial.cell.id][item.state] += 1
    for cell, counts in per_cell.items():
        values = axes.of_cell(cell)
        for name, groups in found.items():
            groups[values.get(name)].update(counts)
    return {
        name: [(value, {state: groups[value][state] for state in State}) for value in in_order(groups)]
        for name, groups in found.items()
    }


def text(survey: Survey, views: Sequence[StudyView]) -> RenderableType:
    """The same for people."""
    parts: list[RenderableType] = [block for view in views for block in _study_text(view)]
    parts += [Text(f"Note: {harmless(notice)}", style="yellow") for notice in survey.notices]
    return Group(*parts)


def _study_tree(view: StudyView) -> dict[str, Any]:
    counts = view.counts
    axes = Axes(view.study)
    return {
        "name": view.study.name,
        "question": view.study.question,
        "total": len(view.standings),
        "done": view.done,
        "counts": _named(counts),
        "former": view.former,
        "former_recorded": view.former_recorded,
        "workers": view.workers,
        "seconds_left": view.seconds_left(),
        "work_seconds_left": _work(view),
        "live_launches": list(view.live),
        "by_axis": {
            name: [{"value": value, "counts": _named(found)} for value, found in rows]
            for name, rows in by_axis(view, axes).items()
        },
        "failures": [
            {"reason": reason, "count": len(trials), "trials": trials} for reason, trials in failures(view)
        ],
        "running": [
            {
                "trial": item.trial.id,
                "attempt": item.attempt.number,
                "share_done": item.attempt.share_done,
                "host": item.attempt.holder.host if item.attempt.holder else "",
                "since": item.attempt.holder.since if item.attempt.holder else "",
                "log": item.attempt.holder.log if item.attempt.holder else "",
            }
            for item in view.standings
            if item.state is State.RUNNING and item.attempt
        ],
    }


def _named(counts: Mapping[State, int]) -> dict[str, int]:
    return {str(state): counts[state] for state in State}


def _work(view: StudyView) -> float | None:
    """Seconds of work left, summed over trials; None while nothing was measured."""
    left = [item.trial for item in view.standings if not item.state.is_recorded]
    shares = {
        item.trial.id: item.attempt.share_done
        for item in view.standings
        if item.attempt and item.state is State.RUNNING
    }
    total = 0.0
    seconds_of: dict[str, float | None] = {}
    for trial in left:
        cell = trial.cell.id
        if cell not in seconds_of:
            seconds_of[cell] = view.eta.trial_seconds(trial.cell)
        seconds = seconds_of[cell]
        if seconds is None:
            return None
        total += seconds * (1.0 - shares.get(trial.id, 0.0))
    return total


def time_left(view: StudyView) -> str:
    """How long the rest takes, in a sentence."""
    if view.done == len(view.standings):
        return "All done."
    work, seconds, workers = _work(view), view.seconds_left(), view.workers
    if work is None:
        return "Time left: unknown until a trial like these has been measured."
    hours = f"{duration(work)} of work left"
    if seconds is None:
        return f"{hours}; nobody works on it now."
    return f"About {duration(seconds)} left with {workers} worker{'s' if workers != 1 else ''} ({hours})."


def _study_text(view: StudyView) -> Iterator[RenderableType]:
    counts, total = view.counts, len(view.standings)
    yield Text(f"\n{harmless(view.study.name)}", style="bold")
    yield Text(harmless(view.study.question))
    line = Text(f"{total} trials: {view.done} done")
    for state in State:
        if counts[state]:
            line.append(f" · {counts[state]} {_WORDS[state]}", style=_STYLES[state])
    yield line
    yield Text(time_left(view))
    if view.former:
        yield Text(
            f"{view.former} trials that were launched are no longer in the study, which was edited since; "
            f"{view.former_recorded} of them have records, which are kept."
        )
    yield from _axis_tables(view.study, view)
    reasons = failures(view)
    for reason, trials in reasons[:MOST_FAILURES]:
        yield Text(f"{len(trials):5d} x {reason}  ({trials[0]})", style="red")
    if len(reasons) > MOST_FAILURES:
        yield Text(f"... and {len(reasons) - MOST_FAILURES} other reasons: see --json or the dashboard")


def _axis_tables(study: Study, view: StudyView) -> Iterator[RenderableType]:
    shown = [state for state, count in view.counts.items() if count]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("axis", no_wrap=True, overflow="fold")
    table.add_column("value", overflow="fold", min_width=12)
    for state in shown:
        table.add_column(_WORDS[state], justify="right", style=_STYLES[state])
    table.add_column("total", justify="right")
    wide = []
    for name, rows in by_axis(view, Axes(study)).items():
        if len(rows) > MOST_VALUES:
            wide.append(f"{name} ({len(rows)} values)")
            continue
        for index, (value, counts) in enumerate(rows):
            numbers = [str(counts[state] or "") for state in shown]
            table.add_row(
                Text("" if index else name),
                Text(harmless(spelled(value))),
                *numbers,
                str(sum(counts.values())),
                end_section=index == len(rows) - 1,
            )
    if table.row_count:
        yield table
    if wide:
        yield Text(f"Not shown: {', '.join(wide)}; --json has them.", style="dim")
