"""The verb `study`: plan it, run it here, or hand it to SLURM; then its report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.cli import ranks
from tiebreak.cli.closing import close
from tiebreak.cli.ending import FAULT, INTERRUPTED
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
from tiebreak.cli.stages import composed
from tiebreak.cli.submitting import results_word, submit
from tiebreak.cli.tracking import mirror_of, mirrored
from tiebreak.cli.workers import WORKER, gpus, num_workers
from tiebreak.design.axes import UserError
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import AnyTrial
    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore


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
    plan = composed(parsed.name, overrides, launch)
    store = RecordStore(plan.results, only_looks=parsed.dry_run)
    chosen = only_parts(plan, parsed.part)
    trials = shard_of(chosen.study.trials, parsed.shard)
    if parsed.rerun:
        trials = select_rerun(trials, store, kind=parsed.rerun)
    if parsed.dry_run:
        workers = num_workers(chosen, launch, asked=parsed.workers)
        return dry_run(chosen, store, trials=trials, again=bool(parsed.rerun), workers=workers)
    if on_slurm:
        if parsed.part or parsed.rerun:
            plan = replace(plan, waiting=())  # a later stage has trials that were not asked for
        return submit(
            plan,
            store,
            launch,
            trials=trials,
            overrides=overrides,
            rerun=parsed.rerun,
            is_detached=parsed.detach,
        )
    code = INTERRUPTED
    while True:
        code = _run_here(parsed, plan, store, launch, trials=trials, tracking=tracking)
        waited = plan.waiting
        if code == INTERRUPTED or not waited or parsed.shard or parsed.rerun or parsed.part:
            break
        plan = composed(parsed.name, overrides, launch)
        if plan.waiting == waited:
            break
        trials = plan.study.trials
    for name in plan.waiting:
        print(f"part {name} waits for the learning rates: give the command again when its search is recorded")
    return code


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

    study, workers = plan.study, num_workers(plan, launch, asked=parsed.workers)
    store.write_study(study)
    if parsed.rerun:
        set_aside(trials, store, kind=parsed.rerun)
    done = store.done(trials)
    left = [trial for trial in trials if trial.id not in done]
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
                command=WORKER,
                checkpoints=checkpoints_of(store),
                data_root=plan.data_root,
                on_event=mirrored(mirror, listen),
                gpus=gpus(plan),
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
        print(f"when every shard is there: tiebreak report {study.name} {results_word(plan)}")
    if summary.stopped:
        return INTERRUPTED
    verdict = close(store, study)
    return FAULT if summary.outcomes.get(OutcomeKind.FAILED) else verdict  # what others hold is theirs to end


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
