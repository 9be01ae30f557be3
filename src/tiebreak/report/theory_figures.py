"""The figures of the study of AD over machine numbers, and how to read them."""

from __future__ import annotations

from tiebreak.report.derivatives import derivatives_figure
from tiebreak.report.figure_kind import FigureKind
from tiebreak.report.touches import touches_figure

THEORY_FIGURES = (
    FigureKind(
        name="touches",
        title="Kinks and ties: the bound, the truth, and what a program sees",
        table="touches",
        caption=(
            "Share of all points that are on a kink or at a tie. Bars: the theorem's bound, kinks over |M|, "
            "for networks whose neurons have biases of their own; every parameter takes each number of the "
            "format. Discs: over the reals. Squares: in a program that rounds each product and sum to the "
            "format; the number above a square is by how much it exceeds the bound, which is about the "
            "reals. In fp32 and, for windows, in 16 bits the weight u is drawn (the table says how often), "
            "the biases are not. The last panel, where it is there, has the certified windows of a real "
            "network as it was drawn, all draws together: tied over the reals, tied in the program, and tied "
            "in the program only (0 stands on the line of 0). Its bound is that of windows of four entries "
            "with biases of their own, 6 over |M|; the network's windows share weights and biases, and equal "
            "patches tie at every precision. Its eight-bit formats hold parameters and pixels only; the "
            "arithmetic on them is fp32."
        ),
        needs=("touches",),
        draw=touches_figure,
    ),
    FigureKind(
        name="derivatives",
        title="Where AD's gradient is certain to be the derivative",
        table="derivatives",
        caption=(
            "Share of images, and of whole batches, for which a sufficient condition proves, over the "
            "reals, that AD gives the derivative of the network (filled), or that or a limit of "
            "derivatives (hollow, where it is more), by epochs trained. For the derivative no ReLU at "
            "exactly 0 and no tied window may matter: windows of equal patches and of ReLUs that are off "
            "do not, nor does what no pool chooses. For a limit a direction was found, and proved, in "
            "which what matters takes the side that AD took; for a batch it serves all its images. All "
            "draws and replicates together. At the others nothing is proved, which does not mean that AD "
            "is wrong. Parameters and images are as the format holds them."
        ),
        needs=("derivatives",),
        draw=lambda tables: derivatives_figure(tables["derivatives"]),
    ),
)
"""In the order of the page."""
