"""Tracking from the command line: the mirror beside a run, its process, and the mirror made from records."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.cli.ending import FAULT
from tiebreak.design.axes import UserError
from tiebreak.records.durable import explained
from tiebreak.tracking.settings import Mode, Task, Tracking, TrackingError

if TYPE_CHECKING:
    from tiebreak.design.cell import AnyTrial
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.events import Event, Listener
    from tiebreak.tracking.mirror import Mirror

_COMMAND = (sys.executable, "-m", "tiebreak", "mirror")


def mirror(words: Sequence[str]) -> int:
    """The process that mirrors a study; started by `study`, `run` and `wandb-export`, not by people."""
    from tiebreak.tracking.mirroring import main_loop

    return main_loop(Task.from_arguments(words))


def mirror_of(
    tracking: Tracking,
    *,
    study: str,
    store: RecordStore,
    trials: Iterable[AnyTrial],
    notice: Callable[[str], None],
) -> Mirror:
    """The mirror of some trials, as a context; with tracking off it does nothing.

    Args:
        tracking: where to.
        study: the group of the runs in W&B; empty for a trial of no study.
        store: where the trials' records go.
        trials: whose events will be sent.
        notice: is told when the mirror ends before the trials.
    """
    from tiebreak.tracking.mirror import Mirror

    task = Task(tracking=tracking, study=study, results=store.root.absolute())
    return Mirror(task, trials={trial.id: trial for trial in trials}, command=_COMMAND, notice=notice)


def mirrored(mirror: Mirror, listen: Listener) -> Listener:
    """A listener that hands to the mirror what it mirrors, and then listens as before.

    Args:
        mirror: where events are sent.
        listen: the listener for everything.
    """
    from tiebreak.runner.events import TrialEnded, TrialLeft, TrialRow, TrialStarted, to_line

    def both(event: Event) -> None:
        if isinstance(event, TrialStarted | TrialRow | TrialEnded | TrialLeft):
            mirror.send(to_line(event), trial=event.trial)
        listen(event)

    return both


def wandb_export(parsed: argparse.Namespace) -> int:
    """Make the whole mirror of a study from its records."""
    from rich.progress import track

    from tiebreak.console import make_console
    from tiebreak.records.store import RecordStore

    results, tracking = _export_places(parsed.overrides)
    store = RecordStore(results, only_looks=True)
    study = store.read_study(parsed.name)
    trials = [trial for trial in study.trials if store.is_done(trial)]
    if not trials:
        raise UserError(f"{study.name} has no records in {results}. Run `tiebreak study {study.name}` first.")
    if tracking.mode is Mode.OFFLINE:  # made anew, so that a run has one file however often it is exported
        tracking = replace(tracking, folder=tracking.folder / "export" / study.name)
        for earlier in ("wandb", "data", "cache"):
            if (folder := tracking.folder / earlier).exists():
                with explained(folder):
                    shutil.rmtree(folder)
    console = make_console()
    with mirror_of(
        tracking,
        study=study.name,
        store=store,
        trials=trials,
        notice=lambda text: console.print(text, highlight=False, markup=False),
    ) as mirror:
        for trial in track(trials, "wandb-export", console=console, disable=not console.is_terminal):
            mirror.export(trial)
        mirror.report()
    where = f"in {tracking.folder}/wandb" if tracking.mode is Mode.OFFLINE else f"in W&B ({tracking.project})"
    print(f"{study.name}: {mirror.num_mirrored} of {len(study.trials)} trials are runs {where}")
    if tracking.mode is Mode.OFFLINE:
        print(f"To send them: wandb sync {tracking.folder}/wandb/offline-run-*")
    return FAULT if mirror.has_failed else 0


def _export_places(overrides: Sequence[str]) -> tuple[Path, Tracking]:
    """Where the records are, and where the mirror goes; nothing else is for this verb to set."""
    from tiebreak import config

    cells, launch = config.split_launch(overrides)
    chosen = Path("results")
    for word in cells:
        name, sign, value = word.partition("=")
        if name != "results" or not sign or not value:
            raise UserError(
                f"wandb-export takes results=DIR and mode, project, entity and wandb_folder, got {word!r}."
            )
        chosen = Path(value)
    tracking = Tracking.of(config.compose_launch(["tracking=wandb", *launch]))
    if not tracking.is_on:
        raise TrackingError("wandb-export has nothing to do with mode=disabled. Choose online or offline.")
    return chosen, tracking
