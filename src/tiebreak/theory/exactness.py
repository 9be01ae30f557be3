"""Whether float64 holds every number of an enumeration exactly, decided before it begins.

A number is a multiple of 2**-q of size at most b: it is exact in float64 if b 2**q is at most 2**53, and so
is every partial sum of terms whose sizes add up to b. Both are carried through the graph: forwards for
values, backwards for AD's derivatives, forwards again for derivatives along a direction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import PiecewiseLinear, Rules, Ties
from tiebreak.theory.machine import MachineSet
from tiebreak.theory.network import Activation, Affine, Maximum, Network, Parameter, Product

_SIGNIFICANT_BITS = 53


@dataclass(frozen=True)
class _Extent:
    """Multiples of 2**-bits of size at most bound."""

    bound: Fraction
    bits: int

    def __add__(self, other: _Extent) -> _Extent:
        return _Extent(self.bound + other.bound, max(self.bits, other.bits))

    def __mul__(self, other: _Extent) -> _Extent:
        return _Extent(self.bound * other.bound, self.bits + other.bits)

    def __or__(self, other: _Extent) -> _Extent:
        return _Extent(max(self.bound, other.bound), max(self.bits, other.bits))


_NOTHING = _Extent(Fraction(0), 0)


def require_exact(network: Network, machine: MachineSet, *, rules: Rules, largest_step: int) -> None:
    """Refuse an enumeration in which float64 might round.

    Args:
        network: any.
        machine: what its parameters are.
        rules: what AD does at kinks and ties.
        largest_step: of the integer directions along which derivatives are taken.

    Raises:
        UserError: a number that is not a binary fraction, or too many bits.
    """
    numbers = _all_of(machine.numbers, f"the machine set {machine.name}")
    values: list[_Extent] = []
    for node in network.nodes:
        match node:
            case Parameter():
                values.append(numbers)
            case Affine(terms, constant):
                parts = (_of(c, network.name) * values[source] for c, source in terms)
                values.append(_fits(sum(parts, start=_of(constant, network.name)), network))
            case Product(left, right):
                values.append(_fits(values[left] * values[right], network))
            case Activation(function, argument):
                slopes = _slopes(function, rules)
                offset = _all_of(function.intercepts, function.name)
                values.append(_fits(slopes * values[argument] + offset, network))
                _all_of(function.kinks, function.name)
            case Maximum(arguments):
                if rules.ties is Ties.SPLIT and len(arguments) > 2:
                    raise UserError(
                        "an even split of a window of more than two is no binary fraction, and float64 would "
                        "round it. Judge single points with the oracle, or take ties first or last."
                    )
                values.append(_either(values[argument] for argument in arguments))
    _backwards(network, values, rules=rules)
    _forwards(network, values, rules=rules, largest_step=largest_step)


def _backwards(network: Network, values: list[_Extent], *, rules: Rules) -> None:
    adjoints = [_NOTHING] * len(values)
    adjoints[-1] = _Extent(Fraction(1), 0)
    for place in reversed(range(len(values))):
        seed = _fits(adjoints[place], network)
        match network.nodes[place]:
            case Parameter():
                pass
            case Affine(terms, _):
                for coefficient, source in terms:
                    adjoints[source] += seed * _of(coefficient, network.name)
            case Product(left, right):
                adjoints[left] += seed * values[right]
                adjoints[right] += seed * values[left]
            case Activation(function, argument):
                adjoints[argument] += seed * _slopes(function, rules)
            case Maximum(arguments):
                share = _Extent(Fraction(1), 1 if rules.ties is Ties.SPLIT else 0)
                for argument in arguments:
                    adjoints[argument] += seed * share


def _forwards(network: Network, values: list[_Extent], *, rules: Rules, largest_step: int) -> None:
    rates: list[_Extent] = []
    for node in network.nodes:
        match node:
            case Parameter():
                rate = _Extent(Fraction(largest_step), 0)
            case Affine(terms, _):
                parts = (_of(c, network.name) * rates[source] for c, source in terms)
                rate = sum(parts, start=_NOTHING)
            case Product(left, right):
                rate = values[left] * rates[right] + values[right] * rates[left]
            case Activation(function, argument):
                rate = _slopes(function, rules) * rates[argument]
            case Maximum(arguments):
                rate = _either(rates[argument] for argument in arguments)
        rates.append(_fits(rate, network))
    # h at the axes, weighted by a direction and added up
    _fits(rates[-1] * _Extent(Fraction(len(network.parameters)), 0), network)


def _slopes(function: PiecewiseLinear, rules: Rules) -> _Extent:
    return _all_of((*function.slopes, *rules.at_kinks(function)), function.name)


def _fits(extent: _Extent, network: Network) -> _Extent:
    if extent.bound * 2**extent.bits > 2**_SIGNIFICANT_BITS:
        raise UserError(
            f"{network.name}: numbers may need more than {_SIGNIFICANT_BITS} bits, and float64 would round "
            "them. Take a smaller machine set or judge single points with the oracle."
        )
    return extent


def _either(extents: Iterable[_Extent]) -> _Extent:
    found = _NOTHING
    for extent in extents:
        found |= extent
    return found


def _all_of(numbers: Iterable[Fraction], where: str) -> _Extent:
    return _either(_of(number, where) for number in numbers)


def _of(number: Fraction, where: str) -> _Extent:
    bits = number.denominator.bit_length() - 1
    if number.denominator != 2**bits:
        raise UserError(
            f"{where} holds {number}, which is no binary fraction, and float64 would round it. "
            "Scale the function, or judge single points with the oracle."
        )
    return _Extent(abs(number), bits)
