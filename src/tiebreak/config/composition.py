"""Overrides to a composed configuration, through Hydra, and Hydra's refusals as sentences."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import AnyCell, Cell
from tiebreak.design.correctness import CorrectnessCell
from tiebreak.design.descent import DescentCell
from tiebreak.design.stored import FAMILIES

ROOTS: Mapping[type[AnyCell], str] = MappingProxyType(
    {Cell: "config", CorrectnessCell: "correctness", DescentCell: "descent"}
)
"""The file that a cell is composed from, without its suffix, by the study that it belongs to."""

GROUPS = ("arch", "data", "precision", "pool", "optimizer", "protocol")
"""The folders of configurations, one file of each of which makes up a configuration."""

LAUNCH_GROUPS = ("launcher", "tracking")
"""The same for `configs/launch.yaml`: how a study is run and watched."""

CONFIGS_VARIABLE = "TIEBREAK_CONFIGS"
"""The environment variable that names another folder of configurations."""

_PATHS = ("results", "data_root", "data.folder")

REFUSALS = (
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


class ConfigError(DesignError):
    """A configuration that cannot be composed: the message names the key or file and what to do."""


def config_folder() -> Path:
    """The folder of the configurations: what TIEBREAK_CONFIGS names, else inside an installed wheel, else
    `configs/` of the checkout."""
    if chosen := os.environ.get(CONFIGS_VARIABLE):
        return Path(chosen).absolute()
    installed = Path(__file__).parents[1] / "_configs"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "configs"


@contextmanager
def hydra_open() -> Iterator[None]:
    """Hydra with our folder of configurations, while something is composed."""
    if GlobalHydra.instance().is_initialized():  # inside hydra.main
        yield
        return
    with initialize_config_dir(config_dir=str(config_folder()), version_base="1.3"):
        yield


def composed(overrides: Sequence[str], *, root: str = "") -> DictConfig:
    """The configuration that the overrides give; to be called while `hydra_open`.

    Args:
        overrides: as on the command line.
        root: of which root file; by default that of `root_of`.

    Raises:
        ConfigError: Hydra refuses them.
    """
    overrides = [readable(override) for override in overrides]
    try:
        return compose(config_name=root or root_of(overrides), overrides=overrides)
    except REFUSALS as error:
        raise ConfigError(refusal(error, overrides)) from None


def root_of(overrides: Sequence[str]) -> str:
    """The root file of the study that the chosen protocol belongs to; of a sweep, its first protocol counts.

    Example:
        >>> root_of(["protocol=zones"]), root_of(["protocol=correctness", "protocol.statement=t1"])
        ('config', 'correctness')
    """
    chosen = ""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "protocol":
            chosen = value.partition(",")[0].strip("'\" ")
    return ROOTS[next((family for family in FAMILIES if chosen in family.PROTOCOLS), Cell)]


def readable(override: str) -> str:
    """An override of a path that Hydra's grammar cannot read (`results=/tmp/été`), quoted so that it can."""
    key, sign, value = override.partition("=")
    if key not in _PATHS or not sign or not value:
        return override
    try:
        OverridesParser.create().parse_override(override)
    except REFUSALS:
        return f"{key}={spelled(value)}"
    return override


