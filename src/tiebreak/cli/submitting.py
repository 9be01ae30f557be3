"""A study handed to SLURM: submitted, and watched from outside until its jobs have left the queue."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.cli.ending import FAULT, INTERRUPTED
from tiebreak.cli.jobs import print_now
from tiebreak.cli.planning import set_aside
from tiebreak.cli.running import checkpoint_seconds, checkpoints_of
from tiebreak.cli.stages import device_of
from tiebreak.cli.tracking import mirror_of
from tiebreak.cli.workers import slurm_settings
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import AnyTrial
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.launch import Launch

_FOLLOW_SECONDS = 5.0


def submit(
    plan: StudyRun,
    store: RecordStore,
    launch_settings: Mapping[str, Any],
    *,
    trials: Sequence[AnyTrial],
    overrides: Sequence[str],
    rerun: str | None,
    is_detached: bool,
) -> int:
    """Hand what is left of a study to SLURM and, unless detached, watch it from outside.

    Args:
        plan: the study; its waiting parts become a later stage.
        store: its records.
        launch_settings: of the launch, as they were composed.
        trials: those that the command is about.
        overrides: of the cells, as they were given: a later stage is composed with them.
        rerun: how the trials ended that are to be run again.
        is_detached: return once SLURM has the jobs.

    Returns:
        The exit code of the verb.
    """
    from tiebreak import config
    from tiebreak.config.composition import CONFIGS_VARIABLE
    from tiebreak.runner import slurm
    from tiebreak.runner.launch import launches, new_launch
    from tiebreak.runner.scheduler import in_queue

    study = plan.study
    done = frozenset() if rerun else store.done(trials)
    left = [trial for trial in trials if trial.id not in done]
    if not left and not plan.waiting:
        print(f"{study.name}: {len(trials)} trials, all done; nothing was submitted")
        return 0
    # How many trials a later stage has is not known yet.
    settings = slurm_settings(launch_settings, plan, num_trials=10**6 if plan.waiting else len(left))
    with mirror_of(Tracking.of(launch_settings), study=study.name, store=store, trials=[], notice=print_now):
        pass  # what W&B refuses is told here and not in a job
    earlier = [launch for launch in launches(plan.results) if launch.study == study.name]
    store.write_study(study)
    launch = new_launch(
        plan.results,
        study=study.name,
        trials=left,
        launcher="slurm",
        waiting=plan.waiting,
        settings={
            **asdict(settings),
            "overrides": list(overrides),
            "tracking": {key: value for key, value in launch_settings.items() if key not in asdict(settings)},
            "checkpoints": str(checkpoints_of(store).absolute()),
            "data_root": str(plan.data_root.absolute()),
            "checkpoint_every_seconds": checkpoint_seconds(),
            "device": str(device_of(launch_settings)()) if plan.waiting else "",
        },
    )
    try:
        environment = {}
        if plan.waiting:  # the later stage is composed from the configurations of this moment
            frozen = launch.folder / "configs"
            shutil.copytree(config.config_folder(), frozen)
            environment[CONFIGS_VARIABLE] = str(frozen)
        if rerun:
            set_aside(left, store, kind=rerun)
        launch = slurm.submit(
            launch,
            settings,
            templates=slurm_folder(),
            stages=2 if plan.waiting else 1,
            environment=environment,
            report=["conclude", str(launch.folder)],
        )
    except BaseException:  # nobody works on it: a full disk and Ctrl-C leave no launch behind either
        shutil.rmtree(launch.folder, ignore_errors=True)
        raise
    print(
        f"{study.name}: {len(left)} trials in {settings.jobs} jobs of {settings.slots} workers, as SLURM's "
        f"{', '.join(launch.jobs)}; what they write is in {os.path.relpath(launch.logs)}"
    )
    for other in earlier:
        if in_queue(other.jobs):
            print(f"launch {other.number} of the study is still in the queue; they share the trials")
    print(
        f"follow it: tiebreak status {study.name} {results_word(plan)}\n"
        f"end it: scancel {' '.join(launch.jobs)}"
    )
    return 0 if is_detached else _follow(launch, store, left=left)


def results_word(plan: StudyRun) -> str:
    """The results folder as a word for a shell."""
    return shlex.quote(f"results={plan.results}")


def _follow(launch: Launch, store: RecordStore, *, left: Sequence[AnyTrial]) -> int:
    """Watch the jobs from outside until the queue has none of them; Ctrl-C ends the watching only."""
    from tiebreak.console import make_console
    from tiebreak.runner.scheduler import in_queue

    console, said = make_console(), ""
    try:
        while (jobs := in_queue(launch.jobs)) != {}:
            if jobs is None:  # that it does not answer does not mean that they have ended
                line = "SLURM does not answer; the jobs are asked about again"
            else:
                states = sum(jobs.values(), Counter())
                tasks = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
                done = sum(store.path(trial).exists() for trial in left)
                line = f"{done} of {len(left)} trials; jobs: {tasks}"
            if line != said:
                console.print(said := line, highlight=False)
            time.sleep(_FOLLOW_SECONDS)
    except KeyboardInterrupt:
        print("the jobs go on without this command")
        return INTERRUPTED
    remaining = [trial for trial in left if not store.is_done(trial)]
    print(
        f"{launch.study}: {len(left) - len(remaining)} of {len(left)} trials were recorded, "
        f"{len(remaining)} are left"
    )
    if remaining:
        print(
            f"give the same command again to go on; what the jobs said is in {os.path.relpath(launch.logs)}"
        )
    return FAULT if remaining else 0


def slurm_folder() -> Path:
    """The folder of the templates: inside an installed wheel, or `slurm/` of the checkout."""
    installed = Path(__file__).parents[1] / "_slurm"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "slurm"
