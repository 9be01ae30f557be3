"""Figures of what is true over the reals, beside what thresholds and roundings make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullLocator

from tiebreak.design.axes import Precision
from tiebreak.report.certified import Truth, Verdict, verdict
from tiebreak.report.panels import Grid, grid, groups, precisions, setting, settings, span, whole_ticks
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
from tiebreak.report.zones import Threshold, Zone

RECIPES = {
    str(Threshold.PUBLISHED): "published absolute threshold",
    str(Threshold.RELATIVE): "relative threshold (64 unit roundoffs)",
}

_SAYS = {
    Zone.BIFURCATION: "says bifurcation",
    Zone.COMPENSATION: "says compensation",
    Zone.REGULAR: "says regular (gap 0)",
    Zone.UNDEFINED: "no threshold",
    Zone.NONFINITE: "non-finite",
}
_SIGNS = {Truth.EQUAL: "=", Truth.DIFFERENT: "≠", Truth.UNDECIDED: "?", Truth.NONFINITE: "∞"}
_COLOURS = {
    Verdict.RIGHT: OKABE_ITO[0],
    Verdict.FALSE_ALARM: OKABE_ITO[1],
    Verdict.MISS: OKABE_ITO[3],
    Verdict.NONE: "#7A7A7A",
}
_WORDS = {
    Verdict.RIGHT: "right",
    Verdict.FALSE_ALARM: "false alarm: D = 0",
    Verdict.MISS: "miss: D ≠ 0",
    Verdict.NONE: "says nothing, or truth not known",
}
_KINDS = {
    "tied": "tied (filled),\ndead zeros (hollow)",
    "live": "tied and not\nat a dead zero",
    "tied_only_by_rounding": "tied only\nby rounding",
    "missed_by_rounding": "missed\nby rounding",
}


def confusion_figure(confusion: pd.DataFrame) -> Figure:
    """Draws by truth and by what a threshold says: a small table with its counts for each precision.

    Args:
        confusion: table `confusion`.

    Returns:
        A row of panels per setting (`certified.setting`), a panel per recipe; draws of all epochs together.
    """
    confusion = confusion.assign(setting=setting(confusion))
    names, titles = precisions(confusion), settings(confusion)
    truths = [
        truth
        for truth in Truth
        if truth in (Truth.EQUAL, Truth.DIFFERENT) or (confusion["truth"] == truth).any()
    ]
    zones = [zone for zone in _SAYS if (confusion["zone"] == zone).any()]
    step = len(truths) + 0.6
    with paper_style():
        height = 0.9 + (0.42 + 0.17 * len(zones)) * len(titles)
        figure = new_figure(width=PAGE_INCHES, height=height)
        panels = _headed(figure, rows=titles, columns=list(RECIPES.values()))
        for title in titles:
            for recipe, column in RECIPES.items():
                axes = panels.at(title, column)
                part = confusion[(confusion["setting"] == title) & (confusion["recipe"] == recipe)]
                for index, name in enumerate(names):
                    here = part[part["precision"] == name]
                    if len(here):
                        _fill(axes, here, index * step, truths=truths, zones=zones)
                    else:
                        _say_not_run(axes, index * step + (len(truths) - 1) / 2, (len(zones) - 1) / 2)
                _dress_confusion(axes, names, step=step, truths=truths, zones=zones)
            of_title = confusion[
                (confusion["setting"] == title) & (confusion["recipe"] == Threshold.RELATIVE)
            ]
            _head(panels, title, draws=of_title.groupby("precision")["num_draws"].sum())
        for axes in panels.axes[:-1].flat:
            axes.tick_params(labelbottom=False)
        panels.lift_titles(12)
        handles = [Patch(color=_COLOURS[kind], label=words) for kind, words in _WORDS.items()]
        figure.legend(handles=handles, ncols=len(handles), loc="outside upper center")
    return figure


def _fill(
    axes: Axes, here: pd.DataFrame, left: float, *, truths: Sequence[Truth], zones: Sequence[Zone]
) -> None:
    """The small table of one precision: truth across, what the threshold says down."""
    name, recipe = str(here["precision"].iloc[0]), Threshold(here["recipe"].iloc[0])
    is_defined = recipe.source(Precision(name)) != "undefined"
    total = int(here["num_draws"].sum())
    for row, zone in enumerate(zones):
        impossible = (
            zone in (Zone.BIFURCATION, Zone.COMPENSATION) if not is_defined else zone is Zone.UNDEFINED
        )
        for column, truth in enumerate(truths):
            number = int(here.loc[(here["zone"] == zone) & (here["truth"] == truth), "num_draws"].sum())
            if number or not impossible:
                _tile(
                    axes, left + column, row, text=str(number), share=number / total,
                    colour=_COLOURS[verdict(zone, truth)], gid=f"{name}:{truth}:{zone}",
                )  # fmt: skip


def _tile(axes: Axes, x: float, y: float, *, text: str, share: float, colour: str, gid: str) -> None:
    """A count in its place; the fuller the colour, the larger its share, and 0 has none."""
    strength = 0.25 + 0.75 * share if share else 0.0
    axes.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5),
            1,
            1,
            facecolor=(colour, strength),
            edgecolor="#D5D5D5",
            linewidth=0.4,
            gid=gid,
        )
    )
    shade = "white" if strength > 0.7 else "black" if share else "#B5B5B5"
    axes.text(x, y, text, ha="center", va="center", fontsize=6, color=shade, gid=f"count:{gid}")


def _say_not_run(axes: Axes, x: float, y: float) -> None:
    axes.text(x, y, "not\nrun", ha="center", va="center", fontsize=6, color=MUTED)


def _dress_confusion(
    axes: Axes, names: Sequence[str], *, step: float, truths: Sequence[Truth], zones: Sequence[Zone]
) -> None:
    words: dict[float, str] = {
        index * step + column: _SIGNS[truth]
        for index in range(len(names))
        for column, truth in enumerate(truths)
    }
    for index, name in enumerate(names):
        centre = index * step + (len(truths) - 1) / 2
        words[centre] = f"{words.get(centre, '')}\n" + name.replace("_", "\n")
    axes.set_xticks(list(words), list(words.values()))
    axes.set_yticks(range(len(zones)), [_SAYS[zone] for zone in zones])
    axes.set_xlim(-0.7, (len(names) - 1) * step + len(truths) - 0.3)
    axes.set_ylim(len(zones) - 0.4, -0.6)
    _bare(axes)


def truth_figure(certified: pd.DataFrame) -> Figure:
    """Share of draws that are bifurcations, by epoch and precision, with the counts.

    Args:
        certified: table `certified`; its rows without an epoch (untrained networks) are left out.

    Returns:
        A panel per setting; masked bifurcations count, undecided and non-finite draws are named.
    """
    along = certified[certified["epoch"].notna()]
    along = along.assign(setting=setting(along))
    names, titles = precisions(along), settings(along)
    epochs = sorted(along["epoch"].astype(int).unique())
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + (0.35 + 0.24 * len(names)) * len(titles))
        panels = _headed(figure, rows=titles, columns=[""])
        for title in titles:
            axes, part = panels.at(title, ""), along[along["setting"] == title]
            for row in part.to_dict("records"):
                number = int(row["num_bifurcation"] + row["num_masked_bifurcation"])
                total = int(row["num_draws"])
                notes = {"undecided": row["num_undecided"], "non-finite": row["num_nonfinite"]}
                lost = "".join(f", {count} {word}" for word, count in notes.items() if count)
                _tile(
                    axes, epochs.index(int(row["epoch"])), names.index(row["precision"]),
                    text=f"{number} of {total}{lost}", share=number / total, colour=OKABE_ITO[0],
                    gid=f"{row['precision']}:{int(row['epoch'])}",
                )  # fmt: skip
            axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
            axes.set_yticks(range(len(names)), names)
            axes.set_xlim(-0.55, len(epochs) - 0.45)
            axes.set_ylim(len(names) - 0.4, -0.6)
            _bare(axes)
            _head(panels, title, draws=part.groupby("precision")["num_draws"].sum())
        panels.axes[-1, 0].set_xlabel("epochs trained")
        panels.lift_titles(0)
    return figure


def windows_figure(windows: pd.DataFrame) -> Figure:
    """Windows tied over the reals, live ones among them, tied only by rounding, and missed by it.

    Args:
        windows: table `windows`.

    Returns:
        A row of panels per setting. Marks are of the draws of all epochs together; where there are several
        epochs, arms reach from the lowest to the highest of them.
    """
    windows = windows.assign(
        setting=setting(windows, names_rule=False), live=windows["tied"] - windows["tied_at_dead_zero"]
    )
    names, titles = precisions(windows), settings(windows)
    palette, shapes = colours(names), markers(names)
    shift = dict(zip(names, offsets(len(names), width=0.6), strict=True))
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 1.45 * len(titles))
        panels = _headed(figure, rows=titles, columns=list(_KINDS.values()), share_y=False)
        for (title, name), part in groups(windows, "setting", "precision"):
            for kind, column in _KINDS.items():
                shares = _shares(part, kind)
                axes = panels.at(title, column)
                axes.errorbar(
                    shares.index + 1 + shift[name], shares["all"], yerr=_arms(shares), fmt=shapes[name],
                    color=palette[name], label=name, gid=f"{kind}:{name}", markersize=2.8, capsize=0,
                    elinewidth=0.8, clip_on=False, zorder=3,
                )  # fmt: skip
            dead = _shares(part, "tied_at_dead_zero")["all"]
            panels.at(title, _KINDS["tied"]).plot(
                dead.index + 1 + shift[name], dead, linestyle="", marker=shapes[name], markersize=4.2,
                markerfacecolor="none", color=palette[name], markeredgewidth=0.7, gid=f"dead:{name}",
                clip_on=False, zorder=4,
            )  # fmt: skip
        _dress_windows(panels, windows)
        panels.lift_titles(12)
        panels.legend(title="precision")
    return figure


def _shares(part: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Per cent of windows by pool: of all epochs together, and the lowest and highest of one epoch."""
    sums = part.groupby("pool")[[kind, "windows"]].sum()
    single = (100 * part[kind] / part["windows"]).groupby(part["pool"])
    return pd.DataFrame(
        {"all": 100 * sums[kind] / sums["windows"], "low": single.min(), "high": single.max()}
    )


