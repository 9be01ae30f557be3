"""Upper bounds on the share of machine points where AD may fail, and counts in closed form."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from tiebreak.theory.machine import MachineSet
from tiebreak.theory.network import Activation, Affine, Maximum, Network, Product


def most_touched(network: Network, machine: MachineSet) -> Fraction:
    """Bound on the share of points that are not differentiable, by the number of kinks.

    The sum over neurons of the number of kinks, over |M|: each neuron has a bias of its own, and given all
    other parameters at most that many values of the bias put it on a kink.

    Args:
        network: with distinct biases, without maxima.
        machine: M.
    """
    return Fraction(sum(len(neuron.function.kinks) for neuron in network.activations), len(machine))


def most_touched_product(network: Network, machine: MachineSet) -> Fraction:
    """The same, sharper: 1 - prod (1 - kinks / |M|), attained by a sum of neurons.

    Args:
        network: with distinct biases, without maxima.
        machine: M.
    """
    size = len(machine)
    clear = (1 - Fraction(min(len(n.function.kinks), size), size) for n in network.activations)
    return 1 - prod(clear, start=Fraction(1))


def most_failing(network: Network, machine: MachineSet, *, edges: bool = True) -> Fraction:
    """Bound on the share of points that are not differentiable or where AD is wrong, without biases.

    A neuron counts with its kinks and, where its value is multiplied by a parameter later on, with the edges
    of the set where it is 0.

    Args:
        network: each parameter multiplies one value of the layer before; without maxima.
        machine: M.
        edges: whether the edges count, without which the bound is false.
    """
    multiplied = _multiplied(network)
    size = 0
    for place, node in enumerate(network.nodes):
        if isinstance(node, Activation):
            at = frozenset(node.function.kinks)
            size += len(at | node.function.edges_of_zero() if edges and place in multiplied else at)
    return Fraction(size, len(machine))


def _multiplied(network: Network) -> frozenset[int]:
    """Nodes that are a factor of a product, through sums but not through other neurons."""
    found: set[int] = set()
    for place in reversed(range(len(network.nodes))):
        match network.nodes[place]:
            case Product(left, right):
                found |= {left, right}
            case Affine(terms, _) if place in found:
                found |= {source for _, source in terms}
            case Maximum(arguments) if place in found:
                found |= set(arguments)
            case _:
                pass
    return frozenset(found)


def singular_sum(size: int, *, kinks: int, count: int) -> int:
    """Points of |M| = size where a sum of `count` neurons with distinct biases has no derivative."""
    return size**count - (size - kinks) ** count


def singular_hidden(size: int, *, count: int) -> int:
    """The same for the sum of v_i relu(u_i + b_i), where M holds the opposite of each of its numbers."""
    alone = Fraction(size - 1, size**2)
    return int(size ** (3 * count) * (1 - (1 - alone) ** count))


def singular_maximum(size: int, *, count: int) -> int:
    """The same for max(b_1, ..., b_n)."""
    return size**count - count * sum(rank ** (count - 1) for rank in range(size))
