"""A study on this machine: worker processes that share its trials.

The process that watches them never loads torch, and where nothing is left to do it starts nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import RecordError
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.claim import LEASE_SECONDS
from tiebreak.runner.crew import Crew, plan_workers
from tiebreak.runner.events import Event, TrialEnded
from tiebreak.runner.launch import new_launch
from tiebreak.runner.worker import Job


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run of a study came to.

    Args:
        total: trials of the study.
        done_before: those that had a record already.
        outcomes: of the trials recorded now, how many had each outcome.
        left: trials without a record: the run was stopped, or another run holds them.
        stopped: whether the run was asked to stop.
    """

    total: int
    done_before: int
    outcomes: dict[OutcomeKind, int] = field(default_factory=dict)
    left: tuple[AnyTrial, ...] = ()
    stopped: bool = False

    @property
    def recorded(self) -> int:
        """Trials recorded by this run."""
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        """One or two sentences for the reader."""
        said = [f"{self.total} trials: {self.done_before} were done, {self.recorded} ran now"]
        if self.outcomes:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.outcomes.items()))
            said.append(f" ({kinds})")
        said.append(f", {len(self.left)} are left.")
        if self.stopped:
            said.append(" Stopped: give the same command again to go on where it was.")
        elif self.left:
            said.append(" Other processes hold them; give the same command again when those have ended.")
        return "".join(said)


def run_study(
    trials: Sequence[AnyTrial],
    *,
    study: str,
    store: RecordStore,
    workers: int,
    command: Sequence[str],
    checkpoints: Path,
    data_root: Path,
    on_event: Callable[[Event], None],
    gpus: Sequence[str] = (),
    checkpoint_every_seconds: float = 30.0,
    lease_seconds: float = LEASE_SECONDS,
) -> Summary:
    """Run every trial that has no record yet, by a `Crew` on this machine.

    Args:
        trials: those of a study; what is done already is left alone.
        study: its name; the launch is kept under it.
        store: where records are and go.
        workers: how many processes, at most one a trial.
        command: how to start a worker; the options of a `Job` are appended.
        checkpoints: folder of unfinished trials.
        data_root: folder of the data sets.
        on_event: is told what happens, in this thread.
        gpus: those to share out among the workers, as CUDA_VISIBLE_DEVICES names them.
        checkpoint_every_seconds: how much work may be lost.
        lease_seconds: how long a claim stands without a sign of life.

    Raises:
        Refused, WorkersDied: as `Crew.work` says.
        RecordError: `workers` is below 1, or a folder cannot be used.
    """
    if workers < 1:
        raise RecordError(f"The number of workers must be 1 or more, got {workers}.")
    done = store.done(trials)
    todo = [trial for trial in trials if trial.id not in done]
    done_before = len(trials) - len(todo)
    if not todo:
        return Summary(total=len(trials), done_before=done_before)
    outcomes: dict[OutcomeKind, int] = {}

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            outcomes[event.outcome.kind] = outcomes.get(event.outcome.kind, 0) + 1
        on_event(event)

    launch = new_launch(store.root, study=study, trials=todo, launcher="local")
    count = min(workers, len(todo))
    jobs = [
        Job(
            manifest=launch.manifest(),
            index=index,
            of=count,
            results=launch.results,
            checkpoints=checkpoints.absolute(),
            data_root=data_root.absolute(),
            checkpoint_every_seconds=checkpoint_every_seconds,
            lease_seconds=lease_seconds,
        )
        for index in range(count)
    ]
    taken = plan_workers(launch, jobs, name="worker", trials=todo, gpus=gpus)
    crew = Crew(taken, command=command, listen=listen)
    crew.work(is_left=lambda: any(not store.is_done(trial) for trial in todo))
    left = tuple(trial for trial in todo if not store.is_done(trial))
    return Summary(
        total=len(trials),
        done_before=done_before,
        outcomes=outcomes,
        left=left,
        stopped=crew.asked is not None,
    )
