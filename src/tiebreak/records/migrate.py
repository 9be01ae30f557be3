"""From the cells of an older schema to those of the present one, and back.

A field that is added had one value in every older cell: the one that the code before it had built in. So an
older cell says what it always said, with that value written out, and a present cell with that value has an
older self, under whose id its record may still lie. Nothing measured is orphaned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiebreak.design.cell import SCHEMA, AnyCell
from tiebreak.records.durable import RecordError


@dataclass(frozen=True, kw_only=True)
class Added:
    """One field that a schema added.

    Args:
        group: the part of the cell that it stands in, such as `data`.
        name: its name.
        value: what every older cell had without saying so.
        protocol: the one protocol whose settings have the field; empty for all.
    """

    group: str
    name: str
    value: bool | int | float | str
    protocol: str = ""

    def concerns(self, cell: Mapping[str, Any]) -> bool:
        """Whether cells such as this one have the field."""
        return self.protocol in ("", cell["measure"]["protocol"])


@dataclass(frozen=True)
class Migration:
    """From one schema to the next: the fields that were added.

    Example:
        >>> old = {"data": {"name": "mnist"}, "measure": {"protocol": "train"}}
        >>> new = MIGRATIONS[1].forward(old)
        >>> new["data"]["content"], MIGRATIONS[1].backward(new) == old
        ('', True)
    """

    added: tuple[Added, ...]

    def forward(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an older cell at the next schema."""
        tree = {**cell}
        for field in self.added:
            if field.concerns(tree):
                tree[field.group] = {**tree[field.group], field.name: field.value}
        return tree

    def backward(self, cell: Mapping[str, Any]) -> dict[str, Any] | None:
        """The fields of a cell at the schema before; None if no older cell was this one."""
        tree = {**cell}
        for field in self.added:
            if field.concerns(tree):
                tree[field.group] = {**tree[field.group]}
                value = tree[field.group].pop(field.name)
                if (value, type(value)) != (field.value, type(field.value)):
                    return None
        return tree


MIGRATIONS: Mapping[int, Migration] = {
    1: Migration(
        (
            Added(group="data", name="content", value=""),
            Added(group="measure", name="certify", value=False, protocol="zones"),
        )
    ),
    2: Migration((Added(group="execution", name="num_ranks", value=1),)),
}
"""The migration *from* each older schema. Whoever raises `SCHEMA` adds one."""


def migrated(
    cell: Mapping[str, Any], *, schema: int, migrations: Mapping[int, Migration] = MIGRATIONS
) -> dict[str, Any]:
    """The fields of a cell stored at `schema`, at the present one.

    Raises:
        RecordError: no migration leads on from a schema on the way.
    """
    tree = dict(cell)
    for step in range(schema, SCHEMA):
        if step not in migrations:
            raise RecordError(
                f"Cells of schema {step} cannot be read: no migration leads to schema {SCHEMA}."
            )
        tree = migrations[step].forward(tree)
    return tree


def identity(cell: Mapping[str, Any], *, schema: int) -> str:
    """The id that a cell with these fields has at `schema`; see `Cell.id`."""
    canonical = json.dumps({"schema": schema, **cell}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def former_ids(cell: AnyCell, *, migrations: Mapping[int, Migration] = MIGRATIONS) -> Iterator[str]:
    """The ids that the cell had at older schemas, the youngest first."""
    tree: dict[str, Any] | None = cell.to_dict()
    for schema in range(SCHEMA - 1, cell.SINCE - 1, -1):
        if schema not in migrations or (tree := migrations[schema].backward(tree)) is None:
            return
        yield identity(tree, schema=schema)
