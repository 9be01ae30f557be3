"""How a table is laid out in panels: which axes vary, in which order, under which words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tiebreak.design.axes import Forward, OptimizerName
from tiebreak.design.cell import Data, Execution, Network, Optimizer
from tiebreak.design.stored import FAMILIES
from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.style import DIVERGED, MUTED, PAGE_INCHES
from tiebreak.report.wording import beta_words, data_words

_BARE = ("data", "arch", "optimizer", "precision", "forward")
_RULE = ("precision", "jacobian", "beta", "selection", "forward", "protocol")
_SUFFIX = f"-(?:{'|'.join(forward for forward in Forward if forward is not Forward.EXACT)})$"
_DIGIT_POINTS = 4.2  # of a digit in small print
_BOLD_POINTS = 5.4  # of a letter in the name of a panel


def axis_names() -> tuple[str, ...]:
    """Columns of a table that are axes of the design, the most telling first."""
    protocols = (kind for family in FAMILIES for kind in family.PROTOCOLS.values())
    kinds = (Network, Data, Optimizer, *protocols, Execution)
    declared = (item.name for kind in kinds for item in fields(kind))
    named = ("data", "arch", "batch_norm", "optimizer", *_RULE)
    return tuple(dict.fromkeys([*named, *(name for name in declared if name not in ("name", "optimizer"))]))


def varying_axes(table: pd.DataFrame) -> list[str]:
    """Axes with more than one value in the table and one value in each cell."""
    names = [name for name in axis_names() if name in table and table[name].nunique(dropna=False) > 1]
    if not names or "cell" not in table:
        return []
    within = table.groupby("cell")[names].nunique(dropna=False)
    return [name for name in names if within[name].max() == 1]


def groups(table: pd.DataFrame, *names: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Parts of a table that share the values of some columns of text, in the order of the table."""
    for key, part in table.groupby(list(names), sort=False):
        yield tuple(map(str, key)), part


def context(table: pd.DataFrame) -> pd.Series:
    """Words for whatever distinguishes cells besides precision and pool Jacobian; "" if nothing does.

    Batch norm comes in words of its own; a panel has one context. An axis that follows from those named
    before it (the batch size, where each data set has one) goes without saying; one that follows from the
    precision as well (Adam's eps) is said by `of_precisions`.
    """
    table = _worded(table)
    names = _telling(table, "protocol", "precision")
    if not names:
        return pd.Series("", index=table.index, dtype=object)
    return table.apply(
        lambda row: ", ".join(_word(name, row[name]) for name in names if row[name] == row[name]), axis=1
    ).astype(str)


def of_precisions(table: pd.DataFrame) -> str:
    """Words for axes of which each precision has a value of its own, which no context names; "" if none.

    Example:
        >>> cells = {"cell": ["a", "b"], "precision": ["fp16", "fp32"], "eps": [1e-4, 1e-8]}
        >>> of_precisions(pd.DataFrame(cells))
        'eps 0.0001 in fp16, 1e-08 in fp32'
    """
    table = _worded(table)
    said = _telling(table, "protocol", "precision")
    words = []
    for name in _telling(table, "protocol"):
        if name not in said:
            parts = table.dropna(subset=[name]).groupby(name, sort=False)
            values = [f"{_value(value)} in {', '.join(precisions(part))}" for value, part in parts]
            words.append(f"{name.replace('_', ' ')} {', '.join(values)}")
    return "; ".join(words)


def _worded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its data sets by one name, and without the eps of an optimizer that has none."""
    if "folder" in table:
        table = table.assign(data=data_words(table), folder=None)
    if "eps" in table and "optimizer" in table:
        table = table.assign(eps=table["eps"].where(table["optimizer"] != str(OptimizerName.SGD)))
    return table


def _telling(table: pd.DataFrame, *given: str) -> list[str]:
    """Varying axes that are always named, and of the others those that the ones before leave open."""
    known = [name for name in given if name in table]
    kept: list[str] = []
    for name in varying_axes(table):
        if name in _RULE:
            continue
        before = [*known, *kept]
        follows = bool(before) and table.groupby(before, dropna=False)[name].nunique(dropna=False).max() == 1
        if name in (*_BARE, "batch_norm") or not follows:
            kept.append(name)
    return kept


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        words = name.replace("_", " ")
        return words if value else f"no {words}"
    return _value(value) if name in _BARE else f"{name.replace('_', ' ')} {_value(value)}"


def _value(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def setting(table: pd.DataFrame, *, names_rule: bool = True) -> pd.Series:
    """Context, whether networks are as drawn or along training and, of several, the rule at ties.

    Args:
        table: of certified draws; a row without `epoch` is about networks as they were drawn.
        names_rule: whether `jacobian` is the rule that a row is about.
    """
    epochs = table["epoch"] if "epoch" in table else pd.Series(np.nan, index=table.index)
    words = context(table) + ", " + epochs.isna().map({True: "untrained", False: "along training"})
    if names_rule and table["jacobian"].nunique() > 1:
        words += ", " + table["jacobian"].map(beta_words)
    return words.str.removeprefix(", ")


def settings(table: pd.DataFrame) -> list[str]:
    """Values of column `setting` in the order of the table, networks as they were drawn first."""
    if "epoch" in table:
        table = table.sort_values("epoch", na_position="first", kind="stable")
    return list(dict.fromkeys(table["setting"]))


def precisions(table: pd.DataFrame) -> list[str]:
    """Precisions of the table, from the coarsest to the finest."""
    present = set(table["precision"])
    return [name for name in COARSE_TO_FINE if name in present]


def rules(table: pd.DataFrame) -> list[str]:
    """Rules at ties in the table, the beta family by beta, then the others; forward arms share a rule."""
    keyed = table.assign(rule=rule(table)).drop_duplicates("rule")
    selection = keyed["selection"] if "selection" in keyed else pd.Series("beta", index=keyed.index)
    keyed = keyed.assign(other=selection.fillna("beta") != "beta", by=keyed["beta"].fillna(np.inf))
    return keyed.sort_values(["other", "by", "rule"])["rule"].tolist()


def rule(table: pd.DataFrame) -> pd.Series:
    """Label of the Jacobian without its forward arm."""
    return table["jacobian"].str.replace(_SUFFIX, "", regex=True)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Panels in rows and columns, each found by its names."""

    figure: Figure
    rows: list[str]
    columns: list[str]
    axes: np.ndarray

    def at(self, row: str, column: str) -> Axes:
        """The panel of a row and a column."""
        return self.axes[self.rows.index(row), self.columns.index(column)]

    def lift_titles(self, points: float) -> None:
        """Leave room between the columns' names and the first row of panels."""
        for name, axes in zip(self.columns, self.axes[0], strict=True):
            axes.set_title(_in_lines(name, _column_points(self.columns)), fontweight="bold", pad=6 + points)

    def legend(
        self, *, title: str | None = None, about: str = "", num_columns: int = 6, order: Sequence[str] = ()
    ) -> None:
        """One legend above all panels, of the first artist of each label: first those of `order`.

        Args:
            title: what the marks are.
            about: what holds for all panels, as a second line.
            num_columns: labels in a line.
            order: labels that come first.
        """
        title = "\n".join(line for line in (title, about) if line) or None
        found: dict[str, Any] = {}
        for axes in self.axes.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        found = {label: found[label] for label in (*(item for item in order if item in found), *found)}
        if found:
            self.figure.legend(
                found.values(), found.keys(), title=title, ncols=num_columns, loc="outside upper center"
            )