def _arms(shares: pd.DataFrame) -> np.ndarray:
    """Lengths of the arms below and above each mark."""
    return np.clip([shares["all"] - shares["low"], shares["high"] - shares["all"]], 0, None)


def _dress_windows(panels: Grid, windows: pd.DataFrame) -> None:
    """A linear axis for the many, one that is logarithmic down to the least share and holds 0 for the few."""
    few = [100 * windows[kind] / windows["windows"] for kind in _KINDS if kind != "tied"]
    positive = pd.concat(few)
    positive = positive[positive > 0]
    least = 10.0 ** math.floor(math.log10(positive.min())) if len(positive) else 1e-3
    for title in panels.rows:
        pools = windows.loc[windows["setting"] == title, "pool"]
        for kind, column in _KINDS.items():
            axes = panels.at(title, column)
            axes.set_xlim(0.5, pools.max() + 1.5)
            whole_ticks(axes)
            if kind == "tied":
                axes.set_ylim(-3, 103)
                continue
            axes.set_yscale("symlog", linthresh=least, linscale=0.5)
            axes.set_ylim(-0.2 * least, 150)
            ticks = [10.0**exponent for exponent in range(round(math.log10(least)), 3)]
            axes.set_yticks([0, *ticks[:: 1 + len(ticks) // 5]])
            axes.yaxis.set_minor_locator(NullLocator())
            axes.tick_params(labelleft=kind == "live")
        panels.at(title, _KINDS["tied"]).set_ylabel("windows (%)")
        _head(panels, title)
    for axes in panels.axes[-1]:
        axes.set_xlabel("pool, in order")


def _headed(figure: Figure, *, rows: list[str], columns: list[str], share_y: bool = True) -> Grid:
    """Panels whose rows have their names above them, where there is room for long ones."""
    panels = grid(figure, rows=[""] * len(rows), columns=columns, share_y=share_y)
    return replace(panels, rows=rows)


def _head(panels: Grid, title: str, *, draws: pd.Series | None = None) -> None:
    """The name of a row above its first panel, with the number of draws."""
    number = "" if draws is None else f", {span(draws)} draws a precision"
    axes = panels.axes[panels.rows.index(title), 0]
    axes.set_title(" ", loc="left", fontsize=7)  # keeps the place: words wider than a panel would widen it
    words = axes.annotate(
        f"{title}{number}", xy=(0, 1), xycoords="axes fraction", xytext=(-4, 3), textcoords="offset points",
        ha="left", va="bottom", fontsize=7, color=MUTED, annotation_clip=False, gid="setting",
    )  # fmt: skip
    words.set_in_layout(False)


def _bare(axes: Axes) -> None:
    """A panel of tiles: no grid, no frame, no tick marks."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
