"""Cells of the study of AD over machine numbers: which statement is tried, and where kinks are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from tiebreak.design.any_cell import AnyCell
from tiebreak.design.axes import DesignError, Device, whole_number
from tiebreak.design.enumeration import Enumeration
from tiebreak.design.machine_numbers import FormatName
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


class Place(StrEnum):
    """Where kinks and ties are counted: a neuron `place(factor u + b)`, or max(u + b1, factor u + b2)."""

    RELU = "relu"
    HARDTANH = "hardtanh"
    RELU6 = "relu6"
    WINDOW = "window"


@dataclass(frozen=True, kw_only=True)
class Touches(AnyMeasure):
    """Protocol `touches`: kinks and ties over the reals, and as a program in rounded arithmetic sees them.

    Args:
        place: a neuron or a window.
        format: of parameters and arithmetic; a window takes one of 16 bits or fewer.
        factor: an input, a number of the format.
        num_weights: values of the weight u, drawn from the format by the replicate; 0 for each once. Drawn
            only where no weight has many more touches than others: next to a kink that is not 0 a few have
            most of them, which a draw would miss.

    Raises:
        DesignError: a draw where it says nothing, or a format with more numbers than can be looked at.
    """

    protocol: ClassVar[str] = "touches"

    place: Place
    format: FormatName
    factor: float = 1.5
    num_weights: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.num_weights, key="protocol.num_weights", least=0)
        if self.num_weights and self.place in (Place.HARDTANH, Place.RELU6):
            raise DesignError(
                f"protocol.num_weights={self.num_weights} draws weights, and a draw misses those next to a "
                f"kink that is not 0, which have most of the touches of {self.place}. Use "
                "protocol.num_weights=0."
            )
        is_drawn = self.place is Place.RELU and self.num_weights
        if self.format is FormatName.FP32 and not is_drawn:
            raise DesignError(
                f"fp32 has too many numbers to look at each, got protocol.place={self.place} with "
                f"protocol.num_weights={self.num_weights}. Take fp16 or bf16; of relu, weights can be drawn, "
                "as in protocol.num_weights=65536."
            )

    @property
    def words(self) -> tuple[str, ...]:
        """Place and format."""
        return (str(self.place), str(self.format))


@dataclass(frozen=True, kw_only=True)
class CorrectnessCell(AnyCell):
    """One point of the design of the study of correctness; all of its axes are settings of the protocol.

    Raises:
        DesignError: a device other than the CPU, where the protocol counts there only.

    Example:
        >>> CorrectnessCell(measure=Correctness(statement=Statement.T1)).words
        ('correctness', 't1')
    """

    PROTOCOLS: ClassVar[Mapping[str, type[AnyMeasure]]] = MappingProxyType(
        {kind.protocol: kind for kind in (Correctness, Touches, Enumeration)}
    )
    SINCE: ClassVar[int] = 3

    measure: Correctness | Touches | Enumeration

    def __post_init__(self) -> None:
        if self.execution.device is not Device.CPU and not isinstance(self.measure, Enumeration):
            raise DesignError(
                f"protocol={self.protocol} counts on the CPU, got device={self.execution.device}. "
                "Use device=cpu."
            )
