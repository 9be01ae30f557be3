"""What a study would do: the dry run, and the choice of trials by shard or by how they ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tiebreak.design.axes import Device, UserError

if TYPE_CHECKING:
    from tiebreak.config import StudyRun
    from tiebreak.design.cell import AnyTrial
    from tiebreak.records.store import RecordStore
    from tiebreak.runner.eta import Eta

_RESULTS = Path("results")


def dry_run(
    plan: StudyRun, store: RecordStore, *, trials: Sequence[AnyTrial], again: bool, workers: int
) -> int:
    """Print the cells of a study, what is done, and what the rest will take.

    Args:
        plan: the study.
        store: its records.
        trials: those that the command is about: all, or a shard, or those to be run again.
        again: whether they are run though they may have records.
        workers: how many processes would share them.
    """
    from tiebreak.console import duration
    from tiebreak.design.cell import Cell

    study = plan.study
    done = store.done(study.trials)
    print(f"{study.name}: {study.question}")
    for part in study.parts:
        print(f"\n{part.name}: {len(part.cells)} cells x {part.num_replicates} replicates")
        counts = dict.fromkeys((cell.id for cell in part.cells), 0)
        for trial in part.trials:
            counts[trial.cell.id] += trial.id in done
        for cell in part.cells:
            print(f"  {counts[cell.id]:3d}/{part.num_replicates} {cell.name}")
    for name in plan.waiting:
        print(f"\n{name}: waits for learning rates, which a part above searches")
    data = [cell.data for part in study.parts for cell in part.cells if isinstance(cell, Cell)]
    for folder in sorted(
        {item.folder or str(item.name) for item in data if item.name.is_folder and not item.content}
    ):
        print(f"\n{folder} has no images in {plan.data_root}: once they are there, its cells have other ids")
    left = [trial for trial in trials if again or trial.id not in done]
    print(f"\n{len(study.trials)} trials, {len(done)} done, {len(study.trials) - len(done)} left")
    if again or len(trials) < len(study.trials):
        print(f"of these the command would run {len(left)}")
    if not left:
        return 0
    eta = measured(plan, store)
    seconds = eta.seconds_left(left, workers=workers)
    if seconds is None:
        print("time: unknown until a trial of the study has been measured")
        return 0
    print(f"time: about {duration(seconds)} with {workers} workers, from measured trials")
    for device, unit in ((Device.CUDA, "GPU"), (Device.CPU, "core")):
        hours = sum(
            (eta.trial_seconds(trial.cell) or 0.0)
            * trial.cell.execution.num_ranks
            * (trial.cell.execution.num_threads if device is Device.CPU else 1)
            for trial in left
            if trial.cell.execution.device is device
        )
        if hours:
            print(f"cost: about {hours / 3600:.3g} {unit}-hours")
    if size := _record_bytes(plan, store):
        print(f"disk: about {size * len(left) / 2**20:.3g} MiB of records")
    return 0


def measured(plan: StudyRun, store: RecordStore) -> Eta:
    """An estimator that knows what trials of the study took: here, or else in the default results folder."""
    from tiebreak.records.session import OutcomeKind
    from tiebreak.runner.eta import Eta

    eta = Eta()
    for known in _known(store):
        for trial in known.present(plan.study.trials):
            ended = known.ending(trial)
            if ended is not None and ended.outcome.kind is not OutcomeKind.FAILED:
                eta.add(trial.cell, elapsed_seconds=ended.elapsed_seconds)
        if eta.trial_seconds(plan.study.trials[0].cell) is not None:
            break
    return eta


def _record_bytes(plan: StudyRun, store: RecordStore) -> float | None:
    """Mean size of the study's records, here or in the default results folder."""
    for known in _known(store):
        sizes = [known.path(trial).stat().st_size for trial in known.present(plan.study.trials)]
        if sizes:
            return fmean(sizes)
    return None


def _known(store: RecordStore) -> list[RecordStore]:
    from tiebreak.records.store import RecordStore

    return [store, *([] if store.root == _RESULTS else [RecordStore(_RESULTS, only_looks=True)])]


def only_parts(plan: StudyRun, names: Sequence[str] | None) -> StudyRun:
    """The plan with these parts of its study only; all of it where none is named.

    Raises:
        UserError: no such part, or one that waits for learning rates.
    """
    if not names:
        return plan
    parts = {part.name: part for part in plan.study.parts}
    for name in names:
        if name in plan.waiting:
            raise UserError(f"part {name} waits for learning rates. Run the part that searches them first.")
        if name not in parts:
            known = ", ".join([*parts, *plan.waiting])
            raise UserError(f"--part: {plan.study.name} has no part {name!r}. Parts: {known}.")
    chosen = tuple(part for part in plan.study.parts if part.name in names)
    return replace(plan, study=replace(plan.study, parts=chosen), waiting=())


def shard_of(trials: Sequence[AnyTrial], text: str | None) -> Sequence[AnyTrial]:
    """The trials of shard K of N: the K-th and every N-th after it, so that shards are alike.

    Raises:
        UserError: the text is not K/N with K from 1 to N.
    """
    if text is None:
        return trials
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard must be K/N with K from 1 to N, such as 3/8, got {text!r}.")
    return trials[int(match[1]) - 1 :: int(match[2])]


def rerun_choices() -> list[str]:
    """How trials can have ended that may be run again on request: outcomes, then endings of attempts."""
    return [
        "failed",
        "diverged",
        "not_learned",
        "error",
        "killed",
        "node_fail",
        "timeout",
        "preempted",
        "stopped",
    ]


def select_rerun(trials: Sequence[AnyTrial], store: RecordStore, *, kind: str) -> list[AnyTrial]:
    """The trials that ended so; nothing is changed by asking.

    Args:
        trials: of the study.
        store: their records.
        kind: an outcome, or how the last attempt of a trial without a record ended. A trial whose record of
            that outcome was set aside before and that has no other yet is meant too.
    """
    from tiebreak.records.session import OutcomeKind
    from tiebreak.runner.claim import Attempts

    def has_ended_so(trial: AnyTrial) -> bool:
        if kind in list(OutcomeKind):
            ended = store.ending(trial)
            return (ended.outcome.kind if ended else store.set_aside_as(trial)) == kind
        attempts = Attempts(store.attempts_folder(trial), trial=trial.id)
        return not store.is_done(trial) and attempts.last_ending() == kind

    chosen = [trial for trial in trials if has_ended_so(trial)]
    print(f"{len(chosen)} of {len(trials)} trials ended as {kind}")
    return chosen


def set_aside(trials: Sequence[AnyTrial], store: RecordStore, *, kind: str) -> None:
    """Set the records of these trials that have the outcome `kind` aside, into their attempts."""
    from tiebreak.records.session import OutcomeKind

    if kind in list(OutcomeKind):
        for trial in trials:
            store.reopen(trial, outcome=OutcomeKind(kind))
