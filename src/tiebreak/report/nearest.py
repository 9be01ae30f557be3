"""The cell of our records that is nearest to a published number, and what it says of it.

A number is compared with the cell that is nearest to what was published: the same network, data set,
optimizer and batch norm; the same precision, where for the published fp16, a GPU's, fp16 rounded after each
operation stands nearer than a CPU's own, whose convolutions also round partial sums in the backward pass; the
same images or else their re-compression, which is said. The rules choose beta and, of trainings and
distances, the blended forward, which is the published operator. Whatever still differs (epochs, learning
rate, device) stands beside the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tiebreak.report.verdicts import Evidence
from tiebreak.report.wording import data_words

_FP16 = (("fp16", "cuda"), ("fp16_rounded", "cuda"), ("fp16_rounded", "cpu"), ("fp16", "cpu"))
"""Formats and devices that the published fp16 may be compared with, the nearest first."""

RECOMPRESSED = {"cifar10": ("cifar10-jpeg",)}
"""Folders of images that stand in for a data set."""

Row = Mapping[Any, Any]
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the records say about one published number.

    Args:
        cell: the cell that answers.
        value: reproduced, in the unit of the published number; NaN where every run was lost.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        num: runs or initialisations behind it.
        evidence: for and against.
        words: what the number leaves out: runs lost, what differs in the setting.
    """

    cell: str
    value: float
    low: float
    high: float
    num: int
    evidence: Evidence
    words: str = ""


def nearest(row: Row, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that a published number may be compared with, the nearest first."""
    source, arithmetic = data_words(table), table["precision"] + " " + table["device"]
    sources = (row["data"], *RECOMPRESSED.get(row["data"], ()))
    formats = [" ".join(names) for names in _formats(row["precision"])]
    fits = (table["arch"] == arch_of(row)) & source.isin(sources) & arithmetic.isin(formats)
    if row["batch_norm"] is not None:
        fits &= table["batch_norm"] == row["batch_norm"]
    if row["optimizer"] and "optimizer" in table:
        fits &= table["optimizer"] == row["optimizer"]
    kept = table[fits].assign(
        far_source=source[fits].map(sources.index), far_precision=arithmetic[fits].map(formats.index)
    )
    return kept.sort_values(["far_source", "far_precision"], kind="stable")


def _formats(precision: str) -> tuple[tuple[str, str], ...]:
    return _FP16 if precision == "fp16" else ((precision, "cuda"), (precision, "cpu"))


def precisions_of(precision: str) -> tuple[str, ...]:
    """Formats that a published one may be compared with, itself first.

    Example:
        >>> precisions_of("fp16"), precisions_of("fp32")
        (('fp16', 'fp16_rounded'), ('fp32',))
    """
    return tuple(dict.fromkeys(name for name, _ in _formats(precision)))


def arch_of(row: Row) -> str:
    """The published network as ours are named."""
    return "densenet121_published" if row["arch"] == "densenet121" else row["arch"]


def differs(row: Row, cell: Row) -> list[str]:
    """What is not as published, besides what every comparison has."""
    words = []
    if cell["precision"] != row["precision"]:
        words.append(f"{cell['precision']} for {row['precision']}")
    folder = cell.get("folder")
    if isinstance(folder, str) and folder and folder != row["data"]:
        words.append(f"images of {folder} for {row['data']}: JPEG re-compressions")
    if cell.get("device") == "cpu":
        words.append("CPU for GPU")
    return words
