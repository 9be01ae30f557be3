"""Fields that more than one protocol's rows share."""

from __future__ import annotations

from tiebreak.numerics.gap import Gap
from tiebreak.protocols.training import NonFinite
from tiebreak.records.session import Row


def nonfinite_row(found: NonFinite, *, step: int, epoch: int) -> Row:
    """Where a run went non-finite; `epoch` counts from 1."""
    return {"row": "nonfinite", "step": step, "epoch": epoch, "where": found.where, "tensor": found.tensor}


def gap_fields(gap: Gap) -> Row:
    """A gap as columns."""
    return {
        "gap_l1": gap.l1,
        "gap_l2": gap.l2,
        "gap_sup_sum": gap.sup_sum,
        "gap_sup": gap.sup,
        "gap_relative": gap.relative,
        "nonfinite": gap.nonfinite,
    }
