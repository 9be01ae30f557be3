"""Figures of rates of convergence: floors of a convex regression, and losses of networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiebreak.design.descent_axes import Gain
from tiebreak.report.descent_evidence import best_losses
from tiebreak.report.descent_panels import FLOOR, activation_labels, legend, lines, logarithmic, panels
from tiebreak.report.panels import groups
from tiebreak.report.style import MUTED, colours, markers, offsets, paper_style


def rates_figure(floors: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Gaps along descent, where they stop by step, the same by width of the corner, and steps to a target.

    Args:
        floors: table `floors`.
        curves: table `floor_curves`.
    """
    plain = floors[floors["lr_unit"] == "one"].assign(label=activation_labels)
    targets = floors[floors["lr_unit"] == "target"]
    with paper_style():
        figure, axes = panels(4 if len(targets) else 3, columns=2, height=2.4)
        _gap_curves(axes[0], curves[curves["lr_unit"] == "one"].assign(label=activation_labels))
        _floors_by_step(axes[1], plain)
        _floors_by_corner(axes[2], plain)
        if len(targets):
            _steps_to_target(axes[3], targets)
    return figure


def _gap_curves(axes: Axes, curves: pd.DataFrame) -> None:
    asked = sorted(curves["asked"].unique())
    chosen = min(asked, key=lambda value: abs(np.log(value / 0.03)))
    here = curves[curves["asked"] == chosen]
    styles = lines(here["label"])
    for label, path in here.groupby("label", sort=False):
        gap = path["gap_median"].astype(float).clip(lower=FLOOR)
        axes.plot(path["step"] + 1, gap, label=label, gid=f"curve:{label}", **styles[label])
    logarithmic(axes, "x", "y")
    axes.set(xlabel="steps", ylabel=r"$f - f^*$, median of problems", title=f"descent, a = {chosen:g}")
    legend(axes, loc="lower left")


def _floors_by_step(axes: Axes, floors: pd.DataFrame) -> None:
    styles, shapes = lines(floors["label"]), markers(floors["label"].unique())
    for (label,), part in groups(floors, "label"):
        median = part.groupby("asked")["floor"].median().astype(float).clip(lower=FLOOR)
        axes.plot(median.index, median, shapes[label], label=label, gid=f"floor:{label}", **styles[label])
    logarithmic(axes, "x", "y")
    axes.axhline(FLOOR, color=MUTED, linestyle=":", linewidth=0.8)
    axes.set(
        xlabel="step a", ylabel=r"floor of $f - f^*$", title=f"where it rests (dotted: {FLOOR:g} or less)"
    )


