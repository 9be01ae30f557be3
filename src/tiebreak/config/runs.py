"""What is run: one trial from overrides, a study from its file."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tiebreak.config import composition
from tiebreak.config.cells import PLACES, Content, cell_of, content_once, known_keys, place_of
from tiebreak.config.composition import Composer, ConfigError, composed, hydra_open, one_line, plain, spelled
from tiebreak.config.searched import BestLr, not_searched, with_searched_lr
from tiebreak.design.axes import DesignError, Device
from tiebreak.design.cell import AnyTrial, Trial
from tiebreak.design.study import Part, Study


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial with the places it reads and writes, which move no number."""

    trial: AnyTrial
    results: Path
    data_root: Path


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study with the places it reads and writes.

    Args:
        study: its parts, but for those in `waiting`.
        results: where records go.
        data_root: folder of the data sets.
        waiting: names of the parts that are composed when the searches they wait for are recorded.
    """

    study: Study
    results: Path
    data_root: Path
    waiting: tuple[str, ...] = ()


def compose_run(overrides: Sequence[str], *, device: Callable[[], Device]) -> Run:
    """One trial from Hydra overrides such as `["arch=vgg11", "pool.beta=100"]`.

    Args:
        overrides: as on the command line.
        device: called to resolve `device=auto`.

    Raises:
        ConfigError: an unknown key, group or value, or a value that cannot be.
    """
    with hydra_open():
        return run_of(composed(overrides), device=device)


def run_of(config: DictConfig, *, device: Callable[[], Device]) -> Run:
    """The run that a composed configuration describes.

    Raises:
        ConfigError, DesignError: a value that cannot be.
    """
    tree = plain(config)
    cell = cell_of(tree, device, content_once())
    return Run(
        trial=Trial(cell=cell, replicate=tree["replicate"]),
        results=place_of(tree, "results"),
        data_root=place_of(tree, "data_root"),
    )


def list_studies() -> tuple[str, ...]:
    """Names of the studies there are."""
    folder = composition.config_folder() / "study"
    return tuple(
        sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    )


def compose_study(
    name: str,
    overrides: Sequence[str] = (),
    *,
    device: Callable[[], Device],
    best_lr: BestLr = not_searched,
    composer: Composer | None = None,
) -> StudyRun:
    """A study from `configs/study/<name>.yaml`; `overrides` are applied to every cell of it.

    A part's `sweep` is a grid: the product of the values of its keys, each key one that `tiebreak run`
    takes. Its `points` are settings that go together, such as a precision with the learning rate that was
    published for it: each is crossed with the whole grid. Composition through Hydra happens once for each
    choice of groups; plain values are set on a copy.
    A part with `lr_from: NAME` takes its learning rates from what part NAME, of protocol lr_search, found.

    Args:
        name: of the study.
        overrides: as on the command line.
        device: called to resolve `device=auto`.
        best_lr: called to resolve `lr_from`.
        composer: of several studies, the one that they share.

    Raises:
        ConfigError: no such study, or a key or value that cannot be, with the file and part it stands in.
    """
    if name not in list_studies():
        near = difflib.get_close_matches(name, list_studies(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no study {name}.{hint} Studies: {', '.join(list_studies())}.")
    where = f"configs/study/{name}.yaml"
    tree = _study_file(composition.config_folder() / "study" / f"{name}.yaml", where)
    places = [override for override in overrides if _key(override) in ("results", "data_root")]
    with hydra_open():
        composer, content = composer or Composer(), content_once()
        base = composer(places)
        parts: list[Part] = []
        waiting: list[str] = []
        for branch in tree["parts"]:
            part = _part(branch, f"{where}, part", overrides, composer, device, content)
            if "lr_from" in branch:
                part = _searched(part, branch["lr_from"], f"{where}, part {part.name}", parts, best_lr)
            if part is None:
                waiting.append(branch["name"])
            else:
                parts.append(part)
    try:
        study = Study(
            name=name, question=tree["question"], hypothesis=tree.get("hypothesis") or "", parts=tuple(parts)
        )
    except DesignError as error:
        raise ConfigError(f"{where}: {error}") from None
    return StudyRun(
        study=study,
        results=place_of(base, "results"),
        data_root=place_of(base, "data_root"),
        waiting=tuple(waiting),
    )


def compose_studies(names: Iterable[str], *, device: Callable[[], Device]) -> tuple[StudyRun, ...]:
    """Several studies as their files are; an option that they share is composed once.

    Args:
        names: of the studies.
        device: called to resolve `device=auto`.

    Raises:
        ConfigError: as in `compose_study`.
    """
    composer = Composer()
    with hydra_open():
        return tuple(compose_study(name, device=device, composer=composer) for name in names)


def _searched(part: Part, name: Any, here: str, parts: Sequence[Part], best_lr: BestLr) -> Part | None:
    """The part with the learning rates that the part `name` found; None while it has not finished."""
    search = next((other for other in parts if other.name == name), None)
    if search is None:
        known = ", ".join(other.name for other in parts) or "none"
        raise ConfigError(f"{here}: lr_from must name a part above it, got {name!r}. There: {known}.")
    try:
        cells = with_searched_lr(part.cells, part=search, best_lr=best_lr)
    except DesignError as error:
        raise ConfigError(f"{here}: {error}") from None
    return None if cells is None else Part(name=part.name, cells=cells, num_replicates=part.num_replicates)


def _study_file(path: Path, where: str) -> dict[str, Any]:
    """The tree of a study's file, whose question is text and whose parts are a list of mappings."""
    try:
        tree = plain(OmegaConf.load(path), resolve=False)  # type: ignore[arg-type]
    except (OmegaConfBaseException, YAMLError, RecursionError, ValueError, OSError) as error:
        raise ConfigError(f"{where} cannot be read: {one_line(error)} Mend the YAML.") from None
    known_keys(tree, {"question", "hypothesis", "parts"}, where)
    for key, kind in (("question", str), ("parts", list)):
        if not isinstance(tree.get(key), kind) or not tree[key]:
            wanted = "a sentence" if kind is str else "a list of parts"
            raise ConfigError(f"{where}: {key} must be {wanted}, got {tree.get(key)!r}.")
    if not isinstance(tree.get("hypothesis") or "", str):
        raise ConfigError(f"{where}: hypothesis must be text, got {tree['hypothesis']!r}.")
    return tree


