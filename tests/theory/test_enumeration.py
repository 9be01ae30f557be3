from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tiebreak.design.axes import UserError
from tiebreak.theory import families
from tiebreak.theory.activations import (
    ABS,
    HARDSIGMOID,
    HARDTANH,
    IDENTITY,
    RELU,
    RELU6,
    Rules,
    Side,
    Ties,
    torch_rules,
)
from tiebreak.theory.enumeration import count, gradients, points_of, touches, verdicts
from tiebreak.theory.machine import format_of, integers, numbers_of
from tiebreak.theory.oracle import Kind, judge

FP4 = format_of("e2m1").machine_set()
M5, M7 = integers(2), integers(3)
LEFT = Rules(proxy=Side.LEFT)

BIASED = [
    (families.sum_of_neurons(RELU, count=3), FP4, 631, 631),
    (families.sum_of_neurons(HARDTANH, count=3), FP4, 1178, 1178),
    (families.sum_of_neurons(RELU6, count=3), FP4, 1178, 1178),
    (families.hidden_layer(RELU), FP4, 225, 210),
    (families.hidden_layer(RELU, count=2), M5, 5625, 4600),
    (families.hidden_layer(HARDTANH, count=2), M5, 8400, 6976),
    (families.two_layers(RELU), M5, 1035, 588),
    (families.two_layers(RELU6), numbers_of([-6, -1, 0, 1, 6]), 1565, 880),
]
PROXIES = [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(-1), Side.LEFT, Side.RIGHT]


@pytest.mark.parametrize(
    ("network", "machine", "touched", "singular"), BIASED, ids=lambda n: getattr(n, "name", "")
)
@pytest.mark.parametrize("proxy", PROXIES, ids=str)
def test_networks_with_biases(network, machine, touched, singular, proxy):
    found = count(network, machine, rules=Rules(proxy=proxy))
    assert found.points == len(machine) ** len(network.parameters)
    assert (found.touched, found.not_differentiable) == (touched, singular)
    assert (found.incorrect, found.live_incorrect) == (0, 0)


HALF, ONE = Rules(proxy=Fraction(1, 2)), Rules(proxy=Fraction(1))
HEADLINE = families.fully_connected([IDENTITY, RELU, IDENTITY], [1, 2, 1])
DEEP = families.fully_connected([RELU, RELU], [1, 1])


@pytest.mark.parametrize(
    ("network", "machine", "rules", "singular", "incorrect"),
    [
        (families.plus_minus(), FP4, Rules(), 0, 1),
        (families.plus_minus(), FP4, HALF, 0, 0),
        (families.plus_minus(), FP4, ONE, 0, 1),
        (families.stairs(FP4), FP4, LEFT, 0, 15),
        (families.product_plus_minus(), FP4, Rules(), 0, 28),
        (families.product_plus_minus(), FP4, ONE, 0, 28),
        (families.product_plus_minus(), FP4, HALF, 0, 0),
        *((families.product_neuron(), FP4, Rules(proxy=proxy), 28, 0) for proxy in PROXIES),
        (HEADLINE, M5, Rules(), 1232, 24),
        (HEADLINE, M5, HALF, 1232, 0),
        (HEADLINE, M5, ONE, 1232, 24),
        (DEEP, FP4, Rules(), 14, 0),
        (DEEP, FP4, HALF, 14, 7),
        (DEEP, FP4, ONE, 14, 7),
        (DEEP, FP4, Rules(proxy=Fraction(2)), 14, 7),
        (DEEP, FP4, Rules(proxy=Fraction(-1)), 14, 7),
        (families.minibatch(HARDTANH, (1, -1)), M5, Rules(), 2, 1),
        (families.minibatch(RELU, (1, -1, 0)), M5, Rules(), 3, 0),
    ],
    ids=str,
)
def test_networks_without_biases(network, machine, rules, singular, incorrect):
    found = count(network, machine, rules=rules)
    assert (found.not_differentiable, found.incorrect) == (singular, incorrect)
    if incorrect:
        assert found.witness is not None
        assert judge(network, found.witness, rules=rules).kind is Kind.INCORRECT


CONVOLUTION = families.convolution_and_pool((0, 1, 0, 1))


@pytest.mark.parametrize(
    ("network", "machine", "ties", "singular", "incorrect"),
    [
        *((families.two_windows(), FP4, ties, 0, 15) for ties in (Ties.FIRST, Ties.LAST)),
        (families.two_windows(), FP4, Ties.SPLIT, 0, 0),
        *((CONVOLUTION, M7, ties, 0, 49) for ties in (Ties.FIRST, Ties.LAST)),
        (CONVOLUTION, M7, Ties.SPLIT, 0, 0),
        *((families.two_windows_with_biases(), M5, ties, 875, 0) for ties in Ties),
        (families.maximum_of(2), FP4, Ties.FIRST, 15, 0),
        (families.maximum_of(3), FP4, Ties.FIRST, 330, 0),
        (families.maximum_of(4), M7, Ties.FIRST, 637, 0),
    ],
    ids=str,
)
def test_max_pools(network, machine, ties, singular, incorrect):
    found = count(network, machine, rules=Rules(ties=ties))
    assert (found.not_differentiable, found.incorrect) == (singular, incorrect)


def test_pooled_neurons_break_the_equivalence():
    found = count(families.pooled_neurons(), M7, rules=Rules())
    assert (found.points, found.live_incorrect) == (2401, 441)


