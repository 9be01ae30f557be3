"""Batch norm in training mode: what following places of the images proves, and what it leaves open."""

import json
from decimal import Decimal, localcontext
from fractions import Fraction
from math import comb

import pytest
import torch
from networks import random_point
from torch import nn

from tiebreak import MINIMAL, PoolJacobian, certify
from tiebreak.data import load, train_batches
from tiebreak.design.cell import Data, Network
from tiebreak.exact import oracle
from tiebreak.exact.bounds import Ball
from tiebreak.exact.certificate import Mode
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.classes import Classes, hash_degree
from tiebreak.exact.evaluation import Evaluation
from tiebreak.exact.files import Stored, pack, sum_of, unpack
from tiebreak.exact.graph import BatchNorm2d, NotCertifiableError, Parameter
from tiebreak.exact.primes import draw_primes
from tiebreak.exact.recheck import Finding, Standing, recheck
from tiebreak.exact.record import record
from tiebreak.exact.rules import TieRule
from tiebreak.exact.structure import _normalised, structure
from tiebreak.models import build


def digits(tmp_path, number=8):
    data = Data(name="mnist5k", batch_size=number)
    batch = next(train_batches(load(data, root=tmp_path), data=data, epoch=0, order_seed=0, augment_seed=0))
    return batch.images, batch.labels


def test_where_structure_says_equal_the_derivatives_are():
    """The argument does not need batch norm, so the oracle can judge it on networks without."""
    said = differ = live = 0
    for seed in range(350):
        point = random_point(seed)
        try:
            found = structure(point.graph, primes=draw_primes(6, seed=seed), seed=seed)
        except NotCertifiableError:
            continue
        for beta in (Fraction(1), Fraction(-3, 2)):
            d = oracle.difference(point.graph, point.cotangent, TieRule(beta), TieRule(Fraction(0)))
            different = any(any(entries) for entries in d.values())
            differ += different
            if not found.open:
                said += 1
                live += found.live > 0
                assert not different, seed
    assert min(said, differ, live) > 25, (said, differ, live)


@pytest.mark.parametrize("arch", ["lenet5", "densenet121"])
def test_networks_in_training_mode_are_proved_equal(arch, tmp_path):
    images, labels = digits(tmp_path)
    if arch == "densenet121":
        images = nn.functional.interpolate(images, size=32).expand(-1, 3, -1, -1)
    model = build(
        Network(arch=arch, batch_norm=True),
        num_classes=10,
        in_channels=images.shape[1],
        jacobian=MINIMAL,
        seed=0,
    ).train()
    certificate = certify(model, images, labels, jacobians=(MINIMAL, PoolJacobian(beta=100)), seed=1)
    assert [verdict.different for verdict in certificate.verdicts] == [False, False]
    assert certificate.evidence.log2_error <= -40
    assert certificate.reason is None


def crafted(gap=0.0):
    """A 2x2 window whose two largest sums come from different patches: 1 + 0 and 0 + 1."""
    conv = nn.Conv2d(1, 1, (1, 2), bias=False)
    conv.weight.data.copy_(torch.tensor([[[[1.0, 1.0 + gap]]]]))
    net = nn.Sequential(
        conv, nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 2)
    )
    images = torch.tensor([[[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, 0.5]]]])
    return net.double().train(), images.double()


def test_different_patches_of_irrational_numbers_with_one_sum_are_undecided_and_say_where():
    """Batch norm comes first: 1 + 0 and 0 + 1 are sums of the same irrational numbers; nothing proves it."""
    net, images = crafted()
    net.insert(0, nn.BatchNorm2d(1, dtype=torch.float64))
    certificate = certify(net, images, torch.tensor([0, 1]))
    assert certificate.verdicts[0].different is None
    assert certificate.verdicts[0].separation is None
    assert "1 window at 4" in certificate.reason
    assert "training mode" in certificate.reason


