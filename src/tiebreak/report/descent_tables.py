"""Tables of the study of training with kinks: rows as they were measured, and the verdicts on claims."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from tiebreak.report.descent_claims import claim_tables, findings

DESCENT_ROWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "descent_floors": ("floor", "floor_curve"),
        "descent_training": ("fit", "fit_level", "fit_curve"),
        "descent_lasso": ("lasso", "trace"),
        "descent_pruning": ("penalised", "pruned"),
        "descent_scalar": ("limit", "orbit"),
        "descent_regression": ("regression",),
        "descent_sharpness": ("sharpness",),
        "descent_kinks": ("kinks",),
    }
)
"""Kinds of rows by the protocol that leaves them."""

DESCENT_TABLES: Mapping[str, str] = MappingProxyType(
    {
        "floors": "floor",
        "floor_curves": "floor_curve",
        "fits": "fit",
        "fit_levels": "fit_level",
        "fit_curves": "fit_curve",
        "lasso": "lasso",
        "traces": "trace",
        "penalised": "penalised",
        "pruned": "pruned",
        "limits": "limit",
        "orbits": "orbit",
        "regression": "regression",
        "sharpness": "sharpness",
        "kinks": "kinks",
    }
)
"""Tables that are the rows of one kind, by name."""


def with_claims(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables and, where they hold what a claim is about, `descent_claims` and `descent_checks`.

    A claim is about several cells, so these two name none.
    """
    found = findings(tables) if set(tables) & set(DESCENT_TABLES) else ()
    return {**tables, **(claim_tables(found) if found else {})}
