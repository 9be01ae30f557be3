"""Figures of gaps and ties: tables in, figures out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.design.axes import Precision
from tiebreak.report.panels import (
    Grid,
    context,
    grid,
    groups,
    note,
    precisions,
    rule_tick,
    rules,
    whole_ticks,
)
from tiebreak.report.style import (
    DIVERGED,
    MUTED,
    PAGE_INCHES,
    colours,
    markers,
    new_figure,
    offsets,
    paper_style,
)
from tiebreak.report.zones import Threshold

_RECIPES = {
    str(Threshold.PUBLISHED): "published absolute threshold",
    str(Threshold.RELATIVE): "relative threshold (64 unit roundoffs)",
}


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
                _dress_zones(panels.at(row, title), part, names, shift)
            panels.axes[rows.index(row), 0].set_ylabel("share of batches\nabove threshold (%)")
        panels.legend(title=f"Jacobian, compared with {_references(zones)}")
    return figure


def _dress_zones(axes: Axes, part: pd.DataFrame, names: list[str], shift: dict[str, float]) -> None:
    ticks = []
    for index, name in enumerate(names):
        here = part[part["precision"] == name]
        if not len(here):
            ticks.append(f"{name}\nnot run")
            continue
        if here["threshold"].isna().all():
            note(axes, index, 4, "no threshold published")
        ours = (
            "*"
            if (here["threshold_source"] == "ours").all() and here["recipe"].iloc[0] == "published"
            else ""
        )
        inits, draws = _span(here["num_inits"]), _span(here["num_draws"])
        ticks.append(f"{name}{ours}\n{inits} inits\n{draws} draws")
        for cell in here[here["num_draws_nonfinite"] > 0].to_dict("records"):
            # Below its point or above it, wherever its interval leaves room; else beside it.
            low, high = (cell[f"share_above_threshold_{end}"] for end in ("low", "high"))
            share = cell["share_above_threshold"]
            below, above = np.nanmin([low, share, 1.0]) > 0.6, np.nanmax([high, share, 0.0]) < 0.4
            aside = 0.0 if below or above else 0.09
            base = 48 if above and not below else 4
            words = f"{cell['num_draws_nonfinite']}/{cell['num_draws']} non-finite"
            note(axes, index + shift[cell["jacobian"]] + aside, base, words, colour=DIVERGED)
    axes.set_xticks(range(len(names)), ticks)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(-3, 103)
    axes.grid(visible=False, axis="x")


def gaps_figure(gaps: pd.DataFrame) -> Figure:
    """Distribution of the gap by decade, a panel per precision, zeros and non-finite gaps in own bins.

    Args:
        gaps: table `gaps`.
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
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 1.15 * len(names))
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
            limit = Threshold.PUBLISHED.limit(Precision(name))
            for title in columns:
                axes = panels.at(name, title)
                if low - 0.5 < (place := math.log10(limit) if limit > 0 else math.nan) < high + 1.5:
                    axes.axvline(place, color=MUTED, linestyle="--", linewidth=0.9, gid="threshold")
                axes.axvspan(low - 2.25, low - 0.75, color="#F1F1F1", zorder=0)
                ticks = list(range(low, high + 2, 1 if high - low < 10 else 2))
                places, words = (
                    [centres["zero"], *ticks],
                    ["exactly\n0", *(f"$10^{{{tick}}}$" for tick in ticks)],
                )
                if has_nonfinite:
                    axes.axvspan(high + 1.75, high + 3.25, color="#FBEAEA", zorder=0)
                    places, words = [*places, centres["nonfinite"]], [*words, "NaN\nor inf"]
                axes.set_xticks(places, words)
                axes.set_xlim(low - 2.25, high + (3.25 if has_nonfinite else 1.25))
                axes.set_ylim(0, 104)
                axes.grid(visible=False, axis="x")
                here = gaps[(gaps["precision"] == name) & (gaps["context"] == title)]
                _say_draws(axes, here)
            panels.axes[names.index(name), 0].set_ylabel("draws (%)")
        for axes in panels.axes[-1]:
            axes.set_xlabel("gap: sum over tensors of sup norms (gradient units)")
        panels.legend(title=f"Jacobian, compared with {_references(gaps)}; dashed: published threshold")
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
                    label=f"{name} ({_span(group['num_inits'])} inits)",
                    gid=f"{kind}:{name}",
                    clip_on=False,
                    zorder=3,
                )
        _dress_ties(panels, ties, kinds)
        panels.legend(title="precision")
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
                axes.set_ylim(-0.03 * (top := max(1e-3, 1.15 * shares.max())), top)
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


def _say_draws(axes: Axes, here: pd.DataFrame) -> None:
    if not len(here):
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=MUTED)
        return
    draws = here.groupby("jacobian")["num_draws"].sum()
    axes.text(
        0.995, 0.97, f"n = {_span(here['num_inits'])} inits, {_span(draws)} draws", transform=axes.transAxes,
        ha="right", va="top", color=MUTED, fontsize=6.5,
    )  # fmt: skip


def _span(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low}–{high}"
