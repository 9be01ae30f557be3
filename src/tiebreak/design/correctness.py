"""Cells of the study of AD over machine numbers: which statement is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from tiebreak.design.any_cell import AnyCell
from tiebreak.design.axes import DesignError, Device
from tiebreak.design.settings import AnyMeasure


class Statement(StrEnum):
    """The rows of the scoreboard: theorems, and controls, each a theorem without one of its assumptions.

    docs/theory.md says what each states. `theory.theorems` knows how each is tried.
    """

    T1 = "t1"
    T1_TIED_WEIGHTS = "t1_tied_weights"
    T2 = "t2"
    T2_PRODUCT = "t2_product"
    T3 = "t3"
    T4 = "t4"
    T4_ARGUMENT = "t4_argument"
    T4_BEHIND_POOL = "t4_behind_pool"
    T5 = "t5"
    T5_OUTSIDE = "t5_outside"
    T5_SIDES = "t5_sides"
    T5_SIDES_WITHOUT_BIAS = "t5_sides_without_bias"
    T6 = "t6"
    T7 = "t7"
    T7_WITHOUT_EDGES = "t7_without_edges"
    T7_TWO_INPUTS = "t7_two_inputs"
    T8 = "t8"
    T9 = "t9"
    T9_CONVERSE = "t9_converse"
    T10 = "t10"
    T11 = "t11"
    T11_ONE = "t11_one"
    P1 = "p1"
    P1_HULL = "p1_hull"
    P1_SHARED_BIAS = "p1_shared_bias"
    P1_SPLIT = "p1_split"
    P2 = "p2"
    B1 = "b1"
    B1_ZERO = "b1_zero"


@dataclass(frozen=True, kw_only=True)
class Correctness(AnyMeasure):
    """Protocol `correctness`: a statement about AD, tried on small networks at every machine point.

    Args:
        statement: which.
    """

    protocol: ClassVar[str] = "correctness"

    statement: Statement

    @property
    def words(self) -> tuple[str, ...]:
        """The statement."""
        return (str(self.statement),)


@dataclass(frozen=True, kw_only=True)
class CorrectnessCell(AnyCell):
    """One point of the design of the study of correctness; all of its axes are settings of the protocol.

    Raises:
        DesignError: a device other than the CPU.

    Example:
        >>> CorrectnessCell(measure=Correctness(statement=Statement.T1)).words
        ('correctness', 't1')
    """

    PROTOCOLS: ClassVar[Mapping[str, type[AnyMeasure]]] = MappingProxyType(
        {kind.protocol: kind for kind in (Correctness,)}
    )
    SINCE: ClassVar[int] = 3

    measure: Correctness

    def __post_init__(self) -> None:
        if self.execution.device is not Device.CPU:
            raise DesignError(
                f"protocol={self.protocol} judges in rationals, got device={self.execution.device}. "
                "Use device=cpu."
            )
