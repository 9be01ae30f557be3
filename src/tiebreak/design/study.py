"""A study: one question, the cells that answer it, and how often each is repeated."""

from __future__ import annotations

from dataclasses import dataclass

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import Cell, Trial


@dataclass(frozen=True, kw_only=True)
class Part:
    """Cells of one protocol that are read together, each repeated `num_replicates` times."""

    name: str
    cells: tuple[Cell, ...]
    num_replicates: int

    def __post_init__(self) -> None:
        if not self.cells:
            raise DesignError(f"part {self.name} has no cells.")
        if (
            isinstance(self.num_replicates, bool)
            or not isinstance(self.num_replicates, int)
            or self.num_replicates < 1
        ):
            raise DesignError(
                f"part {self.name}: replicates must be a whole number, 1 or more, got {self.num_replicates!r}."
            )

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Replicate by replicate, so that an unfinished study is balanced over its cells."""
        return tuple(
            Trial(cell=cell, replicate=replicate)
            for replicate in range(self.num_replicates)
            for cell in self.cells
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question with its parts.

    Args:
        name: path under `configs/study/` without the suffix, such as `demo` or `paper/zones_by_depth`.
        question: what is asked, one sentence.
        hypothesis: what was expected before the run, or empty.
        parts: groups of cells.
    """

    name: str
    question: str
    hypothesis: str = ""
    parts: tuple[Part, ...]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial once, in the order of the parts."""
        unique = {trial.id: trial for part in self.parts for trial in part.trials}
        return tuple(unique.values())
