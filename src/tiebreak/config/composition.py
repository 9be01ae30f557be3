"""Overrides to a composed configuration, through Hydra, and Hydra's refusals as sentences."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

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
        key, keys = match.group(1) or match.group(2), _all_keys(root)
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


def _all_keys(root: str) -> list[str]:
    with hydra_open():
        config = compose(config_name=root)
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
    """Composes configurations; Hydra is asked once for each option of each group.

    The options of one group do not depend on those of another, so a choice of several is put together from
    single ones; values are set on plain dictionaries. What this cannot do as Hydra would is left to Hydra.
    """

    def __init__(self) -> None:
        self._trees: dict[tuple[str, ...], dict[str, Any]] = {}
        self._values: dict[str, Any] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """What `plain(composed(overrides))` gives, faster.

        Raises:
            ConfigError: Hydra refuses the overrides, or a value is missing.
        """
        try:
            return self._put_together(overrides)
        except (_LeftToHydra, LookupError, TypeError, ConfigError):
            return plain(composed(overrides))  # or refuses it in Hydra's words

    def _put_together(self, overrides: Sequence[str]) -> dict[str, Any]:
        root, groups, values = root_of(overrides), {}, []
        for override in overrides:
            key = override.partition("=")[0]
            if key in GROUPS:
                groups[key] = override
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key):
                values.append((key.split("."), self._value(override)))
            else:
                raise _LeftToHydra
        tree = copy.deepcopy(self._tree(root))
        for group, override in groups.items():
            tree[group] = copy.deepcopy(self._tree(root, override)[group])
        for (*above, last), value in values:
            branch = tree
            for key in above:
                branch = branch[key]
            if isinstance(branch[last], dict):
                raise _LeftToHydra
            branch[last] = copy.deepcopy(value)
        if _is_open(tree):
            raise _LeftToHydra
        return tree

    def _tree(self, root: str, *overrides: str) -> dict[str, Any]:
        choice = (root, *overrides)
        if choice not in self._trees:
            tree = OmegaConf.to_container(composed(overrides, root=root), resolve=False)
            assert isinstance(tree, dict)
            self._trees[choice] = {str(key): value for key, value in tree.items()}
        return self._trees[choice]

    def _value(self, override: str) -> Any:
        if override not in self._values:
            try:
                parsed = OverridesParser.create().parse_override(override)
                if parsed.is_sweep_override():
                    raise _LeftToHydra
                self._values[override] = parsed.value()
            except REFUSALS:
                raise _LeftToHydra from None
        return self._values[override]


class _LeftToHydra(Exception):  # noqa: N818 - a turn, not an accident
    """An override that needs Hydra itself: its extended grammar, a whole group, a mistake."""


def _is_open(tree: Any) -> bool:
    """Whether a value is missing, or refers to another: both are OmegaConf's to resolve."""
    if isinstance(tree, dict):
        return any(map(_is_open, tree.values()))
    if isinstance(tree, list):
        return any(map(_is_open, tree))
    return isinstance(tree, str) and ("${" in tree or tree == "???")
