"""The verb `study`: plan it, run it here, hand it to SLURM; and what the jobs of SLURM do."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tiebreak.cli import ranks
from tiebreak.cli.closing import close
from tiebreak.cli.ending import FAULT, INTERRUPTED, say
from tiebreak.cli.machine import auto_device
from tiebreak.cli.planning import (
    dry_run,
    measured,
    only_parts,
    rerun_choices,
    select_rerun,
    set_aside,
    shard_of,
)
from tiebreak.cli.reading import write_page
from tiebreak.cli.running import checkpoint_seconds, checkpoints_of
from tiebreak.cli.tracking import mirror_of, mirrored
from tiebreak.design.axes import Device, UserError
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import AnyTrial, Execution
    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore
    from tiebreak.runner import slurm
    from tiebreak.runner.events import Event
    from tiebreak.runner.launch import Launch

_WORKER = (sys.executable, "-m", "tiebreak", "worker")
_FOLLOW_SECONDS = 5.0


def add_arguments(study: argparse.ArgumentParser, *, overrides: str) -> None:
    """The options of `tiebreak study`."""
    study.add_argument("name", nargs="?", help="a study; without a name the studies are listed")
    study.add_argument("overrides", nargs="*", help=overrides)
    study.add_argument("--dry-run", action="store_true", help="print the cells and what is done; run nothing")
    study.add_argument("--workers", type=int, default=None, help="processes (default: one a core, or a GPU)")
    study.add_argument(
        "--rerun", choices=rerun_choices(), help="run only trials that ended so, setting such records aside"
    )
    study.add_argument(
        "--part", action="append", metavar="NAME", help="run only this part; may be given several times"
    )
    study.add_argument("--shard", metavar="K/N", help="run only every N-th trial, from the K-th on")
    study.add_argument("--detach", action="store_true", help="with launcher=slurm: submit and return")
    study.add_argument("--no-report", action="store_true", help="run the trials only")


def study(parsed: argparse.Namespace) -> int:
    """Run what is left of a study, then write its report."""
    from tiebreak import config
    from tiebreak.records.store import RecordStore

    if parsed.name is None:
        print("\n".join(config.list_studies()))
        return 0
    ranks.refuse_torchrun("tiebreak study")
    overrides, of_launch = config.split_launch(parsed.overrides)
    launch = config.compose_launch(of_launch)
    on_slurm = launch["launcher"] == "slurm"
    if parsed.detach and not on_slurm:
        raise UserError("--detach is for launcher=slurm. Here, run the command under nohup or tmux.")
    if parsed.workers is not None and on_slurm:
        raise UserError("--workers is for this machine. With launcher=slurm set jobs=N and slots=N.")
    if parsed.shard and on_slurm:
        raise UserError("--shard is for machines without a scheduler. Leave it out with launcher=slurm.")
    if parsed.workers is not None and parsed.workers < 1:
        raise UserError(f"--workers must be 1 or more, got {parsed.workers}.")
    tracking = Tracking.of(launch)
    plan = _composed(parsed.name, overrides, launch)
    store = RecordStore(plan.results, only_looks=parsed.dry_run)
    chosen = only_parts(plan, parsed.part)
    trials = shard_of(chosen.study.trials, parsed.shard)
    if parsed.rerun:
        trials = select_rerun(trials, store, kind=parsed.rerun)
    if parsed.dry_run:
        workers = _num_workers(parsed, chosen, launch)
        return dry_run(chosen, store, trials=trials, again=bool(parsed.rerun), workers=workers)
    if on_slurm:
        if parsed.part or parsed.rerun:
            plan = replace(plan, waiting=())  # a later stage has trials that were not asked for
        return _submit(parsed, plan, store, launch, trials=trials, overrides=overrides)
    code = INTERRUPTED
    while True:
        code = _run_here(parsed, plan, store, launch, trials=trials, tracking=tracking)
        waited = plan.waiting
        if code == INTERRUPTED or not waited or parsed.shard or parsed.rerun or parsed.part:
            break
        plan = _composed(parsed.name, overrides, launch)
        if plan.waiting == waited:
            break
        trials = plan.study.trials
    for name in plan.waiting:
        print(f"part {name} waits for the learning rates: give the command again when its search is recorded")
    return code


def _composed(name: str, overrides: Sequence[str], launch: dict[str, Any]) -> StudyRun:
    """The study, with the learning rates that its searches have found so far in its own results folder."""
    from tiebreak import config
    from tiebreak.records.store import RecordStore

    device = _device_of(launch)
    first = config.compose_study(name, overrides, device=device)
    if not first.waiting:
        return first
    store = RecordStore(first.results, only_looks=True)
    return config.compose_study(
        name, overrides, device=device, best_lr=lambda trials: _best_lr(trials, store)
    )


def _best_lr(trials: Sequence[AnyTrial], store: RecordStore) -> float | None:
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


def _device_of(launch: dict[str, Any]):
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


def _run_here(
    parsed: argparse.Namespace,
    plan: StudyRun,
    store: RecordStore,
    launch: dict[str, Any],
    *,
    trials: Sequence[AnyTrial],
    tracking: Tracking,
) -> int:
    from tiebreak.console import StudyProgress, make_console
    from tiebreak.records.session import OutcomeKind
    from tiebreak.runner.events import Note
    from tiebreak.runner.local import run_study

    study, workers = plan.study, _num_workers(parsed, plan, launch)
    store.write_study(study)
    if parsed.rerun:
        set_aside(trials, store, kind=parsed.rerun)
    left = [trial for trial in trials if not store.is_done(trial)]
    progress = StudyProgress(
        left,
        done_before=len(trials) - len(left),
        workers=workers,
        eta=measured(plan, store),
        console=make_console(),
    )
    mirror = mirror_of(
        tracking if left else Tracking(),
        study=study.name,
        store=store,
        trials=trials,
        notice=lambda text: progress(Note(text=text)),
    )
    has_page = not parsed.no_report and not parsed.shard
    page = plan.results / "report.html"
    with mirror:
        with progress.shown() as listen:
            summary = run_study(
                trials,
                study=study.name,
                store=store,
                workers=workers,
                command=_WORKER,
                checkpoints=checkpoints_of(store),
                data_root=plan.data_root,
                on_event=mirrored(mirror, listen),
                gpus=_gpus(plan),
                checkpoint_every_seconds=checkpoint_seconds(),
            )
        print(f"{study.name}: {summary}")
        if parsed.rerun and summary.left:
            print(f"leave --rerun {parsed.rerun} out to go on: it runs again what has ended so meanwhile")
        if has_page and (summary.recorded or not _is_current(page, store, study)):
            write_page(store, study.name)
            mirror.report()
    if has_page:
        print(f"report: {page}")
    elif parsed.shard:
        print(f"when every shard is there: tiebreak report {study.name} {_results_word(plan)}")
    if summary.stopped:
        return INTERRUPTED
    verdict = close(store, study)
    return FAULT if summary.outcomes.get(OutcomeKind.FAILED) else verdict  # what others hold is theirs to end


def _num_workers(parsed: argparse.Namespace, plan: StudyRun, launch: dict[str, Any]) -> int:
    """Processes at once: what was asked for, else as many as the GPUs or cores take without sharing."""
    if launch["launcher"] == "slurm":
        settings = _slurm_settings(launch, plan, num_trials=len(plan.study.trials))
        return settings.jobs * settings.slots
    if parsed.workers is not None:
        return parsed.workers
    if gpus := _gpus(plan):
        each = launch["workers_per_gpu"]
        if isinstance(each, bool) or not isinstance(each, int) or each < 1:
            raise UserError(f"workers_per_gpu must be a whole number of 1 or more, got {each!r}.")
        return each * max(1, len(gpus) // max(execution.num_ranks for execution in _executions(plan)))
    return max(1, _num_cores() // _cores_a_worker(plan))


def _cores_a_worker(plan: StudyRun) -> int:
    """Cores that a worker takes: the threads of each rank of a trial."""
    return max(execution.num_threads * execution.num_ranks for execution in _executions(plan))


def _executions(plan: StudyRun) -> list[Execution]:
    return [cell.execution for part in plan.study.parts for cell in part.cells]


def _gpus(plan: StudyRun) -> tuple[str, ...]:
    """The GPUs to share out, where the study has trials for them."""
    from tiebreak.cuda import visible_devices

    return visible_devices() if _on_gpu(plan) else ()


def _on_gpu(plan: StudyRun) -> bool:
    return any(execution.device is Device.CUDA for execution in _executions(plan))


def _num_cores() -> int:
    """Cores that this process may use, where the system tells; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_current(page: Path, store: RecordStore, study: Study) -> bool:
    """Whether the page is this study's, and younger than its list of trials and every record of them."""
    files = [store.study_path(study.name), *map(store.path, study.trials)]
    try:
        with page.open(encoding="utf-8", errors="replace") as text:
            is_ours = f"<title>{escape(study.name)} · " in text.read(1000)
        return is_ours and page.stat().st_mtime_ns >= max(
            file.stat().st_mtime_ns for file in files if file.exists()
        )
    except FileNotFoundError:
        return False


