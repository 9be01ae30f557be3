"""Figures of training: accuracy, learning curves, paired differences. A diverged run is always drawn."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter

from tiebreak.design.axes import Forward
from tiebreak.records.session import OutcomeKind
from tiebreak.records.table import MISSING
from tiebreak.report.paired import LEVEL
from tiebreak.report.panels import (
    Count,
    Grid,
    context,
    counts_above,
    grid,
    groups,
    of_precisions,
    precisions,
    rule,
    rules,
    whole_ticks,
)
from tiebreak.report.style import (
    DIVERGED,
    MUTED,
    PAGE_INCHES,
    colours,
    markers,
    new_figure,
    offsets,
    paper_style,
)
from tiebreak.report.wording import rule_tick

_FORWARDS = [str(forward) for forward in Forward]
_DASHES = {
    str(Forward.EXACT): "-",
    str(Forward.BLENDED): (0, (3, 1.5)),
    str(Forward.BLENDED_VALUE): (0, (1, 1)),
    str(Forward.BLENDED_GRADIENT): (0, (5, 1, 1, 1)),
}
_BETA = r"$\beta$ (rule at ties)"
_LETTER_POINTS = 4.0
"""Width of a letter of a tick's label, in points."""


def accuracy_figure(accuracy: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Final test accuracy by beta: every replicate a point, mean and sd, chance, diverged counts in words.

    Args:
        accuracy: table `accuracy`; `published_percent` where there is a published mean to show beside it.
        runs: table `runs`.
    """
    accuracy = _placed(accuracy)
    runs = runs.merge(accuracy[["cell", "context", "rule"]], on="cell")
    with paper_style():
        panels, shift = _rule_panels(accuracy)
        palette, shapes = colours(_FORWARDS), markers(_FORWARDS)
        order = rules(accuracy)
        for (row, name, forward), group in groups(accuracy, "context", "precision", "forward"):
            axes = panels.at(row, name)
            x = group["rule"].map(order.index) + shift[forward]
            axes.errorbar(
                x + 0.09, 100 * group["accuracy_mean"], yerr=100 * group["accuracy_sd"], fmt="_",
                color=palette[forward], markersize=6, gid=f"mean:{forward}", zorder=3,
            )  # fmt: skip
            points = runs[runs["cell"].isin(group["cell"])]
            for learned, part in points.groupby(points["outcome"] != OutcomeKind.NOT_LEARNED):
                axes.plot(
                    part["rule"].map(order.index) + shift[forward] - 0.05,
                    100 * part["final_test_accuracy"],
                    shapes[forward],
                    color=palette[forward],
                    markerfacecolor=palette[forward] if learned else "none",
                    alpha=0.75,
                    gid=f"points:{forward}",
                    label=f"{forward} forward" if learned else None,
                )
            # An artist of no points that is not clipped has a box without end, which no layout can hold.
            if "published_percent" in group and len(known := group.dropna(subset=["published_percent"])):
                axes.plot(
                    known["rule"].map(order.index) + shift[forward], known["published_percent"], "D",
                    markerfacecolor="none", color=MUTED, markersize=4.5, zorder=4, label="published",
                    gid=f"published:{forward}", clip_on=False,
                )  # fmt: skip
        for axes, part in _parts(panels, accuracy):
            _dress_accuracy(axes, part)
        _say_not_run(panels, accuracy, order)
        counts_above(panels, _lost(panels, accuracy, order), width=_place_points(panels, order))
        _label_rules(panels, order, "final test accuracy (%)")
        panels.legend(
            title="each point a run; bar: mean ± sd; open: never left chance; dotted: chance",
            about=of_precisions(accuracy),
        )
    return panels.figure


def _dress_accuracy(axes: Axes, part: pd.DataFrame) -> None:
    axes.set_ylim(-2, 103)
    chance = part["chance"].dropna()
    if len(chance):
        axes.axhline(100 * float(chance.iloc[0]), color=MUTED, linestyle=":", linewidth=0.9, gid="chance")


def _lost(panels: Grid, accuracy: pd.DataFrame, order: list[str]) -> list[Count]:
    """Runs without a final accuracy, by what became of them, a line for each forward arm."""
    counts = []
    arms = [name for name in _FORWARDS if name in set(accuracy["forward"])]
    for forward in arms:
        for kind in ("diverged", "failed", "missing"):
            here = accuracy[(accuracy["forward"] == forward) & (accuracy[f"num_{kind}"] > 0)]
            for cell in here.to_dict("records"):
                of = cell["num_planned"] - (0 if kind == "missing" else cell["num_missing"])
                counts.append(
                    Count(
                        axes=panels.at(cell["context"], cell["precision"]),
                        x=order.index(cell["rule"]),
                        kind=f"{forward} {kind}" if len(arms) > 1 else kind,
                        text=f"{cell[f'num_{kind}']}/{of}",
                        colour=MUTED if kind == "missing" else DIVERGED,
                    )
                )
    return counts


def difference_figure(
    differences: pd.DataFrame, runs: pd.DataFrame, *, label: str, treated: str, reference: str
) -> Figure:
    """Paired accuracy differences by beta: every pair a point, mean with its t interval, diverged counts.

    Args:
        differences: table `pairs` or `forward_arm`.
        runs: table `runs`.
        label: what is subtracted from what, for the axis; percentage points are added.
        treated: short name of the first of a pair, in the counts of diverged runs.
        reference: short name of the second.
    """
    table = _placed(differences)
    order, both_arms = rules(table), table["forward"].nunique() > 1
    final = runs.set_index(["cell", "replicate"])["final_test_accuracy"]
    with paper_style():
        panels, shift = _rule_panels(table)
        palette, shapes = colours(_FORWARDS), markers(_FORWARDS)
        for (row, name, forward), group in groups(table, "context", "precision", "forward"):
            axes = panels.at(row, name)
            x = group["rule"].map(order.index) + shift[forward]
            mean = group["difference_mean"]
            reach = np.array([mean - group["difference_low"], group["difference_high"] - mean])
            axes.errorbar(
                x + 0.09, 100 * mean, yerr=100 * reach, fmt="_", color=palette[forward], markersize=6,
                gid=f"mean:{forward}", zorder=3,
            )  # fmt: skip
            if "p_holm" in group and (beyond := group["p_holm"] < LEVEL).any():
                axes.plot(
                    x[beyond] + 0.09, 100 * group.loc[beyond, "difference_high"], "*", color=DIVERGED,
                    markersize=5, gid=f"star:{forward}", zorder=5, label="not 0 (Holm, 0.05)",
                )  # fmt: skip
            x_pairs, y_pairs = [], []
            for place, cell, other in zip(x, group["cell"], group["reference_cell"], strict=True):
                gaps = (final.loc[cell] - final.loc[other]).dropna()
                x_pairs += [place - 0.05] * len(gaps)
                y_pairs += list(100 * gaps)
            axes.plot(
                x_pairs, y_pairs, shapes[forward], color=palette[forward], alpha=0.75,
                gid=f"points:{forward}", label=f"{forward} forward" if both_arms else "a pair of runs",
            )  # fmt: skip
        _spread(panels)
        _say_not_run(panels, table, order)
        for axes in panels.axes.flat:
            axes.axhline(0, color=MUTED, linewidth=0.8)
        counts = _lost_of_pairs(panels, table, order, treated=treated, reference=reference)
        counts_above(panels, counts, width=_place_points(panels, order))
        _label_rules(panels, order, f"{label}\n(percentage points)")
        panels.legend(
            title="each point a pair of runs; bar: mean with its 95 % t interval over pairs",
            about=of_precisions(table),
        )
    return panels.figure


def _spread(panels: Grid) -> None:
    """Keep differences of a point and of ninety readable in one panel, and show every point."""
    low, high = panels.axes.flat[0].get_ylim()
    if max(-low, high) <= 20:
        return
    for axes in panels.axes.flat:
        axes.set_yscale("symlog", linthresh=1.0, linscale=1.0)
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panels.axes.flat[0].set_ylim(min(1.5 * low, -1.5), max(1.5 * high, 1.5))


def _lost_of_pairs(
    panels: Grid, table: pd.DataFrame, order: list[str], *, treated: str, reference: str
) -> list[Count]:
    """Diverged runs on either side of the pairs, and cells of which no replicate has both records."""
    counts = []
    arms = [name for name in _FORWARDS if name in set(table["forward"])]
    for forward in arms:
        here = table[table["forward"] == forward].to_dict("records")
        arm = forward if len(arms) > 1 else ""
        for name, column in ((treated, "num_diverged"), (reference, "num_reference_diverged")):
            kind = " ".join(word for word in (arm, name, "diverged") if word)
            counts += [
                (cell, kind, f"{cell[column]}/{cell['num_replicates']}", DIVERGED)
                for cell in here
                if cell[column]
            ]
        kind = f"{arm} no pair yet".strip()
        counts += [(cell, kind, "\N{EN DASH}", MUTED) for cell in here if not cell["num_replicates"]]
    return [
        Count(
            axes=panels.at(cell["context"], cell["precision"]),
            x=order.index(cell["rule"]),
            kind=kind,
            text=text,
            colour=colour,
        )
        for cell, kind, text, colour in counts
    ]


def curves_figure(epochs: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Test accuracy and training loss by epoch, a line a run, diverged runs marked at the epoch they end in.

    Args:
        epochs: table `epochs`; may lack runs that ended before their first epoch.
        runs: table `runs`.
    """
    runs = _placed(runs)
    order, names = rules(runs), precisions(runs)
    contexts = list(dict.fromkeys(runs["context"]))
    palette = colours(order)
    by_run = dict(iter(epochs.groupby(["cell", "replicate"]))) if len(epochs) else {}
    measures = {"test_accuracy": "test accuracy (%)", "train_loss": "training loss (nats)"}
    with paper_style():
        figure = new_figure(width=PAGE_INCHES, height=0.9 + 2.9 * len(contexts))
        rows = [_row(title, measure) for title in contexts for measure in measures]
        panels = grid(figure, rows=rows, columns=names, share_y=False)
        for run in runs.to_dict("records"):
            lines = by_run.get((run["cell"], run["replicate"]))
            for measure in measures:
                axes = panels.at(_row(run["context"], measure), run["precision"])
                _draw_run(axes, run, lines, measure, palette[run["rule"]])
        _count_diverged(panels, runs, order)
        for title in contexts:
            for measure, words in measures.items():
                _dress_curves(panels, _row(title, measure), words, epochs)
        handles = [
            Line2D([], [], color=palette[name], label=rf"$\beta$ = {rule_tick(name)}") for name in order
        ]
        present = [forward for forward in _FORWARDS if forward in set(runs["forward"])]
        if len(present) > 1:
            handles += [Line2D([], [], color=MUTED, linestyle=_DASHES[item], label=item) for item in present]
        if (runs["outcome"] == OutcomeKind.DIVERGED).any():
            handles.append(
                Line2D([], [], color=MUTED, marker="x", linestyle="", label="diverged (at the bottom edge)")
            )
        figure.legend(handles=handles, title=of_precisions(runs) or None, loc="outside upper center", ncols=5)
    return figure


def _row(title: str, measure: str) -> str:
    words = measure.replace("_", " ")
    return f"{title}\n{words}" if title else words


def _draw_run(
    axes: Axes, run: Mapping[Hashable, Any], lines: pd.DataFrame | None, measure: str, colour: str
) -> None:
    gid = f"{run['cell']}/{run['replicate']:04d}"
    if lines is not None:
        lines = lines.sort_values("epoch")
        values = lines[measure].astype(float).where(np.isfinite(lines[measure].astype(float)))
        axes.plot(
            lines["epoch"], 100 * values if measure == "test_accuracy" else values, color=colour,
            linestyle=_DASHES[run["forward"]], alpha=0.8, gid=gid, marker="." if len(lines) == 1 else None,
        )  # fmt: skip
    if run["outcome"] == OutcomeKind.DIVERGED:
        axes.plot(
            [_last_epoch(run)], [0.0], "x", color=colour, transform=axes.get_xaxis_transform(),
            clip_on=False, zorder=5, markeredgewidth=1.2, markersize=4.5, gid=f"diverged:{gid}",
        )  # fmt: skip


def _last_epoch(run: Mapping[Hashable, Any]) -> float:
    """The epoch in which a run diverged: as recorded, else the one after its last."""
    recorded = run["nonfinite_epoch"]
    return run["num_epochs_run"] + 1.0 if np.isnan(recorded) else recorded


def _count_diverged(panels: Grid, runs: pd.DataFrame, order: list[str]) -> None:
    """Crosses lie on each other: say above each panel how many runs of which rule diverged, and when."""
    lines = 0
    for (title, name), group in groups(runs, "context", "precision"):
        axes = panels.at(_row(title, "test_accuracy"), name)
        diverged = group[group["outcome"] == OutcomeKind.DIVERGED]
        for line, named in enumerate(reversed([item for item in order if item in set(diverged["rule"])])):
            part = diverged[diverged["rule"] == named]
            of = int(((group["rule"] == named) & (group["outcome"] != MISSING)).sum())
            at = [int(_last_epoch(run)) for run in part.to_dict("records")]
            when = f"epoch {min(at)}" if min(at) == max(at) else f"epochs {min(at)}–{max(at)}"
            axes.annotate(
                rf"$\beta$ = {rule_tick(named)}: {len(part)}/{of} diverged, {when}", xy=(0, 1),
                xycoords="axes fraction", xytext=(2, 3 + 9 * line), textcoords="offset points",
                ha="left", va="bottom", color=DIVERGED, fontsize=6, annotation_clip=False,
                gid=f"count:{named}",
            )  # fmt: skip
            if panels.rows[0] == _row(title, "test_accuracy"):
                lines = max(lines, line + 1)
    panels.lift_titles(9 * lines)


def _dress_curves(panels: Grid, row: str, words: str, epochs: pd.DataFrame) -> None:
    last = max(1.0, float(epochs["epoch"].max())) if len(epochs) else 1.0
    for axes in panels.axes[panels.rows.index(row)]:
        axes.set_xlim(0.7, last + 0.3)
        whole_ticks(axes)
        if row.endswith(_row("", "test_accuracy")):
            axes.set_ylim(0, 103)
        else:
            axes.set_xlabel("epoch")
            data = [
                value for line in axes.lines if ":" not in str(line.get_gid()) for value in line.get_ydata()
            ]
            finite = [float(value) for value in data if np.isfinite(value)]
            if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
                axes.set_yscale("log")
            elif not finite:
                axes.set_yticks([])
                axes.text(0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center", color=MUTED)
    panels.axes[panels.rows.index(row), 0].set_ylabel(words)


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    placed = table.assign(context=context(table), rule=rule(table))
    return placed.sort_values("forward", key=lambda column: column.map(_FORWARDS.index), kind="stable")


def _rule_panels(table: pd.DataFrame) -> tuple[Grid, dict[str, float]]:
    rows = list(dict.fromkeys(table["context"]))
    figure = new_figure(width=PAGE_INCHES, height=0.9 + 2.0 * len(rows))
    present = [forward for forward in _FORWARDS if forward in set(table["forward"])]
    shift = dict(zip(present, offsets(len(present), width=0.66), strict=True))
    return grid(figure, rows=rows, columns=precisions(table)), shift


def _place_points(panels: Grid, order: list[str]) -> float:
    """Width that one rule has to itself, in points."""
    return 72 * 0.85 * PAGE_INCHES / len(panels.columns) / len(order)


def _parts(panels: Grid, table: pd.DataFrame) -> Iterable[tuple[Axes, pd.DataFrame]]:
    for row in panels.rows:
        for name in panels.columns:
            yield panels.at(row, name), table[(table["context"] == row) & (table["precision"] == name)]


def _say_not_run(panels: Grid, table: pd.DataFrame, order: list[str]) -> None:
    """Rules of a panel that no run of either forward pass has, and panels without any."""
    for axes, part in _parts(panels, table):
        absent = [place for place, name in enumerate(order) if name not in set(part["rule"])]
        if len(absent) == len(order):
            axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=MUTED, gid="not run")
            continue
        for place in absent:
            axes.text(
                place, 0.5, "not run", transform=axes.get_xaxis_transform(), ha="center", va="center",
                rotation=90, color=MUTED, fontsize=6, gid="not run",
            )  # fmt: skip


def _label_rules(panels: Grid, order: list[str], words: str) -> None:
    labels = [rule_tick(name) for name in order]
    letters = max(len(line.strip("${}").replace("^{", "")) for name in labels for line in name.split("\n"))
    upright = _LETTER_POINTS * (letters + 1) > _place_points(panels, order)
    if upright:
        labels = [name.replace("\n", " ") for name in labels]
    for axes in panels.axes.flat:
        axes.set_xticks(range(len(order)), labels, rotation=90 if upright else 0)
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.grid(visible=False, axis="x")
    for axes in panels.axes[-1]:
        axes.set_xlabel(_BETA)
    for axes in panels.axes[:, 0]:
        axes.set_ylabel(words)
