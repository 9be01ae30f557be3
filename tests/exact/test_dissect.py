"""A bifurcation taken apart, against exact rationals."""

from fractions import Fraction

from networks import random_point

from tiebreak.exact import oracle
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.dissect import dissect
from tiebreak.exact.rules import TieRule

MINIMAL, NATIVE = TieRule(Fraction(1)), TieRule(Fraction(0))


def test_window_entry_and_size_are_those_of_the_oracle():
    explained = several = 0
    for seed in range(200):
        point = random_point(seed)
        certificate = certify_graph(point.graph, point.cotangent, jacobians=(Fraction(1),), seed=seed)
        if not certificate.verdicts[0].different:
            continue
        primes = certificate.evidence.primes
        found = dissect(point.graph, point.cotangent, beta=Fraction(1), primes=primes, seed=seed)
        if found is None:
            continue
        explained += 1
        exact = oracle.difference(point.graph, point.cotangent, MINIMAL, NATIVE)
        shape = point.graph.parameters[found.tensor]
        place = 0
        for length, index in zip(shape, map(int, found.index.split(",")), strict=True):
            place = place * length + index
        true = exact[found.tensor][place]
        assert abs(Fraction(found.difference) - true) <= abs(true) * Fraction(1, 2**40)
        assert abs(true) >= max(abs(x) for entries in exact.values() for x in entries) * (
            1 - Fraction(1, 2**40)
        )
        values = oracle.evaluate(point.graph)
        pool = point.graph.pools[found.pool]
        node = point.graph.nodes[pool]
        window = (found.image, found.channel, found.window_row, found.window_column)
        number = 0
        for length, index in zip(node.shape, window, strict=True):
            number = number * length + index
        assert len(oracle.tied(point.graph, values)[pool][number]) == found.tied > 1
        source = values[node.inputs[0]]
        pixels = [tuple(map(int, text.strip("()").split(","))) for text in found.entries.split(" ")]
        numbers = {source[found.image, found.channel, *pixel] for pixel in pixels}
        assert len(numbers) == 1
        several += len(pixels) > 2
    assert min(explained, several) > 2, (explained, several)
