"""Figures of what AD takes at kinks and ties: what is wrong with which rule, and what AD gives where."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tiebreak.report.counts_figures import name_rows, once, short
from tiebreak.report.style import (
    MUTED,
    OKABE_ITO,
    PAGE_INCHES,
    colours,
    markers,
    new_figure,
    offsets,
    paper_style,
)

_ENOUGH_PROXIES = 4
"""A network with fewer numbers at kinks is no sweep."""

_STEPS = {
    "the derivative": "#DCE6EF",
    "a limit of derivatives": "#7FB2D9",
    "in their hull": "#0072B2",
    "outside": "#D55E00",
}


def proxies_figure(table: pd.DataFrame) -> Figure:
    """Shares of incorrect points and of points where AD is outside of the hull, by what it takes at kinks.

    Args:
        table: `counts`.
    """
    swept = proxy_sweep(table)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=3.9)
        panels = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, (title, is_biased) in enumerate((("with biases", True), ("without biases", False))):
            part = swept[swept["bound_kinks"].notna() == is_biased]
            names = list(dict.fromkeys(part["network"]))
            palette, shapes = colours(names), markers(names)
            for row, (label, values) in enumerate(
                (("incorrect", part["share_incorrect"]), ("outside of the hull", 1 - part["share_in_hull"]))
            ):
                axes = panels[row][column]
                axes.axvspan(0, 1, color="#F1F1F1", zorder=0, linewidth=0)
                for place, name in enumerate(names):
                    here = (part["network"] == name).to_numpy()
                    axes.plot(
                        part.loc[here, "at"].to_numpy(dtype=float), 100 * values[here].to_numpy(dtype=float),
                        color=palette[name], marker=shapes[name], linestyle=":", label=short(name),
                        gid=f"{label}:{name}", clip_on=False, zorder=3, linewidth=0.6,
                        markersize=6 - 1.5 * min(place, 2),
                        markerfacecolor="white" if place == 0 else palette[name],
                    )  # fmt: skip
                axes.set_ylabel(f"{label} (%)") if column == 0 else None
                if row == 0:
                    axes.set_title(title, fontsize=7.5, color=MUTED, loc="left")
                    if names:
                        axes.legend(loc="upper left", fontsize=6)
                else:
                    axes.set_xlabel("what AD takes at kinks")
        most = 100 * float(swept["share_incorrect"].max())
        panels[0][0].set_ylim(-0.02 * max(most, 1), 1.5 * max(most, 1))  # room for the names
        panels[1][0].set_ylim(bottom=-1)
    return figure


def proxy_sweep(table: pd.DataFrame) -> pd.DataFrame:
    """Judged cells whose network was tried with several numbers at kinks, which are column `at`, in order."""
    numeric = table["proxy"].astype(str).str.fullmatch(r"-?\d+(/\d+|\.\d+)?")
    swept = table[numeric & table["in_hull"].notna()]
    swept = swept.assign(at=[float(Fraction(str(proxy))) for proxy in swept["proxy"]])
    several = swept.groupby("network")["at"].transform("nunique") >= _ENOUGH_PROXIES
    rank = {name: place for place, name in enumerate(dict.fromkeys(swept["network"]))}
    swept = swept[several].assign(rank=lambda part: part["network"].map(rank))
    return swept.sort_values(["rank", "at"], kind="stable")


def ties_figure(table: pd.DataFrame) -> Figure:
    """Incorrect points by the rule at ties, and how many points max(b_1, ..., b_n) is singular at.

    Args:
        table: `counts`.
    """
    windows = table[table["ties"] != "none"]
    maxima = once(windows[windows["family"] == "maximum"])
    others = windows[windows["family"] != "maximum"]
    names = list(dict.fromkeys(others["network"]))
    rules = ["first", "last", "split"]
    used = [name for name in rules if (windows["ties"] == name).any()]
    palette, shapes = colours(rules), markers(rules)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=2.4)
        left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
        for rule, shift in zip(used, offsets(len(used), width=0.5), strict=True):
            part = others[others["ties"] == rule]
            left.plot(
                100 * part["share_incorrect"].to_numpy(dtype=float),
                [names.index(name) + shift for name in part["network"]], linestyle="", marker=shapes[rule],
                color=palette[rule], label=rule, gid=f"ties:{rule}", clip_on=False, markersize=4,
            )  # fmt: skip
        name_rows(left, names)
        left.set_xlabel("incorrect (% of all points)")
        left.set_xlim(left=0)
        left.legend(title="at ties", title_fontsize=7, loc="upper right")
        places = list(range(len(maxima)))
        right.plot(
            places, 100 * (maxima["closed_form"] / maxima["points"]).to_numpy(dtype=float), linestyle="",
            marker="_", color="#000000", markersize=14, markeredgewidth=1.2, gid="formula",
            label="formula (P2)",
        )  # fmt: skip
        right.plot(
            places, 100 * maxima["share_singular"].to_numpy(dtype=float), linestyle="", marker="o",
            color=OKABE_ITO[0], gid="singular", label="found",
        )  # fmt: skip
        sizes = zip(maxima["num_neurons"], maxima["num_numbers"], strict=True)
        right.set_xticks(places, [f"n = {n}\n|M| = {size}" for n, size in sizes])
        right.set_xlim(-0.5, max(len(places) - 0.5, 0.5))
        right.set_ylim(bottom=0)
        right.margins(y=0.15)
        right.grid(visible=False, axis="x")
        right.set_ylabel("singular (%)")
        right.set_title("max(b$_1$, ..., b$_n$)", fontsize=7.5, color=MUTED, loc="left")
        right.legend(loc="upper left")
    return figure


def hierarchy_figure(table: pd.DataFrame) -> Figure:
    """At what share of the points AD gives the derivative, else a limit of derivatives, else their hull.

    Args:
        table: `counts`.
    """
    sides = hierarchy(table)
    names = list(dict.fromkeys(name for part in sides.values() for name in part["network"]))
    names = [name for name in dict.fromkeys(table["network"]) if name in names]
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.75 + 0.165 * len(names))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (title, part) in zip(panels, sides.items(), strict=True):
            places = [names.index(name) for name in part["network"]]
            start = np.zeros(len(part))
            for label, colour in _STEPS.items():
                length = 100 * part[label].to_numpy(dtype=float)
                bars = axes.barh(places, length, left=start, color=colour, height=0.72, label=label)
                for bar, cell in zip(bars, part["cell"], strict=True):
                    bar.set_gid(f"{label}:{cell}")
                start = start + length
            axes.set_title(title, fontsize=7.5, color=MUTED, loc="left")
            axes.set_xlabel("share of all points (%)")
            axes.set_xlim(0, 100)
            axes.grid(visible=False, axis="y")
        name_rows(panels[0], names)
        panels[1].tick_params(axis="y", length=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles=handles, labels=labels, ncols=4, loc="outside upper center")
    return figure


def hierarchy(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Judged cells, one a network: AD takes one side, or the middle; shares that add up to 1 in `_STEPS`."""
    judged = table[table["in_hull"].notna()]
    judged = judged.assign(
        **{
            "the derivative": 1 - judged["share_singular"] - judged["share_incorrect"],
            "a limit of derivatives": judged["share_limit"],
            "in their hull": judged["share_in_hull"],
            "outside": 1 - judged["share_in_hull"],
        }
    )
    judged["in their hull"] -= judged["a limit of derivatives"]
    judged["a limit of derivatives"] -= judged["the derivative"]
    proxy = judged["proxy"].astype(str)
    middle = (judged["ties"] == "split") | ((proxy == "1/2") & (judged["ties"] == "none"))
    rank = proxy.map({"torch": 0, "0": 1, "none": 1, "left": 2})
    side = judged[rank.notna() & judged["ties"].isin(["none", "first"])].assign(rank=rank)
    side = side.sort_values("rank", kind="stable").drop_duplicates("network").sort_index()
    return {
        "one side: 0 at kinks, the first at ties": side,
        "the middle: 1/2 at kinks, a split at ties": judged[middle].drop_duplicates("network"),
    }
