"""Small networks as graphs of scalars, written as formulas.

A network is a function of its parameters alone: inputs, batches and losses are constants in the graph. What
is not smooth in it is an `Activation` or a `Maximum`, and everything between them is a polynomial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import PiecewiseLinear

Number: TypeAlias = int | Fraction


@dataclass(frozen=True)
class Parameter:
    """One parameter, by its number."""

    index: int


@dataclass(frozen=True)
class Affine:
    """constant + sum of coefficient times node."""

    terms: tuple[tuple[Fraction, int], ...]
    constant: Fraction


@dataclass(frozen=True)
class Product:
    """left times right."""

    left: int
    right: int


@dataclass(frozen=True)
class Activation:
    """A piecewise-linear function of a node: a neuron."""

    function: PiecewiseLinear
    argument: int


@dataclass(frozen=True)
class Maximum:
    """The largest of some nodes: a window of a max pool."""

    arguments: tuple[int, ...]


Node: TypeAlias = Parameter | Affine | Product | Activation | Maximum


@dataclass(frozen=True, kw_only=True)
class Network:
    """A function from parameters to a number.

    Args:
        name: as a formula.
        parameters: their names, in order.
        nodes: each refers to earlier ones only; the last is the output.
    """

    name: str
    parameters: tuple[str, ...]
    nodes: tuple[Node, ...]

    @property
    def activations(self) -> tuple[Activation, ...]:
        """Its neurons."""
        return tuple(node for node in self.nodes if isinstance(node, Activation))

    @property
    def has_maxima(self) -> bool:
        """Whether there is a max pool."""
        return any(isinstance(node, Maximum) for node in self.nodes)

    def own_biases(self) -> dict[int, frozenset[int]]:
        """For each node, the parameters that are added there (times a number) and used nowhere else.

        A parameter that is read once is such a sum of one term: the bias of the neuron that it feeds.
        """
        uses = Counter(source for node in self.nodes for source in sources(node))
        added: dict[int, frozenset[int]] = {}
        for place, node in enumerate(self.nodes):
            if isinstance(node, Parameter) and uses[place] == 1:
                added[place] = frozenset([node.index])
            elif isinstance(node, Affine):
                added[place] = frozenset(
                    found.index
                    for coefficient, source in node.terms
                    if coefficient
                    and uses[source] == 1
                    and isinstance(found := self.nodes[source], Parameter)
                )
        return added

    @property
    def has_distinct_biases(self) -> bool:
        """Whether every argument of a function that is not smooth has a bias of its own."""
        biases = self.own_biases()
        arguments: list[int] = []
        for node in self.nodes:
            if isinstance(node, Activation) and node.function.kinks:
                arguments.append(node.argument)
            elif isinstance(node, Maximum):
                arguments += node.arguments
        return len(set(arguments)) == len(arguments) and all(biases.get(place) for place in arguments)


def sources(node: Node) -> tuple[int, ...]:
    """The nodes that a node reads, as often as it does."""
    match node:
        case Parameter():
            return ()
        case Affine():
            return tuple(source for _, source in node.terms)
        case Product():
            return (node.left, node.right)
        case Activation():
            return (node.argument,)
        case Maximum():
            return node.arguments


@dataclass
class Sketch:
    """A network that is being written down.

    Example:
        >>> sketch = Sketch("v relu(u + b)")
        >>> u, b, v = sketch.parameters("u", "b", "v")
        >>> from tiebreak.theory.activations import RELU
        >>> sketch.network(v * (u + b).through(RELU)).has_distinct_biases
        True
    """

    name: str
    _names: list[str] = field(default_factory=list)
    _nodes: list[Node] = field(default_factory=list)

    def parameter(self, name: str) -> Wire:
        """A new parameter."""
        self._names.append(name)
        return self.wire(Parameter(len(self._names) - 1))

    def parameters(self, *names: str) -> tuple[Wire, ...]:
        """New parameters, in this order."""
        return tuple(self.parameter(name) for name in names)

    def wire(self, node: Node) -> Wire:
        """The wire out of a new node."""
        self._nodes.append(node)
        return Wire(self, {len(self._nodes) - 1: Fraction(1)}, Fraction(0))

    def largest(self, arguments: Sequence[Wire]) -> Wire:
        """The maximum of some wires, which are tied in this order."""
        return self.wire(Maximum(tuple(argument.place() for argument in arguments)))

    def total(self, wires: Sequence[Wire]) -> Wire:
        """The sum of some wires."""
        start = Wire(self, {}, Fraction(0))
        return sum(wires, start=start)

    def network(self, output: Wire) -> Network:
        """The finished network.

        Args:
            output: what it gives.
        """
        last = output.place()
        if last != len(self._nodes) - 1:
            self._nodes.append(Affine(((Fraction(1), last),), Fraction(0)))
        return Network(name=self.name, parameters=tuple(self._names), nodes=tuple(self._nodes))


@dataclass(eq=False)
class Wire:
    """A linear combination of nodes of a sketch; sums, multiples and products of wires are wires."""

    sketch: Sketch
    terms: dict[int, Fraction]
    constant: Fraction

    def place(self) -> int:
        """The node that holds it, made if there is none."""
        if list(self.terms.values()) == [1] and not self.constant:
            return next(iter(self.terms))
        terms = tuple((coefficient, source) for source, coefficient in self.terms.items())
        (place,) = self.sketch.wire(Affine(terms, self.constant)).terms
        return place

    def through(self, function: PiecewiseLinear) -> Wire:
        """The neuron with this argument."""
        return self.sketch.wire(Activation(function, self.place()))

    def __add__(self, other: Wire | Number) -> Wire:
        if isinstance(other, int | Fraction):
            return Wire(self.sketch, self.terms, self.constant + other)
        if other.sketch is not self.sketch:
            raise UserError("wires of two sketches cannot meet. Draw the network in one.")
        terms = dict(self.terms)
        for source, coefficient in other.terms.items():
            terms[source] = terms.get(source, Fraction(0)) + coefficient
        return Wire(self.sketch, terms, self.constant + other.constant)

    def __neg__(self) -> Wire:
        return self * -1

    def __sub__(self, other: Wire | Number) -> Wire:
        return self + -other

    def __mul__(self, other: Wire | Number) -> Wire:
        if isinstance(other, int | Fraction):
            scaled = {source: coefficient * other for source, coefficient in self.terms.items()}
            return Wire(self.sketch, scaled, self.constant * other)
        return self.sketch.wire(Product(self.place(), other.place()))

    __radd__ = __add__
    __rmul__ = __mul__
