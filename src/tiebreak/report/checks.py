"""A claim is judged by checks: a measured number each, and the range that the claim needs it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What the checks say of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    MIXED = "mixed"


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measured number and the closed range that a claim needs it in.

    Args:
        name: what was measured.
        value: the number; NaN lies in no range.
        low: end of the range.
        high: end of the range.
    """

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def passed(self) -> bool:
        """Whether the number lies in the range."""
        return self.low <= self.value <= self.high

    @property
    def wanted(self) -> str:
        """The range in words."""
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low == -math.inf:
            return f"<= {self.high:g}"
        if self.high == math.inf:
            return f">= {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Holds if all checks pass, fails if none does, else mixed.

    Raises:
        ValueError: no check at all, which is no evidence.

    Example:
        >>> verdict_of([Check(name="share", value=0.5, low=1.0, high=1.0)]).value
        'fails'
    """
    passed = [check.passed for check in checks]
    if not passed:
        raise ValueError("a verdict needs a check")
    return Verdict.HOLDS if all(passed) else Verdict.MIXED if any(passed) else Verdict.FAILS
