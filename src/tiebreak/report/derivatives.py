"""Where AD's gradient is certain to be the derivative: table, figure, words."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.panels import whole_ticks
from tiebreak.report.style import PAGE_INCHES, colours, markers, new_figure, offsets, paper_style
from tiebreak.report.wording import listed, percent

_COUNTS = (
    "images", "derivative", "limit", "independent", "whole_derivative", "whole_limit", "neurons", "touched",
    "windows", "tied", "equal", "dead",
)  # fmt: skip


def derivative_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts per cell and epoch over draws and replicates.

    Args:
        rows: of kind `derivative`.

    Returns:
        `epoch`; the counts of `exact.sufficient`; `num_batches`, and of these `num_refused` that could not be
        looked at, whose images count as not certain; `share_derivative` and `share_certain` (derivative or
        limit) of images.
    """
    rows = rows.assign(num_batches=1, num_refused=(rows["reason"].fillna("") != "").astype(int))
    counts = [*_COUNTS, "num_batches", "num_refused"]
    table = rows.groupby(["cell", "epoch"], sort=False, as_index=False)[counts].sum()
    table["share_derivative"] = table["derivative"] / table["images"]
    table["share_certain"] = (table["derivative"] + table["limit"]) / table["images"]
    return table


def derivatives_figure(table: pd.DataFrame) -> Figure:
    """Shares of images and of whole batches by epoch, a colour a precision.

    Args:
        table: of `derivative_table`, with axes.
    """
    names = [name for name in COARSE_TO_FINE if (table["precision"] == name).any()]
    palette, shapes = colours(names), markers(names)
    shifts = dict(zip(names, offsets(len(names), width=0.5), strict=True))
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=2.4)
        left, right = figure.subplots(1, 2, sharey=True, sharex=True)
        for axes, what, counts in (
            (left, "images", ("images", "derivative", "limit")),
            (right, "batches", ("num_batches", "whole_derivative", "whole_limit")),
        ):
            for name in names:
                sums = table[table["precision"] == name].groupby("epoch")[list(counts)].sum()
                number, derivative, limit = (sums[count] for count in counts)
                places = sums.index.to_numpy(dtype=float) + shifts[name]
                axes.plot(
                    places, 100 * derivative / number, marker=shapes[name], color=palette[name],
                    label=name if axes is left else None, gid=f"{what}:derivative:{name}", linewidth=0.7,
                    clip_on=False,
                )  # fmt: skip
                axes.plot(
                    places, 100 * (derivative + limit) / number, marker=shapes[name], color=palette[name],
                    markerfacecolor="none", linestyle="", markersize=5, gid=f"{what}:certain:{name}",
                    clip_on=False,
                )  # fmt: skip
            axes.set_title(f"{what}, {int(table[counts[0]].sum())} in all")
            axes.set_xlabel("epochs trained")
            whole_ticks(axes)
        left.set_ylim(-3, 103)
        left.set_ylabel("certain (%)")
        figure.legend(ncols=6, loc="outside upper center")
    return figure


def derivative_sentence(table: pd.DataFrame) -> str:
    """The shares by precision over all epochs, and of whole batches."""
    sums = table.groupby("precision")[[*_COUNTS, "num_batches"]].sum()
    counts = {str(name): {key: int(value) for key, value in row.items()} for name, row in sums.iterrows()}
    words = []
    for name in COARSE_TO_FINE:
        if name in counts:
            of = counts[name]
            also = f" (and a limit at {percent(of['limit'] / of['images'])})" if of["limit"] else ""
            words.append(f"{percent(of['derivative'] / of['images'])} in {name}{also}")
    images, batches, derivative, limit = (
        sum(of[key] for of in counts.values())
        for key in ("images", "num_batches", "whole_derivative", "whole_limit")
    )
    return (
        f"AD's gradient is certain to be the derivative over the reals at {listed(words)}, of {images} "
        f"images in all; at the others nothing is proved. As the gradient of a whole batch it is certain to "
        f"be the derivative for {derivative} of {batches}, and a limit for {limit} more."
    )
