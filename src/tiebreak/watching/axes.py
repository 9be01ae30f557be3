"""The axes along which a study's trials are counted, sorted and laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tiebreak.design.study import Study

PART = "part"
REPLICATE = "replicate"


class Axes:
    """Values of every axis of a study, by cell, and which of them vary.

    Args:
        study: whose cells.

    Example:
        >>> from tiebreak.design.study import Study
        >>> Axes(Study(name="none", question="", parts=())).varying
        ()
    """

    def __init__(self, study: Study) -> None:
        self._of_cell: dict[str, dict[str, Any]] = {}
        parts: dict[str, list[str]] = {}
        for part in study.parts:
            for cell in part.cells:
                if cell.id not in self._of_cell:
                    self._of_cell[cell.id] = cell.axes()
                parts.setdefault(cell.id, []).append(part.name)
        for cell_id, names in parts.items():
            self._of_cell[cell_id][PART] = " ".join(dict.fromkeys(names))
        self.known = frozenset(name for row in self._of_cell.values() for name in row)
        self.varying = tuple(self._varying())

    def _varying(self) -> Iterator[str]:
        """Axes with more than one value; of two that part the cells alike, the first."""
        seen: set[tuple[int, ...]] = set()
        for name in dict.fromkeys((PART, *(name for row in self._of_cell.values() for name in row))):
            values = [row.get(name) for row in self._of_cell.values()]
            if len(set(values) - {None}) < 2 or name == "cell":
                continue
            numbers: dict[Any, int] = {}
            parting = tuple(numbers.setdefault(value, len(numbers)) for value in values)
            if parting not in seen:
                seen.add(parting)
                yield name

    def of_cell(self, cell: str) -> Mapping[str, Any]:
        """Every axis of a cell."""
        return self._of_cell[cell]

    def value(self, trial: str, axis: str) -> Any:
        """The value of an axis at a trial's id; None where its cell has no such axis."""
        cell, _, replicate = trial.partition("/")
        return int(replicate) if axis == REPLICATE else self._of_cell[cell].get(axis)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Distinct values: numbers by size, then words as they come, and what is missing last.

    Example:
        >>> in_order(["b", 10, None, 2.5, "a", "b"])
        [2.5, 10, 'b', 'a', None]
    """
    distinct = list(dict.fromkeys(values))
    numbers = [value for value in distinct if isinstance(value, int | float)]
    words = [value for value in distinct if not isinstance(value, int | float) and value is not None]
    return [*sorted(numbers), *words, *([None] if None in distinct else [])]


def spelled(value: Any) -> str:
    """A value as it stands in YAML; a dash where a cell has no such axis.

    Example:
        >>> spelled(True), spelled(100.0), spelled(None), spelled("fp16")
        ('true', '100', '–', 'fp16')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
