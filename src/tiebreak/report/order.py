"""The order in which tables and figures show precisions."""

from __future__ import annotations

from tiebreak.design.axes import Precision

COARSE_TO_FINE: tuple[str, ...] = (
    str(Precision.E5M2),
    str(Precision.E4M3),
    *(str(item) for item in Precision if not item.is_eight_bit),
)
"""Eight bits before sixteen; the others as the design lists them."""
