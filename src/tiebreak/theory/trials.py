"""How a statement is tried: at every touched point by the oracle, or in counts by the enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tiebreak.design.correctness import Statement
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
    """What a check saw on a network.

    Args:
        points: points, or pairs of a point and rules, that were looked at.
        violations: of the statement; of one about a count or a share there is at most one a network.
        witness: the first violation in words, or "".
    """

    points: int
    violations: int
    witness: str


@dataclass(frozen=True)
class Ground:
    """A network on which a statement is tried.

    Args:
        network: any.
        machine: what its parameters are.
        run: the trial.
    """

    network: Network
    machine: MachineSet
    run: Callable[[], Tally]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A statement and how it is tried.

    Args:
        statement: its name.
        theorem: its label in docs/theory.md.
        words: what it states.
        is_control: whether it is false, and has to be found so on one of its grounds.
        grounds: where it is tried.
    """

    statement: Statement
    theorem: str
    words: str
    is_control: bool
    grounds: tuple[Ground, ...]


def touched_points(network: Network, machine: MachineSet) -> Iterator[Vector]:
    """The points of M^W where some node is at a kink or a tie; elsewhere AD is the chain rule.

    Args:
        network: any.
        machine: M.
    """
    for point in itertools.product(machine.numbers, repeat=len(network.parameters)):
        if touched(network, evaluate(network, point)):
            yield point


def over_points(network: Network, machine: MachineSet, *, rules: Sequence[Rules], holds: Holds) -> Tally:
    """Ask at every touched point, under every rule of AD, whether a statement holds.

    Args:
        network: where.
        machine: M.
        rules: of AD.
        holds: the statement.
    """
    points = violations = 0
    witness = ""
    for point in touched_points(network, machine):
        known = cells(network, point)
        for rule in rules:
            answer = holds(network, point, judge(network, point, rules=rule, known=known))
            if answer is None:
                continue
            points += 1
            if not answer:
                violations += 1
                witness = witness or _words(network, point, rule)
    return Tally(points=points, violations=violations, witness=witness)


def _words(network: Network, point: Vector, rules: Rules) -> str:
    at = ", ".join(f"{name} = {value}" for name, value in zip(network.parameters, point, strict=True))
    return f"{network.name} at {at} (proxy {rules})"


def share_at_most(network: Network, machine: MachineSet, *, bound: Fraction, rules: Rules) -> Tally:
    """Count the points that are singular or wrong, and compare their share with a bound.

    Args:
        network: where.
        machine: M.
        bound: of the share.
        rules: of AD.
    """
    found = count(network, machine, rules=rules)
    failing = found.not_differentiable + found.incorrect
    if Fraction(failing, found.points) <= bound:
        return Tally(points=found.points, violations=0, witness="")
    most = bound * found.points
    return Tally(
        points=found.points, violations=1, witness=f"{network.name}: {failing} points of at most {most}"
    )


def counts_equal(network: Network, machine: MachineSet, *, rules: Rules, expected: tuple[int, int]) -> Tally:
    """Compare counts with closed forms.

    Args:
        network: where.
        machine: M.
        rules: of AD.
        expected: how many points are (not differentiable, incorrect).
    """
    found = count(network, machine, rules=rules)
    seen = (found.not_differentiable, found.incorrect)
    words = "" if seen == expected else f"{network.name} on {machine.name}: {seen}, not {expected}"
    return Tally(points=found.points, violations=int(seen != expected), witness=words)


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
