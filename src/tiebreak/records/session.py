"""What a protocol sees of whoever runs it: a place for rows, a checkpoint, a wish to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Scalar = bool | int | float | str | None
Row = dict[str, Scalar]


class OutcomeKind(StrEnum):
    """How a trial ended. Divergence is a result; only `failed` is run again, and only when asked."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    NOT_LEARNED = "not_learned"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: `step` of the first non-finite number if it diverged, `reason` if it failed."""

    kind: OutcomeKind
    step: int | None = None
    reason: str = ""


class Stopped(Exception):  # noqa: N818 - not an error: a checkpoint was written and the trial can go on
    """The trial was asked to stop and has checkpointed."""


class RankLost(Exception):  # noqa: N818 - a death, as of a process that is killed
    """A process that shared the trial is gone or silent; the trial goes on from its last checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """State to resume from: named tensors and a JSON tree. The rows so far are the session's business."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Session(Protocol):
    """One attempt at one trial."""

    @property
    def data_root(self) -> Path:
        """Folder of the data sets."""
        ...

    def emit(self, row: Row) -> None:
        """Keep a row; it must hold `"row"`, its kind."""
        ...

    def restore(self) -> Checkpoint | None:
        """The last checkpoint, with the rows emitted before it put back; None at a first start."""
        ...

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Checkpoint now, together with the rows so far; replaces the last one atomically.

        Raises:
            Stopped: after the checkpoint stands, if the run was asked to stop.
        """
        ...

    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint is due (enough time has passed, or a stop was asked for)."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Report steps done out of all steps of this trial."""
        ...
