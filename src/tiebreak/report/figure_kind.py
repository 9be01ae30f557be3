"""What a figure is: its name, the tables it is drawn from, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class FigureKind:
    """A figure: its file name, the tables it needs, what it shows and how to read it.

    Args:
        name: of the files, without suffix.
        title: a heading.
        table: the table that stands behind it.
        caption: how to read it.
        needs: every table without which there is no figure.
        draw: tables to figure.
        applies: whether these tables hold something to draw.
        is_untrained_only: whether draws along training, where there are some, are left out.
    """

    name: str
    title: str
    table: str
    caption: str
    needs: tuple[str, ...]
    draw: Callable[[Tables], Figure]
    applies: Callable[[Tables], bool] = lambda tables: True
    is_untrained_only: bool = False

    def words(self, tables: Tables) -> str:
        """The caption and, beside draws along training that the figure leaves out, that it does."""
        has_epochs = "certified" in tables and "epoch" in tables["certified"]
        left_out = " Networks as they were drawn: draws along training are in the figures of the truth only."
        return self.caption + (left_out if self.is_untrained_only and has_epochs else "")

    def can_draw(self, tables: Tables) -> bool:
        """Whether the tables are there and hold something to draw."""
        return all(name in tables for name in self.needs) and self.applies(tables)