def _submit(
    parsed: argparse.Namespace,
    plan: StudyRun,
    store: RecordStore,
    tree: dict[str, Any],
    *,
    trials: Sequence[AnyTrial],
    overrides: Sequence[str],
) -> int:
    from tiebreak import config
    from tiebreak.config.composition import CONFIGS_VARIABLE
    from tiebreak.runner import slurm
    from tiebreak.runner.launch import launches, new_launch

    study = plan.study
    left = [trial for trial in trials if parsed.rerun or not store.is_done(trial)]
    if not left and not plan.waiting:
        print(f"{study.name}: {len(trials)} trials, all done; nothing was submitted")
        return 0
    # How many trials a later stage has is not known yet.
    settings = _slurm_settings(tree, plan, num_trials=10**6 if plan.waiting else len(left))
    with mirror_of(Tracking.of(tree), study=study.name, store=store, trials=[], notice=_print_now):
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
            "tracking": {key: value for key, value in tree.items() if key not in asdict(settings)},
            "checkpoints": str(checkpoints_of(store).absolute()),
            "data_root": str(plan.data_root.absolute()),
            "checkpoint_every_seconds": checkpoint_seconds(),
            "device": str(_device_of(tree)()) if plan.waiting else "",
        },
    )
    try:
        environment = {}
        if plan.waiting:  # the later stage is composed from the configurations of this moment
            frozen = launch.folder / "configs"
            shutil.copytree(config.config_folder(), frozen)
            environment[CONFIGS_VARIABLE] = str(frozen)
        if parsed.rerun:
            set_aside(left, store, kind=parsed.rerun)
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
        if slurm.states(other.jobs):
            print(f"launch {other.number} of the study is still in the queue; they share the trials")
    print(
        f"follow it: tiebreak status {study.name} {_results_word(plan)}\n"
        f"end it: scancel {' '.join(launch.jobs)}"
    )
    return 0 if parsed.detach else _follow(launch, store, plan, left=left)