def test_overlapping_inputs_of_a_convolution():
    wrong = 0
    for row in itertools.product(range(3), repeat=5):
        found = count(families.convolution_and_pool(row, stride=2), integers(1), rules=Rules())
        wrong += found.incorrect > 0
    assert wrong == 16


def test_fp4_to_the_fifth():
    found = count(families.two_layers(RELU), FP4, rules=Rules())
    assert (found.points, found.incorrect, found.live_incorrect) == (759375, 0, 0)


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.sampled_from(PROXIES), st.sampled_from(list(Ties)))
def test_the_two_ways_agree(seed, proxy, ties):
    network, rules = families.drawn_network(seed), Rules(proxy=proxy, ties=ties)
    draw = random.Random(seed)
    total = 5 ** len(network.parameters)
    indices = torch.tensor([draw.randrange(total) for _ in range(10)])
    found = verdicts(network, M5, indices, rules=rules)
    for place, index in enumerate(indices.tolist()):
        point = tuple(M5.numbers[index // 5**axis % 5] for axis in range(len(network.parameters)))
        truth = judge(network, point, rules=rules)
        assert found.gradient[:, place].tolist() == [float(value) for value in truth.by_ad.gradient]
        assert bool(found.touched[place]) == bool(truth.by_ad.touched)
        assert bool(found.live[place]) == truth.by_ad.is_live
        assert bool(found.not_differentiable[place]) == (truth.kind is Kind.NOT_DIFFERENTIABLE)
        assert bool(found.incorrect[place]) == (truth.kind is Kind.INCORRECT)


@pytest.mark.parametrize("chunk", [1, 7, 125, 1000])
def test_chunks_change_nothing(chunk):
    network = families.hidden_layer(HARDTANH)
    assert count(network, M5, rules=LEFT, chunk=chunk) == count(network, M5, rules=LEFT)


def test_parts_add_up():
    parts = [count(HEADLINE, M5, rules=Rules(), start=s, stop=s + 1000) for s in range(0, 3125, 1000)]
    assert sum(part.incorrect for part in parts) == 24
    assert sum(part.points for part in parts) == 3125


def program(network_name, w, x=None):
    """The same networks as a user of torch writes them."""
    match network_name:
        case "two layers":
            return w[4] * functional.relu(w[2] * functional.relu(w[0] + w[1]) + w[3])
        case "hardtanh":
            return w[2] * functional.hardtanh(w[0] + w[1])
        case "abs":
            return w[2] * torch.abs(w[0] + w[1])
        case "headline":
            return w[3] * functional.relu(w[0] * w[1]) + w[4] * functional.relu(w[0] * w[2])
        case "convolution":
            row = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]], dtype=w.dtype).expand(w.shape[1], 1, 4)
            windows = torch.stack([row[:, 0, :-1], row[:, 0, 1:]])
            y = (w[:2, :, None] * windows).sum(0) + w[2, :, None]
            pooled = functional.max_pool1d(y[:, None], 2, stride=1)
            return pooled[:, 0, 0] - pooled[:, 0, 1]
    raise AssertionError(network_name)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("two layers", families.two_layers(RELU)),
        ("hardtanh", families.hidden_layer(HARDTANH)),
        ("abs", families.hidden_layer(ABS)),
        ("headline", HEADLINE),
        ("convolution", CONVOLUTION),
    ],
)
def test_with_its_own_rules_it_is_torchs_autograd_everywhere(name, network):
    rules = torch_rules()
    points = points_of(network, M5, start=0, stop=5 ** len(network.parameters))
    leaf = points.clone().requires_grad_()
    (autograd,) = torch.autograd.grad(program(name, leaf).sum(), leaf)
    assert torch.equal(gradients(network, points, rules=rules), autograd)


@pytest.mark.parametrize(
    ("network", "machine", "rules", "sentence"),
    [
        (families.sum_of_neurons(HARDSIGMOID, count=1), M5, Rules(), "no binary fraction"),
        (families.plus_minus(), numbers_of(["1/3"]), Rules(), "no binary fraction"),
        (families.maximum_of(3), M5, Rules(ties=Ties.SPLIT), "even split"),
        (families.two_layers(RELU), format_of("fp16").machine_set(), Rules(), "53 bits"),
    ],
)
def test_what_float64_would_round_is_refused(network, machine, rules, sentence):
    with pytest.raises(UserError, match=sentence):
        count(network, machine, rules=rules)


def scaled_input(function, x):
    sketch = families.Sketch(f"{function.name}({x} u + b)")
    u, b = sketch.parameters("u", "b")
    return sketch.network((u * Fraction(x) + b).through(function))


@pytest.mark.parametrize(
    ("name", "function", "x", "exact", "computed"),
    [
        ("e4m3", RELU, "9/8", 31, 249),
        ("e4m3", HARDTANH, "1", 162, 594),
        ("e5m2", HARDTANH, "1", 66, 534),
    ],
)
def test_rounding_makes_touches(name, function, x, exact, computed):
    chosen = format_of(name)
    network = scaled_input(function, x)
    true = touches(network, chosen.machine_set())
    seen = touches(network, chosen.machine_set(), arithmetic=chosen)
    assert (int(true.sum()), int(seen.sum())) == (exact, computed)
    assert not (true & ~seen).any()
