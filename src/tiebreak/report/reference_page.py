"""The published repository's own records beside ours: as a table, on disk, and as a section of the page.

Ours is the cell that is nearest to theirs by the rule of `nearest`, in the published forward, and of several
the one that trained longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.records import durable
from tiebreak.report.nearest import differs, nearest
from tiebreak.report.reference import KEYS, words_of
from tiebreak.report.wording import listed

_TABLE = "reference.csv"
_REMARKS = "reference_remarks.txt"
_WANTED = {
    "cell": "our_cell",
    "precision": "our_precision",
    "device": "our_device",
    "num_epochs": "our_epochs",
    "lr": "our_lr",
    "num_ended": "our_num_ended",
    "num_diverged": "our_num_diverged",
    "num_not_learned": "our_num_not_learned",
    "num_failed": "our_num_failed",
    "accuracy_mean": "our_accuracy_mean",
    "accuracy_sd": "our_accuracy_sd",
}
_OURS = (*_WANTED.values(), "our_num_runs", "our_differs")
_SHOWN = (
    *KEYS, "num_runs", "num_epochs", "num_nan", "num_never_learned", "accuracy_mean", "accuracy_sd",
    "lr", "search_accuracy", "remarks",
)  # fmt: skip
_LOST = {"num_diverged": "diverged", "num_not_learned": "never left chance", "num_failed": "failed"}


def beside(reference: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """The reference's table with our nearest cell beside each configuration.

    Args:
        reference: as `Reference.table` gives it.
        accuracy: our table `accuracy`, one row a cell with its axes; empty where nothing was run.

    Returns:
        The columns of `reference`, then `our_cell`, its precision, device, epochs, learning rate, runs and
        what became of them, accuracies in [0, 1], and `our_differs` (words on what is not as published);
        empty where we ran nothing like it. One row a configuration, in the order of its keys.
    """
    ours = [_ours(cell) for cell in _cells(reference, accuracy)]
    table = pd.concat(
        [reference.reset_index(drop=True), pd.DataFrame(ours, columns=[*_OURS])], axis="columns"
    )
    return table.sort_values([*KEYS], kind="stable", ignore_index=True)


def _cells(reference: pd.DataFrame, accuracy: pd.DataFrame) -> Iterable[tuple[Mapping[Any, Any], Any]]:
    """Each row of the reference with the nearest of our cells that ran, or None."""
    if len(accuracy):
        ran = accuracy["num_planned"] > accuracy["num_missing"]
        accuracy = accuracy[(accuracy["forward"] == "blended") & ran]
    for row in reference.to_dict("records"):
        near = nearest(row, accuracy[accuracy["beta"] == row["beta"]]) if len(accuracy) else accuracy
        order = ["far_source", "far_precision", "num_epochs"]
        if len(near):
            near = near.sort_values(order, ascending=[True, True, False], kind="stable")
        yield row, near.iloc[0].to_dict() if len(near) else None


def _ours(found: tuple[Mapping[Any, Any], Any]) -> dict[str, Any]:
    row, cell = found
    if cell is None:
        return {"our_num_runs": 0, "our_differs": ""}
    kept = {ours: cell[name] for name, ours in _WANTED.items()}
    return kept | {
        "our_num_runs": int(cell["num_planned"] - cell["num_missing"]),
        "our_differs": "; ".join(differs(row, cell)),
    }


def keep_reference(folder: Path, table: pd.DataFrame, remarks: Iterable[str]) -> Path:
    """Write the table and the remarks on files; the table's path.

    Args:
        folder: made if absent.
        table: as `beside` gives it.
        remarks: one sentence each.

    Raises:
        StoreError: they cannot be written.
    """
    place = folder / _TABLE
    with durable.explained(place):
        durable.make_folder(folder)
        durable.replace(folder / _REMARKS, "".join(f"{words}\n" for words in remarks).encode())
        durable.replace(place, table.to_csv(index=False, lineterminator="\n").encode())
    return place


def reference_section(results_root: Path, accuracy: pd.DataFrame | None) -> dict[str, Any] | None:
    """What the page shows of an imported reference; None where none was imported.

    Args:
        results_root: the results folder; the import lies in its folder `paper`.
        accuracy: our table `accuracy` as it is now, if there is one.

    Returns:
        `rows` (texts by column) and `remarks` (sentences on files).

    Raises:
        UserError: the file is not what `import-reference` writes.
    """
    folder = results_root / "paper"
    if not (folder / _TABLE).exists():
        return None
    reference, remarks = _kept(folder)
    cells = _cells(reference, pd.DataFrame() if accuracy is None else accuracy)
    return {"rows": [_row(row, cell) for row, cell in cells], "remarks": remarks}


def _kept(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """What `keep_reference` wrote."""
    place = folder / _TABLE
    try:
        with durable.explained(place):
            table = pd.read_csv(place, dtype={"remarks": str})
            notes = folder / _REMARKS
            remarks = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
        table = table[[*_SHOWN]]
        numbers = [name for name in _SHOWN if name not in (*KEYS[:-1], "remarks")]
        table = table.astype(dict.fromkeys(numbers, float) | {"batch_norm": bool})
    except (KeyError, ValueError) as error:  # pandas and UnicodeDecodeError: both are ValueErrors
        raise UserError(
            f"{place} is not what `tiebreak import-reference` writes ({str(error).strip()}). Import the "
            "clone again, or remove the file."
        ) from None
    return table.assign(remarks=table["remarks"].fillna("")), remarks


def _row(row: Mapping[Any, Any], cell: Mapping[Any, Any] | None) -> dict[str, Any]:
    known = row["num_runs"] == row["num_runs"]
    return {
        "configuration": words_of(row),
        "runs": f"{row['num_runs']:.0f} of {row['num_epochs']:.0f} epochs" if known else "none",
        "nan": f"{row['num_nan']:.0f}" if known else "–",
        "idle": f"{row['num_never_learned']:.0f}" if known else "–",
        "mean": _percent(row["accuracy_mean"], row["accuracy_sd"]),
        "lr": _rate(row["lr"], row["search_accuracy"]),
        "ours": "not run" if cell is None else _percent(cell["accuracy_mean"], cell["accuracy_sd"]),
        "our_runs": "–" if cell is None else _our_runs(cell),
        "differs": "" if cell is None else _what_differs(row, cell),
        "remarks": row["remarks"],
    }


def _percent(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "none"
    return f"{100 * mean:.2f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.2f}")


def _rate(lr: float, accuracy: float) -> str:
    """A learning rate, and in brackets the accuracy in percent that the search had with it."""
    return "none" if math.isnan(lr) else f"{lr:.3g} ({_percent(accuracy, math.nan)})"


def _our_runs(cell: Mapping[Any, Any]) -> str:
    """How many ran, and how many of these were lost and how."""
    lost = [f"{int(cell[name])} {word}" for name, word in _LOST.items() if cell[name]]
    words = f", of which {listed(lost)}" if lost else ""
    return f"{int(cell['num_planned'] - cell['num_missing'])} of {cell['num_epochs']:.0f} epochs{words}"


def _what_differs(row: Mapping[Any, Any], cell: Mapping[Any, Any]) -> str:
    return "; ".join([*differs(row, cell), f"lr {cell['lr']:g}, cell {cell['cell']}"])
