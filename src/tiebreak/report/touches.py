"""Kinks and ties over the reals and in rounded arithmetic: table, figure beside certified windows, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tiebreak.design.correctness import Place
from tiebreak.design.machine_numbers import FormatName
from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.style import MUTED, OKABE_ITO, PAGE_INCHES, new_figure, paper_style
from tiebreak.report.wording import count, listed, percent

_COUNTS = ("points", "exact", "computed", "only_by_rounding", "missed")
_SHOWN = (Place.RELU, Place.HARDTANH, Place.WINDOW)
"""Places that have a panel: a kink at 0, kinks elsewhere, ties. The others are in the table."""

_ENTRIES = 4
"""Of a window of the network's pools."""

_BOUND, _EXACT, _COMPUTED, _ROUNDING = "#000000", OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[3]
_FORMAT_OF = {"fp16_rounded": "fp16", "amp16": "fp16", "ampbf16": "bf16", "tf32": "fp32"}


def touch_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts of a cell over its replicates, and shares of the points.

    Args:
        rows: of kind `touch`, with `cell` and `replicate`.

    Returns:
        `num_numbers` (|M|), `num_kinks`, `bound` (of the share over the reals), `points`, `exact`,
        `computed`, `only_by_rounding` and `missed` (counts), `share_exact`, `share_computed`, and
        `keeps_bound`: whether the share in the program is at most the bound.
    """
    grouped = rows.groupby("cell", sort=False)
    first = grouped[["num_numbers", "num_kinks", "bound"]].first()
    table = first.join(grouped[list(_COUNTS)].sum())
    table["share_exact"] = table["exact"] / table["points"]
    table["share_computed"] = table["computed"] / table["points"]
    table["keeps_bound"] = table["share_computed"] <= table["bound"]
    return table.reset_index()


def touches_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The theorem's bound, the exact share and what the program sees, by format.

    Args:
        tables: `touches`, and `windows` where certified windows stand beside it.

    Returns:
        A panel for each place of `_SHOWN` at its largest factor, and one for the windows of the network,
        whose draws are taken together.
    """
    touches = tables["touches"]
    places = [place for place in _SHOWN if (touches["place"] == place).any()]
    windows = tables.get("windows")
    number = len(places) + (windows is not None)
    num_columns = 2 if number in (2, 4) else min(number, 3)
    num_rows = -(-number // num_columns)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.5 + 2.1 * num_rows)
        panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for axes, place in zip(panels, places, strict=False):
            _draw_place(axes, touches[touches["place"] == place], place)
        if windows is not None:
            _draw_windows(panels[len(places)], windows, sizes=_sizes(touches))
        for axes in panels[number:]:
            axes.set_visible(False)
        for index, axes in enumerate(panels):
            if index % num_columns == 0:
                axes.set_ylabel("share")
        handles = {h.get_label(): h for axes in panels for h in axes.get_legend_handles_labels()[0]}
        figure.legend(handles=list(handles.values()), ncols=4, loc="outside upper center")
    return figure


def _draw_place(axes: Axes, rows: pd.DataFrame, place: Place) -> None:
    rows = rows[rows["factor"] == rows["factor"].max()]
    names = [str(name) for name in FormatName if (rows["format"] == name).any()]
    rows = rows.set_index("format").loc[names]
    factor = f"{rows['factor'].iloc[0]:g}"
    formula = f"max(u + b$_1$, {factor} u + b$_2$)" if place is Place.WINDOW else f"{place}({factor} u + b)"
    places = range(len(names))
    _mark(axes, places, rows["bound"], kind="bound")
    _mark(axes, places, rows["share_exact"], kind="exact")
    _mark(axes, places, rows["share_computed"], kind="computed")
    for index, row in enumerate(rows.reset_index().to_dict("records")):
        if not row["keeps_bound"]:
            axes.annotate(
                f"{row['share_computed'] / row['bound']:.3g}×", (index, row["share_computed"]),
                xytext=(0, 5), textcoords="offset points", ha="center", fontsize=5.5, color=_COMPUTED,
                gid=f"excess:{place}:{row['format']}",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.margins(y=0.1)
    axes.yaxis.set_minor_locator(NullLocator())
    _dress(axes, names, formula)


def _draw_windows(axes: Axes, windows: pd.DataFrame, *, sizes: Mapping[str, int]) -> None:
    names = [name for name in COARSE_TO_FINE if (windows["precision"] == name).any()]
    sums = windows.groupby("precision")[["windows", "tied", "tied_in_floats", "tied_only_by_rounding"]].sum()
    shares = sums.loc[names].div(sums.loc[names, "windows"], axis=0)
    pairs = _ENTRIES * (_ENTRIES - 1) // 2
    known = {name: sizes.get(_FORMAT_OF.get(name, name)) for name in names}
    bound = pd.Series({name: pairs / size for name, size in known.items() if size})
    _mark(axes, [names.index(str(name)) for name in bound.index], bound, kind="bound")
    places = range(len(names))
    _mark(axes, places, shares["tied"], kind="exact")
    _mark(axes, places, shares["tied_in_floats"], kind="computed")
    _mark(axes, places, shares["tied_only_by_rounding"], kind="rounding")
    axes.set_yscale("symlog", linthresh=1e-9, linscale=0.5)
    axes.set_ylim(-2e-10, 3)
    axes.set_yticks([0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
    axes.yaxis.set_minor_locator(NullLocator())
    archs = listed(sorted(set(windows["arch"])))
    _dress(axes, names, f"windows of {archs} on {listed(sorted(set(windows['data'])))}")


def _mark(axes: Axes, places: Sequence[int] | range, values: pd.Series, *, kind: str) -> None:
    """One series: where it lies is what the table says, whatever it is called."""
    styles = {
        "bound": ("_", _BOUND, "bound, distinct biases over the reals", 9, 1.4),
        "exact": ("o", _EXACT, "over the reals", 4.5, 0.0),
        "computed": ("s", _COMPUTED, "in the program", 6.0, 0.9),
        "rounding": ("^", _ROUNDING, "in the program only", 4.0, 0.0),
    }
    marker, colour, label, size, edge = styles[kind]
    axes.plot(
        list(places), values.to_numpy(dtype=float), linestyle="", marker=marker, color=colour, label=label,
        markersize=size, markeredgewidth=edge, markerfacecolor="none" if kind == "computed" else colour,
        gid=kind, clip_on=False, zorder=4 if kind == "bound" else 3,
    )  # fmt: skip


def _dress(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_title(title, fontsize=7.5, color=MUTED, loc="left")
    axes.set_xticks(range(len(names)), [name.replace("_rounded", "\nrounded") for name in names])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(visible=False, axis="x")


def _sizes(touches: pd.DataFrame) -> dict[str, int]:
    """|M| of each format."""
    return {str(row["format"]): int(row["num_numbers"]) for row in touches.to_dict("records")}


def touch_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the table says of the bound, and what certified windows add."""
    touches = tables["touches"]
    above = touches[touches["share_exact"] > touches["bound"]]
    broken = touches[~touches["keeps_bound"]]
    exact = (
        f"Over the reals the share of points on a kink or a tie is at most the bound in all of "
        f"{count(len(touches), 'setting')}."
        if not len(above)
        else f"Over the reals {len(above)} of {len(touches)} settings exceed the bound, which cannot be."
    )
    if len(broken):
        worst = max(broken.to_dict("records"), key=lambda row: row["share_computed"] / row["bound"])
        most = worst["share_computed"] / worst["bound"]
        seen = (
            f"In the program {len(broken)} of them exceed it, {worst['place']} in {worst['format']} the "
            f"most, {most:.3g} times."
        )
    else:
        seen = "None exceeds it in the program either."
    sentences = [f"{exact} {seen}"]
    if (windows := tables.get("windows")) is not None:
        sentences += _window_sentences(windows, sizes=_sizes(touches))
    return sentences


def _window_sentences(windows: pd.DataFrame, *, sizes: Mapping[str, int]) -> list[str]:
    sums = windows.groupby("precision")[["windows", "tied", "tied_only_by_rounding"]].sum()
    pairs = _ENTRIES * (_ENTRIES - 1) // 2
    rounding = (sums["tied_only_by_rounding"] / sums["windows"]).to_dict()
    words = []
    for name in COARSE_TO_FINE:
        size = sizes.get(_FORMAT_OF.get(name, name))
        if name in rounding and size:
            words.append(f"{name} {rounding[name]:.2g} ({rounding[name] * size / pairs:.2g} times the bound)")
    if not words:
        return []
    tied = sums["tied"] / sums["windows"]
    return [
        f"Of the network's windows {percent(tied.min())} to {percent(tied.max())} are tied over the reals, "
        "whatever the precision: they share weights and biases, and the bound is not about them. The share "
        f"tied by rounding alone is, in {listed(words)}; the bound is that of four entries with biases of "
        "their own, 6 over |M|."
    ]
