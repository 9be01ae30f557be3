"""What every cell is, whichever study it belongs to: settings of a protocol, an execution, and an identity.

The studies ask different questions, so their cells have different axes; whoever plans, runs, keeps or counts
trials needs of a cell only what stands here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from tiebreak.design.axes import DesignError
from tiebreak.design.settings import AnyMeasure, Checked, Execution

_P = TypeVar("_P")

SCHEMA = 3
"""Number of the layout of cells. A new field raises it and brings its migration in `records.migrate`."""


@dataclass(frozen=True, kw_only=True)
class AnyCell:
    """One point of a design: everything that may move a number, and nothing else.

    A study's own class adds its axes, if the settings of its protocols are not all there is, and says which
    protocols it has. `stored.FAMILIES` lists the classes.

    Args:
        measure: the protocol with its settings.
        execution: device kind, threads, memory format, determinism, ranks.
    """

    PROTOCOLS: ClassVar[Mapping[str, type[AnyMeasure]]] = MappingProxyType({})
    """The settings of each protocol that such a cell may have."""

    SINCE: ClassVar[int] = 1
    """The first schema that had such cells."""

    measure: AnyMeasure
    execution: Execution = field(default_factory=Execution)

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return self.measure.protocol

    @property
    def words(self) -> tuple[str, ...]:
        """The readable parts of the name, the protocol first."""
        return (self.protocol, *self.measure.words)

    @property
    def name(self) -> str:
        """Readable first, unique last: `train.vgg11.cifar10.fp16.bn.sgd.beta100-3c00063419b3`."""
        return f"{'.'.join(self.words)}-{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values, defaults written out."""
        return {item.name: _as_json(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        No default is filled in: it could differ from the one that the cell was stored with.

        Raises:
            DesignError: a missing, unknown or impossible field.
        """
        try:
            cell = cls._read(tree)
        except DesignError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DesignError(
                f"a stored cell does not have the fields of schema {SCHEMA}: {error}."
            ) from None
        understood = cell.to_dict()
        if understood != tree and (strays := sorted(set(_paths(tree)) ^ set(_paths(understood)))):
            raise DesignError(
                f"a stored cell does not have the fields of schema {SCHEMA}: "
                f"{strays[0]} is missing or unknown."
            )
        return cell

    @classmethod
    def _read(cls, tree: Mapping[str, Any]) -> Self:
        """A cell from its fields; whatever is wrong with them may be raised as it comes."""
        return cls(measure=cls._read_measure(tree["measure"]), execution=made(Execution, tree["execution"]))

    @classmethod
    def _read_measure(cls, tree: Mapping[str, Any]) -> Any:
        """The settings of a protocol of this class; `Any`, as each class knows which it has."""
        values = dict(tree)
        name = values.pop("protocol")
        if name not in cls.PROTOCOLS:
            raise DesignError(f"protocol must be one of {', '.join(cls.PROTOCOLS)}, got {name!r}.")
        return made(cls.PROTOCOLS[name], values)

    @cached_property
    def canonical(self) -> str:
        """The one JSON text of this cell: sorted keys, no spaces, schema number."""
        texts = {item.name: _text(getattr(self, item.name)) for item in fields(self)}
        texts["schema"] = str(SCHEMA)
        return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"

    @cached_property
    def id(self) -> str:
        """First 12 hexadecimal digits of SHA-256 over `canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:12]

    def axes(self) -> dict[str, Any]:
        """The cell as one flat row, for tables."""
        row: dict[str, Any] = {"cell": self.id, "protocol": self.protocol}
        return row | plain(self.measure) | plain(self.execution)


def made(kind: type[_P], values: Mapping[str, Any]) -> _P:
    """`kind(**values)`, where equal values give one object.

    The thousands of cells of a study share most of their parts, which take longer to check than to find.

    Args:
        kind: the class of the part.
        values: its fields.

    Raises:
        DesignError: a value that cannot be.
        TypeError: a field that the part does not have, or one that is missing.
    """
    try:
        text = json.dumps(values)
    except (TypeError, ValueError):  # what is no JSON is refused in the part's own words
        return kind(**values)
    return _made(kind, text)


@lru_cache(maxsize=2**14)
def _made(kind: type[_P], text: str) -> _P:
    return kind(**json.loads(text))


def plain(part: Any) -> dict[str, Any]:
    """The fields of a part of a cell as JSON values, found once for each part; `asdict` copies deeply."""
    found = part.__dict__.get(_PLAIN)
    if found is None:
        found = {item.name: _as_plain(getattr(part, item.name)) for item in fields(part)}
        part.__dict__[_PLAIN] = found
    found = found.copy()
    if isinstance(part, AnyMeasure):  # the only parts that have parts
        found |= {name: value.copy() for name, value in found.items() if isinstance(value, dict | list)}
    return found


_PLAIN, _TEXT = "_plain", "_text"
"""Where a part keeps its fields as JSON values, and its canonical text; it is never changed."""


def _as_plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return plain(value) if isinstance(value, Checked) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, AnyMeasure):
        return {"protocol": value.protocol, **plain(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return _as_plain(value)


def _text(value: Any) -> str:
    """The canonical text of a field of a cell, found once for each part."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, StrEnum):
        return json.dumps(str(value))
    found = value.__dict__.get(_TEXT)
    if found is None:
        tree = _as_json(value) if isinstance(value, Checked) else plain(value)
        found = value.__dict__[_TEXT] = json.dumps(
            tree, sort_keys=True, separators=(",", ":"), allow_nan=False
        )
    return found


def _paths(tree: Any, path: str = "") -> Iterator[str]:
    """Where every leaf of a tree of mappings and sequences stands: `jacobians.0.beta`."""
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        yield path
        return
    for key, value in items:
        yield from _paths(value, f"{path}.{key}" if path else str(key))
