"""Balls round D with batch norm in training mode, against forward-mode derivatives in 50 decimal digits."""

import itertools
import json
import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from tiebreak import MINIMAL, PoolJacobian, certify
from tiebreak.exact.bounds import Ball
from tiebreak.exact.certificate import Mode
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.files import Stored, pack, sum_of, unpack
from tiebreak.exact.graph import BatchNorm2d, Conv2d, Linear, MaxPool2d, ReLU, Reshape
from tiebreak.exact.recheck import Finding, Standing, recheck
from tiebreak.exact.record import record
from tiebreak.exact.rules import TieRule
from tiebreak.exact.separation import Draw, difference, interval, mean, sums, ties, times

DIGITS = 50
SAME = Decimal(10) ** -35
"""Numbers that are nearer than this are taken for equal: of those drawn here, others are far apart."""


class Dual:
    """A number and its derivatives in every entry of every parameter."""

    def __init__(self, x, dots):
        self.x, self.dots = x, dots

    def __add__(self, other):
        return Dual(self.x + other.x, self.dots + other.dots)

    def __sub__(self, other):
        return Dual(self.x - other.x, self.dots - other.dots)

    def __mul__(self, other):
        return Dual(self.x * other.x, self.x * other.dots + self.dots * other.x)

    def times(self, number):
        return Dual(self.x * number, self.dots * number)

    def one_over_root(self):
        root = self.x.sqrt()
        return Dual(1 / root, -self.dots / (2 * root * self.x))


def total(numbers):
    first, *others = numbers
    for number in others:
        first = first + number
    return first


def exact(x):
    return Decimal(x.item() if isinstance(x, torch.Tensor) else x)


def derivative(graph, cotangent, rule, places):
    """d <cotangent, output> / d every entry of every parameter, number by number; pools share by the rule."""
    units = {at: np.array([Decimal(int(at == other)) for other in places]) for at in places}
    nothing = np.array([Decimal(0) for _ in places])

    def of_parameter(parameter, index):
        return Dual(exact(parameter.value[index]), units[parameter.name, index])

    values = [{place: Dual(exact(graph.batch[place]), nothing) for place in places_of(graph.batch.shape)}]
    for node in graph.nodes[1:]:
        x, shape = values[node.inputs[0]], node.shape
        match node.operation:
            case Conv2d(weight, bias, stride, padding):
                made = {}
                for n, o, r, c in places_of(shape):
                    terms = [] if bias is None else [of_parameter(bias, (o,))]
                    for i, u, v in places_of(weight.value.shape[1:]):
                        at = (n, i, r * stride[0] + u - padding[0], c * stride[1] + v - padding[1])
                        if at in x:
                            terms.append(x[at] * of_parameter(weight, (o, i, u, v)))
                    made[n, o, r, c] = total(terms)
            case BatchNorm2d(weight, bias, eps):
                made = {}
                for channel in range(shape[1]):
                    where = [place for place in x if place[1] == channel]
                    share = 1 / Decimal(len(where))
                    centre = total(x[at] for at in where).times(share)
                    spread = total((x[at] - centre) * (x[at] - centre) for at in where).times(share)
                    factor = (spread + Dual(exact(eps), nothing)).one_over_root()
                    for at in where:
                        scaled = (x[at] - centre) * factor * of_parameter(weight, (channel,))
                        made[at] = scaled + of_parameter(bias, (channel,))
            case ReLU():
                made = {at: one if one.x > SAME else Dual(Decimal(0), nothing) for at, one in x.items()}
            case MaxPool2d(geometry):
                made = {}
                for n, k, r, c in places_of(shape):
                    window = [
                        x[n, k, r * geometry.stride[0] + u, c * geometry.stride[1] + v]
                        for u, v in places_of(geometry.kernel)
                    ]
                    top = max(one.x for one in window)
                    tied = [one for one in window if top - one.x < SAME]
                    first, middle, last = rule.shares(len(tied))
                    shares = [first, *[middle] * (len(tied) - 2), *[last] * (len(tied) > 1)]
                    dots = [
                        one.dots * share.numerator / share.denominator
                        for one, share in zip(tied, shares, strict=True)
                    ]
                    made[n, k, r, c] = Dual(top, sum(dots))
            case Reshape():
                made = dict(
                    zip(
                        places_of(shape),
                        (x[at] for at in places_of(graph.nodes[node.inputs[0]].shape)),
                        strict=True,
                    )
                )
            case Linear(weight, bias):
                made = {
                    (n, o): total(
                        x[n, i] * of_parameter(weight, (o, i)) for i in range(weight.value.shape[1])
                    )
                    + of_parameter(bias, (o,))
                    for n, o in places_of(shape)
                }
        values.append(made)
    found = sum(one.dots * exact(cotangent[at]) for at, one in values[graph.output].items())
    return dict(zip(places, found, strict=True))


