"""How many processes share the trials of a study, and what each of them takes of the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiebreak.design.axes import Device, UserError

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import Execution
    from tiebreak.runner import slurm

WORKER = (sys.executable, "-m", "tiebreak", "worker")
"""How a worker is started; see `tiebreak.runner.worker.Job` for its options."""


def num_workers(plan: StudyRun, launch: Mapping[str, Any], *, asked: int | None) -> int:
    """Processes at once: what was asked for, else as many as the GPUs or cores take without sharing.

    Args:
        plan: the study.
        launch: the settings of its launch.
        asked: what `--workers` says.

    Raises:
        UserError: a setting that cannot be.
    """
    if launch["launcher"] == "slurm":
        settings = slurm_settings(launch, plan, num_trials=len(plan.study.trials))
        return settings.jobs * settings.slots
    if asked is not None:
        return asked
    if found := gpus(plan):
        each = launch["workers_per_gpu"]
        if isinstance(each, bool) or not isinstance(each, int) or each < 1:
            raise UserError(f"workers_per_gpu must be a whole number of 1 or more, got {each!r}.")
        return each * max(1, len(found) // _most_ranks(plan))
    return max(1, _num_cores() // _cores_a_worker(plan))


def slurm_settings(launch: Mapping[str, Any], plan: StudyRun, *, num_trials: int) -> slurm.Settings:
    """The settings of a launch on SLURM, every `auto` resolved for this study; remarks on them are printed.

    Args:
        launch: as it was composed.
        plan: the study.
        num_trials: trials of the largest stage.

    Raises:
        SlurmError: a setting that cannot be.
    """
    from tiebreak.runner import slurm

    settings = slurm.Settings.of(
        launch,
        num_trials=num_trials,
        cores_a_worker=_cores_a_worker(plan),
        gpus_a_worker=_most_ranks(plan) if _on_gpu(plan) else 0,
    )
    for remark in settings.remarks:
        print(f"note: {remark}", file=sys.stderr)
    return settings


def gpus(plan: StudyRun) -> tuple[str, ...]:
    """The GPUs to share out, where the study has trials for them, as CUDA_VISIBLE_DEVICES names them."""
    from tiebreak.cuda import visible_devices

    return visible_devices() if _on_gpu(plan) else ()


def _cores_a_worker(plan: StudyRun) -> int:
    """Cores that a worker takes: the threads of each rank of a trial."""
    return max(execution.num_threads * execution.num_ranks for execution in _executions(plan))


def _most_ranks(plan: StudyRun) -> int:
    return max(execution.num_ranks for execution in _executions(plan))


def _executions(plan: StudyRun) -> list[Execution]:
    return [cell.execution for part in plan.study.parts for cell in part.cells]


def _on_gpu(plan: StudyRun) -> bool:
    return any(execution.device is Device.CUDA for execution in _executions(plan))


def _num_cores() -> int:
    """Cores that this process may use, where the system tells; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
