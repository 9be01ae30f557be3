"""Tables of training: every run, accuracy per cell, and differences between cells paired by replicate.

Divergence is a result. A run that diverged has no final accuracy; it is counted in `num_diverged`, and a
second mean says what the accuracy is if such a run is scored at chance.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tiebreak.design.axes import Forward
from tiebreak.records.session import OutcomeKind
from tiebreak.records.table import MISSING
from tiebreak.report.paired import paired_p, with_holm
from tiebreak.report.stats import Estimate, mean_interval, paired_difference

REACHED_END = (str(OutcomeKind.COMPLETED), str(OutcomeKind.NOT_LEARNED))
"""Outcomes with a last epoch; a run that never left chance reached it and is part of the mean."""

_EPOCH_NUMBERS = ("epoch", "test_accuracy", "train_loss", "chance", "test_images")
_RUN_NUMBERS = ("final_test_accuracy", "best_test_accuracy", "chance", "nonfinite_step")
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
    runs = _Runs(epochs, order="epoch", numbers=_EPOCH_NUMBERS)
    bad = _Runs(nonfinite, order="step", numbers=("step", "epoch"))
    records = []
    for trial in trials[["trial", "cell", "replicate", "outcome", "step"]].to_dict("records"):
        key = (trial["cell"], trial["replicate"])
        ended = trial["outcome"] in REACHED_END
        last, first = runs.last(key), bad.first(key)
        best, best_epoch = _best(runs, key)
        step = trial["step"] if trial["outcome"] == OutcomeKind.DIVERGED else None
        records.append(
            {
                "trial": trial["trial"],
                "cell": trial["cell"],
                "replicate": trial["replicate"],
                "outcome": trial["outcome"],
                "num_epochs_run": runs.count(key),
                "final_test_accuracy": runs.number("test_accuracy", last) if ended else math.nan,
                "last_test_accuracy": runs.number("test_accuracy", last),
                "best_test_accuracy": best,
                "best_epoch": best_epoch,
                "final_train_loss": runs.number("train_loss", last) if ended else math.nan,
                "chance": runs.number("chance", last),
                "test_images": runs.number("test_images", last),
                "nonfinite_step": bad.number("step", first) if first is not None else _number(step),
                "nonfinite_epoch": bad.number("epoch", first),
                "nonfinite_where": bad.word("where", first),
                "nonfinite_tensor": bad.word("tensor", first),
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
    columns = {name: runs[name].to_numpy(dtype=float) for name in _RUN_NUMBERS}
    outcomes = runs["outcome"].to_numpy(dtype=object)
    records = []
    for cell, places in _places(runs["cell"]):
        outcome = outcomes[places]
        final, best, chances, steps = (columns[name][places] for name in _RUN_NUMBERS)
        count = {str(kind): int((outcome == kind).sum()) for kind in OutcomeKind}
        is_ended, is_diverged = ~np.isnan(final), outcome == OutcomeKind.DIVERGED
        scored = np.concatenate([final[is_ended], chances[is_diverged]])
        estimate, done, every = (
            mean_interval(values, bounds=(0.0, 1.0))
            for values in (
                final[is_ended],
                final[is_ended & (outcome == OutcomeKind.COMPLETED)],
                scored if np.isfinite(scored).all() else [],
            )
        )
        reached = best[np.isin(outcome, REACHED_END) & ~np.isnan(best)]
        steps, chance = steps[~np.isnan(steps)], chances[~np.isnan(chances)]
        records.append(
            {
                "cell": cell,
                "num_planned": len(places),
                **{f"num_{kind}": number for kind, number in count.items()},
                "num_missing": int((outcome == MISSING).sum()),
                "num_ended": estimate.num,
                **_columns("accuracy", estimate),
                "accuracy_completed_mean": done.mean,
                "accuracy_completed_sd": done.sd,
                "accuracy_all_num": every.num,
                "accuracy_all_mean": every.mean,
                "accuracy_all_sd": every.sd,
                "best_mean": float(reached.mean()) if len(reached) else math.nan,
                "diverged_step_median": float(np.median(steps)) if len(steps) else math.nan,
                "chance": float(chance[0]) if len(chance) else math.nan,
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
    final = runs["final_test_accuracy"].to_numpy(dtype=float)
    outcomes = runs["outcome"].to_numpy(dtype=object)
    replicates = runs["replicate"].tolist()
    by_cell = {
        cell: {replicates[place]: place for place in places.tolist() if outcomes[place] != MISSING}
        for cell, places in _places(runs["cell"])
    }
    records = []
    for row in cells.to_dict("records"):
        other = references.get(_key(row, shared))
        if other is None or other == row["cell"] or not {row["cell"], other} <= set(by_cell):
            continue
        theirs = by_cell[other]
        both = [
            (place, theirs[replicate])
            for replicate, place in by_cell[row["cell"]].items()
            if replicate in theirs
        ]
        left, right = np.array(both, dtype=int).reshape(-1, 2).T
        are_pairs = ~np.isnan(final[left]) & ~np.isnan(final[right])
        estimate = paired_difference(final[left][are_pairs], final[right][are_pairs], bounds=(-1.0, 1.0))
        records.append(
            {
                "cell": row["cell"],
                "reference_cell": other,
                "num_replicates": len(both),
                "num_pairs": estimate.num,
                **_columns("difference", estimate),
                **{
                    f"num_{side}{kind}": int((outcomes[places] == kind).sum())
                    for kind in (OutcomeKind.DIVERGED, OutcomeKind.NOT_LEARNED)
                    for side, places in (("", left), ("reference_", right))
                },
                "p_value": paired_p(estimate),
            }
        )
    return with_holm(pd.DataFrame(records))


class _Runs:
    """The rows of each run in their order, with some columns as numbers: no frame is made of a run.

    Thousands of frames of ten rows would take a minute where a look into an array takes none.
    """

    def __init__(self, rows: pd.DataFrame, *, order: str, numbers: Sequence[str]) -> None:
        self._numbers: dict[str, NDArray[np.float64]] = {}
        self._ends: dict[tuple[object, object], tuple[int, int]] = {}
        self._rows = rows
        if not len(rows):
            return
        self._rows = rows.sort_values(["cell", "replicate", order], kind="stable")
        self._numbers = {name: self._rows[name].to_numpy(dtype=float, na_value=math.nan) for name in numbers}
        keys = zip(self._rows["cell"].tolist(), self._rows["replicate"].tolist(), strict=True)
        for place, key in enumerate(keys):
            self._ends[key] = (self._ends[key][0] if key in self._ends else place, place + 1)

    def count(self, key: tuple[object, object]) -> int:
        """Rows of a run."""
        start, stop = self._ends.get(key, (0, 0))
        return stop - start

    def first(self, key: tuple[object, object]) -> int | None:
        """Place of its first row; None without rows."""
        return self._ends[key][0] if key in self._ends else None

    def last(self, key: tuple[object, object]) -> int | None:
        """Place of its last row; None without rows."""
        return self._ends[key][1] - 1 if key in self._ends else None

    def numbers(self, name: str, key: tuple[object, object]) -> NDArray[np.float64]:
        """A column of a run."""
        start, stop = self._ends.get(key, (0, 0))
        return self._numbers[name][start:stop] if stop else np.empty(0)

    def number(self, name: str, place: int | None) -> float:
        """The number of a row; NaN without a row."""
        return math.nan if place is None else float(self._numbers[name][place])

    def word(self, name: str, place: int | None) -> Any:
        """The text of a row; None without a row."""
        return None if place is None else self._rows[name].iat[place]


def _best(runs: _Runs, key: tuple[object, object]) -> tuple[float, float]:
    """Highest test accuracy and the first epoch that had it."""
    accuracies = runs.numbers("test_accuracy", key)
    scored = np.flatnonzero(~np.isnan(accuracies))
    if not len(scored):
        return math.nan, math.nan
    first = scored[accuracies[scored].argmax()]
    return float(accuracies[first]), float(runs.numbers("epoch", key)[first])


def _places(column: pd.Series) -> Iterator[tuple[Any, NDArray[np.intp]]]:
    """Each value with its places, both in the order of the column."""
    codes, values = pd.factorize(column)
    order = np.argsort(codes, kind="stable")
    yield from zip(values, np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True)


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


def _with_known_chance(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Chance belongs to the test split: a run that diverged in its first epoch has that of its neighbours."""
    splits = trials[["data", "test_size", "held_out", "folder"]].astype(str).agg("|".join, axis=1).to_numpy()
    known = runs.groupby(splits)["chance"].transform("first")
    return runs.assign(chance=runs["chance"].fillna(known))


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)
