"""One session for all ranks of a training: rank 0 keeps what is kept, all stop at the same step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from tiebreak.protocols.ranks import Ranks
from tiebreak.protocols.seat import Seat
from tiebreak.records.session import Checkpoint, Row, Session, Stopped


@dataclass(frozen=True, kw_only=True)
class FollowerSession:
    """What a rank above 0 has in place of a session of its own: it keeps nothing.

    Args:
        seat: which rank it is.
        data_root: folder of the data sets.
        stop: whether this process was asked to stop.
    """

    seat: Seat
    data_root: Path
    stop: Callable[[], bool] = lambda: False

    def emit(self, row: Row) -> None:
        """Rank 0 keeps the same row."""

    def restore(self) -> Checkpoint | None:
        """Rank 0 has the checkpoint."""
        return None

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Rank 0 keeps the checkpoint; here only the wish to stop is told."""
        if self.stop():
            raise Stopped(f"Rank {self.seat.rank} was asked to stop.")

    def wants_checkpoint(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stop()

    def progress(self, done: int, total: int) -> None:
        """Rank 0 reports it."""


class SharedSession:
    """The session of a training on several ranks; see `tiebreak.records.session.Session`.

    All ranks call each method, but for `emit` and `progress`, at the same place of the program.

    Args:
        own: the session of this rank.
        ranks: all of them.
    """

    def __init__(self, own: Session, *, ranks: Ranks) -> None:
        self._own = own
        self._ranks = ranks

    @property
    def data_root(self) -> Path:
        """Folder of the data sets."""
        return self._own.data_root

    def emit(self, row: Row) -> None:
        """Keep a row, on rank 0."""
        self._own.emit(row)

    def restore(self) -> Checkpoint | None:
        """The checkpoint that rank 0 has, on every rank: other machines need not see its folder."""
        found = self._own.restore()
        packed = b""
        if found is not None:
            # Copies, because tensors that share memory cannot be stored as they are.
            tensors = {
                name: tensor.detach().to("cpu", copy=True).contiguous()
                for name, tensor in found.tensors.items()
            }
            state = json.dumps(found.state).encode()
            packed = len(state).to_bytes(8, "little") + state + save(tensors)
        packed = self._ranks.send(packed)
        if not packed:
            return None
        size = 8 + int.from_bytes(packed[:8], "little")
        return Checkpoint(tensors=load(packed[size:]), state=json.loads(packed[8:size]))

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Checkpoint, on rank 0.

        Raises:
            Stopped: on every rank, if any was asked to stop.
        """
        asked: Stopped | None = None
        try:
            self._own.save(tensors, state)
        except Stopped as stopped:
            asked = stopped
        if self._ranks.any(asked is not None):
            raise asked or Stopped("Another rank was asked to stop; the trial goes on from its checkpoint.")

    def wants_checkpoint(self) -> bool:
        """Whether any rank wants one."""
        return self._ranks.any(self._own.wants_checkpoint())

    def progress(self, done: int, total: int) -> None:
        """Report steps done, on rank 0."""
        self._own.progress(done, total)