def test_sums_that_float64_tells_apart_are_no_tie():
    net, images = crafted(gap=2.0**-20)
    certificate = certify(net, images, torch.tensor([0, 1]))
    assert certificate.verdicts[0].different is False
    assert certificate.evidence.primes == ()


def test_proof_and_rules_that_do_not_share_out_need_more_than_structure(tmp_path):
    images, labels = digits(tmp_path)
    model = build(
        Network(arch="lenet5", batch_norm=True), num_classes=10, in_channels=1, jacobian=MINIMAL, seed=0
    ).train()
    proof = certify(model, images, labels, mode=Mode.PROOF)
    assert proof.verdicts[0].different is None
    assert "no proof" in proof.reason
    both = certify(model, images, labels, jacobians=(MINIMAL, PoolJacobian(selection="all_ones")))
    assert [verdict.different for verdict in both.verdicts] == [False, True]  # all_ones counts ties twice
    assert both.verdicts[1].separation is not None
    assert both.evidence.log2_error <= -40


def test_a_pool_behind_a_linear_layer_is_undecided():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)),
        nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    nn.init.zeros_(net[3].weight)  # every entry of a window is the same number
    nn.init.zeros_(net[3].bias)
    with pytest.raises(NotCertifiableError, match="max pool behind"):
        certify(net.train(), torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_of_batch_norm_holds(seed):
    """Against 60 decimal digits; inputs are balls, and the truth is taken at their centres and ends."""
    generator = torch.Generator().manual_seed(seed)
    shape, scale = (3, 2, 2, 2), 10.0 ** (seed - 4)
    value = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + seed
    radius = value.abs() * 2.0**-45
    weight = Parameter(torch.randn(2, generator=generator, dtype=torch.float64), "w")
    bias = Parameter(torch.randn(2, generator=generator, dtype=torch.float64), "b")
    operation = BatchNorm2d(weight, bias, 1e-5)
    found = _normalised(Ball(value, radius), operation)
    for ends in (torch.zeros(shape), *(torch.randint(-1, 2, shape, generator=generator) for _ in range(20))):
        point = value + 0.99 * radius * ends
        for channel in range(2):
            with localcontext() as context:
                context.prec = 60
                x = [Decimal(number) for number in point[:, channel].flatten().tolist()]
                mean = sum(x) / len(x)
                deviation = (sum((one - mean) ** 2 for one in x) / len(x) + Decimal(operation.eps)).sqrt()
                true = [
                    (one - mean) / deviation * Decimal(float(weight.value[channel]))
                    + Decimal(float(bias.value[channel]))
                    for one in x
                ]
            centres, bounds = (part[:, channel].flatten().tolist() for part in (found.value, found.radius))
            got = zip(centres, bounds, true, strict=True)
            assert all(abs(Decimal(centre) - exact) <= Decimal(bound) for centre, bound, exact in got)


def written(net, images, labels, *, seed=1):
    graph, output = record(net, images)
    cotangent = cotangent_of(nn.functional.cross_entropy, output, labels)
    stored = Stored(
        about="a network",
        graph=graph,
        cotangent=cotangent,
        jacobians=(MINIMAL,),
        mode=Mode.RANDOM,
        log2_error=-40.0,
        certificate=certify_graph(graph, cotangent, jacobians=(MINIMAL,), seed=seed),
        gaps={},
        provenance={},
    )
    text, block = pack(stored, tensors_name="c")
    return unpack(text, lambda _: block), text, block


def findings(unpacked):
    return {found.field: found.standing for found in recheck(unpacked) if isinstance(found, Finding)}


def coarse(monkeypatch, factor):
    """Another machine: its float64 knows the numbers behind batch norm less well."""

    def widened(x, operation):
        ball = _normalised(x, operation)
        return Ball(ball.value, ball.radius * factor)

    monkeypatch.setattr("tiebreak.exact.structure._normalised", widened)


def test_what_a_filter_leaves_open_is_no_error_on_another_machine(monkeypatch):
    """More windows are open there, all between equal patches: the same verdict from other counts."""
    conv = nn.Conv2d(1, 1, 1, bias=False).double()
    head = (nn.Flatten(), nn.Linear(2, 2).double())
    net = nn.Sequential(conv, nn.BatchNorm2d(1).double(), nn.ReLU(), nn.MaxPool2d((1, 2)), *head).train()
    e = 2.0**-20
    # All eight have the mean 0, so the two equal pixels at -e lie just below the ReLU's kink: dead, if seen.
    images = torch.tensor([[[[3.0, 3.0, -e, -e]]], [[[-2.0, -2.0, -1.0, -1.0 + 2 * e]]]]).double()
    conv.weight.data.fill_(1.0)
    here, _, _ = written(net, images, torch.tensor([0, 1]))
    assert here.stored.certificate.verdicts[0].different is False
    coarse(monkeypatch, 2.0**40)
    there, _, _ = written(net, images, torch.tensor([0, 1]))
    counts = [found.stored.certificate.evidence.num_equalities for found in (here, there)]
    assert counts == [1, 2]
    found = findings(here)
    assert found["evidence.num_equalities"] is Standing.NOTED
    assert set(found.values()) <= {Standing.SAME, Standing.NOTED}


def test_what_is_not_decided_on_another_machine_is_neither_wrong_nor_verified(monkeypatch):
    net, images = crafted(gap=2.0**-20)
    fine, text, block = written(net, images, torch.tensor([0, 1]))
    assert set(findings(fine).values()) == {Standing.SAME}
    with monkeypatch.context() as patch:
        coarse(patch, 2.0**40)
        found = findings(fine)
        rough, _, _ = written(net, images, torch.tensor([0, 1]))
        assert found["answer.verdicts.minimal.different"] is Standing.OPEN
        assert Standing.OTHER not in found.values()
    # What was undecided there and is decided here is no fault of the certificate.
    assert rough.stored.certificate.verdicts[0].different is None
    found = findings(rough)
    assert found["answer.verdicts.minimal.different"] is Standing.NOTED
    assert Standing.OTHER not in found.values()
    # An error bound or a prime that nobody derived stays wrong, as does a yes in place of a no.
    for way, value in (
        (("evidence", "log2_error"), -99.0),
        (("evidence", "primes"), [1048583]),
        (("answer", "verdicts", "minimal", "different"), True),
    ):
        body = json.loads(text)
        tree = body
        for key in way[:-1]:
            tree = tree[key]
        tree[way[-1]] = value
        body["sums"] = {name: sum_of(section) for name, section in body.items() if name != "sums"}
        edited = unpack(json.dumps(body), lambda _: block)
        assert findings(edited)[".".join(way)] is Standing.OTHER


class ScaledClasses(Classes):
    """All random weights times one number."""

    def __init__(self, prime, seed, factor):
        super().__init__(prime, seed)
        self.factor = factor

    def _drawn(self, *shape, like):
        return self.reduce(super()._drawn(*shape, like=like) * self.factor)


def test_a_hash_is_a_polynomial_of_no_higher_degree_than_its_error_bound_takes():
    """Differences of an order above the degree are 0, and there are hashes that need more than two a node."""
    averages = [nn.AvgPool2d(2, stride=1) for _ in range(8)]
    network = nn.Sequential(*averages, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    graph, _ = record(network, torch.rand(1, 1, 12, 12, generator=generator))
    (prime,) = draw_primes(1, seed=0)
    source = graph.nodes[graph.pools[0]].inputs[0]
    hashes = [
        int(
            Evaluation(ScaledClasses(prime, 0, factor), graph, graph.batch, keep=frozenset())
            .advance(source, {})
            .flatten()[0]
        )
        for factor in range(hash_degree(graph) + 2)
    ]

    def difference(order):
        return sum((-1) ** k * comb(order, k) * hashes[order - k] for k in range(order + 1)) % prime

    assert difference(hash_degree(graph) + 1) == 0
    assert any(difference(order) for order in range(2 * len(graph.nodes) + 1, hash_degree(graph) + 1))
