"""Unfinished trials: tensors, state and rows in one file that is replaced in one step.

The file is a safetensors file; the JSON state, the rows so far and a sum over everything stand in its
metadata. No pickle. A checkpoint is worth time, never a result: one that is damaged is ignored, and the
trial starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import explained, replace
from tiebreak.records.record import row_from_json, row_to_json
from tiebreak.records.session import Checkpoint, Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Saved:
    """An unfinished trial.

    Args:
        checkpoint: what the protocol gave to be kept.
        rows: emitted so far.
        elapsed_seconds: spent measuring so far.
        started: when the first attempt began, UTC.
        origin: what an attempt must have in common with this one to go on with it.
    """

    checkpoint: Checkpoint
    rows: tuple[Row, ...]
    elapsed_seconds: float
    started: str
    origin: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """Checkpoints under one folder, outside the results.

    Args:
        root: the folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, trial: AnyTrial) -> Path:
        """The file of a trial's checkpoint, whether or not it is there."""
        return self.root / trial.cell.id / f"{trial.replicate:04d}" / "checkpoint.safetensors"

    def write(self, trial: AnyTrial, saved: Saved) -> None:
        """Keep a checkpoint in place of the last one; tensors are copied to the CPU, bit for bit.

        Raises:
            StoreError: it cannot be written; the last one stands.
        """
        # Copies, because tensors that share memory (tied weights) cannot be stored as they are.
        tensors = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in saved.checkpoint.tensors.items()
        }
        text = json.dumps(
            {
                "trial": trial.id,
                "state": saved.checkpoint.state,
                "elapsed_seconds": saved.elapsed_seconds,
                "started": saved.started,
                "origin": saved.origin,
            }
        )
        rows = "\n".join(map(row_to_json, saved.rows))
        metadata = {"tiebreak": text, "rows": rows, "sha256": _digest(tensors, text, rows)}
        replace(self.path(trial), _packed(tensors, metadata))

    def read(self, trial: AnyTrial, *, note: Callable[[str], None]) -> Saved | None:
        """The checkpoint of a trial; None if there is none, or it is damaged, which is told to `note`.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self.path(trial)
        with explained(path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return _parse(content, trial=trial)
        except ValueError as damage:
            note(f"The checkpoint {path} is damaged ({damage}); trial {trial.id} starts from the beginning.")
            return None

    def remove(self, trial: AnyTrial) -> None:
        """Forget the checkpoint of a trial, if there is one.

        Raises:
            StoreError: it cannot be removed.
        """
        folder = self.path(trial).parent
        with explained(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)
        with suppress(OSError):  # other replicates may have theirs
            folder.parent.rmdir()


def _packed(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a checkpoint; torch is imported where there are tensors, by who measures with them."""
    if not tensors:
        from safetensors import serialize

        return serialize({}, metadata)
    from safetensors.torch import save

    return save(dict(tensors), metadata=metadata)


def _unpacked(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts; the inverse of `_packed`."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__")
    if not header:
        from safetensors import deserialize

        deserialize(content)  # that nothing else is in it either
        return {}, metadata
    from safetensors.torch import load

    return load(content), metadata


def _parse(content: bytes, *, trial: AnyTrial) -> Saved:
    from safetensors import SafetensorError

    try:
        tensors, metadata = _unpacked(content)
        text, rows, digest = metadata["tiebreak"], metadata["rows"], metadata["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a checkpoint: {error}") from error
    if _digest(tensors, text, rows) != digest:
        raise ValueError("its sum is wrong")
    tree = json.loads(text)
    if tree["trial"] != trial.id:
        raise ValueError(f"it belongs to trial {tree['trial']}")
    return Saved(
        checkpoint=Checkpoint(tensors=tensors, state=tree["state"]),
        rows=tuple(row_from_json(line) for line in rows.split("\n") if line),
        elapsed_seconds=tree["elapsed_seconds"],
        started=tree["started"],
        origin=tree["origin"],
    )


def _digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and over the texts."""
    total = hashlib.sha256()
    for text in texts:
        total.update(f"{len(text)}:{text}".encode())
    for name in sorted(tensors):
        import torch

        tensor = tensors[name]
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
