"""Tables of training: every run, accuracy per cell, and differences between cells paired by replicate.

Divergence is a result. A run that diverged has no final accuracy; it is counted in `num_diverged`, and a
second mean says what the accuracy is if such a run is scored at chance.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tiebreak.design.axes import Forward
from tiebreak.records.session import OutcomeKind
from tiebreak.records.table import MISSING
from tiebreak.report.paired import paired_p, with_holm
from tiebreak.report.stats import Estimate, mean_interval, paired_difference

REACHED_END = (str(OutcomeKind.COMPLETED), str(OutcomeKind.NOT_LEARNED))
"""Outcomes with a last epoch; a run that never left chance reached it and is part of the mean."""

_TREATMENT = ("cell", "jacobian", "beta", "selection")


def run_table(trials: pd.DataFrame, epochs: pd.DataFrame, nonfinite: pd.DataFrame) -> pd.DataFrame:
    """One row per training trial, planned ones included.

    Args:
        trials: `trial`, `cell`, `replicate`, `outcome`, `step` and the axes, of the training cells.
        epochs: rows of kind `epoch` with `cell` and `replicate`.
        nonfinite: rows of kind `nonfinite` with `cell` and `replicate`.

    Returns:
        `trial`, `cell`, `replicate`, `outcome`, `num_epochs_run`, `final_test_accuracy` (of the last epoch,
        only of runs that reached it), `last_test_accuracy` (of the last recorded epoch, whatever came after),
        `best_test_accuracy` and `best_epoch`, `final_train_loss`, `chance`, `test_images`, and
        `nonfinite_step`, `nonfinite_epoch`, `nonfinite_where`, `nonfinite_tensor` of the first one.
    """
    by_epoch = _grouped(epochs, order="epoch")
    by_step = _grouped(nonfinite, order="step")
    records = []
    for trial in trials.to_dict("records"):
        key = (trial["cell"], trial["replicate"])
        run, bad = by_epoch.get(key), by_step.get(key)
        ended = trial["outcome"] in REACHED_END
        last = run.iloc[-1] if run is not None else None
        best, best_epoch = _best(run)
        first = bad.iloc[0] if bad is not None else None
        step = trial["step"] if trial["outcome"] == OutcomeKind.DIVERGED else None
        records.append(
            {
                "trial": trial["trial"],
                "cell": trial["cell"],
                "replicate": trial["replicate"],
                "outcome": trial["outcome"],
                "num_epochs_run": 0 if run is None else len(run),
                "final_test_accuracy": float(last["test_accuracy"])
                if ended and last is not None
                else math.nan,
                "last_test_accuracy": float(last["test_accuracy"]) if last is not None else math.nan,
                "best_test_accuracy": best,
                "best_epoch": best_epoch,
                "final_train_loss": float(last["train_loss"]) if ended and last is not None else math.nan,
                "chance": float(last["chance"]) if last is not None else math.nan,
                "test_images": float(last["test_images"]) if last is not None else math.nan,
                "nonfinite_step": _number(first["step"] if first is not None else step),
                "nonfinite_epoch": _number(first["epoch"] if first is not None else None),
                "nonfinite_where": first["where"] if first is not None else None,
                "nonfinite_tensor": first["tensor"] if first is not None else None,
            }
        )
    return _with_known_chance(pd.DataFrame(records), trials)


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy per cell, with every outcome counted.

    Args:
        runs: as `run_table` gives them.

    Returns:
        One row per cell: `num_planned` and `num_` of each outcome; `accuracy_mean`, `_sd` and t interval
        `_low`, `_high`, cut to [0, 1], over the `num_ended` runs that reached their last epoch (completed
        and not learned); `accuracy_completed_mean` and `_sd` over completed runs only;
        `accuracy_all_mean` and `_sd` over these and the diverged runs, the latter scored at chance;
        `best_mean` of the best epochs (selected on the test set: an upper bound, not a result);
        `diverged_step_median`; `chance`.
    """
    records = []
    for cell, group in runs.groupby("cell", sort=False):
        count = {str(kind): int((group["outcome"] == kind).sum()) for kind in OutcomeKind}
        ended = group["final_test_accuracy"].dropna()
        completed = group.loc[group["outcome"] == OutcomeKind.COMPLETED, "final_test_accuracy"].dropna()
        diverged = group[group["outcome"] == OutcomeKind.DIVERGED]
        chance = group["chance"].dropna()
        scored = np.concatenate([ended, diverged["chance"]])
        estimate, done, every = (
            mean_interval(values, bounds=(0.0, 1.0))
            for values in (
                ended.to_numpy(dtype=float),
                completed.to_numpy(dtype=float),
                scored if np.isfinite(scored).all() else [],
            )
        )
        best = group.loc[group["outcome"].isin(REACHED_END), "best_test_accuracy"].dropna()
        steps = diverged["nonfinite_step"].dropna()
        records.append(
            {
                "cell": cell,
                "num_planned": len(group),
                **{f"num_{kind}": number for kind, number in count.items()},
                "num_missing": int((group["outcome"] == MISSING).sum()),
                "num_ended": estimate.num,
                **_columns("accuracy", estimate),
                "accuracy_completed_mean": done.mean,
                "accuracy_completed_sd": done.sd,
                "accuracy_all_num": every.num,
                "accuracy_all_mean": every.mean,
                "accuracy_all_sd": every.sd,
                "best_mean": float(best.mean()) if len(best) else math.nan,
                "diverged_step_median": float(steps.median()) if len(steps) else math.nan,
                "chance": float(chance.iloc[0]) if len(chance) else math.nan,
            }
        )
    return pd.DataFrame(records)


