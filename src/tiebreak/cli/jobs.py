"""What the jobs of a launch on SLURM do: a crew of workers, the gate before a later stage, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tiebreak.cli.closing import close
from tiebreak.cli.ending import FAULT, say
from tiebreak.cli.reading import write_page
from tiebreak.cli.stages import best_lr
from tiebreak.cli.tracking import mirror_of, mirrored
from tiebreak.cli.workers import WORKER
from tiebreak.design.axes import Device
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from tiebreak.runner.events import Event


def crew(words: Sequence[str]) -> int:
    """What one job of an array does; see `tiebreak.runner.array`."""
    from tiebreak.cuda import visible_devices
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.array import work_off
    from tiebreak.runner.launch import read_launch

    folder, stage, of = Path(words[0]), int(words[1]), int(words[2])
    launch = read_launch(folder)
    mirror = mirror_of(
        Tracking.of(launch.settings["tracking"]),
        study=launch.study,
        store=RecordStore(launch.results),
        trials=launch.trials(),
        notice=print_now,
    )
    with mirror:
        return work_off(
            launch,
            stage=stage,
            of=of,
            command=WORKER,
            gpus=visible_devices() if launch.settings["gpus"] else (),
            listen=mirrored(mirror, _log),
            notice=print_now,
        )


def conclude(words: Sequence[str]) -> int:
    """What the last job of a launch does: tables, figures and page, and their mirror."""
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.launch import read_launch

    launch = read_launch(Path(words[0]))
    store = RecordStore(launch.results)
    print_now(f"report: {write_page(store, launch.study)}")
    tracking = Tracking.of(launch.settings["tracking"])
    with mirror_of(tracking, study=launch.study, store=store, trials=[], notice=print_now) as mirror:
        mirror.report()
    return close(store, store.read_study(launch.study))


def _log(event: Event) -> None:
    """What a job writes of an event into its log."""
    from tiebreak.runner.events import Note, TrialEnded, TrialStarted

    match event:
        case TrialStarted():
            print_now(f"{event.name} {event.trial}: attempt {event.attempt}")
        case TrialEnded():
            print_now(f"{event.trial}: {event.outcome.kind} after {event.elapsed_seconds:.1f} s")
        case Note():
            print_now(event.text)
        case _:
            pass


def print_now(text: str) -> None:
    """Print a line that a log shows at once."""
    print(text, flush=True)


def gate(words: Sequence[str]) -> int:
    """Compose a later stage of a launch, if all that it waits for is recorded."""
    from tiebreak import config
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.launch import read_launch
    from tiebreak.runner.manifest import write_manifest

    launch, stage = read_launch(Path(words[0])), int(words[1])
    store = RecordStore(launch.results)
    before = launch.trials()
    missing = [trial for trial in before if not store.is_done(trial)]
    if missing:
        return say(
            f"{len(missing)} of {len(before)} trials have no record, so stage {stage} cannot begin. "
            "Give the command that launched the study again.",
            FAULT,
        )
    device = Device(launch.settings["device"])
    overrides = [*launch.settings["overrides"], f"results={launch.results}"]
    plan = config.compose_study(
        launch.study, overrides, device=lambda: device, best_lr=lambda trials: best_lr(trials, store)
    )
    known = {trial.id for trial in before}
    new = [trial for trial in plan.study.trials if trial.id not in known and not store.is_done(trial)]
    store.write_study(plan.study)
    write_manifest(launch.manifest(stage), new)
    launch.changed(waiting=plan.waiting, num_trials=launch.num_trials + len(new))
    print(f"stage {stage}: {len(new)} trials")
    return say(f"parts {', '.join(plan.waiting)} cannot be composed yet.", FAULT) if plan.waiting else 0


JOBS: Mapping[str, Callable[[Sequence[str]], int]] = MappingProxyType(
    {"crew": crew, "gate": gate, "conclude": conclude}
)
"""What the jobs of a launch do, by the word after `tiebreak`."""