def places_of(shape):
    return itertools.product(*map(range, shape))


def network(seed):
    """Two channels, small whole pixels and weights, so that sums of different patches are often equal."""
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape, most=2):
        return torch.randint(-most, most + 1, shape, generator=generator).double()

    conv, norm, head = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(2, 2)
    net = nn.Sequential(conv, norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head).double().train()
    if seed % 3 == 0:
        net = nn.Sequential(conv, norm, nn.MaxPool2d(2), nn.Flatten(), head).double().train()
    if seed % 3 == 1:
        second = nn.Conv2d(2, 1, 1)
        layers = (
            conv,
            nn.ReLU(),
            norm,
            second,
            nn.BatchNorm2d(1),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1, 2),
        )
        if seed % 2:
            layers = (
                conv,
                norm,
                nn.MaxPool2d(2, stride=1),
                second,
                nn.BatchNorm2d(1),
                nn.ReLU(),
                nn.Flatten(),
            )
            layers = (*layers, nn.Linear(1, 2))
        net = nn.Sequential(*layers).double().train()
    for name, parameter in net.named_parameters():
        drawn = whole(*parameter.shape)
        parameter.data.copy_(drawn if name != "1.weight" else drawn.abs() + 0.5)
    images = torch.randint(0, 3, (3, 1, 3, 3), generator=generator).double()
    graph, output = record(net, images)
    return graph, cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0, 1, 0]))


RULES = (
    TieRule(Fraction(1)),
    TieRule(Fraction(-3, 2)),
    TieRule.of(PoolJacobian(selection="last")),
    TieRule.of(PoolJacobian(selection="all_ones")),
)
NAMES = (MINIMAL, Fraction(-3, 2), PoolJacobian(selection="last"), PoolJacobian(selection="all_ones"))


def enclosed(graph, cotangent, seed):
    asked = {"mode": Mode.RANDOM, "seed": seed}
    return ties(graph, draw=Draw.of(graph, cotangent, log2_error=-40.0, **asked), **asked)


def test_every_entry_of_d_lies_in_its_ball_and_what_is_claimed_is_so():
    """The counts say that each answer is frequent: different, equal and not known."""
    counts = {True: 0, False: 0, None: 0}
    checked = 0
    with localcontext() as context:
        context.prec = DIGITS
        for seed in range(40):
            graph, cotangent = network(seed)
            found = enclosed(graph, cotangent, seed)
            certificate = certify_graph(graph, cotangent, jacobians=NAMES, seed=seed)
            places = [(name, index) for name, shape in graph.parameters.items() for index in places_of(shape)]
            native = derivative(graph, cotangent, TieRule(Fraction(0)), places)
            for rule, verdict in zip(RULES, certificate.verdicts, strict=True):
                other = derivative(graph, cotangent, rule, places)
                true = {at: other[at] - native[at] for at in places}
                different = any(abs(one) > SAME for one in true.values())
                counts[verdict.different] += 1
                assert verdict.different in (None, different), (seed, verdict)
                if verdict.separation is not None:
                    proof = verdict.separation
                    assert Decimal(proof.low) <= true[proof.tensor, proof.index] <= Decimal(proof.high)
                    assert proof.low > 0 or proof.high < 0
                if found.open:
                    continue
                balls = difference(graph, cotangent, found, rule)
                for (name, index), one in true.items():
                    low, high = interval(balls[name], index) if name in balls else (0.0, 0.0)
                    assert Decimal(low) - SAME <= one <= Decimal(high) + SAME, (seed, name, index)
                    checked += 1
                for name, ball in balls.items():
                    assert float(ball.radius.max()) < 1e-9, (seed, name)
    assert min(counts.values()) >= 10, counts
    assert checked > 1000


