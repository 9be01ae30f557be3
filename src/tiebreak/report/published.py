"""Every published number beside the record that answers it, with a verdict by the rule of `verdicts`.

The published numbers are in one file, `paper/published.csv` of the results folder, each with the tag of its
origin. Which record answers which quantity is said in `reproduced`, and which part of the plan would answer
one that has no record in `planned`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.design.study import Study
from tiebreak.report.nearest import Answer, Row, Tables, nearest
from tiebreak.report.paired import holm
from tiebreak.report.planned import Planned, Wanted, wanted
from tiebreak.report.published_fields import FieldError, parsed
from tiebreak.report.reproduced import held_by, rule_of, uncompared
from tiebreak.report.verdicts import Evidence, Verdict, verdict

COLUMNS = (
    "id", "origin", "where", "quantity", "arch", "data", "precision", "optimizer", "batch_norm", "beta", "n",
    "value", "low", "high", "unit", "note",
)  # fmt: skip
"""Columns of the file of published numbers."""

_ARTEFACT = re.compile(
    r"\bartefact\b|\bdefect:|every (run|candidate) NaN|never learned|hard-coded", re.IGNORECASE
)
_REMARK = re.compile(r"\bremark: ([^;]+)")
"""What may have made a number and is not proven: it stands beside the comparison and decides nothing."""

_PERCENT = 100.0
_KINDS = {"batch_norm": object, **dict.fromkeys(("beta", "n", "value", "low", "high"), float)}
"""Columns that are no texts, and what they hold."""


def read_published(path: Path) -> pd.DataFrame:
    """The published numbers.

    Args:
        path: the CSV file.

    Returns:
        Its columns; numbers as floats, `batch_norm` as True, False or None, other empty fields as "".

    Raises:
        UserError: there is no file, a column is missing, an id occurs twice, or a field is not what its
            quantity may have; the row, the column and what is allowed are named.
    """
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(
            f"there is no file of published numbers at {path}. It comes with the project."
        ) from None
    if absent := [name for name in COLUMNS if name not in text]:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}. It must have {', '.join(COLUMNS)}.")
    if twice := sorted(set(text.loc[text["id"].duplicated(), "id"])):
        raise UserError(f"{path} names {twice[0]} twice. Each published number needs an id of its own.")
    try:
        fields = [parsed(row) for row in text.to_dict("records")]
    except FieldError as error:
        raise UserError(f"{path}: {error}. Mend that row.") from None
    return text.assign(
        **{name: pd.Series([row[name] for row in fields], dtype=kind) for name, kind in _KINDS.items()}
    )


def compared(published: pd.DataFrame, tables: Tables, studies: Sequence[Study] = ()) -> pd.DataFrame:
    """Every published number with what was reproduced and the verdict.

    Args:
        published: as `read_published` gives them.
        tables: those of the paper: `plan`, `members` and results.
        studies: what is planned, for the command of a number that has no record.

    Returns:
        The published columns, then `reproduced`, `reproduced_low`, `reproduced_high`, `reproduced_n`,
        `p_same`, `p_apart` (Holm over the numbers of a quantity), `verdict`, `reason`, `cell`, `study`,
        `device`, `command`.
    """
    spread = published.set_index("id")["value"]
    with_spread = published.assign(sd=[spread.get(f"{name}.sd", math.nan) for name in published["id"]])
    found = [_answer(row, tables) for row in with_spread.to_dict("records")]
    table = published.assign(
        reproduced=[item.value if item else math.nan for item in found],
        reproduced_low=[item.low if item else math.nan for item in found],
        reproduced_high=[item.high if item else math.nan for item in found],
        reproduced_n=[item.num if item else 0 for item in found],
        p_same=[item.evidence.p_same if item else math.nan for item in found],
        p_apart=[item.evidence.p_apart if item else math.nan for item in found],
    )
    for name in ("p_same", "p_apart"):
        families = table.groupby(table["quantity"].map(_family), sort=False)[name]
        table[name] = families.transform(lambda values: holm(values.to_numpy(dtype=float)))
    places = _Places(tables, studies)
    rows = table.to_dict("records")
    at = [places.of(row, item) for row, item in zip(rows, found, strict=True)]
    words = [
        _verdict(
            row, item, p_same=row["p_same"], p_apart=row["p_apart"], is_planned=not studies or bool(place)
        )
        for row, item, place in zip(rows, found, at, strict=True)
    ]
    return table.assign(
        verdict=[str(word) for word, _ in words],
        reason=[reason for _, reason in words],
        cell=[item.cell if item else "" for item in found],
        study=[place.get("study", "") for place in at],
        device=[place.get("device_name", "") for place in at],
        command=[place.get("command", "") for place in at],
    )


def _family(quantity: str) -> str:
    """Numbers of one rule are one family of tests."""
    found = rule_of(quantity)
    return found.quantity if found else quantity


def _answer(row: Row, tables: Tables) -> Answer | None:
    """What the records say about one published number; None if they say nothing."""
    found = rule_of(row["quantity"])
    return found.answer(row, tables) if found else None


def _verdict(
    row: Row, item: Answer | None, *, p_same: float, p_apart: float, is_planned: bool
) -> tuple[Verdict, str]:
    words = item.words if item else ""
    if (test := held_by(row["quantity"])) and not _ARTEFACT.search(row["note"]):
        return Verdict.AGREES, f"held by {test}"
    if _ARTEFACT.search(row["note"]):
        return Verdict.ARTEFACT, _joined(row["note"], words)
    if item is None:
        return _unanswered(row, is_planned=is_planned)
    adjusted = Evidence(p_same=p_same, p_apart=p_apart, same=item.evidence.same)
    return verdict(adjusted), _joined(words, *_REMARK.findall(row["note"]))


def _unanswered(row: Row, *, is_planned: bool) -> tuple[Verdict, str]:
    """Whether a record could answer a number, and why none does; no reason where one is only waited for."""
    if reason := uncompared(row) or ("" if wanted(row) else "no rule compares it"):
        return Verdict.NOT_COMPARED, _joined(reason, row["note"])
    return Verdict.NOT_RUN, "" if is_planned else _joined("no study has this setting", row["note"])


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)


class _Places:
    """Where numbers come from or would: study, device and command."""

    def __init__(self, tables: Tables, studies: Sequence[Study]) -> None:
        plan = tables.get("plan", pd.DataFrame(columns=["study", "part", "num_replicates", "command"]))
        self._commands = plan.set_index(["study", "part"])["command"].to_dict()
        self._planned = Planned(studies)
        members = tables.get("members", pd.DataFrame(columns=["study", "part", "cell"]))
        members = members.merge(plan[["study", "part", "num_replicates"]], on=["study", "part"], how="left")
        # A cell may be in several parts; the one with the most replicates holds all that were compared.
        members = members.sort_values("num_replicates", ascending=False, kind="stable")
        first = members.drop_duplicates("cell").drop(columns="num_replicates")
        self._by_cell = first.set_index("cell").to_dict("index")

    def of(self, row: Row, item: Answer | None) -> dict[Any, Any]:
        """Of the cell that answers or, without one, of the part that would."""
        if item is not None and (found := self._by_cell.get(item.cell)):
            return {**found, "command": self._commands.get((found["study"], found["part"]), "")}
        asked = None if uncompared(row) else wanted(row)
        place = self._planned.part_for(asked) if asked else None
        if asked is None or place is None:
            return {}
        return {"study": place[0], "command": self._command(asked, place)}

    def _command(self, asked: Wanted, place: tuple[str, str]) -> str:
        command = self._commands.get(place, "")
        device = f" device={asked.device}" if asked.device else ""
        return command if not command or command.endswith(device) else f"{command}{device}"


def with_published(table: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """A table of results with `published_percent` where a published mean or share was compared with its cell.

    The accuracy of runs that all ended in NaN is no accuracy, and is not among them.
    """
    shown = verdicts["quantity"].str.contains(r"^final test accuracy, mean|^share of mini-batches")
    shown &= (verdicts["cell"] != "") & ~verdicts["note"].str.startswith("every run NaN")
    first = verdicts[shown].drop_duplicates("cell").set_index("cell")["value"]
    return table.assign(published_percent=table["cell"].map(first) * _PERCENT)


def with_published_rate(rates: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Table `lr_search` with `published_lr`: the rate of the same setting, format (or stand-in) and beta."""
    known = published[published["quantity"] == "best learning rate of the search"]
    found = [nearest(row, rates[rates["beta"] == row["beta"]])["cell"] for row in known.to_dict("records")]
    by_cell = {
        cell: value
        for cells, value in zip(found, known["value"], strict=True)
        for cell in dict.fromkeys(cells)
    }
    return rates.assign(published_lr=rates["cell"].map(by_cell))
