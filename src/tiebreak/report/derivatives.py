"""Where AD's gradient is certain to be the derivative: table, figure, words."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.panels import whole_ticks
from tiebreak.report.style import COLUMN_INCHES, colours, markers, new_figure, offsets, paper_style
from tiebreak.report.wording import listed, percent

_COUNTS = ("images", "derivative", "limit", "neurons", "touched", "windows", "tied", "equal", "dead")


def derivative_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts per cell and epoch over draws and replicates.

    Args:
        rows: of kind `derivative`.

    Returns:
        `epoch`; the counts of `exact.sufficient`; `num_refused` draws that could not be looked at, whose
        images count as not certain; `share_derivative` and `share_certain` (derivative or limit) of images.
    """
    rows = rows.assign(num_refused=(rows["reason"].fillna("") != "").astype(int))
    table = rows.groupby(["cell", "epoch"], sort=False, as_index=False)[[*_COUNTS, "num_refused"]].sum()
    table["share_derivative"] = table["derivative"] / table["images"]
    table["share_certain"] = (table["derivative"] + table["limit"]) / table["images"]
    return table


def derivatives_figure(table: pd.DataFrame) -> Figure:
    """Shares of images by epoch, a colour a precision.

    Args:
        table: of `derivative_table`, with axes.
    """
    names = [name for name in COARSE_TO_FINE if (table["precision"] == name).any()]
    palette, shapes = colours(names), markers(names)
    shifts = dict(zip(names, offsets(len(names), width=0.5), strict=True))
    with paper_style():
        figure = new_figure(width=COLUMN_INCHES, height=2.4)
        axes = figure.subplots()
        for name in names:
            sums = table[table["precision"] == name].groupby("epoch")[["images", "derivative", "limit"]].sum()
            certain = (sums["derivative"] + sums["limit"]) / sums["images"]
            places = sums.index.to_numpy(dtype=float) + shifts[name]
            axes.plot(
                places, 100 * sums["derivative"] / sums["images"], marker=shapes[name], color=palette[name],
                label=name, gid=f"derivative:{name}", linewidth=0.7, clip_on=False,
            )  # fmt: skip
            axes.plot(
                places, 100 * certain, marker=shapes[name], color=palette[name], markerfacecolor="none",
                linestyle="", markersize=5, gid=f"certain:{name}", clip_on=False,
            )  # fmt: skip
        axes.set_ylim(-3, 103)
        axes.set_ylabel("images (%)")
        axes.set_xlabel("epochs trained")
        whole_ticks(axes)
        figure.legend(ncols=3, loc="outside upper center")
    return figure


def derivative_sentence(table: pd.DataFrame) -> str:
    """The shares by precision over all epochs."""
    sums = table.groupby("precision")[["images", "derivative", "limit"]].sum()
    rows = zip(sums.index, sums.to_numpy(), strict=True)
    counts = {str(name): [int(value) for value in row] for name, row in rows}
    words = []
    for name in COARSE_TO_FINE:
        if name in counts:
            number, derivative, limit = counts[name]
            also = f" (and a limit at {percent(limit / number)})" if limit else ""
            words.append(f"{percent(derivative / number)} in {name}{also}")
    images = int(sums["images"].sum())
    return (
        f"AD's gradient is certain to be the derivative over the reals at {listed(words)}, of {images} "
        "images in all; at the others nothing is proved."
    )
