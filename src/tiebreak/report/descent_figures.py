"""Every figure of the study of training with kinks, in the order of the page."""

from __future__ import annotations

from tiebreak.report.descent_claims_figure import claims_figure
from tiebreak.report.descent_penalty_figures import lasso_figure, pruning_figure, wide_penalties
from tiebreak.report.descent_rate_figures import networks_figure, rates_figure
from tiebreak.report.descent_stability_figures import (
    fine_steps,
    kinks_figure,
    sharpness_figure,
    stability_figure,
)
from tiebreak.report.figure_kind import FigureKind

DESCENT_FIGURES = (
    FigureKind(
        name="descent_claims",
        title="What holds of ten statements",
        table="descent_claims",
        caption=(
            "Each statement is tested as it is worded, on what its row in the table says and nothing beyond "
            "it. A check is a measured number and the range that the statement needs it in: a statement "
            "holds if all of its checks pass, fails if none does, and is mixed otherwise. The bar is the "
            "share that passes. Statements are ours, after abstracts that changed between versions, or ours "
            "with a proof (docs/descent.md)."
        ),
        needs=("descent_claims",),
        draw=lambda tables: claims_figure(tables["descent_claims"]),
    ),
    FigureKind(
        name="rates",
        title="A kink at the minimiser, and the same with its corner rounded",
        table="floors",
        caption=(
            "One-layer regression with negative responses, whose only minimiser is the kink of all units. "
            "Above: the median gap of the problems along descent, and the median gap of the last steps by "
            "step size; what lies at 1e-17 or below is drawn there. Below: that gap by width of the corner; "
            "and, with the step for which the bound of a Lipschitz loss promises a target, the steps it took "
            "(no mark where a problem never reached it). An activation that has no floor may still be on its "
            "way at the smallest steps."
        ),
        needs=("floors", "floor_curves"),
        draw=lambda tables: rates_figure(tables["floors"], tables["floor_curves"]),
        applies=lambda tables: bool((tables["floors"]["lr_unit"] == "one").any()),
    ),
    FigureKind(
        name="network_losses",
        title="Do smooth networks train faster?",
        table="fits",
        caption=(
            "Full-batch descent on cross-entropy. First panel: the final training loss (median of seeds) "
            "over that of the ReLU network of the same depth, each at the learning rate where it is least; "
            "filled marks have initial weights of matched gain, hollow ones of variance 2/fan-in. Only "
            "c1relu changes smoothness and nothing else. The other panels: loss by epoch at that rate. A "
            "best rate at the end of the grid may not be the best there is."
        ),
        needs=("fits", "fit_curves"),
        draw=lambda tables: networks_figure(tables["fits"], tables["fit_curves"]),
    ),
    FigureKind(
        name="l1_norms",
        title="An L1 penalty under gradient methods",
        table="lasso",
        caption=(
            "Least squares with an L1 penalty in fp64: medians of problems of means over the last steps. "
            "Dotted: the exact solution, which carries a certificate of optimality. Right of the line at "
            "1 it is 0. The norm's axis is logarithmic and cut at 0.001, below which only exact and proximal "
            "solutions go. Number of coefficients that are exactly 0; and below 0.01 in size. Last: iterates "
            "of one coefficient whose solution is 0."
        ),
        needs=("lasso",),
        draw=lambda tables: lasso_figure(tables["lasso"], tables.get("traces")),
        applies=lambda tables: len(wide_penalties(tables["lasso"])) > 0,
    ),
    FigureKind(
        name="pruning",
        title="Pruning a network that was trained with an L1 penalty",
        table="pruned",
        caption=(
            "A network trained on real digits with an L1 penalty on its weights, by method, learning rate "
            "and penalty: medians of seeds. Above: the norm (linear below 1), the share of weights below a "
            "threshold, and exactly 0, means over the last steps. Below: test accuracy as trained, without "
            "the weights below the threshold, and without the largest share of weights that was tried, the "
            "smallest first."
        ),
        needs=("penalised", "pruned"),
        draw=lambda tables: pruning_figure(tables["penalised"], tables["pruned"]),
    ),
    FigureKind(
        name="stability",
        title="Beyond the stable step",
        table="limits",
        caption=(
            "Losses of one number with largest curvature 1 (line at a = 2: the edge). The largest |x| of the "
            "last steps: median of the starts, and from the least to the most. Curvature and secant f'(x)/x "
            "at the last point, times a/2. Where single runs end. A fourth panel, of a regression if one "
            "was run: its sharpness times a/2 by multiple of the quadratic's stable step, median of problems "
            "that did not diverge."
        ),
        needs=("limits", "orbits"),
        draw=lambda tables: stability_figure(tables["limits"], tables["orbits"], tables.get("regression")),
        applies=lambda tables: len(fine_steps(tables["limits"])) > 0,
    ),
    FigureKind(
        name="sharpness",
        title="Networks at the edge of stability",
        table="sharpness",
        caption=(
            "The largest eigenvalue of the Hessian times lr/2 along full-batch descent on a squared loss; "
            "1 (dotted) is the edge of stability. A line is a seed; where it ends before the last step the "
            "run has diverged, and is counted in words."
        ),
        needs=("sharpness",),
        draw=lambda tables: sharpness_figure(tables["sharpness"]),
    ),
    FigureKind(
        name="kinks",
        title="Kinks that are hit exactly",
        table="kinks",
        caption=(
            "Left: of all that was given to a ReLU, or of all weights under an L1 penalty, the share that "
            "was exactly 0 in some step of training, by precision. Middle: how far the weights end from "
            "those with PyTorch's derivative at the kink, 0, if it is 1/2 or 1 and nothing else differs, "
            "the farthest of the seeds; exactly 0 where no kink was hit. Both axes are linear next to 0. "
            "Right: descent on |x| with PyTorch's derivative: starts that end at 0 for good, and that stand "
            "still elsewhere because the step is lost in rounding."
        ),
        needs=("kinks",),
        draw=lambda tables: kinks_figure(tables["kinks"], tables.get("limits")),
    ),
)
