"""YAML and overrides to cells and studies. The only module that knows Hydra and OmegaConf."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tiebreak.design.axes import (
    DesignError,
    Device,
    Forward,
    LossScale,
    PoolJacobian,
    Precision,
    Selection,
    member,
)
from tiebreak.design.cell import (
    MEASURES,
    PAIRED,
    Cell,
    Data,
    Execution,
    Network,
    Optimizer,
    Trial,
)
from tiebreak.design.study import Part, Study

_GROUPS = ("arch", "data", "precision", "pool", "optimizer", "protocol")
_OWN_KEYS = ("batch_norm", "init", "device", "num_threads", "memory_format", "deterministic")
_PLACES = ("replicate", "results", "data_root")
_EPS = 1e-8
_EPS_HALF = 1e-4  # well above 2**-24, the smallest positive fp16


class ConfigError(DesignError):
    """A configuration that cannot be composed: the message names the key or file and what to do."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial with the places it reads and writes, which move no number."""

    trial: Trial
    results: Path
    data_root: Path


def config_folder() -> Path:
    """The folder of the configurations: inside an installed wheel, or `configs/` of the checkout."""
    installed = Path(__file__).parent / "_configs"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def compose_run(overrides: Sequence[str], *, device: Callable[[], Device]) -> Run:
    """One trial from Hydra overrides such as `["arch=vgg11", "pool.beta=100"]`.

    Args:
        overrides: as on the command line.
        device: called to resolve `device=auto`.

    Raises:
        ConfigError: an unknown key, group or value, or a value that cannot be.
    """
    with _hydra():
        return run_of(_compose(overrides), device=device)


def run_of(config: DictConfig, *, device: Callable[[], Device]) -> Run:
    """The run that a composed configuration describes.

    Raises:
        ConfigError, DesignError: a value that cannot be.
    """
    tree = _plain(config)
    replicate = tree["replicate"]
    if isinstance(replicate, bool) or not isinstance(replicate, int) or replicate < 0:
        raise ConfigError(f"replicate must be a whole number, 0 or more, got {replicate!r}.")
    return Run(
        trial=Trial(cell=_cell(tree, device), replicate=replicate),
        results=Path(str(tree["results"])),
        data_root=Path(str(tree["data_root"])),
    )


