"""How figures of the study of training with kinks are laid out: panels, lines, legends, words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tiebreak.report.style import OKABE_ITO, PAGE_INCHES, colours, new_figure

FLOOR = 1e-17
"""Gaps at or below this are drawn on the lowest line of a logarithmic axis, which says so."""

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def activation_labels(table: pd.DataFrame) -> pd.Series:
    """`relu`, `c1relu 0.1`: the activation with the width of its corner."""
    corner = table["delta"].map(lambda delta: f" {delta:g}" if delta else "")
    return table["activation"].astype(str) + corner


def method_labels(table: pd.DataFrame) -> pd.Series:
    """`gd 0.1`, `gd 0.1, inverse decay`: the method with its learning rate and schedule."""
    decay = table["decay"].map(lambda decay: "" if decay == "none" else f", {decay} decay")
    return table["method"].astype(str) + table["lr"].map(lambda lr: f" {lr:g}") + decay


def panels(num: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of a page's width with `num` panels, row by row; `height` in inches is that of a row."""
    rows = -(-num // columns)
    figure = new_figure(width=PAGE_INCHES, height=height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for spare in axes[num:]:
        spare.set_visible(False)
    return figure, axes[:num]


def lines(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A line's style for each label; after eight colours have gone round, dashes."""
    found = list(dict.fromkeys(labels))
    palette = colours(found)
    return {
        label: {"color": palette[label], "linestyle": _DASHES[index // len(OKABE_ITO) % len(_DASHES)]}
        for index, label in enumerate(found)
    }


def lines_by_method(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour for each method, and dashes for its further learning rates and schedules.

    Args:
        runs: with `method` and `label`, as `method_labels` gives it.
    """
    palette = colours(runs["method"].unique())
    found: dict[str, dict[str, Any]] = {}
    for method, part in runs.groupby("method", sort=False):
        for index, label in enumerate(dict.fromkeys(part["label"])):
            found[label] = {"color": palette[str(method)], "linestyle": _DASHES[index % len(_DASHES)]}
    return found


def logarithmic(axes: Axes, *names: str) -> None:
    """Logarithmic axes `x` or `y` with ticks at powers of ten only."""
    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_minor_locator(LogLocator(subs=()))
        axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, **words: Any) -> None:
    """A small legend inside a panel."""
    axes.legend(**{"fontsize": 6, "handlelength": 1.6, "labelspacing": 0.25, **words})


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """One legend of all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=6.5)