def grid(figure: Figure, *, rows: list[str], columns: list[str], share_y: bool = True) -> Grid:
    """Panels with the columns' names above the first row and the rows' names at the right."""
    axes = figure.subplots(len(rows), len(columns), sharex=False, sharey=share_y, squeeze=False)
    for index, name in enumerate(columns):
        axes[0, index].set_title(_in_lines(name, _column_points(columns)), fontweight="bold")
    points = 72 * 0.8 * figure.get_figheight() / len(rows)
    for index, name in enumerate(rows):
        axes[index, -1].annotate(
            _in_lines(name, points), xy=(1, 0.5), xytext=(5, 0), xycoords="axes fraction",
            textcoords="offset points", ha="left", va="center", rotation=270, fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip
    return Grid(figure=figure, rows=rows, columns=columns, axes=axes)


def _column_points(columns: Sequence[str]) -> float:
    """Width of a panel and the gap beside it."""
    return 72 * 0.92 * PAGE_INCHES / len(columns)


def _in_lines(name: str, points: float) -> str:
    """The name, broken at commas where it is longer than its panel."""
    lines = [""]
    for part in name.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and len(longer) * _BOLD_POINTS > points:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def span(numbers: pd.Series) -> str:
    """The smallest and the largest of whole numbers."""
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low}–{high}"


def note(axes: Axes, x: float, y: float, text: str, *, colour: str = MUTED) -> None:
    """Upright small print that starts at a point in data coordinates."""
    axes.text(
        x, y, text, color=colour, fontsize=6, rotation=90, ha="center", va="bottom", zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number that stands above a panel: how many runs or draws have no point in it.

    Args:
        axes: the panel.
        x: where, in data coordinates.
        kind: what is counted; counts of one kind stand in one line, named at the left.
        text: the count, as "1/3".
        colour: of the count and of its kind's name.
    """

    axes: Axes
    x: float
    kind: str
    text: str
    colour: str = DIVERGED


def counts_above(panels: Grid, counts: Sequence[Count], *, width: float) -> None:
    """Counts in lines above the panels, one line a kind, where no point can be under them.

    Args:
        panels: whose first column names the kinds.
        counts: what to write.
        width: of the place of one count, in points; counts that are wider stand upright.
    """
    kinds = dict.fromkeys(count.kind for count in counts)
    longest = max((len(count.text) for count in counts), default=0)
    upright = longest * _DIGIT_POINTS > width
    line = longest * _DIGIT_POINTS + 3 if upright else 9.0
    height = dict(zip(kinds, (3 + line * (index + 0.5) for index in range(len(kinds))), strict=True))
    for count in counts:
        count.axes.annotate(
            count.text, xy=(count.x, 1), xycoords=count.axes.get_xaxis_transform(),
            xytext=(0, height[count.kind]), textcoords="offset points", ha="center", va="center",
            rotation=90 if upright else 0, color=count.colour, fontsize=6, annotation_clip=False,
            gid=f"count:{count.kind}",
        )  # fmt: skip
    for axes in panels.axes[:, 0]:
        for kind in kinds:
            colour = next(count.colour for count in counts if count.kind == kind)
            axes.annotate(
                kind, xy=(0, 1), xycoords="axes fraction", xytext=(-4, height[kind]),
                textcoords="offset points", ha="right", va="center", color=colour, fontsize=6,
                annotation_clip=False,
            )  # fmt: skip
    panels.lift_titles(line * len(kinds))
    grown = line * len(kinds) * len(panels.rows) / 72
    panels.figure.set_figheight(panels.figure.get_figheight() + grown)


def whole_ticks(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
