"""Figures of L1 penalties: on a linear model beside its exact solution, and on the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.report.descent_panels import legend_below, lines_by_method, logarithmic, method_labels, panels
from tiebreak.report.style import MUTED, markers, paper_style


def lasso_figure(lasso: pd.DataFrame, traces: pd.DataFrame | None) -> Figure:
    """The L1 norm by penalty and method, exact and small coefficients, and iterates of single coefficients.

    Args:
        lasso: table `lasso`.
        traces: table `traces`, if there is one.
    """
    wide = wide_penalties(lasso)
    wide = wide.assign(label=method_labels, relative=wide["relative"].round(6))
    told = wide if traces is None else pd.concat([wide, traces.assign(label=method_labels)])
    styles = lines_by_method(told)
    with paper_style():
        figure, axes = panels(3 if traces is None else 4, columns=2, height=2.4)
        for panel, column, truth, ylabel, title in (
            (axes[0], "norm", "norm_exact", r"$\|b\|_1$ over that of no penalty", "norm (exact: 0 beyond 1)"),
            (axes[1], "zeros", "zeros_exact", "coefficients exactly 0", "exact zeros"),
            (axes[2], "small", "zeros_exact", "coefficients below 0.01", "small ones"),
        ):
            scale = wide["norm_unpenalised"] if column == "norm" else 1.0
            scaled = wide.assign(shown=wide[column] / scale, truth=wide[truth] / scale)
            for label, part in scaled.groupby("label", sort=False):
                median = part.groupby("relative")["shown"].median()
                panel.plot(median.index, median, label=label, gid=f"{column}:{label}", **styles[str(label)])
            median = scaled.groupby("relative")["truth"].median()
            panel.plot(median.index, median, color="black", linestyle=":", linewidth=2, label="exact")
            logarithmic(panel, "x")
            panel.axvline(1.0, color=MUTED, linewidth=0.7)
            panel.set(xlabel=r"$\lambda/\lambda_{max}$", ylabel=ylabel, title=title)
        axes[0].set_yscale("log")
        axes[0].set_ylim(1e-3, None)
        if traces is not None:
            _iterates(axes[3], traces.assign(label=method_labels), styles)
        legend_below(figure, axes[1], columns=5)
    return figure


def wide_penalties(lasso: pd.DataFrame) -> pd.DataFrame:
    """Runs in fp64 whose batch has ten penalties or more, so that a line can be drawn through them."""
    plain = lasso[
        (lasso["columns"] == "iid")
        & (lasso["precision"] == "fp64")
        & (lasso["penalty_unit"] == "largest")
        & (lasso["derivative_at_zero"] == 0.0)
    ]
    return plain[plain.groupby("cell")["relative"].transform("nunique") >= 10]


def _iterates(axes: Axes, traces: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    here = traces[traces["coordinate"] == traces["coordinate"].max()]
    for label, path in here.groupby("label", sort=False):
        axes.plot(
            path["step"], path["value"].astype(float), marker=".", gid=f"trace:{label}", **styles[str(label)]
        )
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set(xlabel="last steps", ylabel="a coefficient, solution 0", title="iterates around the kink")


def pruning_figure(penalised: pd.DataFrame, pruned: pd.DataFrame) -> Figure:
    """Norm, zeros, near zeros and accuracies of a network trained with an L1 penalty on its weights.

    Args:
        penalised: table `penalised`.
        pruned: table `pruned`.
    """
    penalised, pruned = (table.assign(label=method_labels) for table in (penalised, pruned))
    thresholds = pruned[(pruned["rule"] == "threshold") & (pruned["value"] > 0)]
    cut = float(sorted(thresholds["value"].unique())[thresholds["value"].nunique() // 2])
    small = thresholds[thresholds["value"] == cut]
    shares = pruned[pruned["rule"] == "share"]
    most = float(sorted(shares["value"].unique())[-1])
    rows = (
        (penalised, "norm", r"$\|w\|_1$", "norm of the weights"),
        (small, "share_small", "share of weights", f"below {cut:g}"),
        (penalised, "share_zero", "share of weights", "exactly 0"),
        (penalised, "test_accuracy", "test accuracy", "as trained"),
        (small, "test_accuracy", "test accuracy", f"without weights below {cut:g}"),
        (
            shares[shares["value"] == most],
            "test_accuracy",
            "test accuracy",
            f"without {most:.0%} of the weights",
        ),
    )
    styles, shapes = lines_by_method(penalised), markers(penalised["label"].unique())
    levels = sorted(penalised["penalty"].unique())
    with paper_style():
        figure, axes = panels(len(rows), columns=3, height=2.2)
        for panel, (table, column, ylabel, title) in zip(axes, rows, strict=True):
            for label, part in table.groupby("label", sort=False):
                median = part.groupby("penalty")[column].median()
                panel.plot(
                    [levels.index(level) for level in median.index], median, marker=shapes[str(label)],
                    label=label, gid=f"{column}:{label}", **styles[str(label)],
                )  # fmt: skip
            panel.set_xticks(range(len(levels)), [f"{level:g}" for level in levels], rotation=40)
            panel.set(xlabel=r"penalty $\lambda$", ylabel=ylabel, title=title)
            if column != "norm":
                panel.set_ylim(-0.04, 1.04)
        axes[0].set_yscale("symlog", linthresh=1.0)
        axes[0].set_ylim(-0.1, None)
        legend_below(figure, axes[0], columns=4)
    return figure
