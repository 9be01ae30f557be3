"""Verbs that measure: one trial, a sweep, a study, and the worker that a study starts."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli import ranks
from tiebreak.cli.ending import FAULT, INTERRUPTED, STATE, say, told
from tiebreak.cli.machine import auto_device
from tiebreak.cli.reading import write_page
from tiebreak.cli.tracking import mirror_of, mirrored
from tiebreak.design.axes import UserError
from tiebreak.protocols.seat import seat_for
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from tiebreak.config import Run, StudyRun
    from tiebreak.design.study import Study
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.session import Measure

_RESULTS = Path("results")


def run(parsed: argparse.Namespace) -> int:
    """Run one trial, or hand a sweep to Hydra."""
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak import config

    if parsed.cfg:
        print(config.to_yaml(parsed.overrides), end="")
        return 0
    overrides, tracking = _with_tracking(parsed.overrides, launchers=("local",))
    if parsed.multirun:
        ranks.refuse_torchrun("tiebreak run -m")
        work = partial(_run_composed, tracking=tracking)
        return config.multirun(overrides, work, stopped=INTERRUPTED)
    return _run_one(config.compose_run(overrides, device=auto_device()), tracking)


def _with_tracking(
    overrides: Sequence[str], *, launchers: Sequence[str] = ("local", "slurm")
) -> tuple[list[str], Tracking]:
    """The overrides of the cell, and what the others say about the mirror.

    Args:
        overrides: as on the command line.
        launchers: those that the verb has.
    """
    from tiebreak import config

    cells, launch = config.split_launch(overrides)
    settings = config.compose_launch(launch)
    if settings["launcher"] not in launchers:
        raise UserError(
            f"launcher={settings['launcher']} is for `tiebreak study`; this verb runs its trial here. "
            "Leave it out."
        )
    return cells, Tracking.of(settings)


def _run_composed(composed: DictConfig, *, tracking: Tracking) -> int:
    """One trial of a multirun, perhaps in a process of its own: it says itself what went wrong."""
    from tiebreak import config

    return told(lambda: _run_one(config.run_of(composed, device=auto_device()), tracking))


def _run_one(run: Run, tracking: Tracking) -> int:
    from tiebreak.console import TrialProgressLine, make_console
    from tiebreak.records.session import OutcomeKind
    from tiebreak.records.store import RecordStore

    trial = run.trial
    if (seat := seat_for(trial)) is not None and seat.rank > 0:
        return ranks.follow_torchrun(run, seat)
    store = RecordStore(run.results)
    record = store.read(trial)
    if record is not None:
        outcome, note = record.outcome, " (recorded before; nothing ran)"
    else:
        from tiebreak.records.session import Stopped
        from tiebreak.runner.checkpoint import CheckpointStore
        from tiebreak.runner.events import Note
        from tiebreak.runner.session import AttemptFailed, Bench, origin_of, run_trial
        from tiebreak.runner.worker import stop_on_signals

        measure, kernel = _loaded_protocols()

        line = TrialProgressLine(make_console())
        mirror = mirror_of(
            tracking, study="", store=store, trials=[trial], notice=lambda text: line(Note(text=text))
        )
        with mirror, line.shown() as progress, stop_on_signals() as stop:
            bench = Bench(
                store=store,
                checkpoints=CheckpointStore(_checkpoints(store)),
                measure=measure,
                data_root=run.data_root,
                provenance=partial(origin_of, kernel=kernel),
                on_event=mirrored(mirror, progress),
                stop=stop,
                refusals=(UserError,),
                checkpoint_every_seconds=_checkpoint_seconds(),
                retries=seat is None,
            )
            try:
                outcome, note = run_trial(trial, bench=bench), ""
            except Stopped as stopped:
                return say(str(stopped), INTERRUPTED)
            except AttemptFailed as failed:
                return say(str(failed), FAULT)
        record = store.read(trial)
    at = f" at step {outcome.step}" if outcome.step is not None else ""
    why = f": {outcome.reason}" if outcome.reason else ""
    print(f"{trial.cell.name}, replicate {trial.replicate}: {outcome.kind}{at}{why}{note}")
    if record is not None:
        finals = [row for row in record.rows if row["row"] in ("epoch", "best")]
        if finals:
            shown = ("epoch", "lr", "train_loss", "test_loss", "test_accuracy", "validation_accuracy")
            print("  " + "  ".join(f"{key}={finals[-1][key]:.6g}" for key in shown if key in finals[-1]))
    print(f"  {store.path(trial)}")
    return FAULT if outcome.kind is OutcomeKind.FAILED else 0


def study(parsed: argparse.Namespace) -> int:
    """Run what is left of a study, then write its report."""
    from tiebreak import config
    from tiebreak.records.store import RecordStore

    if parsed.name is None:
        print("\n".join(config.list_studies()))
        return 0
    ranks.refuse_torchrun("tiebreak study")
    overrides, tracking = _with_tracking(parsed.overrides)
    plan = config.compose_study(parsed.name, overrides, device=auto_device())
    store = RecordStore(plan.results, only_looks=parsed.dry_run)
    workers = parsed.workers if parsed.workers is not None else _num_cores()
    if workers < 1:
        raise UserError(f"--workers must be 1 or more, got {workers}.")
    if parsed.dry_run:
        return _dry_run(plan, store, workers=workers)
    if parsed.rerun:
        _reopen_failed(plan, store)
    return _run_study(plan, store, workers=workers, report=not parsed.no_report, tracking=tracking)


def _reopen_failed(plan: StudyRun, store: RecordStore) -> None:
    from tiebreak.records.session import OutcomeKind

    for trial in plan.study.trials:
        record = store.read(trial)
        if record is not None and record.outcome.kind is OutcomeKind.FAILED:
            store.reopen(trial)


def _dry_run(plan: StudyRun, store: RecordStore, *, workers: int) -> int:
    from tiebreak.console import duration

    study = plan.study
    print(f"{study.name}: {study.question}")
    for part in study.parts:
        print(f"\n{part.name}: {len(part.cells)} cells x {part.num_replicates} replicates")
        for cell in part.cells:
            done = sum(store.is_done(trial) for trial in part.trials if trial.cell == cell)
            print(f"  {done:3d}/{part.num_replicates} {cell.name}")
    data = [cell.data for part in study.parts for cell in part.cells]
    for folder in sorted(
        {item.folder or str(item.name) for item in data if item.name.is_folder and not item.content}
    ):
        print(f"\n{folder} has no images in {plan.data_root}: once they are there, its cells have other ids")
    left = [trial for trial in study.trials if not store.is_done(trial)]
    print(f"\n{len(study.trials)} trials, {len(study.trials) - len(left)} done, {len(left)} left")
    seconds = _measured(plan, store).seconds_left(left, workers=workers)
    if left and seconds is None:
        print("time: unknown until a trial of the study has been measured")
    elif seconds is not None:
        print(f"time: about {duration(seconds)} with {workers} workers, from measured trials")
    return 0


def _measured(plan: StudyRun, store: RecordStore):
    """An estimator that knows what trials of the study took: here, or else in the default results folder."""
    from tiebreak.records.session import OutcomeKind
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.eta import Eta

    eta = Eta()
    reference = [] if store.root == _RESULTS else [RecordStore(_RESULTS, only_looks=True)]
    for known in (store, *reference):
        for trial in plan.study.trials:
            record = known.read(trial)
            if record is not None and record.outcome.kind is not OutcomeKind.FAILED:
                eta.add(trial.cell, elapsed_seconds=record.elapsed_seconds)
        if eta.trial_seconds(plan.study.trials[0].cell) is not None:
            break
    return eta


def _run_study(plan: StudyRun, store: RecordStore, *, workers: int, report: bool, tracking: Tracking) -> int:
    from tiebreak.console import StudyProgress, make_console
    from tiebreak.records.session import OutcomeKind
    from tiebreak.runner.events import Note
    from tiebreak.runner.local import run_study

    study = plan.study
    store.write_study(study)
    left = [trial for trial in study.trials if not store.is_done(trial)]
    console = make_console()
    progress = StudyProgress(
        left,
        done_before=len(study.trials) - len(left),
        workers=workers,
        eta=_measured(plan, store),
        console=console,
    )
    mirror = mirror_of(
        tracking if left else Tracking(),
        study=study.name,
        store=store,
        trials=study.trials,
        notice=lambda text: progress(Note(text=text)),
    )
    with mirror:
        with progress.shown() as listen:
            summary = run_study(
                study.trials,
                store=store,
                workers=workers,
                command=[sys.executable, "-m", "tiebreak", "worker"],
                checkpoints=_checkpoints(store),
                data_root=plan.data_root,
                on_event=mirrored(mirror, listen),
                checkpoint_every_seconds=_checkpoint_seconds(),
            )
        print(f"{study.name}: {summary}")
        page = plan.results / "report.html"
        if report and (summary.recorded or not _is_current(page, store, study)):
            write_page(store, study.name, pool_devices=False)
            mirror.report()
    if report:
        print(f"report: {page}")
    if summary.stopped:
        return INTERRUPTED
    return FAULT if summary.outcomes.get(OutcomeKind.FAILED) else 0  # what others hold is theirs to end


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


def worker(words: Sequence[str]) -> int:
    """Work through a manifest together with others."""
    from tiebreak.runner.worker import Job, main_loop

    loaded = cache(_loaded_protocols)  # at the first trial: a worker with nothing to do loads nothing

    return main_loop(
        Job.from_arguments(words),
        measure=lambda trial, session: loaded()[0](trial, session),
        refusals=(UserError,),
        kernel=lambda: loaded()[1],
    )


def _loaded_protocols() -> tuple[Measure, str]:
    """How a trial is measured, and what its provenance says of the compiled kernel; this loads torch."""
    from tiebreak.runner.loading import loading

    with loading():
        from tiebreak.numerics.native import kernel_status
        from tiebreak.protocols import measure

        return measure, str(kernel_status())


def _num_cores() -> int:
    """Cores that this process may use, where the system tells; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checkpoint_seconds() -> float:
    """How much work a crash may cost, from TIEBREAK_CHECKPOINT_SECONDS or half a minute."""
    text = os.environ.get("TIEBREAK_CHECKPOINT_SECONDS", "30")
    try:
        return max(0.0, float(text))
    except ValueError:
        raise UserError(f"TIEBREAK_CHECKPOINT_SECONDS must be a number of seconds, got {text!r}.") from None


def _checkpoints(store: RecordStore) -> Path:
    """Unfinished trials of one results folder: the same trial may be running for another one."""
    name = hashlib.sha256(str(store.root.resolve()).encode()).hexdigest()[:8]
    return STATE / "checkpoints" / name