def _part(
    tree: Any,
    where: str,
    overrides: Sequence[str],
    composer: Composer,
    device: Callable[[], Device],
    content: Content,
) -> Part:
    """One part of a study's file."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping with name and replicates, got {tree!r}.")
    here = f"{where} {tree.get('name', '?')}"
    keys = {"name", "replicates", "lr_from", "overrides", "points", "sweep"}
    known_keys(tree, keys, here, required={"name", "replicates"})
    if "lr_from" in tree and any(_key(point) == "optimizer.lr" for point in _settings(tree)):
        raise ConfigError(f"{here}: optimizer.lr and lr_from are both set. Leave one out.")
    try:
        cells = (cell_of(composer(point), device, content) for point in _grid(tree, overrides))
        unique = {cell.id: cell for cell in cells}
        return Part(name=tree["name"], cells=tuple(unique.values()), num_replicates=tree["replicates"])
    except DesignError as error:
        raise ConfigError(f"{here}: {error}") from None


def _grid(part: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every point of a part as overrides: the fixed ones, the points', the grid's, and last the user's, which
    win."""
    fixed, sweep = part.get("overrides") or [], part.get("sweep") or {}
    points = _points(part, sweep)
    if not isinstance(fixed, list) or not all(isinstance(override, str) for override in fixed):
        raise ConfigError(f"overrides must be a list such as [data=mnist5k], got {fixed!r}.")
    if not isinstance(sweep, dict):
        raise ConfigError(f"sweep must be a mapping of keys to lists of values, got {sweep!r}.")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.{key} must be a list of values, got {values!r}.")
    for key in (*map(_key, (*fixed, *overrides)), *points[0], *sweep):
        if key == "replicate":
            raise ConfigError("replicate is not for a study to set. Say how many in the part's replicates.")
    for key in (*map(_key, fixed), *points[0], *sweep):
        if key in PLACES:
            raise ConfigError(f"{key} is a place and no part's own. Set it on the command line.")
    for together, values in itertools.product(points, itertools.product(*sweep.values())):
        point = {**together, **dict(zip(sweep, values, strict=True))}
        yield (*fixed, *(f"{key}={spelled(value)}" for key, value in point.items()), *overrides)


def _points(part: Mapping[str, Any], sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of a part that go together; one of nothing where there are none."""
    points = part.get("points") or [{}]
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ConfigError(f"points must be a list of mappings such as {{precision: fp16}}, got {points!r}.")
    for point in points:
        if point.keys() != points[0].keys():
            raise ConfigError(f"points must all set the same keys, got {point!r} after {points[0]!r}.")
    if twice := sorted(set(points[0]) & set(sweep)):
        raise ConfigError(f"{twice[0]} stands in points and in sweep. Leave it out of one.")
    return points


def _settings(part: Mapping[str, Any]) -> list[str]:
    """What a part sets: its overrides and the keys of its points and grid."""
    overrides, sweep, points = (part.get(key) or [] for key in ("overrides", "sweep", "points"))
    together = [key for point in points if isinstance(point, dict) for key in point]
    return [*map(str, overrides), *map(str, together), *map(str, sweep)]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
