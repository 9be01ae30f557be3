"""Certificates beside the judge: random small networks, directed near-ties, and parts that were broken."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from interpreter import run
from near_ties import CASES, near_ties
from networks import Point, random_point

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.exact import primes, residues
from tiebreak.exact.bounds import Balls
from tiebreak.exact.certificate import Mode
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.decide import Walk
from tiebreak.exact.graph import Conv2d, Graph, Input, MaxPool2d, Node, Parameter, ReLU, Reshape
from tiebreak.exact.oracle import derivative, evaluate, tied
from tiebreak.exact.rules import TieRule
from tiebreak.numerics.geometry import PoolGeometry

NATIVE = TieRule(Fraction(0))
JACOBIANS = (
    *(PoolJacobian(beta=beta) for beta in (-1, 0.5, 1, 2, 10)),
    Fraction(1, 3),
    PoolJacobian(selection=Selection.LAST),
    PoolJacobian(selection=Selection.ALL_ONES),
)

# 4,000 graphs of one network and 4,000 of four.
PARTS = [(lanes, part) for lanes in (1, 4) for part in range(16)]
GRAPHS_OF_A_PART = 250
NEAR_TIES_OF_A_PART = 250


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "part"), PARTS)
def test_random_networks(lanes, part):
    counts = Counter()
    for seed in range(part * GRAPHS_OF_A_PART, (part + 1) * GRAPHS_OF_A_PART):
        counts += compare(random_point(seed, lanes=lanes), seed=seed)
    networks = lanes * GRAPHS_OF_A_PART
    assert counts["bifurcation"] + counts["equal, tied"] + counts["equal"] == networks
    assert counts["bifurcation"] >= networks / 10
    assert counts["equal, tied"] >= networks / 4
    print(f"\n{networks} networks: {dict(counts)}")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_directed_near_ties(part):
    """Eight cases a graph: 16,000 in all."""
    counts = Counter()
    for seed in range(part * NEAR_TIES_OF_A_PART, (part + 1) * NEAR_TIES_OF_A_PART):
        point = near_ties(seed)
        counts += compare(point, seed=seed) + wrong_in_floats(point)
    assert counts["signs that fp64 has wrong"] > 2 * NEAR_TIES_OF_A_PART / 5
    assert counts["windows that fp64 has wrong"] > NEAR_TIES_OF_A_PART / 5
    print(f"\n{CASES * NEAR_TIES_OF_A_PART} near-ties: {dict(counts)}")


def compare(point, *, seed):
    """Everything that a certificate says about a graph; what the networks in it are."""
    jacobians = [JACOBIANS[seed % len(JACOBIANS)]]
    if seed % 9 == 0:
        jacobians.append(JACOBIANS[(seed + 3) % len(JACOBIANS)])
    graph, values = point.graph, evaluate(point.graph)
    maxima = tied(graph, values)
    if seed % 2:
        graph = with_masks(graph, maxima)
    certificate = certify_graph(
        graph,
        point.cotangent,
        jacobians=jacobians,
        seed=seed,
        mode=Mode.PROOF if seed % 10 == 3 else Mode.RANDOM,
        chunk=1 if seed % 5 == 4 else None,
        keep_entries=True,
    )
    compare_pools(graph, values, maxima, certificate)
    native = derivative(graph, values, point.cotangent, NATIVE)
    lanes = None
    for jacobian, verdict in zip(jacobians, certificate.verdicts, strict=True):
        other = derivative(graph, values, point.cotangent, TieRule.of(jacobian))
        expected = {name: [a - b for a, b in zip(other[name], native[name], strict=True)] for name in native}
        compare_verdict(expected, verdict, where=f"seed {seed}, {jacobian}")
        largest = max((abs(n.numerator) for numbers in expected.values() for n in numbers), default=0)
        assert largest.bit_length() - 1 <= certificate.evidence.bits
        lanes = lanes or point.by_lane(expected)
    assert certificate.evidence.vacuous == (not point.cotangent.any())
    assert certificate.evidence.log2_error <= (-math.inf if certificate.evidence.mode is Mode.PROOF else -40)
    has_ties = any(len(window) > 1 for windows in maxima.values() for window in windows)
    return Counter("bifurcation" if differs else "equal, tied" if has_ties else "equal" for differs in lanes)


def compare_verdict(expected, verdict, *, where):
    """Whether D is 0, and where it is not."""
    nonzero = {name: [number != 0 for number in numbers] for name, numbers in expected.items()}
    assert verdict.different is any(map(any, nonzero.values())), where
    assert verdict.num_nonzero == {name: sum(found) for name, found in nonzero.items() if any(found)}, where
    assert set(verdict.entries) == set(nonzero)
    for name, found in nonzero.items():
        assert verdict.entries[name].flatten().tolist() == found, f"{where}: {name}"


def compare_pools(graph, values, maxima, certificate):
    """Windows that are tied over the reals, and beside them those of the program."""
    assert len(certificate.pools) == len(graph.pools)
    for index, truth in zip(graph.pools, certificate.pools, strict=True):
        node = graph.nodes[index]
        reals, floats = maxima[index], in_floats(node.operation)
        ties = [len(window) > 1 for window in reals]
        assert truth.windows == len(reals)
        assert truth.tied == sum(ties)
        assert truth.tied_in_floats == sum(len(window) > 1 for window in floats)
        pairs = list(zip(reals, floats, strict=True))
        assert truth.tied_only_by_rounding == sum(len(real) == 1 < len(one) for real, one in pairs)
        assert truth.missed_by_rounding == sum(len(one) == 1 < len(real) for real, one in pairs)
        assert truth.other_maxima == sum(real != one for real, one in pairs)
        at_zero = sum(tie and value == 0 for tie, value in zip(ties, values[index].values(), strict=True))
        assert truth.tied_at_dead_zero <= at_zero
        if isinstance(graph.nodes[node.inputs[0]].operation, ReLU):
            assert truth.tied_at_dead_zero == at_zero


def in_floats(operation):
    """The marked entries of each window, from the planes of bits."""
    planes = operation.float_mask.flatten(1).t().tolist()
    return [
        tuple(j for j in range(operation.geometry.num_entries) if window[j // 8] >> j % 8 & 1)
        for window in planes
    ]


def with_masks(graph, maxima) -> Graph:
    """The graph as of a program that has every window right, so that any other set of maxima is told."""
    nodes = list(graph.nodes)
    for index, windows in maxima.items():
        operation = nodes[index].operation
        planes = [
            [sum(1 << j % 8 for j in window if j // 8 == plane) for window in windows]
            for plane in range(operation.geometry.num_planes)
        ]
        mask = torch.tensor(planes, dtype=torch.uint8).reshape(operation.float_mask.shape)
        nodes[index] = replace(nodes[index], operation=MaxPool2d(operation.geometry, mask))
    return replace(graph, nodes=tuple(nodes))


def wrong_in_floats(point):
    """How many signs and windows plain fp64 has wrong: what a certificate must not take from it."""
    floats, values = run(point.graph), evaluate(point.graph)
    maxima, counts = tied(point.graph, values), Counter()
    for index, node in enumerate(point.graph.nodes):
        if isinstance(node.operation, ReLU):
            real = [number > 0 for number in values[node.inputs[0]].values()]
            found = (floats[node.inputs[0]] > 0).flatten().tolist()
            counts["signs that fp64 has wrong"] += sum(a != b for a, b in zip(real, found, strict=True))
        elif isinstance(node.operation, MaxPool2d):
            x, best = floats[node.inputs[0]], floats[index]
            found = (x.flatten(2).transpose(0, 1) == best.flatten(2).transpose(0, 1)).flatten(0, 1).tolist()
            sets = [tuple(j for j, is_best in enumerate(window) if is_best) for window in found]
            counts["windows that fp64 has wrong"] += sum(
                a != b for a, b in zip(maxima[index], sets, strict=True)
            )
    return counts


def test_an_overflow_inside_the_filter_hides_no_candidate():
    """-M - M + M + M is 0 and the maximum, though in fp64 its sum may never leave -infinity."""
    large = 1.5 * 2.0**1023
    images = [
        [[large, 1.0], [large, 0.0], [large, 1.0], [large, 0.0]],  # a tie of two different patches
        [[1.0, large], [0.0, large], [1.0, large], [0.0, large]],
        [[large, 1.0], [large, 0.0], [large, 0.0], [large, 0.0]],  # the other one is -1
        [[0.0, large], [0.0, large], [1.0, large], [0.0, large]],  # the other one is 1
    ]
    batch = torch.tensor(images, dtype=torch.float64)[:, :, None]
    compare(Point(in_a_window(batch, [-1.0, -1.0, 1.0, 1.0]), torch.ones(4, 1).double()), seed=1)


def test_candidates_that_are_close_only_to_each_other():
    """1, 1 + 2**-70 and 1 + 2**-70 + 2**-300: beside the first the other two look the same at any width."""
    parts = [[1.0, 1.0, 1.0], [0.0, 2.0**-70, 2.0**-70], [0.0, 0.0, 2.0**-300]]
    batch = torch.tensor(parts, dtype=torch.float64)[None, :, None]
    for order in itertools.permutations(range(3)):
        graph = in_a_window(batch[..., order], [1.0, 1.0, 1.0])
        assert compare(Point(graph, torch.ones(1, 1).double()), seed=1) == {"equal": 1}


def in_a_window(batch, numbers, *, bias=None) -> Graph:
    """A filter of one pixel at each of the pixels of a row, and the maximum of all."""
    images, channels, _, pixels = batch.shape
    weight = Parameter(torch.tensor(numbers, dtype=torch.float64).reshape(1, channels, 1, 1), "weight")
    constant = None if bias is None else Parameter(torch.tensor([bias], dtype=torch.float64), "bias")
    mask = torch.zeros(-(-pixels // 8), images, 1, 1, 1, dtype=torch.uint8)
    nodes = (
        Node(Input(), (), tuple(batch.shape), "batch"),
        Node(Conv2d(weight, constant, (1, 1), (0, 0), (1, 1), 1), (0,), (images, 1, 1, pixels), "conv"),
        Node(MaxPool2d(PoolGeometry.of((1, pixels)), mask), (1,), (images, 1, 1, 1), "pool"),
        Node(Reshape(), (2,), (images, 1), "flatten"),
    )
    shapes = {"weight": (1, channels, 1, 1)} | ({} if bias is None else {"bias": (1,)})
    graph = Graph(nodes, 3, batch, shapes)
    return with_masks(graph, tied(graph, evaluate(graph)))


def mistakes(points) -> int:
    """Graphs about which a certificate says something wrong."""
    found = 0
    for seed, point in points:
        try:
            compare(point, seed=seed)
        except AssertionError:
            found += 1
    return found


def test_a_bound_that_is_too_small_is_caught(monkeypatch):
    finish = Balls._finish

    def too_small(*args, **kwargs):
        ball = finish(*args, **kwargs)
        return replace(ball, radius=ball.radius * 1e-6)

    points = [(seed, near_ties(seed)) for seed in range(20)]
    monkeypatch.setattr(Balls, "_finish", too_small)
    assert mistakes(points) > 4


def test_a_neuron_that_is_used_undecided_is_caught(monkeypatch):
    points = [(seed, near_ties(seed)) for seed in range(12)]
    monkeypatch.setattr(Walk, "_refine", lambda *args: None)
    assert mistakes(points) > 6


def test_a_wrong_inverse_of_the_number_of_ties_is_caught(monkeypatch):
    """Between equal patches the shares must cancel, which only the true inverse makes them do."""
    points = [(seed, random_point(seed)) for seed in range(1, 200, 8)]
    inverse = residues.residue_of
    monkeypatch.setattr(
        residues,
        "residue_of",
        lambda number, *, prime: inverse(number, prime=prime) + (number.denominator > 1),
    )
    assert mistakes(points) > 3


def test_a_derivative_that_all_primes_but_the_last_divide(monkeypatch):
    """D = p q 2**-42 with the first two primes of the seed: only the third sees it."""
    drawn = primes.draw_primes(3, seed=0)
    product = drawn[0] * drawn[1] * 2.0**-42
    batch = torch.tensor([[[[product, 0.0]], [[0.0, product]]]], dtype=torch.float64)
    graph = in_a_window(batch, [1.0, 1.0])
    point = Point(graph, torch.ones(1, 1).double())
    counts = compare(point, seed=0)
    assert counts == {"bifurcation": 1}
    certificate = certify_graph(graph, point.cotangent, seed=0)
    assert certificate.evidence.primes == drawn, "the network is made for as many primes as are drawn"
    draw = primes.draw_primes
    monkeypatch.setattr(primes, "draw_primes", lambda number, **given: (draw(number, **given)[0],) * number)
    assert mistakes([(0, point)]) == 1, "one prime instead of all"
    monkeypatch.setattr(
        primes,
        "draw_primes",
        lambda number, **given: (*draw(number, **given)[:-1], draw(number, **given)[0]),
    )
    assert mistakes([(0, point)]) == 1, "the last prime dropped"


def test_candidates_that_one_prime_takes_for_equal(monkeypatch):
    """1 and 1 + p 2**-80: fp64 cannot tell them apart and the first prime of the seed cannot either."""
    seed = 8
    prime = primes.draw_primes(1, seed=seed)[0]
    batch = torch.tensor([[[[1.0, 1.0]], [[0.0, prime * 2.0**-80]]]], dtype=torch.float64)
    point = Point(in_a_window(batch, [1.0, 1.0]), torch.ones(1, 1).double())
    assert compare(point, seed=seed) == {"equal": 1}
    draw = primes.draw_primes
    monkeypatch.setattr(primes, "draw_primes", lambda number, **given: (draw(number, **given)[0],) * number)
    assert mistakes([(seed, point)]) == 1
