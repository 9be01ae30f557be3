"""Figures of the edge of stability, and of kinks that are hit exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.report.descent_panels import activation_labels, legend, legend_below, panels
from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.style import DIVERGED, MUTED, colours, offsets, paper_style

_CYCLING = ("huber", "logcosh", "sqrt1")


def fine_steps(limits: pd.DataFrame) -> pd.DataFrame:
    """Losses in fp64 whose batch has ten steps or more, so that a line can be drawn through them."""
    plain = limits[(limits["precision"] == "fp64") & (limits["derivative_at_zero"] == 0.0)]
    return plain[plain.groupby("cell")["lr"].transform("nunique") >= 10]


def stability_figure(limits: pd.DataFrame, orbits: pd.DataFrame, regression: pd.DataFrame | None) -> Figure:
    """Amplitudes by step, curvature and secant over 2/a, where orbits end, and sharpness in a regression.

    Args:
        limits: table `limits`.
        orbits: table `orbits`.
        regression: table `regression`, if there is one.
    """
    fine = fine_steps(limits).sort_values("lr")
    palette = colours(fine["loss"].unique())
    with paper_style():
        num, columns = (3, 3) if regression is None else (4, 2)
        figure, axes = panels(num, columns=columns, height=2.4)
        for loss, part in fine.groupby("loss", sort=False):
            colour = palette[str(loss)]
            low, middle, high = (part[f"amplitude_{name}"].astype(float) for name in ("min", "median", "max"))
            axes[0].fill_between(part["lr"], low, high, color=colour, alpha=0.2, linewidth=0)
            axes[0].plot(part["lr"], middle, color=colour, label=loss, gid=f"amplitude:{loss}")
            beyond = part[part["lr"] > 2]
            if loss in _CYCLING:
                for name, dashes in (("curvature", "-"), ("secant", (0, (4, 1.5)))):
                    axes[1].plot(
                        beyond["lr"], beyond[f"{name}_median"].astype(float), color=colour, linestyle=dashes,
                        label=loss if name == "curvature" else None, gid=f"{name}:{loss}",
                    )  # fmt: skip
        for loss in ("huber", "sqrt1"):
            ends = orbits[orbits["loss"] == loss]
            axes[2].plot(
                ends["lr"], ends["last"].astype(float), ".", markersize=1.8, color=palette.get(loss, "black"),
                label=loss, gid=f"orbit:{loss}",
            )  # fmt: skip
        axes[0].set(
            xlabel="step a", ylabel="largest |x| of the last steps", title="median and range of starts"
        )
        axes[1].axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9)
        axes[1].set(
            xlabel="step a", ylabel="times a/2", title="curvature, secant (dashed)", ylim=(-0.05, 1.2)
        )
        axes[2].set(xlabel="step a", ylabel="x at the end", title="where runs end, start by start")
        for panel in axes[:3]:
            legend(panel, loc="upper left" if panel is not axes[1] else (0.62, 0.55))
        for panel in (axes[0], axes[2]):
            panel.axvline(2.0, color=MUTED, linewidth=0.7)
        if regression is not None:
            _regression(axes[3], regression, palette)
    return figure


def _regression(axes: Axes, regression: pd.DataFrame, palette: Mapping[str, str]) -> None:
    """Sharpness over the edge; |x| has no curvature and is left to the table."""
    lost = []
    for loss, part in regression[regression["loss"] != "abs"].groupby("loss", sort=False):
        is_lost = part["diverged"].astype(bool)
        median = part[~is_lost].groupby("multiple")["sharpness"].median()
        colour = palette.get(str(loss), "black")
        axes.plot(median.index, median, "o-", color=colour, label=loss, gid=f"regression:{loss}")
        if is_lost.any():
            lost.append(f"{loss} diverged from {part.loc[is_lost, 'multiple'].min():g} on")
    axes.text(0.98, 0.03, "; ".join(lost), transform=axes.transAxes, ha="right", color=DIVERGED, fontsize=6)
    axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9)
    axes.set(
        xlabel="step over 2/L of the quadratic", ylabel="sharpness a/2", title="regression", ylim=(0, None)
    )
    legend(axes, loc="center right")


def sharpness_figure(looks: pd.DataFrame) -> Figure:
    """Sharpness times lr/2 along training, a panel an activation; each seed a line, to where it diverged.

    Args:
        looks: table `sharpness`.
    """
    looks = looks.assign(label=activation_labels)
    labels, rates = list(dict.fromkeys(looks["label"])), sorted(looks["lr"].unique())
    palette = colours([f"{rate:g}" for rate in rates])
    with paper_style():
        figure, axes = panels(len(labels), columns=min(2, len(labels)), height=2.2)
        for panel, label in zip(axes, labels, strict=True):
            here = looks[looks["label"] == label]
            lost = dict.fromkeys(palette, 0)
            for (cell, replicate, seed, rate), path in here.groupby(["cell", "replicate", "seed", "lr"]):
                edges, word = path.sort_values("step")["edges"].astype(float), f"{rate:g}"
                panel.plot(
                    path["step"], edges, color=palette[word], alpha=0.8, linewidth=0.9,
                    gid=f"edges:{cell}:{replicate}:{seed}:{word}",
                )  # fmt: skip
                lost[word] += int(not np.isfinite(edges).all())
            gone = ", ".join(f"{count} at lr {word}" for word, count in lost.items() if count)
            if gone:
                panel.text(
                    0.98,
                    0.93,
                    f"diverged: {gone}",
                    transform=panel.transAxes,
                    ha="right",
                    color=DIVERGED,
                    fontsize=6,
                )
            panel.axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9)
            panel.set_yscale("log")
            panel.set(xlabel="step", ylabel="sharpness lr/2", title=label)
        for word, colour in palette.items():
            axes[0].plot([], [], color=colour, label=f"lr {word}")
        legend_below(figure, axes[0], columns=len(palette))
    return figure


def kinks_figure(kinks: pd.DataFrame, limits: pd.DataFrame | None) -> Figure:
    """How often kinks are hit exactly by precision, and how far apart the derivative there leads.

    Args:
        kinks: table `kinks`.
        limits: table `limits`; its rows about |x| in several precisions are drawn if there are some.
    """
    scalar = _of_precisions(limits)
    last = kinks[kinks["step"] == kinks.groupby("cell")["step"].transform("max")]
    names = [name for name in COARSE_TO_FINE if name in set(kinks["precision"])]
    kinds = _kinds(last)
    palette = colours(kinds)
    with paper_style():
        figure, axes = panels(3 if len(scalar) else 2, columns=3 if len(scalar) else 2, height=2.5)
        for (word, part), marker in zip(kinds.items(), "os^Dv", strict=False):
            seen = "weight" if part["kink"].iloc[0] == "penalty" else "relu"
            shares = (part[f"{seen}_hits"] / part[f"{seen}_seen"]).groupby(part["precision"]).mean()
            axes[0].plot(
                range(len(names)), shares.reindex(names), f"{marker}-", color=palette[word], label=word,
                gid=f"hits:{word}",
            )  # fmt: skip
            for derivative, group in part[part["derivative"] != 0].groupby("derivative"):
                apart = group.groupby("precision")["distance"].max().reindex(names)
                axes[1].plot(
                    range(len(names)), apart, marker, linestyle="-" if derivative == 1 else (0, (1, 1)),
                    color=palette[word], gid=f"apart:{word}:{derivative:g}",
                )  # fmt: skip
        for panel, threshold in ((axes[0], 1e-7), (axes[1], 1e-9)):
            panel.set_yscale("symlog", linthresh=threshold)
            panel.set_ylim(-0.2 * threshold, None)
            panel.set_xticks(range(len(names)), names)
        axes[0].set(ylabel="share hit exactly", title="kinks of a network in training")
        axes[1].set(ylabel="distance of the weights, relative", title="derivative 1 (line), 1/2 (dots)")
        if len(scalar):
            _absorbed(axes[2], scalar)
        legend_below(figure, axes[0], columns=3)
    return figure


def _kinds(last: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows by what is at its kink, in words."""
    words = {
        ("relu", True): "ReLUs at 0",
        ("relu", False): "ReLUs at 0, bias added after rounding",
        ("penalty", True): "weights at 0 (L1 penalty)",
        ("penalty", False): "weights at 0 (L1 penalty), bias added after rounding",
    }
    groups = last.groupby(["kink", "fused_bias"], sort=False)
    return {words[str(kink), bool(fused)]: part for (kink, fused), part in groups}


