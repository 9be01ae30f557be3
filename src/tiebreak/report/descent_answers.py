"""What the tables of the study of training with kinks say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from tiebreak.report.checks import Verdict
from tiebreak.report.descent_claims import findings

Tables = Mapping[str, pd.DataFrame]

_RUNS = {
    "fits": (["cell", "replicate", "seed", "lr"], "diverged", "trainings"),
    "penalised": (["cell", "replicate", "seed", "lr", "penalty"], "diverged", "penalised trainings"),
    "regression": (["cell", "replicate", "problem", "multiple"], "diverged", "regressions"),
    "sharpness": (["cell", "replicate", "seed", "lr"], "edges", "trainings whose sharpness was looked at"),
}


def descent_sentences(tables: Tables) -> Iterator[str]:
    """The verdicts claim by claim, and runs that diverged within their batches."""
    found = findings(tables)
    if found:
        groups = {verdict: [item.name for item in found if item.verdict is verdict] for verdict in Verdict}
        words = [f"{verdict}: {', '.join(names)}" for verdict, names in groups.items() if names]
        yield f"Statements tested here: {len(found)} ({'; '.join(words)})."
    for item in found:
        yield (
            f"{item.name} {item.verdict} ({item.num_passed} of {len(item.checks)} checks): {item.statement} "
            f"Tested on: {item.scope}."
        )
    lost = [_lost(tables[name], *how) for name, how in _RUNS.items() if name in tables]
    if lost:
        yield (
            "A trial here is a batch of runs, and is completed whatever becomes of them. Runs that diverged: "
            f"{', '.join(lost)}."
        )


def _lost(table: pd.DataFrame, keys: list[str], column: str, noun: str) -> str:
    is_lost = table[column].astype(bool) if column == "diverged" else table[column].astype(float).isna()
    runs = is_lost.groupby([table[key] for key in keys]).any()
    return f"{int(runs.sum())} of {len(runs)} {noun}"