def normed(pool_behind=nn.ReLU):
    """1 + 0 and 0 + 1: two patches with one sum, before batch norm."""
    conv = nn.Conv2d(1, 1, (1, 2), bias=False)
    conv.weight.data.fill_(1.0)
    net = nn.Sequential(
        conv, nn.BatchNorm2d(1), pool_behind(), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 2)
    )
    torch.nn.init.constant_(net[5].weight, 0.5)
    net[5].weight.data[0] = -0.25
    images = torch.tensor([[[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, 0.5]]]])
    return net.double().train(), images.double()


@pytest.mark.parametrize("mode", ["random", "proof"])
def test_equal_sums_of_different_patches_bifurcate_behind_batch_norm(mode):
    net, images = normed()
    certificate = certify(net, images, torch.tensor([0, 1]), mode=mode)
    verdict = certificate.verdicts[0]
    assert verdict.different is True
    assert set(verdict.num_nonzero) == {"0.weight"}
    assert certificate.reason is None
    assert certificate.evidence.primes
    assert certificate.evidence.log2_error <= (-40 if mode == "random" else -math.inf)


@pytest.mark.parametrize("mode", ["random", "proof"])
def test_sums_that_are_only_nearly_equal_are_not_taken_for_tied(mode):
    """They are one last place apart, which no interval behind batch norm tells from a tie; residues do."""
    net, images = normed()
    net[0].weight.data[..., 1] += 2.0**-52
    certificate = certify(net, images, torch.tensor([0, 1]), mode=mode)
    assert certificate.verdicts[0].different is None
    assert "1 window at 3" in certificate.reason


def test_balls_hold_the_derivatives_at_every_point_of_a_wider_one():
    """One node at a time is known to 1e-6 only: D at numbers drawn from its ball lies in the balls of D."""
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for seed in range(24):
        graph, cotangent = network(seed)
        found = enclosed(graph, cotangent, seed)
        if found.open:
            continue
        for at, ball in found.values.items():
            step = (torch.rand(ball.value.shape, generator=generator) * 1.8 - 0.9) * 1e-6
            outer, inner = (
                difference(
                    graph, cotangent, replace(found, values=found.values | {at: other}), RULES[seed % 4]
                )
                for other in (Ball(ball.value, ball.radius + 1e-6), Ball(ball.value + step, ball.radius))
            )
            for name, d in inner.items():
                away = (d.value - outer[name].value).abs()
                assert bool((away <= d.radius + outer[name].radius).all()), (seed, at, name)
                compared += int((away > 1e-9).sum())
    assert compared > 100  # the points were moved, and D with them


def test_a_rational_tie_of_equal_patches_has_no_interval_without_0():
    """D = 0 is proved by structure; intervals could not."""
    net, images = normed()
    images[0, 0, 0] = 1.0
    graph, output = record(net, images)
    cotangent = cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0, 1]))
    found = enclosed(graph, cotangent, 1)
    balls = difference(graph, cotangent, found, TieRule(Fraction(1)))
    assert all(
        low <= 0 <= high
        for ball in balls.values()
        for low, high in [interval(ball, at) for at in places_of(ball.value.shape)]
    )
    assert certify_graph(graph, cotangent, seed=1).verdicts[0].different is False


def test_a_channel_that_does_not_vary_proves_nothing():
    """Four equal sums: their variance is 0 and the factor one over the root of eps, in no finite ball."""
    net, images = normed()
    images[1, 0, 0] = torch.tensor([1.0, 0.0, 1.0])
    net[1].eps = 1e-300
    certificate = certify(net, images, torch.tensor([0, 1]))
    assert certificate.verdicts[0].different is None
    assert "intervals" in certificate.reason


