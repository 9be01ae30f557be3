"""Every figure of a study from its folder of tables, as PDF and PNG."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import pandas as pd

from tiebreak.report.certified_figures import confusion_figure, truth_figure, windows_figure
from tiebreak.report.descent_figures import DESCENT_FIGURES
from tiebreak.report.figure_kind import FigureKind, Tables
from tiebreak.report.gap_figures import gaps_figure, ties_figure, zones_figure
from tiebreak.report.style import save
from tiebreak.report.table_files import read_tables
from tiebreak.report.theory_figures import THEORY_FIGURES
from tiebreak.report.training_figures import accuracy_figure, curves_figure, difference_figure

FIGURES = (
    FigureKind(
        name="confusion",
        title="What is true over the reals, and what the thresholds say",
        table="confusion",
        caption=(
            "Each precision has a small table of its draws. Columns, the truth: = the gradient is the same "
            "with both rules at ties over the reals (D = 0), ≠ it is not (a bifurcation); where they occur, "
            "? undecided and ∞ not finite. Rows, what the threshold says of the gap in floating point. A "
            "count is stronger in colour the larger its share of the draws. Orange is a false alarm "
            "(bifurcation is said, and D = 0), pink a miss (something else is said, and D is not 0). Draws "
            "along training are counted over all epochs. Each label is about the fixed cotangent g, the "
            "derivative of the loss at the logits as the program computed them, and about parameters and "
            "images as the format holds them."
        ),
        needs=("confusion",),
        draw=lambda tables: confusion_figure(tables["confusion"]),
    ),
    FigureKind(
        name="truth_along_training",
        title="Bifurcations along training",
        table="certified",
        caption=(
            "How many of the draws are bifurcations: over the reals, the gradient depends on the rule at "
            "ties. By epochs trained and precision; a tile is stronger in colour the larger the share. Draws "
            "that are undecided or not finite are named in their tile and count among all. Each label is "
            "about the fixed cotangent g, the derivative of the loss at the logits as the program computed "
            "them."
        ),
        needs=("certified",),
        draw=lambda tables: truth_figure(tables["certified"]),
        applies=lambda tables: "epoch" in tables["certified"],
    ),
    FigureKind(
        name="windows",
        title="Ties over the reals, and what rounding makes of them",
        table="windows",
        caption=(
            "Shares of all pooling windows, by pool, from left to right: tied over the reals (filled), and "
            "of these those at a dead zero (hollow: the maximum is the 0 of a ReLU, which passes no "
            "gradient on); tied over the reals and not at a dead zero; tied in floating point and not over "
            "the reals; tied over the reals and not in floating point. From the second panel on the axis is "
            "logarithmic, and linear next to zero: a share of exactly 0 stands on the line of 0. Marks: all "
            "draws together; along training, arms reach from the lowest to the highest epoch. Ties do not "
            "depend on the cotangent g; the labels of the draws do, and are about the fixed g of each."
        ),
        needs=("windows",),
        draw=lambda tables: windows_figure(tables["windows"]),
    ),
    FigureKind(
        name="zones",
        title="Share of batches with a gap above the threshold",
        table="zones",
        caption=(
            "A batch counts when the gap between the backward pass with the named Jacobian and that "
            "with the reference exceeds the threshold of its column. Points: mean of per-init shares. "
            "Arms: 95 % bootstrap over inits, given from 5 inits on; arms of no length mean that "
            "every init had the same share, and the table gives the share of inits with its exact "
            "interval. The published thresholds are absolute and exist for fp16, fp32 and fp64; a "
            "star marks one taken by analogy. A threshold does not prove that automatic "
            "differentiation is wrong over the reals; non-finite draws are counted above the panel."
        ),
        needs=("zones",),
        draw=lambda tables: zones_figure(tables["zones"]),
        is_untrained_only=True,
    ),
    FigureKind(
        name="gaps",
        title="How large the gaps are",
        table="gaps",
        caption=(
            "Share of draws by decade of the gap (sum over tensors of sup norms). Each decade holds "
            "its lower edge. Gaps of exactly 0 and non-finite ones have bins of their own, so the "
            "bars of one Jacobian in one panel sum to 100 %."
        ),
        needs=("gaps",),
        draw=lambda tables: gaps_figure(tables["gaps"]),
        is_untrained_only=True,
    ),
    FigureKind(
        name="ties",
        title="Where ties are",
        table="ties",
        caption=(
            "Share of pooling windows whose maximum is attained more than once, by pool. After a "
            "ReLU, ties at zero send no gradient on; only ties above zero can act. Points: mean of "
            "per-init shares. Arms: 95 % bootstrap over inits, given from 5 inits on. The vertical "
            "axis is linear next to zero and logarithmic above where shares differ by orders of "
            "magnitude."
        ),
        needs=("ties",),
        draw=lambda tables: ties_figure(tables["ties"]),
        is_untrained_only=True,
    ),
    FigureKind(
        name="accuracy",
        title="Test accuracy by Jacobian",
        table="accuracy",
        caption=(
            "Accuracy after the last epoch. Each point is a run; the bar is mean and sample standard "
            "deviation of the runs that reached their last epoch. Runs that diverged have no final "
            "accuracy: their number stands above their beta. The axis always reaches from 0 to 100 %. "
            "The table also gives t intervals of the mean; as shares they are cut to 0 to 100 %, "
            "and from two or three runs they are wide."
        ),
        needs=("accuracy", "runs"),
        draw=lambda tables: accuracy_figure(tables["accuracy"], tables["runs"]),
    ),
    FigureKind(
        name="pairs",
        title="Difference to PyTorch's Jacobian",
        table="pairs",
        caption=(
            "Accuracy minus that of beta = 0 with everything else the same, replicate by replicate: both "
            "runs of a pair start from the same weights and see the same batches. Pairs with a diverged "
            "run have no difference and are counted above the panel. Intervals are cut to -100 to 100 "
            "points, where differences of shares end. Where differences exceed 20 points the axis is "
            "linear within 1 point and logarithmic beyond. A star marks a mean that is not 0 at the level "
            "0.05 of all differences of the table together (paired t tests, Holm)."
        ),
        needs=("pairs", "runs"),
        draw=lambda tables: difference_figure(
            tables["pairs"],
            tables["runs"],
            label=r"accuracy minus that of $\beta = 0$",
            treated="",
            reference=r"$\beta = 0$",
        ),
    ),
    FigureKind(
        name="forward_arm",
        title="Does the way the value is computed matter?",
        table="forward_arm",
        caption=(
            "The blended forward computes beta * minimal + (1 - beta) * native in the working precision, "
            "as the published code does; the exact forward returns the maximum bit for bit. Each point is "
            "a pair of runs that differ in nothing else. The reference is the blended arm. A star marks a "
            "mean that is not 0 at the level 0.05 of all differences of the table together (paired t "
            "tests, Holm)."
        ),
        needs=("forward_arm", "runs"),
        draw=lambda tables: difference_figure(
            tables["forward_arm"],
            tables["runs"],
            label="exact minus blended accuracy",
            treated="exact",
            reference="blended",
        ),
    ),
    FigureKind(
        name="curves",
        title="Learning curves",
        table="runs",
        caption=(
            "Each line is a run. A cross at the bottom edge stands at the epoch in which a run "
            "diverged; its line ends there, nothing is filled in. Crosses may lie on each other: "
            "above each panel stands how many runs of which beta diverged, and when."
        ),
        needs=("runs",),
        draw=lambda tables: curves_figure(tables.get("epochs", pd.DataFrame()), tables["runs"]),
    ),
    *THEORY_FIGURES,
    *DESCENT_FIGURES,
)
"""Every figure there is, in the order of the page."""


def draw_figures(tables_folder: Path, figures_folder: Path) -> list[Path]:
    """Draw every figure whose tables are there.

    Args:
        tables_folder: what `write_tables` wrote.
        figures_folder: made if absent; figures of an earlier run that have no table now are removed.

    Returns:
        The files written, PDF before PNG, in the order of `FIGURES`. Cells without any record are in the
        tables and not in the figures, unless there are no others: a plan of a thousand runs has no picture.
    """
    tables = _begun(read_tables(tables_folder))
    figures_folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for kind in FIGURES:
        path = figures_folder / kind.name
        if kind.can_draw(tables):
            written += save(kind.draw(tables), path)
        else:
            for suffix in (".pdf", ".png"):
                path.with_suffix(suffix).unlink(missing_ok=True)
    return written


def _begun(tables: Tables) -> dict[str, pd.DataFrame]:
    """The rows of cells that have a record, and of differences those whose two cells have one; all rows where
    no cell has one."""
    outcomes = tables.get("outcomes")
    if outcomes is None:
        return dict(tables)
    begun = set(outcomes.loc[outcomes["num_missing"] < outcomes["num_planned"], "cell"])
    if not begun:
        return dict(tables)
    chosen = {name: _of_cells(table, begun) for name, table in tables.items()}
    return {name: table for name, table in chosen.items() if len(table)}


def _of_cells(table: pd.DataFrame, cells: Set[str]) -> pd.DataFrame:
    """The rows all of whose cells are among these; a difference has two."""
    for name in ("cell", "reference_cell"):
        if name in table:
            table = table[table[name].isin(cells)]
    return table.reset_index(drop=True)
