"""How figures look: palette, sizes of a paper's column, and figures without global state.

Nothing here touches `matplotlib.rcParams` or pyplot for longer than a `with` block, so a figure looks the
same whatever the caller's settings are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A00")
"""Colours that remain apart with each kind of colour blindness; the yellow, too light for lines, darkened.

Source:
    Okabe and Ito, "Color Universal Design", 2008.
"""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Markers in the order of the colours: shape says the same as colour, for print without colour."""

COLUMN_INCHES = 3.35
"""Width of one column of a two-column paper."""

PAGE_INCHES = 6.9
"""Width of both columns."""

DIVERGED = "#B00020"
"""Colour of words about divergence."""

MUTED = "#6B6B6B"
"""Colour of notes: n, chance, thresholds."""

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "errorbar.capsize": 2.0,
    "pdf.fonttype": 42,
    "svg.hashsalt": "tiebreak",
    "savefig.dpi": 200,
    "mathtext.default": "regular",
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Settings of a figure, in force inside the `with` block only, over matplotlib's own defaults."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure on the Agg canvas, unknown to pyplot. Sizes in inches."""
    # The words before the counts above a panel end at the edge: leave them room at both sides.
    engine = ConstrainedLayoutEngine(rect=(0.01, 0.0, 0.98, 1.0))
    figure = Figure(figsize=(width, height), layout=engine)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path` as PDF and PNG without the time of day, so equal tables give equal files.

    Args:
        figure: what to write.
        path: without suffix.

    Returns:
        The two paths.
    """
    pdf, png = path.with_suffix(".pdf"), path.with_suffix(".png")
    with paper_style():
        # Laid out once, for both files, and drawn once for each: `savefig` would draw twice.
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")
        for axes in figure.axes:  # the solver's last digits depend on where its variables lie in memory
            left, bottom, width, height = (round(float(side), 6) for side in axes.get_position().bounds)
            axes.set_position((left, bottom, width, height))
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        FigureCanvasPdf(figure).print_pdf(
            pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None}
        )
    return pdf, png


def colours(values: Iterable[str]) -> dict[str, str]:
    """A colour for each value, in their order; after eight they repeat, which markers then tell apart."""
    return {value: OKABE_ITO[index % len(OKABE_ITO)] for index, value in enumerate(values)}


def markers(values: Iterable[str]) -> dict[str, str]:
    """A marker for each value, in their order."""
    return {value: MARKERS[index % len(MARKERS)] for index, value in enumerate(values)}


def offsets(count: int, *, width: float = 0.6) -> Sequence[float]:
    """Shifts that put `count` marks side by side, centred, within `width`."""
    step = width / count if count else 0.0
    return [(index - (count - 1) / 2) * step for index in range(count)]
