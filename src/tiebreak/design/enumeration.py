"""The protocol `enumeration`: which network, numbers and rules of AD, at every machine point or at some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar

from tiebreak.design.axes import DesignError, whole_number
from tiebreak.design.machine_numbers import (
    joined,
    numbers_in,
    numbers_of_text,
    spelled_machine,
    spelled_proxy,
)
from tiebreak.design.settings import AnyMeasure


class Family(StrEnum):
    """Networks, by the functions of `theory.families`; those with biases first, those with windows last."""

    SUM_OF_NEURONS = "sum_of_neurons"
    HIDDEN_LAYER = "hidden_layer"
    TWO_LAYERS = "two_layers"
    RESIDUAL = "residual"
    PLUS_MINUS = "plus_minus"
    STAIRS = "stairs"
    PRODUCT_NEURON = "product_neuron"
    PRODUCT_PLUS_MINUS = "product_plus_minus"
    ID_RELU_LINEAR = "id_relu_linear"
    RELU_RELU = "relu_relu"
    MINIBATCH = "minibatch"
    MAXIMUM = "maximum"
    TWO_WINDOWS = "two_windows"
    TWO_WINDOWS_WITH_BIASES = "two_windows_with_biases"
    REPEATED_ENTRIES = "repeated_entries"
    CONVOLUTION_AND_POOL = "convolution_and_pool"
    POOLED_NEURONS = "pooled_neurons"


class Function(StrEnum):
    """What a family's neurons are; `none` where its formula says it, or it has no neurons."""

    AUTO = "auto"
    NONE = "none"
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    ABS = "abs"
    HARDTANH = "hardtanh"
    RELU6 = "relu6"
    HARDSIGMOID = "hardsigmoid"


class TieRule(StrEnum):
    """Where AD sends the derivative of a tied maximum; `none` for families without windows."""

    AUTO = "auto"
    NONE = "none"
    FIRST = "first"
    LAST = "last"
    SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class _Takes:
    """What a family takes.

    Args:
        function: whether its neurons can be chosen.
        least: the smallest number of neurons or entries; 0 where it has one size.
        inputs: the smallest number of inputs; 0 where its inputs are fixed.
        proxy: what `auto` is for its neurons; none where it has no neurons.
        windows: whether maxima can be tied.
    """

    function: bool = False
    least: int = 0
    inputs: int = 0
    proxy: str = "torch"
    windows: bool = False


_TAKES: Mapping[Family, _Takes] = MappingProxyType(
    {
        Family.SUM_OF_NEURONS: _Takes(function=True, least=1),
        Family.HIDDEN_LAYER: _Takes(function=True, least=1),
        Family.TWO_LAYERS: _Takes(function=True),
        Family.RESIDUAL: _Takes(function=True),
        Family.PLUS_MINUS: _Takes(function=True),
        Family.STAIRS: _Takes(proxy="left"),  # torch has no such function
        Family.PRODUCT_NEURON: _Takes(),
        Family.PRODUCT_PLUS_MINUS: _Takes(),
        Family.ID_RELU_LINEAR: _Takes(),
        Family.RELU_RELU: _Takes(),
        Family.MINIBATCH: _Takes(function=True, inputs=1),
        Family.MAXIMUM: _Takes(least=2, proxy="none", windows=True),
        Family.TWO_WINDOWS: _Takes(proxy="none", windows=True),
        Family.TWO_WINDOWS_WITH_BIASES: _Takes(proxy="none", windows=True),
        Family.REPEATED_ENTRIES: _Takes(proxy="none", windows=True),
        Family.CONVOLUTION_AND_POOL: _Takes(inputs=3, proxy="none", windows=True),
        Family.POOLED_NEURONS: _Takes(windows=True),
    }
)

LETTERS = "cis"
"""How a row `map_line` spells what a point is: correct, incorrect, singular."""

MOST_NEURONS = 64
"""Also entries. Two numbers have 2**64 points in as many parameters, more than can be numbered."""