@pytest.mark.parametrize("seed", range(6))
def test_the_arithmetic_of_balls_holds(seed):
    """Products, sums and means at points anywhere in the balls, in 50 digits; sizes from 1e-320 to 1e150."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** [-320, -160, -30, 0, 30, 150][seed]
    a, b = (
        Ball(value, value.abs() * 2.0**-40 + scale * 2.0**-60)
        for value in (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) * scale for _ in "ab")
    )
    with localcontext() as context:
        context.prec = 1200
        for _ in range(10):
            at = [
                [
                    Decimal(v) + Decimal(r) * Decimal(t)
                    for v, r, t in zip(
                        ball.value.flatten().tolist(),
                        ball.radius.flatten().tolist(),
                        (2 * torch.rand(60, generator=generator) - 1).double().tolist(),
                        strict=True,
                    )
                ]
                for ball in (a, b)
            ]
            assert_within(times(a, b), [one * two for one, two in zip(*at, strict=True)])
            rows = [at[0][20 * n + 5 * k : 20 * n + 5 * k + 5] for n in range(3) for k in range(4)]
            columns = [sum(sum(rows[4 * n + k]) for n in range(3)) for k in range(4)]
            assert_within(sums(a, (0, 2)), columns)
            assert_within(mean(a, (0, 2)), [one / 15 for one in columns])


def assert_within(ball, true):
    for value, radius, one in zip(
        ball.value.flatten().tolist(), ball.radius.flatten().tolist(), true, strict=True
    ):
        assert abs(Decimal(value) - one) <= Decimal(radius)


@pytest.fixture(scope="module")
def written():
    net, images = normed()
    graph, output = record(net, images)
    cotangent = cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0, 1]))
    rules = (MINIMAL, PoolJacobian(beta=0.5))
    stored = Stored(
        about="a network",
        graph=graph,
        cotangent=cotangent,
        jacobians=rules,
        mode=Mode.RANDOM,
        log2_error=-40.0,
        certificate=certify_graph(graph, cotangent, jacobians=rules, seed=1),
        gaps={},
        provenance={},
    )
    return stored, *pack(stored, tensors_name="c")


def standings(text, block):
    found = recheck(unpack(text, lambda _: block))
    return {one.field: one.standing for one in found if isinstance(one, Finding)}


def test_a_separation_is_written_read_and_checked(written):
    stored, text, block = written
    assert unpack(text, lambda _: block).stored.certificate == stored.certificate
    assert set(standings(text, block).values()) == {Standing.SAME}


@pytest.mark.parametrize(
    ("way", "value", "field"),
    [
        (("separation", "low"), 1e6, "separation"),
        (("separation", "high"), -1e6, "separation"),
        (("separation", "index"), [9, 9, 9, 9], "separation"),
        (("separation", "tensor"), "5.bias", "separation"),
        (("num_nonzero", "0.weight"), 99, "num_nonzero.0.weight"),
        (("different",), False, "different"),
        (("different",), False, "separation"),
        (("separation",), None, "separation"),
    ],
)
def test_an_edited_separation_is_named(written, way, value, field):
    """Of the second rule, whose name has a dot in it."""
    _, text, block = written
    body = json.loads(text)
    tree = body["answer"]["verdicts"]["beta0.5"]
    for key in way[:-1]:
        tree = tree[key]
    if value is None:
        del tree[way[-1]]
    else:
        tree[way[-1]] = value
        if way[-1] == "low":
            tree["high"] = 2e6
        if way[-1] == "high":
            tree["low"] = -2e6
    body["sums"] = {name: sum_of(section) for name, section in body.items() if name != "sums"}
    assert standings(json.dumps(body), block)[f"answer.verdicts.beta0.5.{field}"] is Standing.OTHER


def test_intervals_of_another_machine_are_no_fault(written, monkeypatch):
    """Wider balls prove fewer entries, or none: noted, or open."""
    _, text, block = written
    for factor, worst in ((2.0**10, Standing.NOTED), (2.0**60, Standing.OPEN)):
        wide = lambda a, b, factor=factor: replace(times(a, b), radius=times(a, b).radius * factor)  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr("tiebreak.exact.separation.times", wide)
            found = set(standings(text, block).values())
        assert Standing.OTHER not in found
        assert worst in found
