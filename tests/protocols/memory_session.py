"""A session that lives in memory, and one that is stopped at each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tiebreak.design.cell import Trial
from tiebreak.records.session import Checkpoint, Row, Stopped


@dataclass
class MemorySession:
    """Keeps rows and the last checkpoint; stops after `stop_after` checkpoints if asked to."""

    data_root: Path
    checkpoint: Checkpoint | None = None
    checkpoint_rows: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    stop_after: int | None = None
    saves: int = 0
    checkpoint_always: bool = False

    def emit(self, row: Row) -> None:
        assert isinstance(row["row"], str)
        self.rows.append(dict(row))

    def restore(self) -> Checkpoint | None:
        self.rows = [dict(row) for row in self.checkpoint_rows]
        return self.checkpoint

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self.checkpoint = Checkpoint(
            {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(state))
        )
        self.checkpoint_rows = [dict(row) for row in self.rows]
        self.saves += 1
        if self.stop_after is not None and self.saves >= self.stop_after:
            raise Stopped

    def wants_checkpoint(self) -> bool:
        return self.checkpoint_always or self.stop_after is not None

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total


def run_interrupted(protocol: Callable, trial: Trial, data_root: Path) -> tuple[MemorySession, int]:
    """Run a trial that is stopped at each of its checkpoints and resumed, to its end."""
    last: MemorySession | None = None
    for attempts in range(1, 200):
        current = MemorySession(data_root=data_root, stop_after=1)
        if last is not None:
            current.checkpoint, current.checkpoint_rows = last.checkpoint, last.checkpoint_rows
        try:
            current.outcome = protocol(trial, current)  # type: ignore[attr-defined]
            return current, attempts
        except Stopped:
            last = current
    raise AssertionError("the trial never ended")
