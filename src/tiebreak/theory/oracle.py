"""The judge: values, derivatives by AD and true derivatives of a network, in rationals, one point at a time.

A network f is locally Lipschitz and made of polynomials, so it has a one-sided derivative in every direction,

    h(d) = lim (f(w + t d) - f(w)) / t   as t > 0 goes to 0,

which obeys the chain rule exactly, and f is differentiable at w if and only if h is linear. h is linear on
finitely many cones of directions: at a neuron that stands on a kink they branch on the sign of its argument's
derivative, at a tie on the argument that grows fastest. A cone counts if it is open, which a linear program
over the rationals says. Nothing here rests on a theorem about AD, and `enumeration` shares no code with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from tiebreak.theory.activations import Rules, Ties
from tiebreak.theory.linear_programs import Vector, has_open_cone, in_hull
from tiebreak.theory.network import Activation, Affine, Maximum, Network, Parameter, Product


class Kind(StrEnum):
    """What a point is to AD: differentiable and right, differentiable and wrong, or not differentiable."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_DIFFERENTIABLE = "not differentiable"


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """What AD computes at a point.

    Args:
        gradient: by parameter.
        adjoints: by node: the derivative of the output by the node's value.
        touched: the nodes at a kink or at a tie.
    """

    gradient: Vector
    adjoints: Vector
    touched: tuple[int, ...]

    @property
    def is_live(self) -> bool:
        """Whether a touched node has an adjoint that is not 0."""
        return any(self.adjoints[node] for node in self.touched)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is true at a point, and what AD says.

    Args:
        kind: the verdict.
        by_ad: what AD computes.
        cells: the different gradients of h on its open cones; one if f is differentiable.
    """

    kind: Kind
    by_ad: Derivative
    cells: tuple[Vector, ...]

    @property
    def is_in_hull(self) -> bool:
        """Whether AD's answer is a convex combination of the cells.

        The hull of the cells is the Clarke subdifferential of h at 0. It is that of f wherever f is piecewise
        linear or every neuron has a bias of its own, and a subset of it always.
        """
        return in_hull(self.by_ad.gradient, self.cells)


def judge(
    network: Network, point: Vector, *, rules: Rules, known: tuple[Vector, ...] | None = None
) -> Judgement:
    """Say what is true at a point, and what AD says there.

    Args:
        network: any.
        point: a rational a parameter.
        rules: what AD does at kinks and ties.
        known: the cells there, where they were found before; they do not depend on the rules.

    Example:
        >>> from tiebreak.theory.families import plus_minus
        >>> judge(plus_minus(), (Fraction(0),), rules=Rules()).kind
        <Kind.INCORRECT: 'incorrect'>
    """
    by_ad = differentiate(network, point, rules=rules)
    if not by_ad.touched:
        known = (by_ad.gradient,)
    found = cells(network, point) if known is None else known
    if len(found) > 1:
        kind = Kind.NOT_DIFFERENTIABLE
    else:
        kind = Kind.CORRECT if by_ad.gradient in found else Kind.INCORRECT
    return Judgement(kind=kind, by_ad=by_ad, cells=found)


def evaluate(network: Network, point: Vector) -> Vector:
    """The value of every node.

    Args:
        network: any.
        point: a rational a parameter.
    """
    values: list[Fraction] = []
    for node in network.nodes:
        match node:
            case Parameter(index):
                values.append(point[index])
            case Affine(terms, constant):
                values.append(sum((c * values[source] for c, source in terms), constant))
            case Product(left, right):
                values.append(values[left] * values[right])
            case Activation(function, argument):
                values.append(function(values[argument]))
            case Maximum(arguments):
                values.append(max(values[argument] for argument in arguments))
    return tuple(values)


def touched(network: Network, values: Vector) -> tuple[int, ...]:
    """The nodes at a kink or at a tie.

    Args:
        network: any.
        values: of its nodes.
    """
    found = []
    for place, node in enumerate(network.nodes):
        if isinstance(node, Activation):
            if node.function.is_kink(values[node.argument]):
                found.append(place)
        elif isinstance(node, Maximum) and [values[a] for a in node.arguments].count(values[place]) > 1:
            found.append(place)
    return tuple(found)


def differentiate(network: Network, point: Vector, *, rules: Rules) -> Derivative:
    """What reverse-mode AD computes.

    Args:
        network: any.
        point: a rational a parameter.
        rules: what AD does at kinks and ties.
    """
    values = evaluate(network, point)
    adjoints = [Fraction(0)] * len(values)
    adjoints[-1] = Fraction(1)
    gradient = [Fraction(0)] * len(network.parameters)
    for place in reversed(range(len(values))):
        seed = adjoints[place]
        if not seed:
            continue
        match network.nodes[place]:
            case Parameter(index):
                gradient[index] += seed
            case Affine(terms, _):
                for coefficient, source in terms:
                    adjoints[source] += seed * coefficient
            case Product(left, right):
                adjoints[left] += seed * values[right]
                adjoints[right] += seed * values[left]
            case Activation(function, argument):
                slope = function.sides(values[argument])[0]
                if function.is_kink(values[argument]):
                    slope = rules.at_kinks(function)[function.kinks.index(values[argument])]
                adjoints[argument] += seed * slope
            case Maximum(arguments):
                winners = [argument for argument in arguments if values[argument] == values[place]]
                if rules.ties is Ties.FIRST:
                    winners = winners[:1]
                elif rules.ties is Ties.LAST:
                    winners = winners[-1:]
                for argument in winners:
                    adjoints[argument] += seed / len(winners)
    return Derivative(gradient=tuple(gradient), adjoints=tuple(adjoints), touched=touched(network, values))


def cells(network: Network, point: Vector) -> tuple[Vector, ...]:
    """The different gradients that the directional derivative has on its open cones.

    Args:
        network: any.
        point: a rational a parameter.

    Returns:
        At least one, each once, in no meaningful order. One if and only if f is differentiable there.
    """
    values = evaluate(network, point)
    width = len(network.parameters)
    zero = (Fraction(0),) * width

    def walk(forms: list[Vector], cone: list[Vector]) -> Iterator[Vector]:
        """Gradients of the output, with these derivatives of the first nodes, for directions in this cone."""
        while len(forms) < len(values):
            match network.nodes[len(forms)]:
                case Activation(function, argument):
                    below, above = function.sides(values[argument])
                    form = forms[argument]
                    if below == above or form == zero:
                        forms.append(_scaled(above, form))
                        continue
                    for slope, side in ((above, form), (below, _scaled(Fraction(-1), form))):
                        if has_open_cone([*cone, side]):
                            yield from walk([*forms, _scaled(slope, form)], [*cone, side])
                    return
                case Maximum(arguments):
                    largest = values[len(forms)]
                    tied = list(dict.fromkeys(forms[a] for a in arguments if values[a] == largest))
                    if len(tied) == 1:
                        forms.append(tied[0])
                        continue
                    for winner in tied:
                        ahead = [
                            _combined([1, -1], [winner, other], width) for other in tied if other != winner
                        ]
                        if has_open_cone([*cone, *ahead]):
                            yield from walk([*forms, winner], [*cone, *ahead])
                    return
                case node:
                    forms.append(_smooth_form(node, values, forms, width))
        yield forms[-1]

    return tuple(dict.fromkeys(walk([], [])))


def directional(network: Network, point: Vector, direction: Vector) -> Fraction:
    """The one-sided derivative h(direction), by the chain rule.

    Args:
        network: any.
        point: a rational a parameter.
        direction: the same.
    """
    values = evaluate(network, point)
    rates: list[Fraction] = []
    for place, node in enumerate(network.nodes):
        match node:
            case Parameter(index):
                rates.append(direction[index])
            case Affine(terms, _):
                rates.append(sum((c * rates[source] for c, source in terms), Fraction(0)))
            case Product(left, right):
                rates.append(values[left] * rates[right] + values[right] * rates[left])
            case Activation(function, argument):
                below, above = function.sides(values[argument])
                rates.append((above if rates[argument] > 0 else below) * rates[argument])
            case Maximum(arguments):
                rates.append(max(rates[a] for a in arguments if values[a] == values[place]))
    return rates[-1]


def selections(network: Network, point: Vector) -> tuple[Vector, ...]:
    """Every gradient that AD gives when each touched node takes one of its sides, whatever the others take.

    Args:
        network: any.
        point: a rational a parameter.

    Returns:
        The different ones: of the one-sided derivatives at a kink, of the arguments at a tie.
    """
    values = evaluate(network, point)

    def walk(forms: list[Vector]) -> Iterator[Vector]:
        if len(forms) == len(values):
            yield forms[-1]
            return
        match network.nodes[len(forms)]:
            case Activation(function, argument):
                sides = dict.fromkeys(function.sides(values[argument]))
                choices = [_scaled(slope, forms[argument]) for slope in sides]
            case Maximum(arguments):
                choices = [forms[a] for a in arguments if values[a] == values[len(forms)]]
            case node:
                choices = [_smooth_form(node, values, forms, len(network.parameters))]
        for choice in choices:
            yield from walk([*forms, choice])

    return tuple(dict.fromkeys(walk([])))


def _smooth_form(
    node: Parameter | Affine | Product, values: Vector, forms: Sequence[Vector], width: int
) -> Vector:
    """The derivative of a smooth node as a linear form of the direction."""
    match node:
        case Parameter(index):
            return tuple(Fraction(int(i == index)) for i in range(width))
        case Affine(terms, _):
            return _combined([c for c, _ in terms], [forms[source] for _, source in terms], width)
        case Product(left, right):
            return _combined([values[right], values[left]], [forms[left], forms[right]], width)


def _combined(factors: Sequence[Fraction | int], forms: Sequence[Vector], width: int) -> Vector:
    total = [Fraction(0)] * width
    for factor, form in zip(factors, forms, strict=True):
        if factor:
            for i, value in enumerate(form):
                if value:
                    total[i] += factor * value
    return tuple(total)


def _scaled(factor: Fraction, form: Vector) -> Vector:
    return form if factor == 1 else tuple(factor * value for value in form)