def _slurm_settings(tree: dict[str, Any], plan: StudyRun, *, num_trials: int) -> slurm.Settings:
    from tiebreak.runner import slurm

    return slurm.Settings.of(
        tree,
        num_trials=num_trials,
        cores_a_worker=_cores_a_worker(plan),
        gpus_a_worker=max(execution.num_ranks for execution in _executions(plan)) if _on_gpu(plan) else 0,
    )


def _results_word(plan: StudyRun) -> str:
    """The results folder as a word for a shell."""
    return shlex.quote(f"results={plan.results}")


def _follow(launch: Launch, store: RecordStore, plan: StudyRun, *, left: Sequence[AnyTrial]) -> int:
    """Watch the jobs from outside until the queue has none of them; Ctrl-C ends the watching only."""
    from tiebreak.console import make_console
    from tiebreak.runner import slurm

    console, said = make_console(), ""
    try:
        while (states := slurm.states(launch.jobs)) != {}:
            if states is None:  # that it does not answer does not mean that they have ended
                if said != (said := "SLURM does not answer; the jobs are asked about again"):
                    console.print(said, highlight=False)
                time.sleep(_FOLLOW_SECONDS)
                continue
            done = sum(store.path(trial).exists() for trial in left)
            jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
            if (line := f"{done} of {len(left)} trials; jobs: {jobs}") != said:
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
        notice=_print_now,
    )
    with mirror:
        return work_off(
            launch,
            stage=stage,
            of=of,
            command=_WORKER,
            gpus=visible_devices() if launch.settings["gpus"] else (),
            listen=mirrored(mirror, _log),
            notice=_print_now,
        )


def conclude(words: Sequence[str]) -> int:
    """What the last job of a launch does: tables, figures and page, and their mirror."""
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.launch import read_launch

    launch = read_launch(Path(words[0]))
    store = RecordStore(launch.results)
    _print_now(f"report: {write_page(store, launch.study)}")
    tracking = Tracking.of(launch.settings["tracking"])
    with mirror_of(tracking, study=launch.study, store=store, trials=[], notice=_print_now) as mirror:
        mirror.report()
    return close(store, store.read_study(launch.study))


def _log(event: Event) -> None:
    """What a job writes of an event into its log."""
    from tiebreak.runner.events import Note, TrialEnded, TrialStarted

    match event:
        case TrialStarted():
            _print_now(f"{event.name} {event.trial}: attempt {event.attempt}")
        case TrialEnded():
            _print_now(f"{event.trial}: {event.outcome.kind} after {event.elapsed_seconds:.1f} s")
        case Note():
            _print_now(event.text)
        case _:
            pass


def _print_now(text: str) -> None:
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
        launch.study, overrides, device=lambda: device, best_lr=lambda trials: _best_lr(trials, store)
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
