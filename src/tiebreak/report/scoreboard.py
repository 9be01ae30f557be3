"""The scoreboard of theorems: a line a statement, from rows that hold one network each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

HOLDS, FAILS = "holds", "fails"


def statement_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What was seen of each statement.

    Args:
        rows: of kind `statement`, with `cell`.

    Returns:
        `theorem`, `words`, `is_control`, `num_networks`, `points`, `violations`, `verdict` (`holds` without a
        violation, else `fails`), `as_it_must_be` (a theorem holds, a control fails, and something was looked
        at), `witness` (the first violation in words, or "") and `seconds`.
    """
    records = []
    for cell, group in rows.groupby("cell", sort=False):
        first, violations = group.iloc[0], int(group["violations"].sum())
        points, is_control = int(group["points"].sum()), bool(first["is_control"])
        witnesses = [text for text in group["witness"] if isinstance(text, str) and text]
        records.append(
            {
                "cell": cell,
                "theorem": first["theorem"],
                "words": first["words"],
                "is_control": is_control,
                "num_networks": group[["network", "machine"]].drop_duplicates().shape[0],
                "points": points,
                "violations": violations,
                "verdict": FAILS if violations else HOLDS,
                "as_it_must_be": points > 0 and bool(violations) == is_control,
                "witness": witnesses[0] if witnesses else "",
                "seconds": float(group["seconds"].sum()),
            }
        )
    return pd.DataFrame(records)


def scoreboard_lines(table: pd.DataFrame, *, num_planned: int) -> Iterator[str]:
    """The scoreboard for a terminal, the first violation under its statement.

    Args:
        table: of `statement_table`, in the order in which it is shown.
        num_planned: statements of the study, tried or not.
    """
    yield f"{'theorem':11}  {'networks':>8}  {'points':>9}  {'violations':>10}  verdict"
    for row in table.to_dict("records"):
        yield _line(row)
    good = int(table["as_it_must_be"].sum()) if len(table) else 0
    missing = num_planned - len(table)
    left = f"; {missing} have no record yet" if missing else ""
    yield f"{good} of {num_planned} statements are as they must be{left}."


def _line(row: dict[Any, Any]) -> str:
    said = "as it must be" if row["as_it_must_be"] else "NOT as it must be"
    text = (
        f"{row['theorem']:11}  {row['num_networks']:8}  {row['points']:9}  {row['violations']:10}  "
        f"{row['verdict']}, {said}: {row['words']}"
    )
    return f"{text}\n{'':13}first: {row['witness']}" if row["witness"] else text


def scoreboard_sentences(table: pd.DataFrame) -> list[str]:
    """The same in sentences, for the page."""
    theorems, controls = table[~table["is_control"]], table[table["is_control"]]
    odd = [f"{row['theorem']} ({row['words']})" for row in table[~table["as_it_must_be"]].to_dict("records")]
    verdict = f"Not as they must be: {'; '.join(odd)}." if odd else "All are as they must be."
    return [
        f"{int((theorems['verdict'] == HOLDS).sum())} of {len(theorems)} theorems hold at every one of "
        f"{int(theorems['points'].sum())} points, and {int((controls['verdict'] == FAILS).sum())} of "
        f"{len(controls)} controls fail. {verdict}"
    ]
