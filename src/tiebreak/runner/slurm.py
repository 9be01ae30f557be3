"""A launch as jobs of SLURM: one array of crews a stage, a gate before each later stage, a report at the end.

SLURM starts and restarts processes; which trial is whose is settled by claims, and what is done by records.
So the array has as many jobs as wanted and not one a trial, exit codes say nothing about trials, and
submitting again goes on.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tiebreak.records.durable import write
from tiebreak.runner.launch import Launch
from tiebreak.runner.scheduler import SIGNAL_SLACK_SECONDS, SlurmError, ask, in_seconds, max_array_size

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `configs/launcher/slurm.yaml`, which says what each is about."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus: int | str
    cpus: int
    memory: str | None
    time: str
    jobs: int
    slots: int
    throttle: int | None
    signal_seconds: int
    requeues: int
    modules: tuple[str, ...]
    setup: tuple[str, ...]
    container: str | None
    python: str
    options: tuple[str, ...]

    @classmethod
    def of(
        cls, tree: Mapping[str, Any], *, num_trials: int, cores_a_worker: int, gpus_a_worker: int
    ) -> Settings:
        """The settings of a launch, every `auto` resolved.

        Args:
            tree: the keys and values, as they were composed.
            num_trials: trials of the largest stage: there are no more workers than that.
            cores_a_worker: that a worker takes.
            gpus_a_worker: that a worker wants; several workers of a job share them. 0 without CUDA.

        Raises:
            SlurmError: a value that cannot be.
        """
        values = {item.name: tree[item.name] for item in fields(cls)}
        for key in ("jobs", "slots", "signal_seconds"):
            _whole(values, key, least=1)
        _whole(values, "requeues", least=0)
        if values["throttle"] is not None:
            _whole(values, "throttle", least=1)
        values["slots"] = min(values["slots"], num_trials)
        values["jobs"] = min(values["jobs"], math.ceil(num_trials / values["slots"]))
        if values["cpus"] == AUTO:
            values["cpus"] = values["slots"] * cores_a_worker
        _whole(values, "cpus", least=1)
        if values["gpus"] == AUTO:
            values["gpus"] = gpus_a_worker
        if not (isinstance(values["gpus"], str) and re.fullmatch(r"[\w.-]+:[1-9]\d*", values["gpus"])):
            _whole(values, "gpus", least=0, also=", or a kind and a number such as a100:2")
        for key in ("modules", "setup", "options"):
            if not isinstance(values[key], list | tuple) or not all(
                isinstance(item, str) for item in values[key]
            ):
                raise SlurmError(f"{key} must be a list of texts, got {values[key]!r}.")
            values[key] = tuple(values[key])
        values["time"] = _time(values["time"], signal_seconds=values["signal_seconds"])
        for key, value in values.items():
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and "\n" in text for text in texts):
                raise SlurmError(f"{key} must be of one line each, got {value!r}.")
        values["python"] = values["python"] or sys.executable
        for key in ("partition", "account", "qos", "constraint", "memory", "container"):
            values[key] = None if values[key] is None else str(values[key])
        return cls(**values)

    @property
    def remarks(self) -> list[str]:
        """What is taken as it stands and may not be what was meant."""
        if not re.fullmatch(r"\d+:\d{1,2}", self.time):
            return []
        minutes, seconds = map(int, self.time.split(":"))
        length = f"{minutes} min {seconds} s" if seconds else f"{minutes} minutes"
        return [
            f"time={self.time} is {length} to SLURM, which reads two numbers as minutes:seconds. "
            f"Write time={self.time}:00 if you mean hours:minutes."
        ]

    def directives(self) -> list[str]:
        """Options of sbatch for a job that measures."""
        gpus = [f"--gres=gpu:{self.gpus}"] if self.gpus else []
        return [
            *self.place(),
            *gpus,
            f"--cpus-per-task={self.cpus}",
            *([f"--mem={self.memory}"] if self.memory else []),
            f"--time={self.time}",
            f"--signal=B:USR1@{self.signal_seconds}",
            "--requeue",
            *self.options,
        ]

    def place(self) -> list[str]:
        """Options of sbatch that say where and on whose account."""
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        return [f"--{key}={value}" for key, value in named.items() if value is not None]


def _whole(values: dict[str, Any], key: str, *, least: int, also: str = "") -> None:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SlurmError(f"{key} must be a whole number of {least} or more{also}, got {value!r}.")


def _time(value: Any, *, signal_seconds: int) -> str:
    """A limit of time as SLURM writes it; a number could be minutes (SLURM's) or seconds (YAML's 4:00:00)."""
    if not isinstance(value, str) or not re.fullmatch(r"(\d+-)?\d+(:\d{1,2}){1,2}|\d+-\d+", value):
        raise SlurmError(
            f"time must be hours:minutes:seconds such as 4:00:00, in quotes in a file, got {value!r}."
        )
    if in_seconds(value) <= signal_seconds + SIGNAL_SLACK_SECONDS:
        raise SlurmError(
            f"time={value} leaves a job no time to work: it is told to stop signal_seconds={signal_seconds} "
            f"before the end, and SLURM may do so {SIGNAL_SLACK_SECONDS} s early. Give it more time, or make "
            "signal_seconds smaller."
        )
    return value


def submit(
    launch: Launch,
    settings: Settings,
    *,
    templates: Path,
    stages: int,
    environment: Mapping[str, str],
    report: Sequence[str],
) -> Launch:
    """Hand a launch to SLURM.

    Each stage is an array; before a later one a gate composes it, and lets it begin only if every trial of
    the stage before is recorded. The report is made when the last array has ended. What was submitted is
    taken back if a later submission is refused.

    Args:
        launch: as it was made.
        settings: see `Settings.of`.
        templates: the folder of `job.sbatch`.
        stages: how many there are.
        environment: variables to set in every job.
        report: the words of `tiebreak` that make tables, figures and page.

    Returns:
        The launch with the numbers of its jobs.

    Raises:
        SlurmError: there is no SLURM here, it refuses, or cannot write into the launch's folder.
    """
    if odd := set('"\\\n').intersection(str(launch.logs)):
        raise SlurmError(
            f"SLURM cannot write logs to {launch.logs}: it takes {' and '.join(sorted(map(repr, odd)))} in a "
            "path for something else. Choose another results folder with results=DIR."
        )
    room = max_array_size()
    jobs = min(settings.jobs, room) if room else settings.jobs
    array = f"--array=0-{jobs - 1}" + (f"%{settings.throttle}" if settings.throttle else "")
    light = [*settings.place(), "--cpus-per-task=1", "--time=30", *settings.options]
    reader = Environment(
        loader=FileSystemLoader(templates), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = reader.get_template("job.sbatch")
    submitted: list[str] = []

    def hand_in(name: str, words: Sequence[str], options: Sequence[str], after: str) -> str:
        text = script.render(
            name=f"tiebreak-{launch.study}-{name}",
            output=_escaped(launch.logs) + ("/%A_%a.out" if "crew" in words else "/%j.out"),
            directives=[*options, *([f"--dependency={after}", "--kill-on-invalid-dep=yes"] if after else [])],
            modules=settings.modules,
            setup=settings.setup,
            environment={key: shlex.quote(value) for key, value in environment.items()},
            folder=shlex.quote(os.getcwd()),
            command=" ".join(
                filter(None, [settings.container, shlex.join([settings.python, "-m", "tiebreak", *words])])
            ),
        )
        path = launch.folder / f"{name}.sbatch"
        write(path, text)
        answer = ask("sbatch", "--parsable", str(path))
        submitted.append(answer.partition(";")[0])
        return submitted[-1]

    try:
        after = ""
        for stage in range(1, stages + 1):
            if stage > 1:
                gate = hand_in(f"gate-{stage}", ["gate", str(launch.folder), str(stage)], light, after)
                after = f"afterok:{gate}"
            words = ["crew", str(launch.folder), str(stage), str(jobs)]
            crews = hand_in(f"stage-{stage}", words, [array, *settings.directives()], after)
            after = f"afterany:{crews}"
        hand_in("report", report, light, after)
        return launch.changed(jobs=tuple(submitted))
    except BaseException:  # a full disk and Ctrl-C leave no jobs behind either
        if submitted:
            with suppress(SlurmError):
                ask("scancel", *submitted)
        raise


def _escaped(path: Path) -> str:
    """A path in which SLURM does not take `%` for one of its patterns."""
    return str(path).replace("%", "%%")
