"""What AD is at every machine point of small networks: the table of counts, and its sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tiebreak.report.wording import count, percent

_SAID = ("network", "num_numbers", "num_parameters", "num_kinks", "at_kinks", "way", "witness")
_BOUNDS = ("bound_kinks", "bound_product", "bound_failing")
_COUNTS = (
    "points", "touched", "live", "singular", "incorrect", "limits", "in_hull", "disagreements", "closed_form",
)  # fmt: skip


def count_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts of a cell over its replicates, shares of the points, and what they break.

    Args:
        rows: of kind `count`, with `cell` and `replicate`.

    Returns:
        What the rows have; `limits`, `in_hull` and `disagreements` are NaN where no judge was asked,
        `closed_form` where no formula is known, a bound where its theorem is not about the network.
        `share_touched`, `share_singular`, `share_incorrect`, `share_limit` and `share_in_hull` of the points;
        `num_broken`: bounds that are exceeded, and a closed form that is another number.
    """
    rows = rows.assign(witness=rows["witness"].fillna("").astype(str))
    grouped = rows.groupby("cell", sort=False)
    table = grouped[[*_SAID]].first()
    table["witness"] = grouped["witness"].agg(lambda words: next((word for word in words if word), ""))
    for name in _BOUNDS:
        table[name] = grouped[name].first().astype(float)
    for name in _COUNTS:
        table[name] = pd.to_numeric(rows[name]).groupby(rows["cell"], sort=False).sum(min_count=1)
    for name, counted in (
        ("touched", "touched"), ("singular", "singular"), ("incorrect", "incorrect"),
        ("limit", "limits"), ("in_hull", "in_hull"),
    ):  # fmt: skip
        table[f"share_{name}"] = table[counted] / table["points"]
    failing = table["share_singular"] + table["share_incorrect"]
    table["num_broken"] = (
        (table["share_singular"] > table["bound_kinks"]).astype(int)
        + (table["share_singular"] > table["bound_product"] * (1 + 1e-12)).astype(int)  # attained, rounded
        + (failing > table["bound_failing"]).astype(int)
        + (table["closed_form"].notna() & (table["closed_form"] != table["singular"])).astype(int)
    )
    return table.reset_index()


def count_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the table says with biases, without, of windows, and of the judge."""
    table = tables["counts"]
    with_biases, without = table["bound_kinks"].notna(), table["bound_failing"].notna()
    windows = ~with_biases & ~without
    sentences = [_of_kind("Neurons with biases of their own", table[with_biases])] if any(with_biases) else []
    sentences += [_of_kind("Neurons without", table[without])] if any(without) else []
    sentences += [_of_kind("Windows of a max pool", table[windows])] if any(windows) else []
    if len(judged := table[table["in_hull"].notna()]):
        sentences.append(_judged(judged))
    if broken := int(table["num_broken"].sum()):
        sentences.append(f"{count(broken, 'bound')} or closed forms are broken, which cannot be.")
    return sentences


def _of_kind(title: str, table: pd.DataFrame) -> str:
    """Where AD is incorrect, and what bounds and formulas say."""
    wrong = table[table["incorrect"] > 0]
    size = f"{int(table['points'].sum()):,} points of {count(len(table), 'cell')}"
    if len(wrong):
        worst = max(wrong.to_dict("records"), key=lambda row: row["share_incorrect"])
        said = (
            f"AD is incorrect in {len(wrong)} of {count(len(table), 'cell')}, {worst['network']} with "
            f"{_rule(worst)} the most, at {percent(worst['share_incorrect'])} of its points."
        )
    else:
        said = f"AD is incorrect at none of {size}."
    known = table[table["closed_form"].notna()]
    exact = int((known["closed_form"] == known["singular"]).sum())
    if len(known):
        said += f" In {exact} of {count(len(known), 'cell')} as many points are singular as a formula says."
    return f"{title}: {said}"


def _rule(row: Mapping[Any, Any]) -> str:
    """What AD takes, in words."""
    words = [] if row["proxy"] == "none" else [f"{row['proxy']} at kinks"]
    words += [] if row["ties"] == "none" else [f"ties {row['ties']}"]
    return " and ".join(words)


def _judged(judged: pd.DataFrame) -> str:
    limit, hull = (int((judged[name] == judged["points"]).sum()) for name in ("limits", "in_hull"))
    both = judged[judged["disagreements"].notna()]
    differing = int(both["disagreements"].sum())
    agree = (
        f"Enumeration and oracle agree at each of {int(both['touched'].sum()):,} touched points."
        if not differing
        else f"Enumeration and oracle differ at {count(differing, 'point')}, which cannot be."
    )
    return (
        f"Of {count(len(judged), 'cell')} that a judge in rationals looked at, AD is in the hull of the "
        f"limits of derivatives at every point of {hull}, and such a limit at every point of {limit}. {agree}"
    )