@dataclass(frozen=True, kw_only=True)
class Enumeration(AnyMeasure):
    """Protocol `enumeration`: what AD is at every point of M^W, or at some that are drawn.

    Args:
        family: of networks.
        machine: M: a format, `m5` for the integers from -2 to 2, or numbers, with commas or as a list.
        function: of its neurons; auto for relu, or none.
        num_neurons: of a sum or a layer, or entries of a maximum; 0 for the fewest.
        inputs: of a minibatch or a convolution: numbers, with commas or as a list.
        proxy: what AD takes at kinks: torch, left, right, or a number such as 1/2; auto for
            torch, and left of stairs, which torch has not.
        ties: what AD takes at ties; auto for the first.
        num_points: how many points the replicate draws; 0 for each once.
        judge: also ask the oracle, in rationals and at every touched point, whether what AD gives is a limit
            of derivatives and whether it is in their hull.

    A cell holds what `auto` and 0 stand for, and one spelling of each set and number.

    Raises:
        DesignError: a setting that the family does not take or lacks, or a text that is no set or number.

    Example:
        >>> tie = Enumeration(family=Family.TWO_WINDOWS, machine="1,0,-1")
        >>> tie.machine, str(tie.function), tie.proxy, str(tie.ties)
        ('m3', 'none', 'none', 'first')
    """

    protocol: ClassVar[str] = "enumeration"

    family: Family
    machine: str
    function: Function = Function.AUTO
    num_neurons: int = 0
    inputs: str = ""
    proxy: str = "auto"
    ties: TieRule = TieRule.AUTO
    num_points: int = 0
    judge: bool = False

    def __post_init__(self) -> None:
        self._set("machine", spelled_machine(self.machine))
        self._set("inputs", joined(numbers_of_text(self.inputs, key="protocol.inputs")))
        self._set("proxy", spelled_proxy(self.proxy))
        super().__post_init__()
        whole_number(self.num_points, key="protocol.num_points", least=0)
        takes = _TAKES[self.family]
        self._settle("function", Function.RELU if takes.function else Function.NONE, free=takes.function)
        self._settle("ties", TieRule.FIRST if takes.windows else TieRule.NONE, free=takes.windows)
        self._settle("proxy", takes.proxy, free=takes.proxy != "none")
        if self.family is Family.STAIRS and self.proxy == "torch":
            raise DesignError("torch has no stair, got protocol.proxy=torch. Use left, right or a number.")
        self._check_size(takes)
        self._check_inputs(takes)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _settle(self, name: str, chosen: str, *, free: bool) -> None:
        """What `auto` stands for; where the family leaves no choice, only `auto` and that."""
        given = getattr(self, name)
        if given == "auto":
            self._set(name, chosen)
        elif free and given == "none":
            raise DesignError(f"protocol.{name} of {self.family} cannot be none. Leave it out: {chosen}.")
        elif not free and given != chosen:
            raise DesignError(
                f"{self.family} has no choice of protocol.{name}, got {given}. Leave it out. "
                f"Families with one: {', '.join(self._with(name))}."
            )

    @staticmethod
    def _with(name: str) -> list[str]:
        """Families with a choice of a setting."""
        free = {
            "function": lambda takes: takes.function,
            "ties": lambda takes: takes.windows,
            "proxy": lambda takes: takes.proxy != "none",
            "num_neurons": lambda takes: takes.least,
            "inputs": lambda takes: takes.inputs,
        }[name]
        return [str(family) for family, takes in _TAKES.items() if free(takes)]

    def _check_size(self, takes: _Takes) -> None:
        if not takes.least and self.num_neurons:
            raise DesignError(
                f"{self.family} has one size, got protocol.num_neurons={self.num_neurons}. Leave it out. "
                f"Families with a size: {', '.join(self._with('num_neurons'))}."
            )
        if takes.least:
            if not self.num_neurons:
                self._set("num_neurons", takes.least)
            whole_number(self.num_neurons, key="protocol.num_neurons", least=takes.least)
        if self.num_neurons > MOST_NEURONS:
            raise DesignError(f"protocol.num_neurons must be {MOST_NEURONS} or less, got {self.num_neurons}.")

    def _check_inputs(self, takes: _Takes) -> None:
        number = len(numbers_in(self.inputs))
        if not takes.inputs and number:
            raise DesignError(
                f"{self.family} takes no inputs, got protocol.inputs={self.inputs}. Leave it out. "
                f"Families with inputs: {', '.join(self._with('inputs'))}."
            )
        if number < takes.inputs:
            raise DesignError(
                f"{self.family} needs {takes.inputs} or more numbers as protocol.inputs, such as "
                f"[0,1,0,1], got {self.inputs or 'none'}."
            )

    @property
    def words(self) -> tuple[str, ...]:
        """Family, function where there is a choice, and machine set."""
        function = () if self.function is Function.NONE else (str(self.function),)
        return (str(self.family), *function, self.machine.replace(",", "_").replace("/", "over"))
