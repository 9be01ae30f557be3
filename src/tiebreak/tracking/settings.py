"""Whether and where a study is mirrored, and what of the environment W&B may see."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tiebreak.design.axes import UserError


class TrackingError(UserError):
    """A setting of tracking that cannot be; the message names it and says what to do."""


class Mode(StrEnum):
    """Where the mirror writes, from the most open to the most reserved."""

    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


_ENVIRONMENT = {"online": Mode.ONLINE, "run": Mode.ONLINE, "shared": Mode.ONLINE, "": Mode.ONLINE}
_ENVIRONMENT |= {"offline": Mode.OFFLINE, "dryrun": Mode.OFFLINE, "disabled": Mode.DISABLED}

_ACCOUNT = frozenset(
    {
        "WANDB_API_KEY",
        "WANDB_APP_URL",
        "WANDB_BASE_URL",
        "WANDB_CONFIG_DIR",
        "WANDB_CREDENTIALS_FILE",
        "WANDB_ENTITY",
        "WANDB_HTTPS_PROXY",
        "WANDB_HTTP_PROXY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_INSECURE_DISABLE_SSL",
    }
)
"""Variables of W&B's that say which account and server; all others would change what is sent."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Whether and where a study is mirrored; none of it is in a cell.

    Args:
        mode: where the mirror writes; `disabled` is no mirror at all, as `tracking=none`.
        project: the project of W&B.
        entity: a user or team of W&B; empty for the account's own.
        folder: where W&B's files lie.

    Example:
        >>> Tracking().is_on
        False
    """

    mode: Mode = Mode.DISABLED
    project: str = "tiebreak"
    entity: str = ""
    folder: Path = Path(".tiebreak/wandb")

    @property
    def is_on(self) -> bool:
        """Whether there is a mirror."""
        return self.mode is not Mode.DISABLED

    @classmethod
    def of(cls, tree: Mapping[str, Any], *, environment: Mapping[str, str] = os.environ) -> Tracking:
        """The tracking that the composed keys of `configs/tracking/` describe.

        `WANDB_MODE` can only make it more reserved: nothing goes online because of a variable, and a site
        that sets `offline` is heeded.

        Args:
            tree: has `tracking`, and for `tracking: wandb` the keys of `configs/tracking/wandb.yaml`.
            environment: where `WANDB_MODE` is looked up.

        Raises:
            TrackingError: a value that cannot be.
        """
        if tree.get("tracking", "none") == "none":
            return cls()
        for key in ("project", "wandb_folder"):
            if not isinstance(tree.get(key), str) or not tree[key].strip() or "\0" in tree[key]:
                raise TrackingError(
                    f"{key} must be text, got {tree.get(key)!r}. Leave it out for the default."
                )
        if not (tree.get("entity") is None or isinstance(tree["entity"], str)):
            raise TrackingError(f"entity must be a user or team of W&B, got {tree['entity']!r}.")
        if bad := [sign for sign in '/\\#?%:"' if sign in tree["project"]]:
            raise TrackingError(f"project must be a name without {bad[0]}, got {tree['project']!r}.")
        modes = list(Mode)
        if tree.get("mode") not in modes:
            raise TrackingError(f"mode must be one of {', '.join(modes)}, got {tree.get('mode')!r}.")
        stated = environment.get("WANDB_MODE", "").strip().lower()
        if stated not in _ENVIRONMENT:
            raise TrackingError(
                f"the variable WANDB_MODE must be online, offline or disabled, got {stated!r}. Unset it, or "
                "leave tracking=wandb out."
            )
        return cls(
            mode=max(Mode(tree["mode"]), _ENVIRONMENT[stated], key=modes.index),
            project=tree["project"],
            entity=tree.get("entity") or "",
            folder=Path(tree["wandb_folder"]),
        )

    def to_arguments(self) -> list[str]:
        """The settings as options of a command line."""
        return [word for item in fields(self) for word in (f"--{item.name}", str(getattr(self, item.name)))]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a mirror is told on its command line.

    Args:
        tracking: where it writes.
        study: name of the study; the group of its runs.
        results: the results folder, whose records it reads and never writes.

    Example:
        >>> task = Task(tracking=Tracking(mode=Mode.OFFLINE), study="demo", results=Path("results"))
        >>> Task.from_arguments(task.to_arguments()) == task
        True
    """

    tracking: Tracking
    study: str
    results: Path

    def to_arguments(self) -> list[str]:
        """The task as options of a command line."""
        return ["--study", self.study, "--results", str(self.results), *self.tracking.to_arguments()]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Task:
        """The inverse of `to_arguments`; what is wrong is told as argparse does, with exit code 2."""
        parser = argparse.ArgumentParser(prog="tiebreak mirror", description="Mirror a study; reads events.")
        parser.add_argument("--study", required=True)
        parser.add_argument("--results", type=Path, required=True)
        for name, kind in (("mode", Mode), ("project", str), ("entity", str), ("folder", Path)):
            parser.add_argument(f"--{name}", type=kind, required=True)
        found = vars(parser.parse_args(arguments))
        study, results = found.pop("study"), found.pop("results")
        return cls(tracking=Tracking(**found), study=study, results=results)


def mirror_environment(tracking: Tracking, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the mirror's process.

    Of W&B's variables only those of the account stay: a `WANDB_RUN_ID` or `WANDB_SWEEP_ID` of the shell must
    not rename our runs. Caches and logs go into the folder of tracking instead of the home folder; W&B's own
    crash reports are off.

    Args:
        tracking: whose folder is used.
        environment: that of this process.
    """
    kept = {
        key: value for key, value in environment.items() if not key.startswith("WANDB_") or key in _ACCOUNT
    }
    folder = tracking.folder.absolute()
    return {
        **kept,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_ARTIFACT_DIR": str(folder / "artifacts"),
    }
