"""The learning rates that searches found, by rule at ties, beside the published ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tiebreak.report.panels import context, grid, groups, precisions, rule, rules
from tiebreak.report.style import (
    MUTED,
    PAGE_INCHES,
    colours,
    markers,
    new_figure,
    offsets,
    paper_style,
)
from tiebreak.report.wording import count, rule_tick


def rate_figure(rates: pd.DataFrame) -> Figure:
    """Best learning rate by rule: every search a point, on a logarithmic axis.

    Args:
        rates: table `lr_search`; `published_lr` where there is a published one for the same setting.

    Returns:
        A panel a precision and context; a forward arm has a colour and a marker.
    """
    rates = rates.assign(context=context(rates), rule=rule(rates))
    order, names = rules(rates), precisions(rates)
    rows = list(dict.fromkeys(rates["context"]))
    arms = list(dict.fromkeys(rates["forward"]))
    palette, shapes = colours(arms), markers(arms)
    shift = dict(zip(arms, offsets(len(arms), width=0.5), strict=True))
    columns = ["best_lr", *(["published_lr"] if "published_lr" in rates else [])]
    every = rates[columns].to_numpy(dtype=float)
    every = every[np.isfinite(every)]
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 1.9 * len(rows))
        panels = grid(figure, rows=rows, columns=names)
        for (title, name, forward), part in groups(rates, "context", "precision", "forward"):
            axes = panels.at(title, name)
            x = part["rule"].map(order.index) + shift[forward]
            axes.plot(
                x, part["best_lr"], shapes[forward], color=palette[forward], alpha=0.75, clip_on=False,
                label=f"{forward} forward" if len(arms) > 1 else "a search", gid=f"rates:{forward}",
            )  # fmt: skip
            if "published_lr" in part and len(known := part.dropna(subset=["published_lr"])):
                known = known.drop_duplicates("cell")
                axes.plot(
                    known["rule"].map(order.index) + shift[forward], known["published_lr"], "D", color=MUTED,
                    markerfacecolor="none", markersize=4.5, zorder=4, label="published", clip_on=False,
                    gid=f"published:{forward}",
                )  # fmt: skip
        for title in rows:
            for name in names:
                axes = panels.at(title, name)
                part = rates[(rates["context"] == title) & (rates["precision"] == name)]
                axes.set_yscale("log")
                axes.set_ylim(every.min() / 1.6, every.max() * 1.6)
                axes.yaxis.set_major_locator(LogLocator(numticks=5))
                axes.yaxis.set_minor_locator(NullLocator())
                axes.set_xticks(range(len(order)), [rule_tick(item) for item in order])
                axes.set_xlim(-0.6, len(order) - 0.4)
                axes.grid(visible=False, axis="x")
                said = count(len(part), "search").replace("searchs", "searches") if len(part) else "not run"
                axes.annotate(
                    said, xy=(1, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
                    ha="right", va="bottom", color=MUTED, fontsize=6.5, annotation_clip=False, gid="n",
                )  # fmt: skip
            panels.axes[rows.index(title), 0].set_ylabel("best learning rate")
        for axes in panels.axes[-1]:
            axes.set_xlabel(r"$\beta$ (rule at ties)")
        panels.legend(title="each point a search on held-out training images")
    return figure
