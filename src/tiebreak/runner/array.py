"""What one job of an array does: a crew on its share of a launch, and how it answers SLURM's signals."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tiebreak.records.store import RecordStore
from tiebreak.runner import scheduler
from tiebreak.runner.attempt import slurm_job
from tiebreak.runner.crew import Crew, Refused, WorkersDied, plan_workers
from tiebreak.runner.events import Listener
from tiebreak.runner.launch import Launch
from tiebreak.runner.worker import DONE, REFUSED, STOPPED, Job


def work_off(
    launch: Launch,
    *,
    stage: int,
    of: int,
    command: Sequence[str],
    gpus: Sequence[str],
    listen: Listener,
    notice: Callable[[str], None],
) -> int:
    """Run a crew until nothing is left that others do not hold.

    Asked to stop by SLURM (the end of the job's time is near, or a more urgent job wants the node), it lets
    every trial checkpoint and puts the job back into the queue.

    Args:
        launch: what is to be run.
        stage: which manifest.
        of: how many jobs the array has.
        command: how to start a worker; the options of a `Job` are appended.
        gpus: those of this job, as CUDA_VISIBLE_DEVICES names them; shared out among the workers.
        listen: is told what happens to trials.
        notice: receives what happens to the job, a line each.

    Returns:
        Exit code: 0 done, 1 workers die before they begin, 2 refused, 75 stopped.
    """
    settings = launch.settings
    task, slots = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")), settings["slots"]
    trials = launch.trials()
    jobs = [
        Job(
            manifest=launch.manifest(stage),
            index=task + slot * of,
            of=of * slots,
            results=launch.results,
            checkpoints=Path(settings["checkpoints"]),
            data_root=Path(settings["data_root"]),
            checkpoint_every_seconds=settings["checkpoint_every_seconds"],
        )
        for slot in range(slots)
    ]

    store = RecordStore(launch.results)
    taken = plan_workers(launch, jobs, name=slurm_job() or "job", trials=trials, gpus=gpus)
    crew = Crew(
        taken,
        command=command,
        listen=listen,
        meaning=lambda ending: scheduler.how_asked(ending, signal_seconds=settings["signal_seconds"]),
    )
    try:
        crew.work(is_left=lambda: any(not store.is_done(trial) for trial in trials))
    except Refused as refused:
        notice(f"nothing can be run as things are: {refused}")
        return REFUSED
    except WorkersDied as died:
        notice(str(died))
        return 1
    if crew.asked is None:
        return DONE
    notice(scheduler.requeue(most=settings["requeues"]))
    return STOPPED
