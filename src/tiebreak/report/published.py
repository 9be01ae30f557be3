"""Every published number beside the record that answers it, with a verdict by the rule of `verdicts`.

The published numbers are in one file, `paper/published.csv` of the results folder, each with the tag of its
origin. Which record answers which quantity is said in `reproduced`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from tiebreak.design.axes import UserError
from tiebreak.report.nearest import Answer, Row, Tables, arch_of, nearest
from tiebreak.report.paired import holm
from tiebreak.report.reproduced import held_by, rule_of
from tiebreak.report.verdicts import Evidence, Verdict, verdict

COLUMNS = (
    "id", "origin", "where", "quantity", "arch", "data", "precision", "optimizer", "batch_norm", "beta", "n",
    "value", "low", "high", "unit", "note",
)  # fmt: skip
"""Columns of the file of published numbers."""

_ARTEFACT = re.compile(
    r"\bartefact\b|\bdefect:|every (run|candidate) NaN|never learned|hard-coded", re.IGNORECASE
)
_PERCENT = 100.0
_UNASKED = {"T": "our own earlier test; no rule compares it"}
_NUMBERS = ("n", "value", "low", "high", "beta")


def read_published(path: Path) -> pd.DataFrame:
    """The published numbers.

    Args:
        path: the CSV file.

    Returns:
        Its columns; numbers as floats, `batch_norm` as True, False or None, other empty fields as "".

    Raises:
        UserError: there is no file, a column is missing, an id occurs twice, or a value is no number.
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
    for name in _NUMBERS:
        values = text[name].where(text[name] != "", "nan")
        try:
            text[name] = values.map(float)
        except ValueError as error:
            raise UserError(f"{path}: column {name} must hold numbers or nothing ({error}).") from None
    flags = {"true": True, "false": False, "": None}
    text["batch_norm"] = text["batch_norm"].map(lambda word: flags.get(str(word).strip().lower()))
    return text


def compared(published: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Every published number with what was reproduced and the verdict.

    Args:
        published: as `read_published` gives them.
        tables: those of the paper: `plan`, `members` and results.

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
    words = [
        _verdict(row, item, p_same=row["p_same"], p_apart=row["p_apart"])
        for row, item in zip(table.to_dict("records"), found, strict=True)
    ]
    places = _Places(tables)
    at = [places.of(row, item) for row, item in zip(table.to_dict("records"), found, strict=True)]
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


def _verdict(row: Row, item: Answer | None, *, p_same: float, p_apart: float) -> tuple[Verdict, str]:
    words = item.words if item else ""
    if (test := held_by(row["quantity"])) and not _ARTEFACT.search(row["note"]):
        return Verdict.AGREES, f"held by {test}"
    if _ARTEFACT.search(row["note"]):
        return Verdict.ARTEFACT, "; ".join(part for part in (row["note"], words) if part)
    if item is None:
        return Verdict.NOT_RUN, "" if rule_of(row["quantity"]) else _UNASKED.get(
            row["origin"], "no rule compares it"
        )
    adjusted = Evidence(p_same=p_same, p_apart=p_apart, same=item.evidence.same)
    return verdict(adjusted), words


class _Places:
    """Where numbers come from or would: study, device and command, looked up once a cell or setting."""

    def __init__(self, tables: Tables) -> None:
        self._plan = tables.get("plan", pd.DataFrame())
        members = tables.get("members", pd.DataFrame(columns=["cell"]))
        self._by_cell = members.drop_duplicates("cell").set_index("cell").to_dict("index")
        rows = self._plan.to_dict("records")
        self._commands = {(row["study"], row["part"]): row["command"] for row in rows}
        self._by_setting: dict[tuple[str, str, str], dict[Any, Any]] = {}

    def of(self, row: Row, item: Answer | None) -> dict[Any, Any]:
        """Of the cell that answers or, without one, of the part that would."""
        if item is not None and (found := self._by_cell.get(item.cell)):
            return {**found, "command": self._commands.get((found["study"], found["part"]), "")}
        asked = rule_of(row["quantity"])
        if asked is None or not len(self._plan):
            return {}
        setting = arch_of(row), str(row["data"]), asked.protocol
        if setting not in self._by_setting:
            self._by_setting[setting] = self._part(*setting)
        return self._by_setting[setting]

    def _part(self, arch: str, data: str, protocol: str) -> dict[Any, Any]:
        plan = self._plan
        fits = plan[
            plan["archs"].map(lambda names: not arch or arch in str(names).split())
            & plan["datas"].map(lambda names: not data or data in str(names).split())
            & (plan["protocol"] == protocol)
        ]
        best = fits[fits["part"].str.contains("published")] if len(fits) else fits
        chosen = best if len(best) else fits
        return chosen.iloc[0][["study", "command"]].to_dict() if len(chosen) else {}


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