def spelled(value: Any) -> str:
    """A value of a YAML file as Hydra's grammar writes it, so that it is read back as the same value."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(map(spelled, value))}]"
        case dict():
            return f"{{{','.join(f'{key}:{spelled(item)}' for key, item in value.items())}}}"
        case str():
            escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
            return f"'{escaped}'"
        case _:
            return str(value)


def refusal(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message as one sentence with a suggestion."""
    text = re.split(r"\.? See https| Config search path", one_line(error))[0]
    match = re.search(r"Could not find '([a-z_]+)/([^']*)'", text)
    if match and match[1] in (*GROUPS, *LAUNCH_GROUPS):
        group, value = match.groups()
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        near = difflib.get_close_matches(value, options, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{group} must be one of {', '.join(options)}, got {value!r}.{hint}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        root = root_of(overrides)
        key, keys = match.group(1) or match.group(2), _all_keys(root, _chosen(overrides))
        if key not in keys and key in _all_keys(ROOTS[Cell]):
            return f"{key} is no axis of the study of this protocol. Leave it out; keys: {', '.join(keys)}."
        if key not in keys:
            own = key.rpartition(".")[2]  # it may be a key of its own that was looked for in a group
            near = [own] if own in keys else difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            return f"there is no key {key}.{hint} `tiebreak run --cfg` prints every key."
    said = " ".join(overrides)
    shown = said if len(said) <= 500 else f"{said[:500]}..."
    text = text.removesuffix(".")
    return (
        f"the overrides {shown} cannot be composed: {text}. `tiebreak run --cfg` shows how they are written."
    )


def one_line(error: Exception) -> str:
    """The message of an exception as one line that ends in a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _chosen(overrides: Sequence[str]) -> list[str]:
    """Of the overrides those that choose a protocol; of a sweep its first."""
    return [override.partition(",")[0] for override in overrides if override.startswith("protocol=")]


def _all_keys(root: str, chosen: Sequence[str] = ()) -> list[str]:
    with hydra_open():
        config = compose(config_name=root, overrides=list(chosen))
    keys = []

    def walk(tree: Mapping[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")

    tree = OmegaConf.to_container(config, resolve=False)  # a value may be missing
    assert isinstance(tree, dict)
    walk({str(key): value for key, value in tree.items()}, "")
    return keys


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """A composed configuration as plain dictionaries, lists and scalars.

    Raises:
        ConfigError: a value is missing or cannot be resolved.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} has no value. Set it with {key}=... on the command line.") from None
        raise ConfigError(f"{key} cannot be resolved: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"a configuration must be a mapping, got {type(tree).__name__}.")
    return {str(key): value for key, value in tree.items()}


def to_yaml(overrides: Sequence[str]) -> str:
    """The composed configuration as YAML, for `tiebreak run --cfg`."""
    with hydra_open():
        return OmegaConf.to_yaml(composed(overrides), resolve=False)


class Composer:
    """Composes configurations; Hydra is asked once for each root file.

    The options of one group do not depend on those of another, and a file of a group that is a plain mapping
    says what Hydra makes of it, so a configuration is put together from files, and values are set on plain
    dictionaries. What this cannot do as Hydra would is left to Hydra. What it gives is shared between
    configurations and must not be changed.
    """

    def __init__(self) -> None:
        self._roots: dict[str, _Given] = {}
        self._options: dict[tuple[str, str], _Given] = {}
        self._settings: dict[str, _Setting] = {}

    def __call__(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        """What `plain(composed(overrides))` gives, faster.

        Raises:
            ConfigError: Hydra refuses the overrides, or a value is missing.
        """
        try:
            return self._put_together(overrides)
        except (_LeftToHydra, LookupError, TypeError, ConfigError):
            return plain(composed(overrides))  # or refuses it in Hydra's words

    def _put_together(self, overrides: Sequence[str]) -> dict[str, Any]:
        root = root_of(overrides)
        settings = [self._settings.get(override) or self._setting(override) for override in overrides]
        given = self._root(root)
        tree, may_be_open = {**given.tree}, given.is_open
        for setting in settings:
            may_be_open |= setting.is_open
            if setting.group:
                _require(setting.group in tree)
                option = self._option(root, setting.group, setting.value)
                tree[setting.group] = option.tree
                may_be_open |= option.is_open
        for setting in settings:
            if setting.group:
                continue
            branch = tree
            for key in setting.above:
                branch[key] = branch = {**branch[key]}
            _require(not isinstance(branch[setting.last], dict))
            branch[setting.last] = setting.value
        _require(not (may_be_open and _is_open(tree)))
        return tree

    def _root(self, root: str) -> _Given:
        if root not in self._roots:
            self._roots[root] = _Given.of(_as_it_stands(composed((), root=root)))
        return self._roots[root]

    def _option(self, root: str, group: str, name: str) -> _Given:
        """A group of a configuration with one of its options."""
        if (group, name) not in self._options:
            folder = config_folder()
            try:
                text = (folder / group / f"{name}.yaml").read_text(encoding="utf-8")
                tree = _as_it_stands(OmegaConf.create(text))
                of_root = _as_it_stands(OmegaConf.load(folder / f"{root}.yaml"))
            except (OSError, YAMLError, *REFUSALS):
                raise _LeftToHydra from None
            _require("defaults" not in tree and "@package" not in text and group not in of_root)
            self._options[group, name] = _Given.of(tree)
        return self._options[group, name]

    def _setting(self, override: str) -> _Setting:
        """What an override says; each is parsed once."""
        key = override.partition("=")[0]
        _require(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key) is not None)
        try:
            parsed = OverridesParser.create().parse_override(readable(override))
            _require(not parsed.is_sweep_override())
            value = parsed.value()
        except REFUSALS:
            raise _LeftToHydra from None
        if key in GROUPS:
            _require(isinstance(value, str) and re.fullmatch(r"\w+", value) is not None)
            setting = _Setting(group=key, value=value)
        else:
            *above, last = key.split(".")
            setting = _Setting(above=tuple(above), last=last, value=value, is_open=_is_open(value))
        return self._settings.setdefault(override, setting)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a file gives, and whether a value in it is missing or refers to another."""

    tree: dict[str, Any]
    is_open: bool

    @classmethod
    def of(cls, tree: dict[str, Any]) -> _Given:
        return cls(tree=tree, is_open=_is_open(tree))


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """An override: an option of a group, or a value and where it belongs."""

    group: str = ""
    above: tuple[str, ...] = ()
    last: str = ""
    value: Any
    is_open: bool = False


class _LeftToHydra(Exception):  # noqa: N818 - a turn, not an accident
    """An override that needs Hydra itself: its extended grammar, a whole group, a mistake."""


def _require(can: bool) -> None:
    """Go on only where this is as Hydra would do it."""
    if not can:
        raise _LeftToHydra


def _as_it_stands(config: Any) -> dict[str, Any]:
    """A configuration as plain values, none resolved."""
    tree = OmegaConf.to_container(config, resolve=False)
    _require(isinstance(tree, dict))
    return {str(key): value for key, value in cast(dict[Any, Any], tree).items()}


def _is_open(tree: Any) -> bool:
    """Whether a value is missing, or refers to another: both are OmegaConf's to resolve."""
    if isinstance(tree, dict):
        return any(map(_is_open, tree.values()))
    if isinstance(tree, list):
        return any(map(_is_open, tree))
    return isinstance(tree, str) and ("${" in tree or tree == "???")
