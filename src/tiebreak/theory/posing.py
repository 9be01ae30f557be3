"""What a cell of the protocol `enumeration` is about: its network, its numbers, and what AD does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from tiebreak.design.enumeration import Enumeration, Family, Function, TieRule
from tiebreak.design.machine_numbers import largest_integer, numbers_in
from tiebreak.theory import bounds, families
from tiebreak.theory.activations import (
    ABS,
    HARDSIGMOID,
    HARDTANH,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    RELU6,
    PiecewiseLinear,
    Rules,
    Side,
    Ties,
    torch_rules,
)
from tiebreak.theory.machine import MachineSet, format_of, integers, numbers_of
from tiebreak.theory.network import Network

_FUNCTIONS = MappingProxyType(
    {
        Function.RELU: RELU,
        Function.LEAKY_RELU: LEAKY_RELU,
        Function.ABS: ABS,
        Function.HARDTANH: HARDTANH,
        Function.RELU6: RELU6,
        Function.HARDSIGMOID: HARDSIGMOID,
        Function.NONE: RELU,  # of families whose formula says it, which do not ask
    }
)

_Builder = Callable[[Enumeration, PiecewiseLinear, MachineSet], Network]

_BUILDERS: MappingProxyType[Family, _Builder] = MappingProxyType(
    {
        Family.SUM_OF_NEURONS: lambda cell, f, _: families.sum_of_neurons(f, count=cell.num_neurons),
        Family.HIDDEN_LAYER: lambda cell, f, _: families.hidden_layer(f, count=cell.num_neurons),
        Family.TWO_LAYERS: lambda _cell, f, _: families.two_layers(f),
        Family.RESIDUAL: lambda _cell, f, _: families.residual(f),
        Family.PLUS_MINUS: lambda _cell, f, _: families.plus_minus(f),
        Family.STAIRS: lambda _cell, _f, machine: families.stairs(machine),
        Family.PRODUCT_NEURON: lambda *_: families.product_neuron(),
        Family.PRODUCT_PLUS_MINUS: lambda *_: families.product_plus_minus(),
        Family.ID_RELU_LINEAR: lambda *_: families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1]),
        Family.RELU_RELU: lambda *_: families.fully_connected([RELU, RELU], [1, 1]),
        Family.MINIBATCH: lambda cell, f, _: families.minibatch(f, numbers_in(cell.inputs)),
        Family.MAXIMUM: lambda cell, *_: families.maximum_of(cell.num_neurons),
        Family.TWO_WINDOWS: lambda *_: families.two_windows(),
        Family.TWO_WINDOWS_WITH_BIASES: lambda *_: families.two_windows_with_biases(),
        Family.REPEATED_ENTRIES: lambda *_: families.repeated_entries(),
        Family.CONVOLUTION_AND_POOL: lambda cell, *_: families.convolution_and_pool(numbers_in(cell.inputs)),
        Family.POOLED_NEURONS: lambda *_: families.pooled_neurons(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A question of the protocol `enumeration`.

    Args:
        network: of which family.
        machine: M.
        rules: what AD does.
        closed_form: singular points of M^W by a formula; None where none is known.
    """

    network: Network
    machine: MachineSet
    rules: Rules
    closed_form: int | None

    @property
    def num_points(self) -> int:
        """Of M^W."""
        return len(self.machine) ** len(self.network.parameters)

    def shares_bound(self) -> dict[str, float | None]:
        """Bounds on the share of singular points; None where the theorem is not about the network.

        Returns:
            `bound_kinks` (T2) and `bound_product` (T2') with biases, `bound_failing` (T7) without, which is
            also about incorrect points; it may exceed 1. Of networks with windows none.
        """
        found: dict[str, float | None] = dict.fromkeys(("bound_kinks", "bound_product", "bound_failing"))
        if self.network.has_maxima:
            return found
        if self.network.has_distinct_biases:
            found["bound_kinks"] = float(bounds.most_touched(self.network, self.machine))
            found["bound_product"] = float(bounds.most_touched_product(self.network, self.machine))
        else:
            found["bound_failing"] = float(bounds.most_failing(self.network, self.machine))
        return found

    def at_kinks(self) -> str:
        """What AD takes at the kinks of each function of the network, in words."""
        functions = dict.fromkeys(neuron.function for neuron in self.network.activations)
        return "; ".join(
            f"{function.name} {' '.join(map(str, self.rules.at_kinks(function)))}"
            for function in functions
            if function.kinks
        )


def posed(measure: Enumeration) -> Posed:
    """The network, the numbers and the rules that a cell names.

    Args:
        measure: the settings of the protocol.

    Raises:
        UserError: a torch whose answer at a kink is no one number.

    Example:
        >>> question = posed(Enumeration(family=Family.TWO_WINDOWS, machine="m3"))
        >>> question.network.name, question.machine.name, question.num_points
        ('max(u + b, b) - max(-u + b, b)', 'M3', 9)
    """
    machine, function = _machine_of(measure.machine), _FUNCTIONS[measure.function]
    return Posed(
        network=_BUILDERS[measure.family](measure, function, machine),
        machine=machine,
        rules=_rules_of(measure),
        closed_form=_closed_form(measure, function, machine),
    )


def _machine_of(text: str) -> MachineSet:
    largest = largest_integer(text)
    if largest is not None:
        return integers(largest)
    if text[:1].isalpha():
        return format_of(text).machine_set()
    return numbers_of(numbers_in(text))


def _rules_of(measure: Enumeration) -> Rules:
    ties = Ties.FIRST if measure.ties is TieRule.NONE else Ties(str(measure.ties))
    match measure.proxy:
        case "none":
            return Rules(ties=ties)
        case "torch":
            return Rules(proxy=torch_rules().proxy, ties=ties)
        case "left" | "right":
            return Rules(proxy=Side(measure.proxy), ties=ties)
        case number:
            return Rules(proxy=Fraction(number), ties=ties)


def _closed_form(measure: Enumeration, function: PiecewiseLinear, machine: MachineSet) -> int | None:
    """Singular points of all of M^W, from `bounds`."""
    size, count = len(machine), measure.num_neurons
    if measure.family is Family.SUM_OF_NEURONS:
        return bounds.singular_sum(size, kinks=len({*function.kinks} & {*machine.numbers}), count=count)
    if measure.family is Family.HIDDEN_LAYER and function.kinks == (0,) and _is_symmetric(machine):
        return bounds.singular_hidden(size, count=count)
    if measure.family is Family.MAXIMUM:
        return bounds.singular_maximum(size, count=count)
    return None


def _is_symmetric(machine: MachineSet) -> bool:
    """Whether M holds 0 and the opposite of each of its numbers."""
    return 0 in machine.numbers and {-number for number in machine.numbers} == {*machine.numbers}
