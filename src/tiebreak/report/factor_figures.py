"""Figures of the paper that no single study's page has: zones by one factor, and distance between weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.report.panels import (
    Count,
    context,
    counts_above,
    grid,
    groups,
    precisions,
    rule,
    rules,
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
from tiebreak.report.wording import data_words, rule_tick
from tiebreak.report.zones import Threshold

RECIPE_WORDS = {
    str(Threshold.PUBLISHED): "published absolute threshold",
    str(Threshold.RELATIVE): "relative threshold (64 unit roundoffs)",
}
"""Heading of the panels of a recipe."""

_DISTANCE = "distance_l1"


def factor_figure(zones: pd.DataFrame, shares: pd.DataFrame, *, factor: str, words: str) -> Figure:
    """Share of mini-batches with a gap above the threshold, by one factor: every initialisation a point.

    Args:
        zones: table `zones`, rows of the minimal-norm Jacobian; `published_percent` where there is such a
            value.
        shares: table `shares` of these cells.
        factor: column that is varied, such as `arch` or `batch_size`.
        words: its name on the axis.
    """
    zones = zones.assign(context=_context(zones, factor))
    levels = _levels(zones, factor)
    names = precisions(zones)
    palette, shapes = colours(names), markers(names)
    shift = dict(zip(names, offsets(len(names), width=0.7), strict=True))
    if factor == "precision":
        shift = dict.fromkeys(names, 0.0)
    beside = 0.12 if factor == "precision" else 0.21 / len(names)
    rows = list(dict.fromkeys(zones["context"]))
    recipes = [name for name in RECIPE_WORDS if name in set(zones["recipe"])]
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.8 + 1.9 * len(rows))
        panels = grid(figure, rows=rows, columns=[RECIPE_WORDS[name] for name in recipes])
        counts = []
        for (title, recipe, name), group in groups(zones, "context", "recipe", "precision"):
            axes = panels.at(title, RECIPE_WORDS[recipe])
            at = {
                cell: levels.index(level) + shift[name]
                for cell, level in zip(group["cell"], group[factor], strict=True)
            }
            points = shares[(shares["recipe"] == recipe) & shares["cell"].isin(group["cell"])]
            spread = 0.22 / max(1, len(names) if factor != "precision" else 1)
            axes.plot(
                points["cell"].map(at) + spread * _sway(points["replicate"]),
                100 * points["share_above_threshold"],
                ".", color=palette[name], alpha=0.25, markersize=2.5, gid=f"inits:{name}",
            )  # fmt: skip
            x, y = group["cell"].map(at), 100 * group["share_above_threshold"]
            arms = [
                group[f"share_above_threshold_{end}"].to_numpy(dtype=float) * 100 for end in ("low", "high")
            ]
            reach = np.clip([y - arms[0], arms[1] - y], 0, None)
            axes.errorbar(
                x, y, yerr=reach, fmt=shapes[name], color=palette[name], label=name, gid=f"share:{name}",
                zorder=3, clip_on=False,
            )  # fmt: skip
            # An artist of no points that is not clipped has a box without end, which no layout can hold.
            has_published = "published_percent" in group and recipe == Threshold.PUBLISHED
            if has_published and len(known := group.dropna(subset=["published_percent"])):
                axes.plot(
                    known["cell"].map(at) + beside, known["published_percent"], "D", color=MUTED,
                    markerfacecolor="none", markersize=4.5, label="published (one initialisation)",
                    gid=f"published:{name}", zorder=4, clip_on=False,
                )  # fmt: skip
            counts += [
                Count(
                    axes=axes,
                    x=at[row["cell"]],
                    kind="non-finite",
                    text=f"{row['num_draws_nonfinite']}/{row['num_draws']}",
                )
                for row in group.to_dict("records")
                if row["num_draws_nonfinite"]
            ]
        for title in rows:
            for recipe in recipes:
                part = zones[(zones["context"] == title) & (zones["recipe"] == recipe)]
                _dress(
                    panels.at(title, RECIPE_WORDS[recipe]), part, factor=factor, levels=levels, words=words
                )
            panels.axes[rows.index(title), 0].set_ylabel("mini-batches\nabove threshold (%)")
        counts_above(panels, counts, width=20.0)
        panels.legend(
            title="small points: single initialisations; arms: 95 % bootstrap over them, from five on",
            num_columns=5,
            order=names,
        )
    return figure


def _sway(replicates: pd.Series) -> np.ndarray:
    """A place in [-1, 1] for each replicate, spread evenly and the same every time (golden ratio)."""
    return 2 * np.mod(replicates.to_numpy(dtype=float) * 0.6180339887498949, 1.0) - 1


def _context(zones: pd.DataFrame, factor: str) -> pd.Series:
    """What tells panels apart: every other axis that varies, and the data set in any case."""
    rest = zones.drop(columns=[name for name in (factor, "folder") if name in zones])
    source = data_words(zones)
    words = context(rest.assign(data=source))
    named = source + ", " + zones["arch"].astype(str) if factor != "arch" else source
    return words.where(words.str.len() > 0, named)


def _levels(zones: pd.DataFrame, factor: str) -> list[object]:
    if factor == "precision":
        return list(precisions(zones))
    return sorted(zones[factor].unique(), key=lambda level: (str(type(level)), level))


def _dress(axes: Axes, part: pd.DataFrame, *, factor: str, levels: list[object], words: str) -> None:
    ticks = []
    for level in levels:
        here = part[part[factor] == level]
        name = {"True": "batch norm", "False": "none"}.get(str(level), str(level)).replace("_", "\n")
        if not len(here):
            ticks.append(f"{name}\nnot run")
            continue
        low, high = int(here["num_inits"].min()), int(here["num_inits"].max())
        ticks.append(f"{name}\nn = {low}" if low == high else f"{name}\nn = {low}–{high}")
        if here["threshold"].isna().all():
            axes.text(
                levels.index(level), 50, "no threshold\npublished", ha="center", va="center", rotation=90,
                color=MUTED, fontsize=6,
            )  # fmt: skip
    axes.set_xticks(range(len(levels)), ticks)
    axes.set_xlim(-0.6, len(levels) - 0.4)
    axes.set_ylim(-3, 103)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{words} (n: initialisations)")


def drift_figure(drift: pd.DataFrame) -> Figure:
    """Distance between weights of two trainings by epoch, a line a rule; exact zeros on the lowest line.

    Args:
        drift: table `drift`.
    """
    drift = drift.assign(context=_drift_context(drift), rule=rule(drift))
    order = rules(drift.assign(beta=drift["rule"].map(beta_of)))
    drift = drift.sort_values("rule", key=lambda column: column.map(order.index), kind="stable")
    names, rows = precisions(drift), list(dict.fromkeys(drift["context"]))
    palette, shapes = colours(order), markers(order)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 1.9 * len(rows))
        panels = grid(figure, rows=rows, columns=names, share_y=False)
        counts: list[Count] = []
        for (title, name, label), group in groups(drift, "context", "precision", "rule"):
            axes = panels.at(title, name)
            for copy, part in group.groupby("copy", sort=False):
                part = part.sort_values("epoch")
                again = bool(copy)
                axes.plot(
                    part["epoch"], part[f"{_DISTANCE}_mean"], marker=shapes[label], color=palette[label],
                    linestyle=":" if again else "-", markerfacecolor="none" if again else None,
                    label="the same rule again" if again else rf"$\beta$ = {rule_tick(label)}",
                    gid=f"drift:{label}:{copy}", clip_on=False,
                )  # fmt: skip
        for title in rows:
            for name in names:
                part = drift[(drift["context"] == title) & (drift["precision"] == name)]
                _dress_drift(panels.at(title, name), part)
                lost = part[part["num_nonfinite"] > 0].groupby("rule", sort=False).first()
                counts += [
                    Count(
                        axes=panels.at(title, name), x=float(row["epoch"]),
                        kind=f"non-finite, {rule_words(str(label))}",
                        text=f"{row['num_nonfinite']}/{row['num_inits']}",
                    )
                    for label, row in lost.iterrows()
                ]  # fmt: skip
            panels.axes[rows.index(title), 0].set_ylabel("distance of weights\n(sum of absolute values)")
        counts_above(panels, counts, width=30.0)
        panels.legend(title=r"against $\beta = 0$; on the lowest line: exactly 0", num_columns=7)
    return figure


def rule_words(label: str) -> str:
    """A rule's short name in small print."""
    return f"β = {rule_tick(label).translate(str.maketrans('', '', '${}'))}"


