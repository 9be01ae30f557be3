"""How a study is run and watched: the keys of `configs/launch.yaml`, none of which is in a cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from tiebreak.config.composition import (
    LAUNCH_GROUPS,
    REFUSALS,
    ConfigError,
    config_folder,
    hydra_open,
    plain,
    refusal,
)


def split_launch(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the cells, and those of the launch, each in their order.

    Example:
        >>> split_launch(["arch=vgg11", "launcher=slurm", "partition=gpu"])
        (['arch=vgg11'], ['launcher=slurm', 'partition=gpu'])
    """
    known = {key for _, _, keys in _options(config_folder()) for key in keys}
    of_launch = [_root(override) in known for override in overrides]
    return (
        [override for override, is_launch in zip(overrides, of_launch, strict=True) if not is_launch],
        [override for override, is_launch in zip(overrides, of_launch, strict=True) if is_launch],
    )


def compose_launch(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a launch from the overrides that `split_launch` found.

    Raises:
        ConfigError: an option that does not exist, or a key of an option that was not chosen.
    """
    try:
        with hydra_open():
            return plain(compose(config_name="launch", overrides=list(overrides)))
    except REFUSALS as error:
        for override in overrides:
            _require_chosen(_root(override), overrides)
        raise ConfigError(refusal(error, overrides)) from None


def _require_chosen(key: str, overrides: Sequence[str]) -> None:
    """Say which option a key belongs to, if none of the chosen options has it."""
    homes = [(group, option) for group, option, keys in _options(config_folder()) if key in keys]
    chosen = {tuple(override.split("=", 1)) for override in overrides if "=" in override}
    if key not in LAUNCH_GROUPS and homes and not chosen.intersection(homes):
        words = " or ".join(f"{group}={option}" for group, option in homes)
        raise ConfigError(f"{key} belongs to {words}. Add that, or leave {key} out.")


@cache
def _options(folder: Path) -> tuple[tuple[str, str, frozenset[str]], ...]:
    """Group, name and keys of every option of a launch."""
    found = []
    for group in LAUNCH_GROUPS:
        for path in sorted((folder / group).glob("*.yaml")):
            keys = plain(OmegaConf.load(path), resolve=False)  # type: ignore[arg-type]
            found.append((group, path.stem, frozenset(keys)))
    return tuple(found)


def _root(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition(".")[0]
