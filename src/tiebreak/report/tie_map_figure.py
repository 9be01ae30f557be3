"""The published picture: a digit with its tied windows marked, in the image and in the network's pools."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.design.axes import Arch
from tiebreak.report.panels import precisions
from tiebreak.report.style import OKABE_ITO, PAGE_INCHES, new_figure, paper_style

RAW = -1
"""The `pool` of windows of the image itself."""

LIVE, DEAD = OKABE_ITO[1], OKABE_ITO[5]


def tie_map_figure(images: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """An image and its tied windows, in the image itself and in the first pool, a column a precision.

    A mark of the first pool stands at the middle of what its window sees of the image.

    Args:
        images: table `images`: the bytes of one image a cell.
        windows: table `map`: its tied windows.
    """
    names = precisions(images)
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 1.75 * 2)
        axes = figure.subplots(2, len(names), squeeze=False)
        for column, name in enumerate(names):
            cell = images[images["precision"] == name].iloc[0]
            picture = _picture(cell)
            for row, pool in enumerate((RAW, 0)):
                mine = windows[(windows["cell"] == cell["cell"]) & (windows["pool"] == pool)]
                _mark(axes[row, column], picture, mine, shift=_shift(cell) if pool == 0 else 0.0)
            axes[0, column].set_title(name, fontweight="bold")
        for row, words in enumerate(("image", "first pool")):
            axes[row, 0].set_ylabel(words, fontweight="bold")
        handles = [
            axes[0, 0].plot(
                [], [], "s", color=DEAD, alpha=0.6, label="tied at 0 (no gradient behind a ReLU)"
            )[0],
            axes[0, 0].plot([], [], "o", color=LIVE, label="tied above 0 (darker: in more channels)")[0],
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _picture(cell: pd.Series) -> np.ndarray:
    """An image of height x width, the mean of its channels."""
    shape = (int(cell["channels"]), int(cell["height"]), int(cell["width"]))
    return np.frombuffer(bytes.fromhex(cell["pixels"]), dtype=np.uint8).reshape(shape).mean(axis=0)


def _shift(cell: pd.Series) -> float:
    """Pixels by which the first convolution moves places: 5x5 without padding 2, 3x3 with padding none."""
    return 2.0 if cell["arch"] == Arch.LENET5 else 0.0


def _mark(axes: Axes, picture: np.ndarray, windows: pd.DataFrame, *, shift: float) -> None:
    """The image, and a mark at the middle of each tied window of 2x2 places."""
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=400)
    x, y = (2.0 * windows[f"window_{name}"] + 0.5 + shift for name in ("column", "row"))
    above = windows["tied_above_zero"] > 0
    if len(dead := windows[~above]):
        axes.scatter(
            x[dead.index], y[dead.index], s=7, marker="s", color=DEAD, alpha=0.6, linewidths=0, gid="dead"
        )
    if len(live := windows[above]):
        share = (live["tied_above_zero"] / live["channels"]).to_numpy(dtype=float)
        strength = 0.25 + 0.75 * share
        axes.scatter(x[live.index], y[live.index], s=7, color=LIVE, alpha=strength, linewidths=0, gid="live")
    axes.set_xlabel(f"{len(live)} above 0\n{len(dead)} at 0 only")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