def list_studies() -> tuple[str, ...]:
    """Names of the studies there are."""
    folder = config_folder() / "study"
    return tuple(
        sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    )


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study with the places it reads and writes."""

    study: Study
    results: Path
    data_root: Path


def compose_study(name: str, overrides: Sequence[str] = (), *, device: Callable[[], Device]) -> StudyRun:
    """A study from `configs/study/<name>.yaml`; `overrides` are applied to every cell of it.

    A part's `sweep` is a grid: the product of the values of its keys, each key one that `tiebreak run`
    takes. Composition through Hydra happens once for each choice of groups; plain values are set on a copy.

    Raises:
        ConfigError: no such study, or a key or value that cannot be, with the file and part it stands in.
    """
    path = config_folder() / "study" / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, list_studies(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no study {name}.{hint} Studies: {', '.join(list_studies())}.")
    where = f"configs/study/{name}.yaml"
    try:
        tree = _plain(OmegaConf.load(path))  # type: ignore[arg-type]
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise ConfigError(f"{where} cannot be read: {error}. Mend the YAML.") from None
    _known_keys(tree, {"question", "hypothesis", "parts"}, where)
    parts = []
    with _hydra():
        base = run_of(_compose(overrides), device=device)
        composed = _Composer()
        for part in tree.get("parts") or []:
            here = f"{where}, part {part.get('name', '?')}"
            _known_keys(part, {"name", "replicates", "overrides", "sweep"}, here)
            try:
                cells = tuple(_cell(_plain(composed(point)), device) for point in _grid(part, overrides))
                unique = tuple({cell.id: cell for cell in cells}.values())
                parts.append(Part(name=part["name"], cells=unique, num_replicates=part["replicates"]))
            except DesignError as error:
                raise ConfigError(f"{here}: {error}") from None
            except KeyError as error:
                raise ConfigError(
                    f"{here}: {error} is missing. Every part has a name and replicates."
                ) from None
    if not parts:
        raise ConfigError(f"{where} has no parts. A study needs at least one.")
    study = Study(
        name=name,
        question=tree.get("question") or "",
        hypothesis=tree.get("hypothesis") or "",
        parts=tuple(parts),
    )
    return StudyRun(study=study, results=base.results, data_root=base.data_root)


def _grid(part: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every point of a part as overrides: the fixed ones, the grid's, and last the user's, which win."""
    sweep = part.get("sweep") or {}
    fixed = part.get("overrides") or []
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.{key} must be a list of values, got {values!r}.")
    for values in itertools.product(*sweep.values()):
        point = (f"{key}={_spell(value)}" for key, value in zip(sweep, values, strict=True))
        yield (*fixed, *point, *overrides)


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_spell(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Composer:
    """Composes a configuration; Hydra is asked once for each choice of groups."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        groups, values = {}, []
        for override in overrides:
            key = override.partition("=")[0]
            if key in _GROUPS:
                groups[key] = override
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key):
                values.append((key, override))
            else:
                return _compose(overrides)  # Hydra's extended grammar: leave it to Hydra
        choice = tuple(groups.values())
        if choice not in self._bases:
            self._bases[choice] = _compose(choice)
        config = self._bases[choice].copy()
        for key, override in values:
            if OmegaConf.select(config, key, throw_on_missing=False, default=_ABSENT) is _ABSENT:
                return _compose(overrides)  # refuses it in Hydra's words
            OmegaConf.update(config, key, _parse(override))
        return config


_ABSENT = object()


def _parse(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException as error:
        raise ConfigError(_sentence(error, [override])) from None


@contextmanager
def _hydra() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():  # inside hydra.main
        yield
        return
    with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
        yield


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(config_name="config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from None


def _sentence(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message as one sentence with a suggestion."""
    text = " ".join(str(error).split())
    if match := re.search(r"Could not find '([a-z_]+)/([^']*)'", text):
        group, value = match.groups()
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        near = difflib.get_close_matches(value, options, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{group} must be one of {', '.join(options)}, got {value!r}.{hint}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        key = match.group(1) or match.group(2)
        near = difflib.get_close_matches(key, _all_keys(), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"there is no key {key}.{hint} `tiebreak run --cfg` prints every key."
    return f"the overrides {' '.join(overrides)} cannot be composed: {text.split(' See https')[0]}"


def _all_keys() -> list[str]:
    config = compose(config_name="config")
    keys = []

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")

    walk(_plain(config), "")
    return keys


def to_yaml(overrides: Sequence[str]) -> str:
    """The composed configuration as YAML, for `tiebreak run --cfg`."""
    with _hydra():
        return OmegaConf.to_yaml(_compose(overrides), resolve=False)


def multirun(overrides: Sequence[str], task: Callable[[DictConfig], int]) -> int:
    """Hand a sweep to Hydra: each point is composed and given to `task`, by whatever launcher it names.

    Returns:
        0. A point whose task returns another number is named by its own output.

    Raises:
        ConfigError: an override that Hydra refuses.
    """
    before, before_full = sys.argv, os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"  # or Hydra prints the exception and exits, and the sentence is lost
    sys.argv = ["tiebreak run", "--multirun", *overrides]
    try:
        hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from None
    finally:
        sys.argv = before
        if before_full is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before_full
    return 0


_FULL_ERROR = "HYDRA_FULL_ERROR"


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"{key} has no value. Set it, for example {key}=...") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"a configuration must be a mapping, got {type(tree).__name__}.")
    return {str(key): value for key, value in tree.items()}


def _known_keys(tree: Mapping[str, Any], allowed: set[str], where: str) -> None:
    unknown = sorted(set(tree) - allowed)
    if unknown:
        raise ConfigError(f"{where} has an unknown key {unknown[0]}. Keys: {', '.join(sorted(allowed))}.")


def _cell(tree: Mapping[str, Any], device: Callable[[], Device]) -> Cell:
    _known_keys(tree, {*_GROUPS, *_OWN_KEYS, *_PLACES}, "the configuration")
    precision = member(Precision, tree["precision"]["name"], key="precision")
    protocol = dict(tree["protocol"])
    kind = MEASURES[protocol.pop("name")]
    if "optimizer" in kind.__dataclass_fields__:
        protocol["optimizer"] = _optimizer(tree["optimizer"], precision)
    measure = _make(kind, protocol, "protocol")
    chosen = device() if tree["device"] == "auto" else tree["device"]
    arch = dict(tree["arch"])
    network = {"arch": arch.pop("name"), "batch_norm": tree["batch_norm"], "init": tree["init"], **arch}
    return Cell(
        network=_make(Network, network, "arch"),
        data=_make(Data, tree["data"], "data"),
        precision=precision,
        jacobians=_jacobians(tree["pool"], paired=kind in PAIRED),
        measure=measure,
        execution=Execution(
            device=chosen,
            num_threads=tree["num_threads"],
            memory_format=tree["memory_format"],
            deterministic=tree["deterministic"],
        ),
    )


def _make(kind: Callable[..., Any], values: Mapping[str, Any], group: str) -> Any:
    """`kind(**values)`, with an unknown key named as the user wrote it."""
    _known_keys(values, {item.name for item in fields(kind)}, f"the group {group}")  # type: ignore[arg-type]
    return kind(**values)


def _jacobians(pool: Mapping[str, Any], *, paired: bool) -> tuple[PoolJacobian, ...]:
    _known_keys(pool, {"forward", "seed", "beta", "selection", "betas", "selections"}, "the group pool")
    forward, seed = pool["forward"], pool["seed"]
    if not paired:
        return (PoolJacobian(beta=pool["beta"], forward=forward, selection=pool["selection"], seed=seed),)
    for key in ("betas", "selections"):
        if not isinstance(pool[key], list):
            raise ConfigError(f"pool.{key} must be a list such as [0,1], got {pool[key]!r}.")
    family = [PoolJacobian(beta=beta, forward=forward) for beta in pool["betas"]]
    rules = [
        PoolJacobian(forward=Forward.EXACT, selection=rule, seed=seed if rule == Selection.RANDOM else 0)
        for rule in pool["selections"]
    ]
    return (*family, *rules)


def _optimizer(tree: Mapping[str, Any], precision: Precision) -> Optimizer:
    values = dict(tree)
    if values["eps"] == "auto":
        values["eps"] = _EPS_HALF if precision.storage == "float16" else _EPS
    if values["loss_scale"] == "auto":
        values["loss_scale"] = LossScale.DYNAMIC if precision is Precision.AMP16 else LossScale.NONE
    return _make(Optimizer, values, "optimizer")
