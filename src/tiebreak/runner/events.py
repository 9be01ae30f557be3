"""What a run tells while it goes on, as objects and as lines of JSON between processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

from tiebreak.records.session import Outcome, OutcomeKind, Row


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """An attempt at a trial began."""

    kind: ClassVar[str] = "started"

    trial: str
    name: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """Steps done out of all steps of a trial; at most a few a second."""

    kind: ClassVar[str] = "progress"

    trial: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A row worth watching was emitted, or rows were that it sums up; see `tiebreak.tracking.told`.

    `index` is the place in the record of the row after which it is told.
    """

    kind: ClassVar[str] = "row"

    trial: str
    index: int
    row: Row


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial has its record. `elapsed_seconds` is what measuring it took, over all attempts."""

    kind: ClassVar[str] = "ended"

    trial: str
    outcome: Outcome
    elapsed_seconds: float


@dataclass(frozen=True, kw_only=True)
class TrialLeft:
    """An attempt was given up without a record: stopped, or taken over; the trial can go on."""

    kind: ClassVar[str] = "left"

    trial: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for the reader."""

    kind: ClassVar[str] = "note"

    text: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why nothing can be run as things are: the user's mistake, a full disk. The run ends with it."""

    kind: ClassVar[str] = "refusal"

    text: str


Event = TrialStarted | TrialProgress | TrialRow | TrialEnded | TrialLeft | Note | Refusal
Listener = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    event.kind: event
    for event in (TrialStarted, TrialProgress, TrialRow, TrialEnded, TrialLeft, Note, Refusal)
}


def to_line(event: Event) -> str:
    """The event as one line of JSON, without the line's end.

    Example:
        >>> to_line(Note(text="hello"))
        '{"event": "note", "text": "hello"}'
    """
    return json.dumps({"event": event.kind, **asdict(event)})


def from_line(line: str) -> Event:
    """The inverse of `to_line`; a line that is no event (somebody printed) becomes a note.

    Example:
        >>> from_line("Downloading ...")
        Note(text='Downloading ...')
    """
    try:
        tree = json.loads(line)
        kind = _KINDS[tree.pop("event")]
        if "outcome" in tree:
            tree["outcome"] = Outcome(**{**tree["outcome"], "kind": OutcomeKind(tree["outcome"]["kind"])})
        return kind(**tree)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Note(text=line.rstrip("\n"))


def ignore(event: Event) -> None:
    """A listener that does nothing."""
