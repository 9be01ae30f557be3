"""Networks modulo a prime beside networks in rationals: values, derivatives and the rules at ties."""

from fractions import Fraction

import pytest
import torch
from networks import random_point

from tiebreak.design.axes import Selection
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.decide import Walk
from tiebreak.exact.dyadic import residue_of
from tiebreak.exact.evaluation import Evaluation
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.oracle import derivative, evaluate
from tiebreak.exact.primes import draw_primes
from tiebreak.exact.residues import Adjoint, Residues
from tiebreak.exact.rules import MOST_DIVISOR, TieRule

NATIVE = TieRule(Fraction(0))
RULES = (
    *(TieRule(Fraction(beta)) for beta in ("1", "10", "-1", "1/3", "0.1")),
    TieRule(Fraction(0), Selection.LAST),
    TieRule(Fraction(0), Selection.ALL_ONES),
)
PRIMES = draw_primes(3, seed=5)


def walked(graph, field):
    walk = Walk(graph, graph.batch, fields=[field], wide=FixedPoint)
    walk.run()
    return walk


def same(found, true, prime):
    """Residues of rationals."""
    for residue, number in zip(found.flatten().tolist(), true, strict=True):
        assert residue == int(residue)
        assert (int(residue) - residue_of(number, prime=prime)) % prime == 0


@pytest.mark.parametrize("seed", range(40))
def test_values_and_derivatives_of_random_networks(seed):
    """Every node and every entry of D, modulo a prime, under every rule."""
    point, prime = random_point(seed), PRIMES[seed % 3]
    graph, field = point.graph, Residues(prime)
    truth, walk = evaluate(graph), walked(graph, field)
    everything = frozenset(range(len(graph.nodes)))
    lane = Evaluation(field, graph, graph.batch, keep=everything)
    lane.advance(graph.output, walk.decisions)
    for index, value in enumerate(truth):
        same(lane.values[index], value.values(), prime)
    adjoint = Adjoint(field, graph, values=lane.values, decisions=walk.decisions, rules=RULES)
    found = adjoint.run(field.encode(point.cotangent), live=frozenset(graph.pools))
    native = derivative(graph, truth, point.cotangent, NATIVE)
    for rule, differences in zip(RULES, found, strict=True):
        other = derivative(graph, truth, point.cotangent, rule)
        for name, shape in graph.parameters.items():
            true = [one - first for one, first in zip(other[name], native[name], strict=True)]
            same(differences.get(name, torch.zeros(shape)), true, prime)


def test_a_wrong_inverse_is_caught():
    """Shares that are no inverses of the number of tied entries."""

    class Wrong(Residues):
        def shares(self, rule, *, most, difference, device):
            return self.reduce(super().shares(rule, most=most, difference=difference, device=device) * 2)

    for seed in range(40):
        point = random_point(seed)
        graph, field = point.graph, Wrong(PRIMES[0])
        walk = walked(graph, field)
        lane = Evaluation(field, graph, graph.batch, keep=frozenset(range(len(graph.nodes))))
        lane.advance(graph.output, walk.decisions)
        adjoint = Adjoint(field, graph, values=lane.values, decisions=walk.decisions, rules=RULES[3:4])
        found = adjoint.run(field.encode(point.cotangent), live=frozenset(graph.pools))[0]
        truth = evaluate(graph)
        one, other = (derivative(graph, truth, point.cotangent, rule) for rule in (RULES[3], NATIVE))
        for name in graph.parameters:
            true = [a - b for a, b in zip(one[name], other[name], strict=True)]
            if any(true) and name in found:
                with pytest.raises(AssertionError):
                    same(found[name], true, PRIMES[0])
                return
    raise AssertionError("no network with a difference")


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("difference", [False, True])
def test_shares_of_tied_entries(rule, difference):
    field = Residues(PRIMES[0])
    table = field.shares(rule, most=9, difference=difference, device=torch.device("cpu"))
    assert table.shape == (3, 10)
    assert not table[:, 0].any()
    for number in range(1, 10):
        shares = rule.shares(number)
        if difference:
            shares = [one - first for one, first in zip(shares, NATIVE.shares(number), strict=True)]
        same(table[:, number], shares, PRIMES[0])


def test_reduction_may_leave_either_sign_next_to_half_the_prime_and_twice_reduced_it_has_one():
    """Why residues are reduced once more before they are compared."""
    several = 0
    for prime in draw_primes(30, seed=0):
        field = Residues(prime)
        quotients = (2**53 - 2**24) // prime - torch.arange(2000)
        same_class = (quotients * prime + (prime + 1) // 2).double()  # exact: below 2**53
        once = field.reduce(same_class.clone())
        several += len(once.unique()) > 1
        assert len(field.reduce(once).unique()) == 1
    assert several


def test_reduction_of_any_whole_number():
    generator = torch.Generator().manual_seed(0)
    for prime in PRIMES:
        x = torch.randint(-(2**53) + 2**22, 2**53 - 2**22, (20_000,), generator=generator)
        reduced = Residues(prime).reduce(x.double())
        assert not ((reduced.long() - x) % prime).any()
        assert reduced.abs().max() <= prime / 2 + 4


def test_a_denominator_that_a_prime_might_divide_is_refused():
    """Before any prime is drawn: the message names the number."""
    point = random_point(0)
    with pytest.raises(Exception, match=f"{PRIMES[0]} times a power of two"):
        certify_graph(point.graph, point.cotangent, jacobians=[Fraction(1, PRIMES[0])], seed=5)
    for beta in (Fraction(1, MOST_DIVISOR - 1), Fraction(1, 2**1000), Fraction(0.1), Fraction("0.12345")):
        assert TieRule.of(beta).beta == beta
