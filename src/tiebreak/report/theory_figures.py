"""The figures of the study of AD over machine numbers, and how to read them."""

from __future__ import annotations

from tiebreak.report.counts_figures import bounds_figure, maps_figure
from tiebreak.report.derivatives import derivatives_figure
from tiebreak.report.figure_kind import FigureKind
from tiebreak.report.rules_figures import (
    hierarchy,
    hierarchy_figure,
    proxies_figure,
    proxy_sweep,
    ties_figure,
)
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
    FigureKind(
        name="count_bounds",
        title="How many machine points are singular, and what the theorems allow",
        table="counts",
        caption=(
            "Each network was looked at at every point of M^W, for a finite set M of numbers and W "
            "parameters. Left: sums of n neurons, each a function of a bias of its own, by the number of "
            "their kinks over |M|; the line is the bound T2, each bar T2' of the sum. Right: the other "
            "networks, with biases (T2, T2') and without (T7), each with the rule of AD with which most "
            "points fail; a bound above 1 says nothing and is not drawn. With biases no point is incorrect, "
            "so all that fail are singular."
        ),
        needs=("counts",),
        draw=lambda tables: bounds_figure(tables["counts"]),
        applies=lambda tables: bool((tables["counts"]["family"] == "sum_of_neurons").any()),
    ),
    FigureKind(
        name="count_maps",
        title="Where AD is wrong: networks of two parameters, point by point",
        table="count_maps",
        caption=(
            "Each square is a point of M^2: both parameters run through M, which is not evenly spaced. "
            "Light: the network has a derivative and AD gives it. Orange: it has one and AD gives another. "
            "Dark: it has none. A network is shown with the rule of AD, of those tried, that is wrong most "
            "often."
        ),
        needs=("count_maps", "counts"),
        draw=lambda tables: maps_figure(tables["count_maps"], tables["counts"]),
        applies=lambda tables: "s" in "".join(tables["count_maps"]["points"]),
    ),
    FigureKind(
        name="count_proxies",
        title="What AD takes at kinks: what is wrong, and what is outside of the hull",
        table="counts",
        caption=(
            "Share of all points at which AD is incorrect (top) and at which what it gives is outside of the "
            "convex hull of the limits of derivatives (bottom), by the number that it takes at every kink. "
            "Grey: between the one-sided derivatives of ReLU; dotted lines guide the eye and are no counts. "
            "An incorrect point is outside as well. Without biases the hull is that of the directional "
            "derivative at the point, which may be smaller."
        ),
        needs=("counts",),
        draw=lambda tables: proxies_figure(tables["counts"]),
        applies=lambda tables: len(proxy_sweep(tables["counts"])) > 0,
    ),
    FigureKind(
        name="count_ties",
        title="Ties of max pools: which rule is wrong where",
        table="counts",
        caption=(
            "Left: share of all points of M^W at which AD is incorrect, by where it sends the derivative of "
            "a tied maximum: to the first entry, to the last, or to all of them in equal parts. Windows over "
            "values with biases of their own are never wrong. Right: points at which the largest of n biases "
            "has no derivative, beside |M|^n - n (0^(n-1) + ... + (|M|-1)^(n-1)) of P2."
        ),
        needs=("counts",),
        draw=lambda tables: ties_figure(tables["counts"]),
        applies=lambda tables: bool((tables["counts"]["family"] == "maximum").any()),
    ),
    FigureKind(
        name="count_hierarchy",
        title="What AD gives: the derivative, a limit of derivatives, their hull, or none of these",
        table="counts",
        caption=(
            "Every point of M^W of each network, by the first of these that holds: AD gives the derivative; "
            "a limit of derivatives; a convex combination of such limits; none. What is outside is either "
            "incorrect or singular. Left, AD takes 0 at kinks (the left derivative of the stair) and the "
            "first entry at ties; right, 1/2 and an even split, where that was tried. Each touched point was "
            "judged in rationals."
        ),
        needs=("counts",),
        draw=lambda tables: hierarchy_figure(tables["counts"]),
        applies=lambda tables: any(len(part) for part in hierarchy(tables["counts"]).values()),
    ),
)
"""In the order of the page."""
