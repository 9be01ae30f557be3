"""Figures of gaps and ties: tables in, figures out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.design.axes import Precision
from tiebreak.report.panels import (
    Count,
    Grid,
    context,
    counts_above,
    grid,
    groups,
    note,
    of_precisions,
    precisions,
    rules,
    span,
    whole_ticks,
)
from tiebreak.report.style import (
    MUTED,
    PAGE_INCHES,
    colours,
    markers,
    new_figure,
    offsets,
    paper_style,
)
from tiebreak.report.wording import rule_tick
from tiebreak.report.zones import Threshold

_RECIPES = {
    str(Threshold.PUBLISHED): "published absolute threshold",
    str(Threshold.RELATIVE): "relative threshold (64 unit roundoffs)",
}

_LEAST_PANEL_INCHES = 1.3
"""Narrower, the words above and below the panels of a histogram run into each other."""

_TICK_POINTS = 24.0  # that the words of a tick need
_LETTER_POINTS = 4.0  # of a letter below an axis


def zones_figure(zones: pd.DataFrame) -> Figure:
    """Share of batches whose gap is above the threshold, by precision and Jacobian, both recipes.

    Args:
        zones: table `zones`.

    Returns:
        A panel per recipe and context; bars of uncertainty are the bootstrap over inits.
    """
    zones = zones.assign(context=context(zones))
    names, jacobians = precisions(zones), rules(zones)
    palette, shapes = colours(jacobians), markers(jacobians)
    shift = dict(zip(jacobians, offsets(len(jacobians)), strict=True))
    rows = list(dict.fromkeys(zones["context"]))
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.7 + 1.9 * len(rows))
        panels = grid(figure, rows=rows, columns=list(_RECIPES.values()))
        for (row, recipe, jacobian), group in groups(zones, "context", "recipe", "jacobian"):
            axes = panels.at(row, _RECIPES[recipe])
            group = group.sort_values("precision", key=lambda column: column.map(names.index))
            x = group["precision"].map(names.index) + shift[jacobian]
            y = 100 * group["share_above_threshold"]
            axes.errorbar(
                x,
                y,
                yerr=_reach(group, "share_above_threshold"),
                fmt=shapes[jacobian],
                color=palette[jacobian],
                label=_named(jacobian),
                gid=f"share:{jacobian}",
                clip_on=False,
                zorder=3,
            )
        for row in rows:
            for recipe, title in _RECIPES.items():
                part = zones[(zones["context"] == row) & (zones["recipe"] == recipe)]
                _dress_zones(panels.at(row, title), part, names)
            panels.axes[rows.index(row), 0].set_ylabel("share of batches\nabove threshold (%)")
        counts = [
            Count(
                axes=panels.at(cell["context"], _RECIPES[cell["recipe"]]),
                x=names.index(cell["precision"]) + shift[cell["jacobian"]],
                kind="non-finite",
                text=f"{cell['num_draws_nonfinite']}/{cell['num_draws']}",
            )
            for cell in zones[zones["num_draws_nonfinite"] > 0].to_dict("records")
        ]
        place = 72 * 0.85 * PAGE_INCHES / len(_RECIPES) / len(names) * 0.6 / len(jacobians)
        counts_above(panels, counts, width=place)
        panels.legend(title=f"Jacobian, compared with {_references(zones)}", about=of_precisions(zones))
    return figure


def _dress_zones(axes: Axes, part: pd.DataFrame, names: list[str]) -> None:
    ticks = []
    place = 72 * 0.85 * PAGE_INCHES / len(_RECIPES) / len(names)
    for index, name in enumerate(names):
        here = part[part["precision"] == name]
        words = name if (len(name) + 1) * _LETTER_POINTS <= place else name.replace("_", "\n")
        if not len(here):
            ticks.append(f"{words}\nnot run")
            continue
        if here["threshold"].isna().all():
            note(axes, index, 4, "no threshold published")
        ours = (
            "*"
            if (here["threshold_source"] == "ours").all() and here["recipe"].iloc[0] == "published"
            else ""
        )
        inits, draws = span(here["num_inits"]), span(here["num_draws"])
        ticks.append(f"{words}{ours}\n{inits} inits\n{draws} draws")
    axes.set_xticks(range(len(names)), ticks)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(-3, 103)
    axes.grid(visible=False, axis="x")


def gaps_figure(gaps: pd.DataFrame, *, has_threshold: bool = True) -> Figure:
    """Distribution of the gap by decade, a panel per precision, zeros and non-finite gaps in own bins.

    Args:
        gaps: table `gaps`.
        has_threshold: whether the published thresholds of max pooling are about these gaps.
    """
    gaps = gaps.assign(context=context(gaps))
    names, jacobians = precisions(gaps), rules(gaps)
    palette = colours(jacobians)
    columns = list(dict.fromkeys(gaps["context"]))
    decades = gaps["decade"].dropna()
    low, high = (int(decades.min()), int(decades.max())) if len(decades) else (-8, -7)
    centres = {"zero": low - 1.5, "nonfinite": high + 2.5}
    has_nonfinite = bool((gaps["bin"] == "nonfinite").any())
    shift = dict(zip(jacobians, offsets(len(jacobians), width=0.86), strict=True))
    width = 0.86 / len(jacobians)
    with paper_style():
        page = max(PAGE_INCHES, _LEAST_PANEL_INCHES * len(columns))
        figure = new_figure(width=page, height=0.9 + 1.15 * len(names))
        panels = grid(figure, rows=names, columns=columns)
        for (name, title, jacobian), group in groups(gaps, "precision", "context", "jacobian"):
            x = (
                np.where(group["bin"] == "decade", group["decade"] + 0.5, group["bin"].map(centres))
                + shift[jacobian]
            )
            panels.at(name, title).bar(
                x, 100 * group["share_draws"], width=width, color=palette[jacobian], label=_named(jacobian),
                gid=f"gap:{jacobian}",
            )  # fmt: skip
        for name in names:
            limit = Threshold.PUBLISHED.limit(Precision(name)) if has_threshold else math.nan
            for title in columns:
                axes = panels.at(name, title)
                here = gaps[(gaps["precision"] == name) & (gaps["context"] == title)]
                place = math.log10(limit) if limit > 0 and len(here) else math.nan
                if low - 0.5 < place < high + 1.5:
                    axes.axvline(place, color=MUTED, linestyle="--", linewidth=0.9, gid="threshold")
                axes.axvspan(low - 2.25, low - 0.75, color="#F1F1F1", zorder=0)
                places, words = list(centres.values()), ["exactly\n0", "NaN\nor inf"]
                if has_nonfinite:
                    axes.axvspan(high + 1.75, high + 3.25, color="#FBEAEA", zorder=0)
                else:
                    del places[1], words[1]
                axes.set_xlim(low - 2.25, high + (3.25 if has_nonfinite else 1.25))
                decade_points = 72 * 0.85 * page / len(columns) / (high - low + 5.5)
                ticks = _decade_ticks(low, high + 1, away_from=places, least=_TICK_POINTS / decade_points)
                # Every panel of a column has the same axis: its words stand once, below the last.
                is_last = name == names[-1]
                words += [f"$10^{{{tick}}}$" for tick in ticks]
                axes.set_xticks([*places, *ticks], words if is_last else [""] * len(words))
                axes.set_ylim(0, 104)
                axes.grid(visible=False, axis="x")
                _say_draws(axes, here)
            panels.axes[names.index(name), 0].set_ylabel("draws (%)")
        words = "gap: sum over tensors of sup norms (gradient units)"
        if len(columns) > 2:
            figure.supxlabel(words, fontsize=7.5)
        for axes in panels.axes[-1]:
            axes.set_xlabel("" if len(columns) > 2 else words)
        panels.lift_titles(9)
        dashed = "; dashed: published threshold" if has_threshold else ""
        panels.legend(title=f"Jacobian, compared with {_references(gaps)}{dashed}", about=of_precisions(gaps))
    return figure


def ties_figure(ties: pd.DataFrame) -> Figure:
    """Share of windows with a tie, at zero and above it, by pool and precision.

    Args:
        ties: table `ties`.
    """
    ties = ties.assign(context=context(ties))
    names = precisions(ties)
    palette, shapes = colours(names), markers(names)
    shift = dict(zip(names, offsets(len(names), width=0.36), strict=True))
    kinds = {"at_zero": "tied at zero", "above_zero": "tied above zero"}
    if (ties["share_below_zero"] > 0).any():
        kinds["below_zero"] = "tied below zero"
    rows = list(dict.fromkeys(ties["context"]))
    inits = {name: span(group["num_inits"]) for (name,), group in groups(ties, "precision")}
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.8 + 1.8 * len(rows))
        panels = grid(figure, rows=rows, columns=list(kinds.values()), share_y=False)
        for (row, name), group in groups(ties, "context", "precision"):
            for kind, title in kinds.items():
                share = f"share_{kind}"
                panels.at(row, title).errorbar(
                    group["pool"] + 1 + shift[name],
                    100 * group[share],
                    yerr=_reach(group, share) if f"{share}_low" in group else None,
                    fmt=shapes[name],
                    color=palette[name],
                    label=f"{name} ({inits[name]} inits)",
                    gid=f"{kind}:{name}",
                    clip_on=False,
                    zorder=3,
                )
        _dress_ties(panels, ties, kinds)
        panels.legend(title="precision", about=of_precisions(ties), num_columns=4 if len(names) > 4 else 6)
    return figure


def _dress_ties(panels: Grid, ties: pd.DataFrame, kinds: dict[str, str]) -> None:
    for row in panels.rows:
        part = ties[ties["context"] == row]
        for kind, title in kinds.items():
            axes, shares = panels.at(row, title), 100 * part[f"share_{kind}"]
            positive = shares[shares > 0]
            if kind != "at_zero" and len(positive) and positive.max() > 30 * positive.min():
                # Positive ties differ by orders of magnitude between layers, and many are exactly none.
                least = 10.0 ** math.floor(math.log10(positive.min()))
                axes.set_yscale("symlog", linthresh=least, linscale=0.5)
                axes.set_ylim(-0.15 * least, 150)
            else:
                ends = [name for name in (f"share_{kind}", f"share_{kind}_high") if name in part]
                highest = max(1e-3, 100 * float(np.nanmax(part[ends].to_numpy(dtype=float))))
                axes.set_ylim(-0.035 * highest, 1.06 * highest)
            axes.set_xlim(0.5, part["pool"].max() + 1.5)
            whole_ticks(axes)
            axes.set_xlabel("pool, in forward order")
        panels.axes[panels.rows.index(row), 0].set_ylabel("windows (%)")


def _reach(group: pd.DataFrame, column: str) -> np.ndarray:
    """Lengths of the two arms of each interval, NaN (nothing drawn) where there is none."""
    centre = group[column].to_numpy(dtype=float)
    low, high = (group[f"{column}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    return 100 * np.clip([centre - low, high - centre], 0, None)


def _named(jacobian: str) -> str:
    return {"native": "native ($\\beta=0$)", "minimal": "minimal ($\\beta=1$)"}.get(
        jacobian, f"$\\beta$ = {rule_tick(jacobian)}" if jacobian.startswith("beta") else jacobian
    )


def _references(table: pd.DataFrame) -> str:
    return ", ".join(_named(str(name)) for name in dict.fromkeys(table["reference"]))


def _decade_ticks(low: int, high: int, *, away_from: list[float], least: float) -> list[int]:
    """Decades to name: multiples of a round step, at least `least` decades apart and away from others."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step >= least)
    return [
        tick
        for tick in range(low, high + 1)
        if tick % step == 0 and all(abs(tick - place) >= least for place in away_from)
    ]


def _say_draws(axes: Axes, here: pd.DataFrame) -> None:
    if not len(here):
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=MUTED)
        return
    draws = here.groupby("jacobian")["num_draws"].sum()
    axes.annotate(
        f"n = {span(here['num_inits'])} inits, {span(draws)} draws", xy=(1, 1), xycoords="axes fraction",
        xytext=(0, 2), textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=6.5,
        annotation_clip=False, gid="n",
    )  # fmt: skip
