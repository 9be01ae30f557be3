"""A study: one question, the cells that answer it, and how often each is repeated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tiebreak.design.axes import DesignError, whole_number
from tiebreak.design.cell import AnyCell, AnyTrial, Trial


@dataclass(frozen=True, kw_only=True)
class Part:
    """Cells of one protocol that are read together, each repeated `num_replicates` times."""

    name: str
    cells: tuple[AnyCell, ...]
    num_replicates: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DesignError(f"the name of a part must be text, got {self.name!r}.")
        if not self.cells:
            raise DesignError(f"part {self.name} has no cells.")
        whole_number(self.num_replicates, key=f"part {self.name}: replicates", least=1)

    @cached_property
    def trials(self) -> tuple[AnyTrial, ...]:
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

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        for name in names:
            if names.count(name) > 1:
                raise DesignError(f"{self.name} has two parts named {name}. Give each its own name.")

    @cached_property
    def trials(self) -> tuple[AnyTrial, ...]:
        """Every trial once, in the order of the parts."""
        unique = {trial.id: trial for part in self.parts for trial in part.trials}
        return tuple(unique.values())
