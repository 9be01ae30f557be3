"""How a statement is tried: at every touched point by the oracle, or in counts by the enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tiebreak.theory.activations import Rules
from tiebreak.theory.enumeration import count
from tiebreak.theory.linear_programs import Vector
from tiebreak.theory.machine import MachineSet
from tiebreak.theory.network import Activation, Affine, Network, Parameter, Product
from tiebreak.theory.oracle import Judgement, cells, evaluate, judge, touched

Place = tuple[Network, MachineSet]
"""A network, and the numbers that its parameters take."""

Holds = Callable[[Network, Vector, Judgement], bool | None]
"""Whether a statement holds at a point; None where it claims nothing."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a check saw.

    Args:
        points: pairs of a point and rules that were looked at.
        violations: of the statement.
        witness: the first violation in words, or "".
    """

    points: int
    violations: int
    witness: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """A statement and how it is tried.

    Args:
        theorem: its label in docs/theory.md.
        statement: in words.
        networks: names of the networks it is tried on.
        is_control: whether it is false, and has to be found so.
        run: the trial.
    """

    theorem: str
    statement: str
    networks: tuple[str, ...]
    is_control: bool
    run: Callable[[], Tally]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check and what it saw.

    Args:
        check: what was tried.
        tally: what was seen.
    """

    check: Check
    tally: Tally

    @property
    def is_as_it_must_be(self) -> bool:
        """No violation of a theorem; at least one of a control."""
        return self.tally.points > 0 and (self.tally.violations > 0) == self.check.is_control


def touched_points(network: Network, machine: MachineSet) -> Iterator[Vector]:
    """The points of M^W where some node is at a kink or a tie; elsewhere AD is the chain rule.

    Args:
        network: any.
        machine: M.
    """
    for point in itertools.product(machine.numbers, repeat=len(network.parameters)):
        if touched(network, evaluate(network, point)):
            yield point


def over_points(places: Sequence[Place], rules: Sequence[Rules], holds: Holds) -> Tally:
    """Ask at every touched point, under every rule of AD, whether a statement holds.

    Args:
        places: where.
        rules: of AD.
        holds: the statement.
    """

    def answers() -> Iterator[tuple[bool | None, str]]:
        for network, machine in places:
            for point in touched_points(network, machine):
                known = cells(network, point)
                for rule in rules:
                    found = judge(network, point, rules=rule, known=known)
                    yield holds(network, point, found), _words(network, point, rule)

    return _tally(answers())


def _tally(answers: Iterator[tuple[bool | None, str]]) -> Tally:
    points = violations = 0
    witness = ""
    for holds, words in answers:
        if holds is None:
            continue
        points += 1
        if not holds:
            violations += 1
            witness = witness or words
    return Tally(points=points, violations=violations, witness=witness)


def _words(network: Network, point: Vector, rules: Rules | None = None) -> str:
    at = ", ".join(f"{name} = {value}" for name, value in zip(network.parameters, point, strict=True))
    return f"{network.name} at {at}" + (f" (proxy {rules})" if rules else "")


def share_at_most(
    places: Sequence[Place], bound: Callable[[Network, MachineSet], Fraction], *, rules: Rules
) -> Tally:
    """Count the points that are singular or wrong, and compare their share with a bound.

    Args:
        places: where.
        bound: of the share.
        rules: of AD.
    """
    points = violations = 0
    witness = ""
    for network, machine in places:
        found = count(network, machine, rules=rules)
        failing = found.not_differentiable + found.incorrect
        points += found.points
        if Fraction(failing, found.points) > bound(network, machine):
            violations += 1
            most = bound(network, machine) * found.points
            witness = witness or f"{network.name}: {failing} points of at most {most}"
    return Tally(points=points, violations=violations, witness=witness)


def counts_equal(places: Sequence[tuple[Network, MachineSet, Rules, tuple[int, int]]]) -> Tally:
    """Compare counts with closed forms.

    Args:
        places: network, machine set, rules, and how many points are (not differentiable, incorrect).
    """

    def answers() -> Iterator[tuple[bool, str]]:
        for network, machine, rules, expected in places:
            found = count(network, machine, rules=rules)
            seen = (found.not_differentiable, found.incorrect)
            yield seen == expected, f"{network.name} on {machine.name}: {seen}, not {expected}"

    return _tally(answers())


def has_own_directions(network: Network, point: Vector, neurons: Sequence[int]) -> bool:
    """Whether each touched neuron has a parameter that moves its argument and feeds nothing else.

    Args:
        network: any.
        point: a rational a parameter.
        neurons: nodes.
    """
    values = evaluate(network, point)
    readers: dict[int, list[int]] = {place: [] for place in range(len(network.nodes))}
    for place, node in enumerate(network.nodes):
        match node:
            case Affine(terms, _):
                for _, source in terms:
                    readers[source].append(place)
            case Product(left, right):
                readers[left].append(place)
                readers[right].append(place)
            case Activation(_, argument):
                readers[argument].append(place)
            case _:
                pass

    def moves(place: int, neuron: int) -> bool:
        """Follow a parameter through its only readers to the neuron, with a factor that is not 0."""
        while place != neuron:
            if len(readers[place]) != 1:
                return False
            (reader,) = readers[place]
            node = network.nodes[reader]
            if isinstance(node, Product) and values[node.left if node.right == place else node.right] == 0:
                return False
            if isinstance(node, Activation) and reader != neuron:
                return False
            place = reader
        return True

    parameters = [place for place, node in enumerate(network.nodes) if isinstance(node, Parameter)]
    return all(any(moves(place, neuron) for place in parameters) for neuron in neurons)
