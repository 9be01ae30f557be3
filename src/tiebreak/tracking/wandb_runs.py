"""One run of W&B a trial. The only module that knows wandb; it is imported when a mirror starts.

A run's id is the trial's, so a trial that is stopped, continued, repeated or exported is one run. The step of
a point is the index of a row in the record: what is seen in W&B can be found in the file.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.design.cell import SCHEMA, AnyTrial, Cell
from tiebreak.records.provenance import Origin
from tiebreak.records.record import Record
from tiebreak.records.session import OutcomeKind, Row
from tiebreak.tracking.settings import Mode, Tracking, TrackingError
from tiebreak.tracking.told import AXES, metrics, summary, told_rows

if TYPE_CHECKING:
    import wandb

_PROBE_BYTES = 1 << 18
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 60.0


class Runs:
    """The runs of one study.

    Args:
        tracking: where they are written; its mode is not `disabled`.
        study: the group of the runs; empty for none.

    Raises:
        TrackingError: `mode=online` without a key for W&B.
        OSError: the folder cannot be written.
        ImportError: wandb is not installed, or broken.
    """

    def __init__(self, tracking: Tracking, *, study: str) -> None:
        self._folder = tracking.folder.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._require_space()
        # Its log file may lie on a full disk, and a traceback for each line would say nothing new.
        logging.raiseExceptions = False
        import wandb

        self._wandb = wandb
        self._tracking = tracking
        self._study = study
        self._mode = tracking.mode
        self._unreached = ""
        self._runs: dict[str, wandb.Run] = {}
        self._commit = Origin().checkout[0]
        if self._mode is Mode.ONLINE and not wandb.login(prompt=False, verify=False):
            raise TrackingError(
                "mode=online needs a key for W&B, and there is none. Run `wandb login` or set WANDB_API_KEY; "
                "or choose mode=offline and send the runs later with `wandb sync`."
            )

    @property
    def unreached(self) -> str:
        """Why W&B could not be reached, so that all later runs are kept offline; empty while it could."""
        return self._unreached

    @property
    def open_ids(self) -> tuple[str, ...]:
        """Ids of the trials whose runs are being written."""
        return tuple(self._runs)

    def is_open(self, trial: AnyTrial) -> bool:
        """Whether the trial's run is being written."""
        return trial.id in self._runs

    def open(self, trial: AnyTrial) -> None:
        """Begin a trial's run, or go on with it.

        Args:
            trial: whose.

        Raises:
            Exception: whatever wandb raises offline.
        """
        if self.is_open(trial):
            return
        cell = trial.cell
        run = self._init(
            id=run_id(trial),
            name=f"{cell.name}/{trial.replicate:04d}",
            job_type=cell.protocol,
            config={
                **cell.to_dict(),
                "trial": trial.id,
                "cell_id": cell.id,
                "name": cell.name,
                "replicate": trial.replicate,
                "schema": SCHEMA,
                "study": self._study or None,
                "commit": self._commit,
            },
            tags=_tags(trial),
        )
        for kind, axis in AXES.items():
            axis = "epoch" if cell.protocol == "trajectory" else axis
            if axis:
                run.define_metric(f"{kind}/{axis}", hidden=True)
                run.define_metric(f"{kind}/*", step_metric=f"{kind}/{axis}")
        self._runs[trial.id] = run

    def log(self, trial: AnyTrial, row: Row, *, index: int) -> None:
        """Write a told row as one point of the trial's run.

        Args:
            trial: whose; its run is open.
            row: see `told.Told`.
            index: of the row in the record.
        """
        # Committed at once: a point that waits for the next one would overwrite the summary at the end.
        self._runs[trial.id].log(metrics(row), step=index, commit=True)

    def leave(self, trial: AnyTrial) -> None:
        """Close a run whose trial has no record yet; a later `open` goes on with it."""
        if (run := self._runs.pop(trial.id, None)) is not None:
            run.summary.update({"outcome": "unfinished"})
            self._finish(run, exit_code=1)

    def end(self, record: Record) -> None:
        """Close a run with what the record says; one that was not watched is written whole.

        Args:
            record: the trial's.
        """
        trial = record.trial
        if not self.is_open(trial):
            self.open(trial)
            for index, row in told_rows(record.rows):
                self.log(trial, row, index=index)
        run = self._runs.pop(trial.id)
        provenance = dict(record.provenance)
        run.config.update(
            {"commit": provenance.get("commit"), "provenance": provenance}, allow_val_change=True
        )
        run.summary.update(summary(record))
        self._finish(run, exit_code=int(record.outcome.kind is OutcomeKind.FAILED))

    def report(self, files: Mapping[str, Sequence[Path]]) -> None:
        """Keep a study's tables, figures and page as artifacts of one run named after the study.

        Args:
            files: for each type of artifact, its files; those that are not there are left out.
        """
        run = self._init(
            id=f"study-{sha256(self._study.encode()).hexdigest()[:12]}",
            name=self._study,
            job_type="report",
            config={"study": self._study, "commit": self._commit},
            tags=("report",),
        )
        for kind, paths in files.items():
            artifact = self._wandb.Artifact(
                f"{re.sub(r'[^A-Za-z0-9._-]', '-', self._study)}-{kind}", type=kind
            )
            for path in paths:
                if path.is_file():
                    artifact.add_file(str(path), name=path.name)
            if artifact.manifest.entries:
                run.log_artifact(artifact)
        self._finish(run)

    def _init(self, **about: Any) -> wandb.Run:
        """A run; where W&B cannot be reached this and all later ones are kept offline."""
        try:
            return self._init_as(self._mode, **about)
        except self._wandb.Error as error:
            if self._mode is Mode.OFFLINE:
                raise
            self._go_offline(str(error).partition("\n")[0] or type(error).__name__)
            # wandb's service holds on to the id of a run that it could not begin. Runs that are open are
            # begun again, offline, with their next row.
            self._wandb.teardown(exit_code=1)
            self._runs.clear()
            return self._init_as(self._mode, **about)

    def _finish(self, run: wandb.Run, *, exit_code: int = 0) -> None:
        began = time.monotonic()
        run.finish(exit_code=exit_code)
        if self._mode is Mode.ONLINE and time.monotonic() - began >= _FINISH_SECONDS:
            self._go_offline(f"the end of a run was not taken within {_FINISH_SECONDS:g} s")
        self._require_space()

    def _go_offline(self, reason: str) -> None:
        self._mode, self._unreached = Mode.OFFLINE, reason

    def _init_as(self, mode: Mode, **about: Any) -> wandb.Run:
        settings = self._wandb.Settings(
            root_dir=str(self._folder),
            use_dot_wandb=False,
            silent=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            # What W&B would find out by itself is about the user and the machine, not about the trial.
            host="",
            username="",
            email="",
            program="tiebreak",
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            label_disable=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_viewer=True,
            x_save_requirements=False,
        )
        return self._wandb.init(
            project=self._tracking.project,
            entity=self._tracking.entity or None,
            group=self._study or None,
            mode=mode.value,
            resume="allow",
            reinit="create_new",
            settings=settings,
            **about,
        )

    def _require_space(self) -> None:
        """A full disk, as an exception: wandb itself would cut its file short without a word."""
        probe = self._folder / f".tmp-space-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with probe.open("wb") as file:
                file.write(bytes(_PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink()


def run_id(trial: AnyTrial) -> str:
    """The id of a trial's run: the trial's own, in characters that W&B takes."""
    return trial.id.replace("/", "-")


def _tags(trial: AnyTrial) -> tuple[str, ...]:
    cell = trial.cell
    if not isinstance(cell, Cell):
        return tuple(word[:64] for word in cell.words)
    labels = dict.fromkeys(f"pool {jacobian.label}" for jacobian in cell.jacobians)
    tags = (cell.protocol, str(cell.network.arch), str(cell.data.name), str(cell.precision), *labels)
    return tuple(tag[:64] for tag in tags)