def _floors_by_corner(axes: Axes, floors: pd.DataFrame) -> None:
    here = floors[floors["activation"].isin(["relu", "c1relu"])]
    table = here.groupby(["delta", "asked"])["floor"].median().astype(float).unstack().sort_index()
    shown = np.log10(table.clip(lower=FLOOR).to_numpy(dtype=float))
    image = axes.imshow(shown, aspect="auto", origin="lower", cmap="cividis", vmin=np.log10(FLOOR), vmax=0)
    for (row, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
        text = "0" if value <= FLOOR else f"{value:.0e}".replace("e-0", "e-") if np.isfinite(value) else "∞"
        dark = not value > 1e-8
        axes.text(
            column, row, text, ha="center", va="center", fontsize=5.5, color="white" if dark else "black"
        )
    axes.grid(visible=False)
    axes.set_xticks(range(len(table.columns)), [f"{value:g}" for value in table.columns])
    axes.set_yticks(range(len(table.index)), [f"{value:g}" if value else "0 (ReLU)" for value in table.index])
    axes.set(xlabel="step a", ylabel="width of the corner", title=r"floor of $f - f^*$ (0: $\leq$ 1e-17)")
    axes.figure.colorbar(image, ax=axes, label=r"$\log_{10}$")


def _steps_to_target(axes: Axes, targets: pd.DataFrame) -> None:
    grouped = targets.groupby("asked")
    reached = grouped["first_below"].apply(
        lambda steps: float(np.median(steps)) if (steps >= 0).all() else np.nan
    )
    promised = grouped["promised"].median()
    axes.plot(reached.index, reached, "o-", label="steps it took", gid="reached")
    axes.plot(promised.index, promised, "s--", color=MUTED, label=r"bound $(RG/\epsilon)^2$", gid="promised")
    logarithmic(axes, "x", "y")
    axes.invert_xaxis()
    axes.set(xlabel=r"target $\epsilon$", ylabel="steps", title=r"ReLU with $a = \epsilon/G^2$")
    legend(axes)


def networks_figure(fits: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Loss against that of the ReLU at the best learning rates, and losses along training by depth.

    Args:
        fits: table `fits`.
        curves: table `fit_curves`.
    """
    fits, curves = (table.assign(label=activation_labels) for table in (fits, curves))
    depths = sorted(fits["depth"].unique())
    with paper_style():
        figure, axes = panels(len(depths) + 1, columns=2, height=2.5)
        _ratios(axes[0], fits)
        data = fits["data"].iloc[0]
        for panel, depth in zip(axes[1:], depths, strict=True):
            _losses(panel, curves[(curves["depth"] == depth) & (curves["data"] == data)], fits)
            panel.set_title(f"{data}, depth {depth}, each at its best step")
    return figure


def _best_rates(fits: pd.DataFrame) -> dict[tuple[Any, ...], tuple[float, float]]:
    """(data, gain, depth, label) -> best learning rate and the median loss there."""
    best = best_losses(fits, ["data", "gain", "depth", "label"])
    return {
        (row["data"], row["gain"], row["depth"], row["label"]): (row["lr"], row["train_loss"])
        for row in best.to_dict("records")
    }


def _ratios(axes: Axes, fits: pd.DataFrame) -> None:
    """A mark a network: shape and filling say data and gain, colour the depth."""
    best = _best_rates(fits)
    labels = [label for label in fits["label"].unique() if label != "relu"]
    settings = list(dict.fromkeys((data, gain, depth) for data, gain, depth, _ in best))
    kinds = list(dict.fromkeys((data, gain) for data, gain, _ in settings))
    depths = sorted({depth for _, _, depth in settings})
    palette = colours(map(str, depths))
    shapes = markers(dict.fromkeys(data for data, _ in kinds))
    shift = dict(zip(depths, offsets(len(depths)), strict=True))
    for data, gain, depth in settings:
        # the two gains are one for the ReLU
        relu = [best[data, own, depth, "relu"] for own in Gain if (data, own, depth, "relu") in best]
        ratios = {
            labels.index(label) + shift[depth]: best[data, gain, depth, label][1] / relu[0][1]
            for label in labels
            if relu and (data, gain, depth, label) in best
        }
        axes.plot(
            list(ratios), list(ratios.values()), shapes[data], color=palette[str(depth)],
            markerfacecolor=palette[str(depth)] if gain == Gain.MATCHED else "none",
            gid=f"ratio:{data}:{gain}:{depth}",
        )  # fmt: skip
    for data, gain in kinds:
        filling = "black" if gain == Gain.MATCHED else "none"
        axes.plot([], [], shapes[data], color="black", markerfacecolor=filling, label=f"{data}, {gain}")
    for depth in depths:
        axes.plot([], [], "-", color=palette[str(depth)], label=f"depth {depth}")
    axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9)
    logarithmic(axes, "y")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set(ylabel="final loss over that of the ReLU", title="each at its best step; below 1: faster")
    legend(axes, ncols=2, loc="upper left")


def _losses(axes: Axes, curves: pd.DataFrame, fits: pd.DataFrame) -> None:
    best = _best_rates(fits)
    labels = list(fits["label"].unique())
    styles = lines(labels)
    for (label, gain), part in groups(curves, "label", "gain"):
        key = (part["data"].iloc[0], gain, part["depth"].iloc[0], label)
        if gain == "he" and label != "relu":
            continue  # one line an activation: at equal gain, as the ReLU has it
        path = part[part["lr"] == best[key][0]]
        axes.plot(
            path["step"] + 1,
            path["loss_median"].astype(float),
            label=label,
            gid=f"loss:{label}",
            **styles[label],
        )
    logarithmic(axes, "x", "y")
    axes.set(xlabel="epoch + 1", ylabel="loss (median of seeds)")
    legend(axes, ncols=2)
