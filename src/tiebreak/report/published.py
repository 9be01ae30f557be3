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
from tiebreak.report.paired import holm
from tiebreak.report.reproduced import Answer, Row, Tables, arch_of, held_by, rule_of
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
    places = [_place(row, item, tables) for row, item in zip(table.to_dict("records"), found, strict=True)]
    return table.assign(
        verdict=[str(word) for word, _ in words],
        reason=[reason for _, reason in words],
        cell=[item.cell if item else "" for item in found],
        study=[place.get("study", "") for place in places],
        device=[place.get("device_name", "") for place in places],
        command=[place.get("command", "") for place in places],
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
        return Verdict.NOT_RUN, "" if rule_of(row["quantity"]) else "no study measures this quantity"
    adjusted = Evidence(p_same=p_same, p_apart=p_apart, same=item.evidence.same)
    return verdict(adjusted), words


def _place(row: Row, item: Answer | None, tables: Tables) -> dict[Any, Any]:
    """Study, device and command: of the cell that answers or, without one, of the part that would."""
    plan = tables.get("plan", pd.DataFrame())
    if item is not None and "members" in tables:
        members = tables["members"]
        mine = members[members["cell"] == item.cell]
        if len(mine):
            first = mine.iloc[0].to_dict()
            parts = plan[(plan["study"] == first["study"]) & (plan["part"] == first["part"])]
            return first | {"command": parts.iloc[0]["command"] if len(parts) else ""}
    if not len(plan):
        return {}
    arch, found = arch_of(row), rule_of(row["quantity"])
    if found is None:
        return {}
    fits = plan[
        plan["archs"].map(lambda names: not arch or arch in str(names).split())
        & plan["datas"].map(lambda names: not row["data"] or row["data"] in str(names).split())
        & (plan["protocol"] == found.protocol)
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
