"""Figures of what AD is at every machine point: counts beside their bounds, and maps of two parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tiebreak.design.enumeration import LETTERS
from tiebreak.report.style import MUTED, OKABE_ITO, PAGE_INCHES, new_figure, paper_style

_Numbers = pd.Series | np.ndarray

_MAP = {"correct": "#E4E4E4", "incorrect": "#D55E00", "singular": "#16324F"}
"""Light, middle and dark in grey."""

_MOST_MAPS = 8


def bounds_figure(table: pd.DataFrame) -> Figure:
    """Singular points of the sum of neurons beside T2 and T2', and failing points of the others.

    Args:
        table: `counts`.
    """
    table = table.assign(failing=table["share_singular"] + table["share_incorrect"])
    tight = once(table[table["family"] == "sum_of_neurons"])
    others = table[(table["family"] != "sum_of_neurons") & table[list(_BOUNDS)].notna().any(axis=1)]
    others = others.sort_values("failing", kind="stable").groupby(["network", "machine"], sort=False).tail(1)
    others = others.sort_index()
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=max(2.6, 0.5 + 0.17 * len(others)))
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
        _draw_tight(left, tight)
        _draw_others(right, others)
        handles = {h.get_label(): h for axes in (left, right) for h in axes.get_legend_handles_labels()[0]}
        order = ["found", *(label for label, _ in _BOUNDS.values())]
        shown = [handles[label] for label in order if label in handles]
        figure.legend(handles=shown, ncols=4, loc="outside upper center")
    return figure


_BOUNDS = {
    "bound_kinks": ("T2: kinks / |M|", "#000000"),
    "bound_product": ("T2': $1 - \\prod(1 - kinks/|M|)$", OKABE_ITO[1]),
    "bound_failing": ("T7", OKABE_ITO[2]),
}


def _draw_tight(axes: Axes, tight: pd.DataFrame) -> None:
    x = (tight["num_kinks"] / tight["num_numbers"]).to_numpy(dtype=float)
    end = 1.08 * float(x.max()) if len(x) else 1.0
    axes.plot([0, min(end, 1.0)], [0, min(end, 1.0)], color="#000000", linewidth=0.8, gid="line:T2")
    _bound(axes, x, tight["bound_product"], "bound_product", upright=False)
    axes.plot(
        x, tight["share_singular"].to_numpy(dtype=float), linestyle="", marker="o", color=OKABE_ITO[0],
        gid="tight", label="found", markersize=3.2, zorder=4,
    )  # fmt: skip
    axes.set_xlabel("kinks / |M|")
    axes.set_ylabel("share of singular points")
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.set_title("sum of function(b$_i$)", fontsize=7.5, color=MUTED, loc="left")


def _draw_others(axes: Axes, others: pd.DataFrame) -> None:
    places = np.arange(len(others), dtype=float)
    for name in _BOUNDS:
        inside = (others[name] <= 1).to_numpy()
        _bound(axes, others.loc[inside, name], places[inside], name, upright=True)
    axes.plot(
        others["failing"].to_numpy(dtype=float), places, linestyle="", marker="o", color=OKABE_ITO[0],
        gid="others", label="found", markersize=3.2, zorder=4, clip_on=False,
    )  # fmt: skip
    name_rows(axes, others["network"])
    axes.set_xlabel("share of singular and incorrect points")
    axes.set_xlim(0, 1.03)


def _bound(axes: Axes, x: _Numbers, y: _Numbers, name: str, *, upright: bool) -> None:
    label, colour = _BOUNDS[name]
    axes.plot(
        np.asarray(x, dtype=float), np.asarray(y, dtype=float), linestyle="", marker="|" if upright else "_",
        color=colour, gid=name, label=label, markersize=7, markeredgewidth=1.3, zorder=3,
    )  # fmt: skip


def maps_figure(lines: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Every point of networks of two parameters: a panel a network, with the rules that are wrong most often.

    Args:
        lines: `count_maps`.
        table: `counts`.
    """
    chosen = _mapped(lines, table)
    num_columns = min(4, len(chosen))
    num_rows = -(-len(chosen) // num_columns)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.35 + 2.05 * num_rows)
        panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for axes, row in zip(panels, chosen, strict=False):
            _draw_map(axes, lines[lines["cell"] == row["cell"]].sort_values("line"), row)
        for axes in panels[len(chosen) :]:
            axes.set_visible(False)
        handles = [Patch(facecolor=colour, label=name) for name, colour in _MAP.items()]
        figure.legend(handles=handles, ncols=3, loc="outside upper center")
    return figure


def _mapped(lines: pd.DataFrame, table: pd.DataFrame) -> list[dict]:
    """A cell a network: that with the most incorrect points, on the smallest set, with usual rules."""
    here = table[table["cell"].isin(lines["cell"])]
    order = {name: rank for rank, name in enumerate(dict.fromkeys(here["network"]))}
    usual = here.assign(usual=here["proxy"].astype(str).map({"torch": 0, "0": 0, "1": 1}).fillna(2))
    worst_first = [False, True, True]
    best = usual.sort_values(["incorrect", "num_numbers", "usual"], ascending=worst_first, kind="stable")
    best = best.drop_duplicates("network").sort_values("network", key=lambda column: column.map(order))
    bent = best[best["singular"] + best["incorrect"] > 0]
    return bent.to_dict("records")[:_MOST_MAPS]


def _draw_map(axes: Axes, lines: pd.DataFrame, row: Mapping) -> None:
    codes = [[LETTERS.index(letter) for letter in points] for points in lines["points"]]
    image = axes.imshow(
        codes, cmap=ListedColormap(list(_MAP.values())), vmin=0, vmax=2, origin="lower", aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    image.set_gid(f"map:{row['cell']}")
    size = len(lines)
    for edge in range(1, size):  # thin white lines tell neighbouring points apart
        axes.axhline(edge - 0.5, color="white", linewidth=0.3)
        axes.axvline(edge - 0.5, color="white", linewidth=0.3)
    numbers = [f"{number:g}" for number in lines["number"]]
    ticks = sorted({0, size // 2, size - 1})
    axes.set_xticks(ticks, [numbers[tick] for tick in ticks])
    axes.set_yticks(ticks, [numbers[tick] for tick in ticks])
    axes.set_xlabel(_parameter(lines["across"].iloc[0]), labelpad=1)
    axes.set_ylabel(_parameter(lines["up"].iloc[0]), labelpad=0)
    axes.grid(visible=False)
    words = [f"{row['proxy']} at kinks"] if row["proxy"] != "none" else []
    words += [f"ties {row['ties']}"] if row["ties"] != "none" else []
    axes.set_title(f"{short(row['network'])}\n{', '.join(words)}", fontsize=6.5, color=MUTED, loc="left")


def _parameter(name: str) -> str:
    """`w1_11` and `b2` as the formula of a panel has them."""
    return name.partition("_")[0]


def once(table: pd.DataFrame) -> pd.DataFrame:
    """One cell a network and set, where a rule of AD does not matter."""
    return table.drop_duplicates(["network", "machine"]).reset_index(drop=True)


def name_rows(axes: Axes, names: Sequence[str] | pd.Series) -> None:
    """Networks from the top down."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def short(name: str) -> str:
    """A formula as a label has room for it."""
    for long, short in _SHORTER.items():
        name = name.replace(long, short)
    return name


_SHORTER = {
    "alternating sum of max_pool1d(conv1d((": "pooled conv1d((",
    ")), 2, stride 1)": "))",
    " over x in": ", x in",
    " -> id(1)": " -> linear",
}