def _of_precisions(limits: pd.DataFrame | None) -> pd.DataFrame:
    """Rows about |x| with PyTorch's derivative, if there are several precisions; of no rows otherwise."""
    if limits is None:
        return pd.DataFrame()
    here = limits[(limits["loss"] == "abs") & (limits["derivative_at_zero"] == 0.0)]
    return here[here.groupby(["steps", "lrs"])["precision"].transform("nunique") > 1]


def _absorbed(axes: Axes, scalar: pd.DataFrame) -> None:
    rates = sorted(scalar["lr"].unique(), reverse=True)
    names = [name for name in COARSE_TO_FINE if name in set(scalar["precision"])]
    palette = colours([f"{rate:g}" for rate in rates])
    shift = dict(zip(rates, offsets(len(rates)), strict=True))
    for rate in rates:
        part = scalar[scalar["lr"] == rate].groupby("precision")[["share_at_zero", "share_stuck"]].mean()
        x, colour = [names.index(str(name)) + shift[rate] for name in part.index], palette[f"{rate:g}"]
        axes.bar(
            x, part["share_at_zero"], width=0.18, color=colour, label=f"a = {rate:.3g}", gid=f"zero:{rate:g}"
        )
        axes.bar(
            x, part["share_stuck"], width=0.18, bottom=part["share_at_zero"], color="none", edgecolor=colour,
            hatch="////", linewidth=0.6, gid=f"stuck:{rate:g}",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="share of starts", title="|x|: at 0 (filled), stuck (hatched)")
    legend(axes, loc="upper right")
