"""YAML and overrides to cells and studies. The only module that knows Hydra and OmegaConf."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tiebreak.design.axes import (
    DataName,
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
from tiebreak.design.content import digest
from tiebreak.design.study import Part, Study

_GROUPS = ("arch", "data", "precision", "pool", "optimizer", "protocol")
_OWN_KEYS = ("batch_norm", "init", "device", "num_threads", "memory_format", "deterministic")
_PLACES = ("replicate", "results", "data_root")
_PATHS = ("results", "data_root", "data.folder")
_EPS = 1e-8
_EPS_HALF = 1e-4  # well above 2**-24, the smallest positive fp16
_REFUSALS = (
    HydraException,
    OmegaConfBaseException,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Hydra raises at an override that it cannot compose; `pool=null`, for one, ends in a ValueError."""


_Content = Callable[[DataName, Path, str], str]
"""The digest of the images of a data set, from its name, the data root and the name of the folder."""


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
    cell = _cell(tree, device, _content_once())
    return Run(
        trial=Trial(cell=cell, replicate=tree["replicate"]),
        results=_place(tree, "results"),
        data_root=_place(tree, "data_root"),
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
    if name not in list_studies():
        near = difflib.get_close_matches(name, list_studies(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no study {name}.{hint} Studies: {', '.join(list_studies())}.")
    where = f"configs/study/{name}.yaml"
    tree = _study_file(config_folder() / "study" / f"{name}.yaml", where)
    places = [override for override in overrides if _key(override) in ("results", "data_root")]
    with _hydra():
        base = _plain(_compose(places))
        composed, content = _Composer(), _content_once()
        parts = tuple(
            _part(part, f"{where}, part", overrides, composed, device, content) for part in tree["parts"]
        )
    try:
        study = Study(
            name=name, question=tree["question"], hypothesis=tree.get("hypothesis") or "", parts=parts
        )
    except DesignError as error:
        raise ConfigError(f"{where}: {error}") from None
    return StudyRun(study=study, results=_place(base, "results"), data_root=_place(base, "data_root"))


def _study_file(path: Path, where: str) -> dict[str, Any]:
    """The tree of a study's file, whose question is text and whose parts are a list of mappings."""
    try:
        tree = _plain(OmegaConf.load(path), resolve=False)  # type: ignore[arg-type]
    except (OmegaConfBaseException, YAMLError, RecursionError, ValueError, OSError) as error:
        raise ConfigError(f"{where} cannot be read: {_one_line(error)} Mend the YAML.") from None
    _known_keys(tree, {"question", "hypothesis", "parts"}, where)
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
    composed: _Composer,
    device: Callable[[], Device],
    content: _Content,
) -> Part:
    """One part of a study's file."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping with name and replicates, got {tree!r}.")
    here = f"{where} {tree.get('name', '?')}"
    _known_keys(tree, {"name", "replicates", "overrides", "sweep"}, here, required={"name", "replicates"})
    try:
        cells = (_cell(_plain(composed(point)), device, content) for point in _grid(tree, overrides))
        unique = {cell.id: cell for cell in cells}
        return Part(name=tree["name"], cells=tuple(unique.values()), num_replicates=tree["replicates"])
    except DesignError as error:
        raise ConfigError(f"{here}: {error}") from None


def _grid(part: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every point of a part as overrides: the fixed ones, the grid's, and last the user's, which win."""
    fixed, sweep = part.get("overrides") or [], part.get("sweep") or {}
    if not isinstance(fixed, list) or not all(isinstance(override, str) for override in fixed):
        raise ConfigError(f"overrides must be a list such as [data=mnist5k], got {fixed!r}.")
    if not isinstance(sweep, dict):
        raise ConfigError(f"sweep must be a mapping of keys to lists of values, got {sweep!r}.")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.{key} must be a list of values, got {values!r}.")
    for key in (*map(_key, (*fixed, *overrides)), *sweep):
        if key == "replicate":
            raise ConfigError("replicate is not for a study to set. Say how many in the part's replicates.")
    for key in (*map(_key, fixed), *sweep):
        if key in _PLACES:
            raise ConfigError(f"{key} is a place and no part's own. Set it on the command line.")
    for values in itertools.product(*sweep.values()):
        point = (f"{key}={_spell(value)}" for key, value in zip(sweep, values, strict=True))
        yield (*fixed, *point, *overrides)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _spell(value: Any) -> str:
    """A value of a YAML file as Hydra's grammar writes it, so that it is read back as the same value."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(map(_spell, value))}]"
        case dict():
            return f"{{{','.join(f'{key}:{_spell(item)}' for key, item in value.items())}}}"
        case str():
            escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
            return f"'{escaped}'"
        case _:
            return str(value)


def _readable(override: str) -> str:
    """An override of a path that Hydra's grammar cannot read (`results=/tmp/été`), quoted so that it can."""
    key, sign, value = override.partition("=")
    if key not in _PATHS or not sign or not value:
        return override
    try:
        OverridesParser.create().parse_override(override)
    except _REFUSALS:
        return f"{key}={_spell(value)}"
    return override


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
        try:
            for key, override in values:
                parsed = OverridesParser.create().parse_override(override)
                if parsed.is_sweep_override() or OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
                    return _compose(overrides)
                OmegaConf.update(config, key, parsed.value())
        except _REFUSALS:
            return _compose(overrides)  # refuses it in Hydra's words
        return config


_ABSENT = object()


@contextmanager
def _hydra() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():  # inside hydra.main
        yield
        return
    with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
        yield


def _compose(overrides: Sequence[str]) -> DictConfig:
    overrides = [_readable(override) for override in overrides]
    try:
        return compose(config_name="config", overrides=overrides)
    except _REFUSALS as error:
        raise ConfigError(_sentence(error, overrides)) from None


def _sentence(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message as one sentence with a suggestion."""
    text = re.split(r"\.? See https| Config search path", _one_line(error))[0]
    match = re.search(r"Could not find '([a-z_]+)/([^']*)'", text)
    if match and match[1] in _GROUPS:
        group, value = match.groups()
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        near = difflib.get_close_matches(value, options, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{group} must be one of {', '.join(options)}, got {value!r}.{hint}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        key, keys = match.group(1) or match.group(2), _all_keys()
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            return f"there is no key {key}.{hint} `tiebreak run --cfg` prints every key."
    said = " ".join(overrides)
    shown = said if len(said) <= 500 else f"{said[:500]}..."
    text = text.removesuffix(".")
    return (
        f"the overrides {shown} cannot be composed: {text}. `tiebreak run --cfg` shows how they are written."
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _all_keys() -> list[str]:
    with _hydra():
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


def multirun(overrides: Sequence[str], task: Callable[[DictConfig], int], *, stopped: int) -> int:
    """Hand a sweep to Hydra: each point is composed and given to `task`, by whatever launcher it names.

    Every point of a batch is run, whatever became of the others. After a batch with a failed point Hydra
    begins no other, which matters only where `hydra.sweeper.max_batch_size` is set.

    Args:
        overrides: as on the command line.
        task: runs one point, says what went wrong in it and returns its exit code. It must not raise.
        stopped: the exit code of a point that was interrupted: the points after it are not begun.

    Returns:
        0, or the exit code of a failed point: the largest where Hydra's own launcher runs them all here, the
        first with one that runs them in other processes.

    Raises:
        ConfigError: an override that Hydra refuses, or a folder of its own that it cannot make.
        KeyboardInterrupt: a point was interrupted.
    """
    codes = [0]

    def point(config: DictConfig) -> int:
        code = task(config)
        if code == stopped:
            raise KeyboardInterrupt
        codes.append(code)
        if code:
            raise _PointFailed(code)
        return code

    overrides = [_readable(override) for override in overrides]
    before, before_full = sys.argv, os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"  # or Hydra prints the exception and exits, and the sentence is lost
    sys.argv = ["tiebreak run", "--multirun", *overrides]
    try:
        hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")(point)()
    except _PointFailed as failed:
        return max(*codes, *failed.args)
    except OSError as error:  # a point raises none
        raise ConfigError(
            f"Hydra cannot write {error.filename or 'its files'} ({error.strerror or error}). Set "
            "hydra.sweep.dir to a folder that can be written."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from None
    finally:
        sys.argv = before
        if before_full is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before_full
    return max(codes)


class _PointFailed(Exception):  # noqa: N818 - what is told, not what went wrong
    """The exit code of a failed point, in the one form that every launcher of Hydra's hands back."""


_FULL_ERROR = "HYDRA_FULL_ERROR"


def _plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} has no value. Set it with {key}=... on the command line.") from None
        raise ConfigError(f"{key} cannot be resolved: {_one_line(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"a configuration must be a mapping, got {type(tree).__name__}.")
    return {str(key): value for key, value in tree.items()}


def _known_keys(
    tree: Any, allowed: Iterable[str], where: str, *, required: Iterable[str] = ()
) -> dict[str, Any]:
    """`tree` as a dictionary that has the required keys and no key beyond the allowed ones."""
    allowed = sorted(allowed)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of {', '.join(allowed)}, got {tree!r}.")
    if unknown := sorted(str(key) for key in tree if key not in allowed):
        raise ConfigError(f"{where} has an unknown key {unknown[0]}. Keys: {', '.join(allowed)}.")
    if missing := sorted(set(required) - set(tree)):
        raise ConfigError(f"{where} has no {missing[0]}. Do not delete it, set it.")
    return dict(tree)


def _group(tree: Mapping[str, Any], name: str, keys: Iterable[str], *, optional: str = "") -> dict[str, Any]:
    """The group `name` of a configuration, with exactly these keys."""
    keys = set(keys)
    return _known_keys(tree[name], {*keys, optional} - {""}, f"the group {name}", required=keys)


def _place(tree: Mapping[str, Any], key: str) -> Path:
    if not isinstance(tree.get(key), str) or not tree[key] or "\0" in tree[key]:
        got = tree.get(key)
        advice = f"Set {key}=./{got}" if isinstance(got, int | float) else f"Set {key}=FOLDER"
        raise ConfigError(f"{key} must be the path of a folder, got {got!r}. {advice}.")
    try:
        tree[key].encode()
    except UnicodeEncodeError:  # it could be neither printed nor kept in JSON
        raise ConfigError(f"{key} must be a path in UTF-8, got {tree[key]!a}. Rename the folder.") from None
    return Path(tree[key])


def _cell(tree: Mapping[str, Any], device: Callable[[], Device], content: _Content) -> Cell:
    keys = {*_GROUPS, *_OWN_KEYS, *_PLACES}
    _known_keys(tree, keys, "the configuration", required=keys)
    precision = member(Precision, _group(tree, "precision", {"name"})["name"], key="precision")
    protocol = _known_keys(tree["protocol"], tree["protocol"], "the group protocol", required={"name"})
    name = protocol["name"]
    if not isinstance(name, str) or name not in MEASURES:
        raise ConfigError(f"protocol must be one of {', '.join(MEASURES)}, got {name!r}.")
    kind = MEASURES[name]
    settings = _names(kind)
    protocol = _group(tree, "protocol", {"name", *settings - {"optimizer"}})
    del protocol["name"]
    if "optimizer" in settings:
        protocol["optimizer"] = _optimizer(tree, precision)
    network = _group(tree, "arch", {"name"}, optional="stem_pool")
    network |= {"arch": network.pop("name"), "batch_norm": tree["batch_norm"], "init": tree["init"]}
    return Cell(
        network=Network(**network),
        data=_data(tree, content),
        precision=precision,
        jacobians=_jacobians(tree, paired=kind in PAIRED),
        measure=kind(**protocol),
        execution=Execution(
            device=device() if tree["device"] == "auto" else _device(tree["device"]),
            num_threads=tree["num_threads"],
            memory_format=tree["memory_format"],
            deterministic=tree["deterministic"],
        ),
    )


def _data(tree: Mapping[str, Any], content: _Content) -> Data:
    """The data set; `content: auto` becomes the digest of the images there, or empty where none are."""
    values = _group(tree, "data", _names(Data))
    if values["content"] != "auto":
        return Data(**values)
    values["content"] = ""
    data = Data(**values)
    if not data.name.is_folder:
        return data
    return replace(data, content=content(data.name, _place(tree, "data_root"), data.folder))


def _content_once() -> _Content:
    """The digest of a folder's images, which are listed once however many cells are made of them."""

    @cache
    def content(name: DataName, root: Path, folder: str) -> str:
        try:
            return digest(name, root=root, folder=folder)
        except OSError as error:
            raise ConfigError(
                f"the images of {folder or name} in {root} cannot be listed: {error.strerror or error}. "
                "Change the permissions, or set data_root to another folder."
            ) from None

    return content


def _names(kind: Any) -> set[str]:
    return {item.name for item in fields(kind)}


def _device(value: Any) -> Device:
    if value not in list(Device):
        raise ConfigError(f"device must be one of auto, {', '.join(Device)}, got {value!r}.")
    return Device(value)


def _jacobians(tree: Mapping[str, Any], *, paired: bool) -> tuple[PoolJacobian, ...]:
    pool = _group(tree, "pool", {"forward", "seed", "beta", "selection", "betas", "selections"})
    forward, seed = pool["forward"], pool["seed"]
    if not paired:
        return (PoolJacobian(beta=pool["beta"], forward=forward, selection=pool["selection"], seed=seed),)
    for key, instead in (("beta", "betas"), ("selection", "selections")):
        if pool[key] not in (0, Selection.BETA):
            raise ConfigError(
                f"pool.{key} is of protocols of one Jacobian, got {pool[key]!r} with one that compares "
                f"several. List it in pool.{instead}."
            )
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
    values = _group(tree, "optimizer", _names(Optimizer))
    if values["eps"] == "auto":
        values["eps"] = _EPS_HALF if precision.storage == "float16" else _EPS
    if values["loss_scale"] == "auto":
        values["loss_scale"] = LossScale.DYNAMIC if precision is Precision.AMP16 else LossScale.NONE
    return Optimizer(**values)
