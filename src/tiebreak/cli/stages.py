"""The stages of a study: composed with the learning rates that its searches have found so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tiebreak.cli.machine import auto_device
from tiebreak.design.axes import Device, UserError

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import AnyTrial
    from tiebreak.records.store import RecordStore


def composed(name: str, overrides: Sequence[str], launch: Mapping[str, Any]) -> StudyRun:
    """The study, with the learning rates that its searches have found so far in its own results folder."""
    from tiebreak import config
    from tiebreak.records.store import RecordStore

    device = device_of(launch)
    first = config.compose_study(name, overrides, device=device)
    if not first.waiting:
        return first
    store = RecordStore(first.results, only_looks=True)
    return config.compose_study(name, overrides, device=device, best_lr=lambda trials: best_lr(trials, store))


def best_lr(trials: Sequence[AnyTrial], store: RecordStore) -> float | None:
    """The rate with the best accuracy on held-out images over the replicates of a search."""
    found = []
    for trial in trials:
        record = store.read(trial)
        if record is None:
            return None
        found += [row for row in record.rows if row["row"] == "best"]
    if not found:
        raise UserError(
            f"the search of {trials[0].cell.name} found no learning rate: every one went non-finite, "
            "or the trial failed. Look at its record, and set optimizer.lr in the study instead of lr_from."
        )
    return max(found, key=lambda row: row["validation_accuracy"])["lr"]


def device_of(launch: Mapping[str, Any]) -> Callable[[], Device]:
    """What `device=auto` becomes; jobs of SLURM run elsewhere, so there it is what they ask for."""
    if launch["launcher"] != "slurm":
        return auto_device()
    chosen = Device.CPU if launch["gpus"] in (0, "auto") else Device.CUDA
    told: list[Device] = []

    def resolve() -> Device:
        if not told:
            told.append(chosen)
            why = f"gpus={launch['gpus']}" + ("" if chosen is Device.CUDA else "; say device=cuda for GPUs")
            print(f"device: {chosen} (auto with launcher=slurm: {why})", file=sys.stderr)
        return chosen

    return resolve