def pair_table(runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy minus that of PyTorch's Jacobian (beta = 0), everything else the same, paired by replicate.

    Args:
        runs: as `run_table` gives them.
        cells: the axes of each cell, one row a cell.

    Returns:
        One row per cell whose Jacobian is another one and whose reference cell is in the study:
        `reference_cell`, `num_pairs` (both reached their last epoch), `difference_mean`, `_sd`,
        t interval `_low`, `_high`, cut to [-1, 1], `num_diverged`, `num_not_learned` and the same of the
        reference among replicates with both records; `p_value` (t over pairs, two-sided), `p_holm` (adjusted
        over the `family_size` differences of the table that have a test). The interval is that of one
        difference, not of the family.
    """
    is_reference = (cells["beta"] == 0) & (cells["selection"] == "beta")
    return _paired(runs, cells, reference=cells[is_reference], ignore=_TREATMENT)


def forward_table(runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the exact forward arm minus that of the blended one, paired by replicate.

    Args:
        runs: as `run_table` gives them.
        cells: the axes of each cell, one row a cell.

    Returns:
        As `pair_table`; `cell` is the exact one, `reference_cell` the blended one.
    """
    # The label of a Jacobian names its arm, so only beta and selection say that two cells share a rule.
    return _paired(
        runs,
        cells[cells["forward"] == Forward.EXACT],
        reference=cells[cells["forward"] == Forward.BLENDED],
        ignore=("cell", "jacobian", "forward"),
    )


def _paired(
    runs: pd.DataFrame, cells: pd.DataFrame, *, reference: pd.DataFrame, ignore: Sequence[str]
) -> pd.DataFrame:
    shared = [name for name in cells.columns if name not in ignore]
    references = {_key(row, shared): row["cell"] for row in reference.to_dict("records")}
    by_cell = {cell: group.set_index("replicate") for cell, group in runs.groupby("cell", sort=False)}
    records = []
    for row in cells.to_dict("records"):
        other = references.get(_key(row, shared))
        if other is None or other == row["cell"] or not {row["cell"], other} <= set(by_cell):
            continue
        both = by_cell[row["cell"]].join(by_cell[other].add_suffix("_reference"), how="inner")
        both = both[(both["outcome"] != MISSING) & (both["outcome_reference"] != MISSING)]
        pairs = both.dropna(subset=["final_test_accuracy", "final_test_accuracy_reference"])
        estimate = paired_difference(
            pairs["final_test_accuracy"].to_numpy(dtype=float),
            pairs["final_test_accuracy_reference"].to_numpy(dtype=float),
            bounds=(-1.0, 1.0),
        )
        records.append(
            {
                "cell": row["cell"],
                "reference_cell": other,
                "num_replicates": len(both),
                "num_pairs": estimate.num,
                **_columns("difference", estimate),
                **{
                    f"num_{side}{kind}": int((both[f"outcome{suffix}"] == kind).sum())
                    for kind in (OutcomeKind.DIVERGED, OutcomeKind.NOT_LEARNED)
                    for side, suffix in (("", ""), ("reference_", "_reference"))
                },
                "p_value": paired_p(estimate),
            }
        )
    return with_holm(pd.DataFrame(records))


def _best(run: pd.DataFrame | None) -> tuple[float, float]:
    """Highest test accuracy and the first epoch that had it."""
    scored = run.dropna(subset=["test_accuracy"]) if run is not None else pd.DataFrame()
    if not len(scored):
        return math.nan, math.nan
    first = int(scored["test_accuracy"].to_numpy(dtype=float).argmax())
    return float(scored["test_accuracy"].iloc[first]), float(scored["epoch"].iloc[first])


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {
        f"{name}_mean": estimate.mean,
        f"{name}_sd": estimate.sd,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
    }


def _key(row: Mapping[Hashable, Any], names: Sequence[str]) -> tuple[object, ...]:
    # A missing value differs from itself, and stands for an axis that a cell does not have.
    values = (row[name] for name in names)
    return tuple(None if pd.isna(value) else value for value in values)


def _grouped(rows: pd.DataFrame, *, order: str) -> dict[tuple[object, object], pd.DataFrame]:
    if not len(rows):
        return {}
    ordered = rows.sort_values(["cell", "replicate", order], kind="stable")
    return {
        (cell, replicate): group
        for (cell, replicate), group in ordered.groupby(["cell", "replicate"], sort=False)
    }


def _with_known_chance(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Chance belongs to the test split: a run that diverged in its first epoch has that of its neighbours."""
    splits = trials[["data", "test_size", "held_out", "folder"]].astype(str).agg("|".join, axis=1).to_numpy()
    known = runs.groupby(splits)["chance"].transform("first")
    return runs.assign(chance=runs["chance"].fillna(known))


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)
