"""A composed configuration to a cell: every key known, every `auto` resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from tiebreak.config.composition import GROUPS, ConfigError
from tiebreak.design.any_cell import made
from tiebreak.design.axes import (
    DataName,
    Device,
    Forward,
    LossScale,
    PoolJacobian,
    Precision,
    Selection,
    member,
)
from tiebreak.design.cell import MEASURES, PAIRED, AnyCell, Cell, Data, Execution, Network, Optimizer
from tiebreak.design.content import digest
from tiebreak.design.stored import FAMILIES

PLACES = ("replicate", "results", "data_root")
"""The keys that are no part of the cell."""

_OWN_KEYS = (
    "batch_norm",
    "certify",
    "init",
    "device",
    "num_threads",
    "memory_format",
    "deterministic",
    "num_ranks",
)
_SIBLING_KEYS = ("device", "num_threads", "deterministic")
_EPS = 1e-8
_EPS_HALF = 1e-4  # well above 2**-24, the smallest positive fp16

Content = Callable[[DataName, Path, str], str]
"""The digest of the images of a data set, from its name, the data root and the name of the folder."""


def known_keys(
    tree: Any, allowed: Iterable[str], where: str, *, required: Iterable[str] = ()
) -> dict[str, Any]:
    """`tree` as a dictionary that has the required keys and no key beyond the allowed ones."""
    allowed, required = set(allowed), set(required)
    if isinstance(tree, dict) and required <= tree.keys() <= allowed:
        return dict(tree)
    allowed = sorted(allowed)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of {', '.join(allowed)}, got {tree!r}.")
    if unknown := sorted(str(key) for key in tree if key not in allowed):
        raise ConfigError(f"{where} has an unknown key {unknown[0]}. Keys: {', '.join(allowed)}.")
    if missing := sorted(required - set(tree)):
        raise ConfigError(f"{where} has no {missing[0]}. Do not delete it, set it.")
    return dict(tree)


def _group(tree: Mapping[str, Any], name: str, keys: Iterable[str], *, optional: str = "") -> dict[str, Any]:
    """The group `name` of a configuration, with exactly these keys."""
    keys = set(keys)
    return known_keys(tree[name], {*keys, optional} - {""}, f"the group {name}", required=keys)


def place_of(tree: Mapping[str, Any], key: str) -> Path:
    """The folder that a key of the configuration names.

    Raises:
        ConfigError: it is no path.
    """
    if not isinstance(tree.get(key), str) or not tree[key] or "\0" in tree[key]:
        got = tree.get(key)
        advice = f"Set {key}=./{got}" if isinstance(got, int | float) else f"Set {key}=FOLDER"
        raise ConfigError(f"{key} must be the path of a folder, got {got!r}. {advice}.")
    try:
        tree[key].encode()
    except UnicodeEncodeError:  # it could be neither printed nor kept in JSON
        raise ConfigError(f"{key} must be a path in UTF-8, got {tree[key]!a}. Rename the folder.") from None
    return Path(tree[key])


def cell_of(tree: Mapping[str, Any], device: Callable[[], Device], content: Content) -> AnyCell:
    """The cell that a composed configuration describes, of the study that its protocol belongs to.

    Args:
        tree: the configuration; see `composition.plain`.
        device: called to resolve `device=auto`.
        content: called to resolve `data.content=auto`; see `content_once`.

    Raises:
        ConfigError, DesignError: an unknown key, or a value that cannot be.
    """
    protocol = tree.get("protocol")
    name = protocol.get("name") if isinstance(protocol, dict) else None
    family = next((family for family in FAMILIES if isinstance(name, str) and name in family.PROTOCOLS), Cell)
    return _max_pool_cell(tree, device, content) if family is Cell else _sibling_cell(tree, family, device)


def _sibling_cell(tree: Mapping[str, Any], family: type[AnyCell], device: Callable[[], Device]) -> AnyCell:
    """A cell whose axes are all settings of its protocol."""
    keys = {"protocol", *_SIBLING_KEYS, *PLACES}
    known_keys(tree, keys, "the configuration", required=keys)
    kind = family.PROTOCOLS[tree["protocol"]["name"]]
    settings = _group(tree, "protocol", {"name", *_names(kind)})
    del settings["name"]
    return family(measure=kind(**settings), execution=_execution(tree, device))


def _execution(tree: Mapping[str, Any], device: Callable[[], Device]) -> Execution:
    """Where and how it runs; what a root file does not have stays as it is by default."""
    given = {key: tree[key] for key in _names(Execution) - {"device"} if key in tree}
    chosen = device() if tree["device"] == "auto" else _device(tree["device"])
    return made(Execution, {"device": str(chosen), **given})


def _max_pool_cell(tree: Mapping[str, Any], device: Callable[[], Device], content: Content) -> Cell:
    keys = {*GROUPS, *_OWN_KEYS, *PLACES}
    known_keys(tree, keys, "the configuration", required=keys)
    precision = member(Precision, _group(tree, "precision", {"name"})["name"], key="precision")
    protocol = known_keys(tree["protocol"], tree["protocol"], "the group protocol", required={"name"})
    name = protocol["name"]
    if not isinstance(name, str) or name not in MEASURES:
        known = [known for family in FAMILIES for known in family.PROTOCOLS]
        raise ConfigError(f"protocol must be one of {', '.join(known)}, got {name!r}.")
    kind = MEASURES[name]
    settings = _names(kind)
    protocol = _group(tree, "protocol", {"name", *settings - {"optimizer", "certify"}})
    del protocol["name"]
    if "certify" in settings:
        protocol["certify"] = tree["certify"]
    elif tree["certify"] is not False:
        raise ConfigError(
            f"certify belongs to protocol=zones, got certify={tree['certify']!r} with protocol={name}. "
            "Leave it out; protocol=trajectory certifies always."
        )
    if "optimizer" in settings:
        protocol["optimizer"] = _optimizer(tree, precision)
    network = _group(tree, "arch", {"name"}, optional="stem_pool")
    network |= {"arch": network.pop("name"), "batch_norm": tree["batch_norm"], "init": tree["init"]}
    return Cell(
        network=made(Network, network),
        data=_data(tree, content),
        precision=precision,
        jacobians=_jacobians(tree, paired=kind in PAIRED),
        measure=made(kind, protocol),
        execution=_execution(tree, device),
    )


def _data(tree: Mapping[str, Any], content: Content) -> Data:
    """The data set; `content: auto` becomes the digest of the images there, or empty where none are."""
    values = _group(tree, "data", _names(Data))
    if values["content"] != "auto":
        return made(Data, values)
    values["content"] = ""
    data = made(Data, values)
    if not data.name.is_folder:
        return data
    return replace(data, content=content(data.name, place_of(tree, "data_root"), data.folder))


def content_once() -> Content:
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


@cache
def _names(kind: Any) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind))


def _device(value: Any) -> Device:
    if value not in list(Device):
        raise ConfigError(f"device must be one of auto, {', '.join(Device)}, got {value!r}.")
    return Device(value)


def _jacobians(tree: Mapping[str, Any], *, paired: bool) -> tuple[PoolJacobian, ...]:
    pool = _group(tree, "pool", {"forward", "seed", "beta", "selection", "betas", "selections"})
    forward, seed = pool["forward"], pool["seed"]
    if not paired:
        names = ("beta", "forward", "selection", "seed")
        return (made(PoolJacobian, {name: pool[name] for name in names}),)
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


def _optimizer(tree: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    values = _group(tree, "optimizer", _names(Optimizer))
    if values["eps"] == "auto":
        values["eps"] = _EPS_HALF if precision.storage == "float16" else _EPS
    if values["loss_scale"] == "auto":
        values["loss_scale"] = str(LossScale.DYNAMIC if precision is Precision.AMP16 else LossScale.NONE)
    return values
