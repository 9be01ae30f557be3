"""Verbs that measure one trial, a sweep of Hydra's, or a share of a study as one of its workers."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli import ranks
from tiebreak.cli.ending import FAULT, INTERRUPTED, STATE, say, told
from tiebreak.cli.machine import auto_device
from tiebreak.cli.tracking import mirror_of, mirrored
from tiebreak.design.axes import UserError
from tiebreak.protocols.seat import seat_for
from tiebreak.tracking.settings import Tracking

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from tiebreak.config import Run
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
    overrides, tracking = _with_tracking(parsed.overrides)
    if parsed.multirun:
        ranks.refuse_torchrun("tiebreak run -m")
        work = partial(_run_composed, tracking=tracking)
        return config.multirun(overrides, work, stopped=INTERRUPTED)
    return _run_one(config.compose_run(overrides, device=auto_device()), tracking)


def _with_tracking(overrides: Sequence[str]) -> tuple[list[str], Tracking]:
    """The overrides of the cell, and what the others say about the mirror."""
    from tiebreak import config

    cells, of_launch = config.split_launch(overrides)
    launch = config.compose_launch(of_launch)
    if launch["launcher"] != "local":
        raise UserError(
            f"launcher={launch['launcher']} is for `tiebreak study`; this verb runs its trial here. "
            "Leave it out."
        )
    return cells, Tracking.of(launch)


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
                checkpoints=CheckpointStore(checkpoints_of(store)),
                measure=measure,
                data_root=run.data_root,
                provenance=partial(origin_of, kernel=kernel),
                on_event=mirrored(mirror, progress),
                stop=stop,
                refusals=(UserError,),
                checkpoint_every_seconds=checkpoint_seconds(),
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
        from tiebreak.cli.measuring import measure
        from tiebreak.numerics.native import kernel_status

        return measure, str(kernel_status())


def checkpoint_seconds() -> float:
    """How much work a crash may cost, from TIEBREAK_CHECKPOINT_SECONDS or half a minute."""
    text = os.environ.get("TIEBREAK_CHECKPOINT_SECONDS", "30")
    try:
        return max(0.0, float(text))
    except ValueError:
        raise UserError(f"TIEBREAK_CHECKPOINT_SECONDS must be a number of seconds, got {text!r}.") from None


def checkpoints_of(store: RecordStore) -> Path:
    """Unfinished trials of one results folder: the same trial may be running for another one."""
    name = hashlib.sha256(str(store.root.resolve()).encode()).hexdigest()[:8]
    return STATE / "checkpoints" / name
