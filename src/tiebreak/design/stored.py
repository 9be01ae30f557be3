"""Every study's cells, told apart by their protocols: read one back, or insist on one study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from tiebreak.design.any_cell import SCHEMA, AnyCell
from tiebreak.design.axes import DesignError
from tiebreak.design.cell import AnyTrial, Cell, Trial
from tiebreak.design.correctness import CorrectnessCell
from tiebreak.design.descent import DescentCell

FAMILIES: tuple[type[AnyCell], ...] = (Cell, CorrectnessCell, DescentCell)
"""The class of cells of each study; a protocol belongs to one of them."""

_C = TypeVar("_C", bound=AnyCell)


def family_of(protocol: object) -> type[AnyCell]:
    """The class of the cells with a protocol.

    Raises:
        DesignError: no study has it.

    Example:
        >>> family_of("zones").__name__
        'Cell'
    """
    for family in FAMILIES:
        if isinstance(protocol, str) and protocol in family.PROTOCOLS:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.PROTOCOLS)
    raise DesignError(f"protocol must be one of {known}, got {protocol!r}.")


def read_cell(tree: Mapping[str, Any]) -> AnyCell:
    """A cell of whichever study from what `AnyCell.to_dict` gave.

    Raises:
        DesignError: a missing, unknown or impossible field.
    """
    try:
        protocol = tree["measure"]["protocol"]
    except (LookupError, TypeError):
        raise DesignError(
            f"a stored cell does not have the fields of schema {SCHEMA}: it names no protocol."
        ) from None
    return family_of(protocol).from_dict(tree)


def trial_of(family: type[_C], trial: AnyTrial, *, asker: str) -> Trial[_C]:
    """The trial, known to have a cell of one study.

    Args:
        family: the class of its cell.
        trial: of whichever study.
        asker: who asks, for the message: `tiebreak certify`.

    Raises:
        DesignError: its cell is another study's.
    """
    if not isinstance(trial.cell, family):
        known = ", ".join(family.PROTOCOLS)
        raise DesignError(
            f"{asker} is for protocol={known}, got protocol={trial.cell.protocol}, which is another study's. "
            "Take one of those."
        )
    return Trial(cell=trial.cell, replicate=trial.replicate)