def beta_of(name: str) -> float:
    """beta of a rule of the family, from its name without the forward arm.

    Example:
        >>> beta_of("native"), beta_of("beta100")
        (0.0, 100.0)
    """
    named = {"native": 0.0, "minimal": 1.0}
    return named[name] if name in named else float(name.removeprefix("beta"))


def _drift_context(drift: pd.DataFrame) -> pd.Series:
    source = data_words(drift)
    return source + ", " + drift["arch"].astype(str) + ", " + drift["forward"].astype(str) + " forward"


def _dress_drift(axes: Axes, part: pd.DataFrame) -> None:
    if not len(part):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=MUTED)
        return
    values = part[f"{_DISTANCE}_mean"].dropna()
    positive = values[values > 0]
    if len(positive):
        least = 10.0 ** np.floor(np.log10(positive.min()))
        axes.set_yscale("symlog", linthresh=least, linscale=0.4)
        axes.set_ylim(-0.1 * least, 3 * positive.max())
        low, high = int(np.log10(least)), int(np.ceil(np.log10(positive.max())))
        step = max(1, -(-(high - low) // 4))
        axes.set_yticks([0, *(10.0**power for power in range(low, high + 1, step))])
        axes.minorticks_off()
    axes.set_xlim(0.5, part["epoch"].max() + 0.5)
    whole_ticks(axes)
    axes.set_xlabel("epoch")
