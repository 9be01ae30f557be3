"""Networks, batches and surroundings made to deceive a certificate, each against the whole of `certify`."""

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import networks
import pytest
import torch
from networks import random_point
from torch import nn

from tiebreak.design.axes import PoolJacobian, UserError
from tiebreak.exact import certify as certify_module
from tiebreak.exact import decide
from tiebreak.exact.certificate import Label, Mode
from tiebreak.exact.certify import certify, certify_graph, cotangent_of
from tiebreak.exact.graph import (
    Conv2d,
    Graph,
    Input,
    MaxPool2d,
    Node,
    NotCertifiableError,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.exact.heights import heights
from tiebreak.exact.oracle import difference, evaluate, tied
from tiebreak.exact.primes import draw_primes, log2_error
from tiebreak.exact.record import record
from tiebreak.exact.rules import TieRule
from tiebreak.exact.run import Run
from tiebreak.numerics.geometry import PoolGeometry

MINIMAL, NATIVE = TieRule(Fraction(1)), TieRule(Fraction(0))
CROSS_ENTROPY = nn.functional.cross_entropy


def judged(model, images, *, labels=None, seed=0, **options):
    """A certificate that agrees with the oracle in every count, and what the oracle found."""
    graph, output = record(model, images)
    labels = torch.zeros(len(images), dtype=torch.long) if labels is None else labels
    return judged_graph(graph, cotangent_of(CROSS_ENTROPY, output, labels), seed=seed, **options)


def judged_graph(graph, cotangent, *, seed=0, **options):
    """The same for a graph."""
    certificate = certify_graph(graph, cotangent, seed=seed, keep_entries=True, **options)
    truth = difference(graph, cotangent, MINIMAL, NATIVE)
    verdict = certificate.verdicts[0]
    for name, entries in truth.items():
        assert verdict.entries[name].flatten().tolist() == [entry != 0 for entry in entries], name
    counts = {name: sum(entry != 0 for entry in entries) for name, entries in truth.items()}
    assert verdict.num_nonzero == {name: count for name, count in counts.items() if count}
    assert verdict.different == any(counts.values())
    ties = tied(graph, evaluate(graph))
    assert [pool.tied for pool in certificate.pools] == [
        sum(len(window) > 1 for window in ties[index]) for index in graph.pools
    ]
    return certificate


def in_a_row(batch, weight, *, relu=False):
    """Images of one row of pixels, a filter of one pixel, perhaps a ReLU, and the maximum of all pixels."""
    images, channels, _, pixels = batch.shape
    shape, mask = (images, 1, 1, pixels), torch.zeros(-(-pixels // 8), images, 1, 1, 1, dtype=torch.uint8)
    kernel = Parameter(weight.double().reshape(1, channels, 1, 1), "weight")
    nodes = [
        Node(Input(), (), tuple(batch.shape), "batch"),
        Node(Conv2d(kernel, None, (1, 1), (0, 0), (1, 1), 1), (0,), shape, "conv"),
    ]
    if relu:
        nodes.append(Node(ReLU(), (1,), shape, "relu"))
    nodes.append(
        Node(MaxPool2d(PoolGeometry.of((1, pixels)), mask), (len(nodes) - 1,), (images, 1, 1, 1), "pool")
    )
    nodes.append(Node(Reshape(), (len(nodes) - 1,), (images, 1), "flatten"))
    return Graph(tuple(nodes), len(nodes) - 1, batch.double(), {"weight": (1, channels, 1, 1)})


def ones(number=1):
    return torch.ones(number, 1, dtype=torch.float64)


def small(*, dtype=torch.float32, seed=0, **options):
    """A network that the oracle can follow."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 3, **options), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def flat(number=3, *, dtype=torch.float32):
    """A light pixel in the dark: equal patches tie, and under a filter with a symmetry different ones."""
    images = torch.zeros(number, 1, 6, 6, dtype=dtype)
    images[:, :, 2, 2] = 0.5
    images[:, :, 5, 3:] = 0.5
    images[1:, :, 0, 0] = 0.25
    return images


def symmetric(**options):
    """A filter that is its own mirror image: different patches tie."""
    net = small(**options)
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
        net[0].bias[:] = torch.tensor([0.25, 0.5])
    return net


# Sums that are long


def halves(*, seed):
    """9,216 products of 1/2 and 1/2 a sum, whose residue is the largest there is; different patches tie."""
    batch = torch.full((1, 9216, 1, 2), 0.5)
    batch[0, :2, 0, 1] = torch.tensor([0.25, 0.75])
    return judged_graph(in_a_row(batch, torch.full((9216,), 0.5)), ones(), seed=seed)


@pytest.mark.parametrize("seed", range(2))
def test_sums_of_more_than_8192_products(seed):
    certificate = halves(seed=seed)
    assert certificate.verdicts[0].different
    assert certificate.pools[0].tied == 1


def test_a_constant_image_of_halves():
    """All windows but those in the corners tie, between equal patches; derivatives are sums of 50,176."""
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *head)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
    certificate = certify(net, torch.full((1, 1, 224, 224), 0.5), torch.zeros(1).long(), seed=0)
    assert not certificate.verdicts[0].different
    assert certificate.pools[0].windows == 112 * 112
    assert certificate.pools[0].tied == 112 * 112 - 4


@pytest.mark.parametrize("seed", [5, 7, 8, 12, 0])
def test_ties_whose_residue_is_next_to_half_the_prime(seed):
    """Sums close to 2**53 of one class, the class of 1/2: reduced, they may differ by a whole prime."""
    number = 8154
    batch = torch.full((1, number + 3, 1, 2), 0.5)
    batch[0, -1] = 1.0
    batch[0, number : number + 2, 0, 1] = torch.tensor([1.0, 0.0])
    weight = torch.full((number + 3,), 0.5)
    weight[number:] = torch.tensor([1.0, 1.0, -2039.0])
    assert judged_graph(in_a_row(batch, weight), ones(), seed=seed).pools[0].tied == 1


# Primes that are known


class Chain(nn.Module):
    """A real bifurcation whose difference is a product of chosen numbers over powers of two."""

    def __init__(self, factors):
        super().__init__()
        self.filter = nn.Conv2d(1, 1, (1, 2), bias=False)
        self.chain = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in factors))
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.filter.weight.fill_(1.0)
            self.head.weight[:] = torch.tensor([[1.0], [0.0]])
            for layer, factor in zip(self.chain, factors, strict=True):
                layer.weight.fill_(factor / 2**21)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.filter(x), (1, 2))
        return self.head(self.chain(x.flatten(1)))


TIE = torch.tensor([[[[1.0, 0.0, 1.0]]]])  # patches (1, 0) and (0, 1) under the filter (1, 1)


def test_weights_made_of_the_primes_deceive_who_tells_them_before_and_no_one_else():
    """p / 2**21 is an ordinary fp32 number. Known primes are no evidence; hence random ones."""
    known = draw_primes(6, seed=0)
    net = Chain(known)
    graph, _ = record(net, TIE)
    cotangent = torch.tensor([[1.0, 0.0]]).double()
    assert certify_graph(graph, cotangent, seed=0).verdicts[0].different is False  # wrong, and documented
    assert len(certify_graph(graph, cotangent, seed=0).evidence.primes) <= 6
    for seed in range(1, 30):
        assert judged_graph(graph, cotangent, seed=seed).verdicts[0].different
    proved = certify_graph(graph, cotangent, seed=0, mode=Mode.PROOF)
    assert proved.verdicts[0].different
    assert len(proved.evidence.primes) > 6
    drawn = {certify_graph(graph, cotangent).evidence.seed for _ in range(5)}
    assert len(drawn) == 5  # no seed given: one that no one knows


def test_counts_are_those_of_all_primes():
    """Each prime alone takes another entry for 0."""
    known = draw_primes(3, seed=0)
    graph, _ = record(nn.Sequential(_Split(known)), TIE.expand(1, 3, 1, 3))
    certificate = judged_graph(graph, torch.ones(1, 3).double(), seed=0)
    assert certificate.verdicts[0].num_nonzero == {"0.filter.weight": 6}


class _Split(nn.Module):
    """Three channels apart, each scaled by one of the primes after the pool."""

    def __init__(self, factors):
        super().__init__()
        self.filter = nn.Conv2d(3, 3, (1, 2), bias=False, groups=3)
        self.scale = nn.Conv2d(3, 3, 1, bias=False, groups=3).requires_grad_(False)
        with torch.no_grad():
            self.filter.weight.fill_(1.0)
            self.scale.weight[:] = torch.tensor(factors).reshape(3, 1, 1, 1) / 2**21

    def forward(self, x):
        return self.scale(nn.functional.max_pool2d(self.filter(x), (1, 2))).flatten(1)


def test_pairs_that_differ_count_in_the_error():
    """A pair that is compared might be taken for equal, whether or not others are."""
    for number in (0, 400):
        batch = torch.ones(1 + number, 3, 1, 2, dtype=torch.float64)
        batch[0, :2, 0] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # equal over the reals
        batch[1:, 0, 0, 1] += 2.0**-52  # not equal, and float64 leaves it open
        batch[:, 2] = 2.0**-900  # makes the whole numbers long
        graph, cotangent = in_a_row(batch, torch.tensor([1 / 3, 1 / 3, 0.0])), ones(1 + number)
        evidence = judged_graph(graph, cotangent).evidence
        assert (evidence.num_equalities, evidence.num_escalated) == (1, number)
        bits = heights(graph, cotangent, rules=[MINIMAL]).equality[1]
        each = log2_error(bits, primes=evidence.primes)
        assert -math.inf < each + math.log2(1 + number) <= evidence.log2_error <= -40


def test_pairs_count_in_the_error_also_at_a_node_where_all_of_them_differ():
    """Residues tell which nodes have no equality: to leave these out would be a choice made afterwards."""
    for seed in (241, 263, 328):
        point, rules = random_point(seed), [TieRule(Fraction(1)), TieRule(Fraction(2))]
        sizes = heights(point.graph, point.cotangent, rules=rules)
        run = Run(
            graph=point.graph,
            cotangent=point.cotangent,
            rules=rules,
            mode=Mode.RANDOM,
            heights=sizes,
            num_primes=3,
            seed=seed,
        )
        run.all_parts()
        assert any(number and not run.equalities[node] for node, number in run.comparisons.items())
        evidence = run.certificate(["one", "two"], keep_entries=False).evidence
        every = 0.0
        for node, number in run.comparisons.items():
            bits = sizes.equality[point.graph.nodes[node].inputs[0]]
            every += number * 2 ** log2_error(bits, primes=evidence.primes)
        assert 0 < every <= 2**evidence.log2_error * (1 + 2**-40)


# Numbers that are no numbers, and ends of the range


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_pixel_or_parameter_that_is_not_finite(bad):
    net, images, labels = small(), flat(), torch.zeros(3).long()
    images[1, 0, 2, 2] = bad
    certificates = [certify(net, images, labels, seed=0)]
    with torch.no_grad():
        net[4].weight[0, 0] = bad
    certificates.append(certify(net, flat(), labels, seed=0))
    graph, _ = record(small(), flat())
    cotangent = torch.zeros(3, 3).double()
    cotangent[0, 0] = bad
    certificates.append(certify_graph(graph, cotangent, seed=0))
    broken = graph.batch.clone()
    broken[0, 0, 0, 0] = bad
    certificates.append(certify_graph(replace(graph, batch=broken), torch.ones(3, 3).double(), seed=0))
    places = [certificate.nonfinite for certificate in certificates]
    assert places[0] == places[3] == "the batch"
    assert "4" in places[1]
    assert places[2] == "the cotangent"
    for certificate in certificates:
        assert certificate.verdicts[0].different is None
        assert certificate.verdicts[0].label(gap_is_zero=True, nonfinite=True) is Label.NONFINITE
        assert certificate.reason


@pytest.mark.parametrize(
    "signs", [(-1, -1, 1, 1, 1), (1, 1, -1, -1, 1), (1, 1, -1, -1, -1), (1, -1, 1, -1, 0)]
)
@pytest.mark.parametrize("relu", [True, False])
def test_overflow_on_the_way_is_decided_by_fixed_point(signs, relu):
    """float64 finds an infinity of either sign, or NaN; over the reals the sum is 1, 0 or -1."""
    large = 1.5 * 2.0**1023
    batch = torch.zeros(2, 5, 1, 3, dtype=torch.float64)
    batch[:, :4, 0, 0] = large
    batch[:, 4] = 1.0
    batch[1, :, 0, 1] = torch.tensor([large, 0, large, 0, 1.0], dtype=torch.float64)
    judged_graph(in_a_row(batch, torch.tensor(signs), relu=relu), ones(2))


def test_weights_of_1e200_and_more():
    net = small(dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.mul_(1e200)
        net[0].bias.mul_(1e200)
        net[4].weight.mul_(1e-300)
    certificate = judged(net, flat(dtype=torch.float64))
    assert certificate.nonfinite is None
    assert certificate.verdicts[0].different is not None
    batch = torch.full((1, 4, 1, 2), 2.0**-900, dtype=torch.float64)
    batch[0, :2, 0, 1] = torch.tensor([2.0**-899, 0.0], dtype=torch.float64)
    weight = torch.full((4,), torch.finfo(torch.float64).max, dtype=torch.float64)  # their sum overflows
    assert judged_graph(in_a_row(batch, weight), ones()).verdicts[0].different
    assert judged_graph(in_a_row(batch, weight), ones(), mode=Mode.PROOF).verdicts[0].different


def test_products_next_to_the_smallest_number():
    """2**-538 * 2**-538 is 0 in float64, and its sign is not that of 0; equal products tie all the same."""
    batch = torch.full((3, 2, 1, 2), 2.0**-538, dtype=torch.float64)
    batch[1, 0, 0, 1] *= 3
    batch[2, 0, 0] = torch.tensor([2.0**-537, 0.0], dtype=torch.float64)
    for first, second in ((1, 1), (1, -1), (-1, -1)):
        weight = torch.tensor([first * 2.0**-538, second * 2.0**-538], dtype=torch.float64)
        for relu in (True, False):
            certificate = judged_graph(in_a_row(batch, weight, relu=relu), ones(3))
            assert certificate.evidence.digits > 0 or certificate.evidence.num_equalities > 0


# Surroundings


@contextmanager
def flushing():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_flushing_is_refused_with_a_sentence_and_works_after():
    graph, cotangent = record(small(), flat())[0], torch.ones(3, 3).double()
    with flushing(), pytest.raises(UserError, match=r"torch\.set_flush_denormal\(False\)"):
        certify_graph(graph, cotangent, seed=0)
    judged_graph(graph, cotangent)


def test_a_thread_that_flushes_is_noticed():
    """Threads inherit the setting when they start, and turning it off does not reach them."""
    program = (
        "import torch\n"
        "from tiebreak.exact.dyadic import subnormal_numbers_are_kept as kept\n"
        "torch.set_num_threads(2)\n"
        "torch.set_flush_denormal(True)\n"
        "torch.ones(10**6).mul(2)\n"
        "torch.set_flush_denormal(False)\n"
        "one = torch.full((1,), 2.0**-1074, dtype=torch.float64)\n"
        "many = torch.full((10**6,), 2.0**-1074, dtype=torch.float64)\n"
        "print(bool((one * 2).all()), bool((many * 2).all()) == kept())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "True"]


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "default dtype": lambda: default_dtype(torch.float16),
    "two threads": lambda: threads(2),
    "deterministic": lambda: deterministic(),
}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_do_not_matter(name):
    net, images, labels = symmetric(), flat(), torch.zeros(3).long()
    graph, output = record(net, images)
    cotangent = cotangent_of(CROSS_ENTROPY, output, labels)
    expected = judged_graph(graph, cotangent)
    with SURROUNDINGS[name]():
        found = certify_graph(graph, cotangent, seed=0, keep_entries=True)
        whole = certify(net, images, labels, seed=0)
        again = cotangent_of(CROSS_ENTROPY, output, labels)
    assert torch.equal(again, cotangent)
    assert found.pools == expected.pools
    assert found.evidence == expected.evidence
    assert found.verdicts[0].num_nonzero == expected.verdicts[0].num_nonzero
    if name != "autocast":  # in which the program has another output, and so another cotangent
        assert replace(whole.verdicts[0], entries=None) == replace(expected.verdicts[0], entries=None)
        assert whole.evidence == expected.evidence
    assert whole.verdicts[0].different == expected.verdicts[0].different


def test_nothing_is_left_behind():
    """Neither in the module nor in the graph nor in torch."""
    net, images = symmetric(), flat()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copy, state, mode = images.clone(), torch.get_rng_state(), net.training
    certify(net, images, torch.zeros(3).long())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(images, copy)
    assert torch.equal(state, torch.get_rng_state())
    assert net.training == mode
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())
    graph, _ = record(net, images)
    tensors = [graph.batch, *(part.value for part in _parameters(graph))]
    copies = [tensor.clone() for tensor in tensors]
    certify_graph(graph, torch.ones(3, 3).double(), seed=0, mode=Mode.PROOF)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


def _parameters(graph):
    for node in graph.nodes:
        yield from (part for part in vars(node.operation).values() if isinstance(part, Parameter))


def test_a_seed_decides_everything():
    net, images, labels = symmetric(), flat(), torch.zeros(3).long()
    one, other = (certify(net, images, labels, seed=3) for _ in range(2))
    assert one == other
    another = certify(net, images, labels, seed=4)
    assert another.evidence.primes != one.evidence.primes
    assert (another.verdicts, another.pools) == (one.verdicts, one.pools)


# Options and layers


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 2},
        {"padding": 1, "dilation": 2},
        {"padding": 2, "stride": 2, "bias": False},
        {"padding": 1, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "zeros"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "pool", [{}, {"ceil_mode": True}, {"stride": 1, "padding": 1}, {"dilation": 2, "stride": 1}], ids=str
)
def test_no_option_is_ignored(options, pool):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 2, 3, **options),
        nn.ReLU(),
        nn.MaxPool2d(2, **pool),
        nn.Flatten(),
        nn.LazyLinear(2),
    ]
    net = nn.Sequential(*layers)
    net(flat())
    with torch.no_grad():
        net[0].weight.mul_(4).round_()  # a grid on which different patches tie
    judged(net, flat(2))


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Tanh(), "tanh"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Hardtanh(), "hardtanh"),
        (nn.ReLU6(), "hardtanh"),
        (nn.Softplus(), "softplus"),
        (nn.Dropout(), "div_"),
        (nn.InstanceNorm2d(2), "mixes the images"),
        (nn.LPPool2d(2, 2), "pow"),
        (nn.FractionalMaxPool2d(2, output_size=2), "fractional|rand"),
        (nn.Upsample(scale_factor=2), "upsample"),
        (nn.ConvTranspose2d(2, 2, 1), "transposed"),
        (nn.Conv2d(2, 2, 1, padding=1, padding_mode="circular"), "certified"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_layer_is_ignored(layer, word):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2))
    net(flat())
    with pytest.raises(NotCertifiableError, match=word):
        certify(net, flat(), torch.zeros(3).long())


def test_a_saturated_softmax_is_vacuous():
    """No image has a cotangent; D = 0 says nothing then, and the certificate says that."""
    net = symmetric(dtype=torch.float64)
    with torch.no_grad():
        net[4].bias[:] = torch.tensor([1e6, 0.0, 0.0])
    certificate = judged(net, flat(dtype=torch.float64))
    assert certificate.evidence.vacuous
    assert not certificate.verdicts[0].different
    assert not judged(symmetric(), flat()).evidence.vacuous
    assert judged(net, flat(dtype=torch.float64), labels=torch.ones(3).long()).evidence.vacuous is False


def test_an_open_neuron_is_decided_before_it_is_used(monkeypatch):
    """float64 leaves the sign open, and D depends on it; without escalation the verdict would be wrong."""
    third = 1 / 3
    numbers = (third, -third, 2.0**-60, 2.0**-60, third, -third)
    batch = torch.tensor(numbers, dtype=torch.float64).reshape(1, 6, 1, 1).repeat(1, 1, 1, 2)
    batch[0, 2:4, 0, 1] = torch.tensor([2.0**-59, 0.0])
    graph = in_a_row(batch, torch.ones(6), relu=True)
    certificate = judged_graph(graph, ones())
    assert certificate.verdicts[0].different
    assert certificate.evidence.num_escalated == 2
    assert certificate.evidence.digits > 0
    monkeypatch.setattr(decide.Walk, "_refine", lambda *_: None)
    with pytest.raises(AssertionError):
        judged_graph(graph, ones())


# Batches


@pytest.mark.parametrize("net", [small, symmetric])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_images_in_parts_are_the_same_images(net, chunk):
    graph, output = record(net(), flat(5))
    cotangent = cotangent_of(CROSS_ENTROPY, output, torch.zeros(5).long())
    expected = judged_graph(graph, cotangent)
    found = judged_graph(graph, cotangent, chunk=chunk)
    assert found.pools == expected.pools
    assert found.verdicts[0].num_nonzero == expected.verdicts[0].num_nonzero
    assert replace(found.evidence, digits=0) == replace(expected.evidence, digits=0)


@pytest.mark.parametrize("seed", [3, 21, 22, 40])
def test_random_networks_in_parts(seed):
    point = random_point(seed)
    images = [certify_graph(point.graph, point.cotangent, chunk=chunk, seed=0) for chunk in (1, 2, None)]
    assert all(other.verdicts == images[0].verdicts for other in images)
    assert all(other.pools == images[0].pools for other in images)


def test_one_image():
    judged(symmetric(), flat(1))


def test_any_order_in_memory():
    net, images = symmetric(), flat()
    expected = judged(net, images)
    last = torch.channels_last
    strided = torch.zeros(3, 1, 6, 12)[..., ::2].copy_(images)
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    for batch in (images.to(memory_format=last), strided, turned, images.expand(3, 1, 6, 6)):
        assert judged(net, batch).pools == expected.pools
    found = judged(symmetric().to(memory_format=last), images.to(memory_format=last))
    assert (found.verdicts[0].num_nonzero, found.pools) == (expected.verdicts[0].num_nonzero, expected.pools)


@pytest.mark.parametrize("images", [torch.zeros(0, 1, 6, 6), torch.zeros(2, 0, 6, 6), torch.zeros(3).long()])
def test_nothing_to_certify(images):
    with pytest.raises(UserError, match="floating-point tensor"):
        certify(small(), images, torch.zeros(len(images)).long())


def test_no_parameters():
    net, labels = symmetric(), torch.zeros(3).long()
    net.requires_grad_(False)
    assert not judged(net, flat()).verdicts[0].different
    with pytest.raises(UserError, match="no parameter of the network asks for a derivative"):
        certify(net, flat(), labels)
    bare = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    assert not judged(bare, flat()).verdicts[0].different


# Parameters


class Shared(nn.Module):
    """One filter in two places, and one module in two."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.second = nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight[:] = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
            self.second.bias.fill_(0.5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = nn.functional.max_pool2d(self.second(x), 2)
        x = nn.functional.max_pool2d(self.first(x), 2)
        return self.head(x.flatten(1))


def test_one_parameter_in_several_layers():
    torch.manual_seed(0)
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 2:5, 2:7] = 0.5
    images[1, 0, 3, :] = 1.0
    certificate = judged(Shared(), images)
    assert certificate.verdicts[0].different
    assert "first.weight" in certificate.verdicts[0].num_nonzero
    assert (
        "second.weight" not in certificate.verdicts[0].num_nonzero
    )  # the same parameter, under its first name
    assert not certificate.verdicts[0].entries["unused"].any()


def test_a_parameter_that_asks_for_no_derivative():
    expected = judged(symmetric(), flat())
    net = symmetric()
    net[0].weight.requires_grad_(False)
    found = judged(net, flat())
    assert "0.weight" in expected.verdicts[0].num_nonzero
    assert found.verdicts[0].num_nonzero == {
        name: count for name, count in expected.verdicts[0].num_nonzero.items() if name != "0.weight"
    }


# What evidence says


def test_images_without_a_tie_need_no_primes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    certificate = judged(net, torch.rand(3, 1, 6, 6))
    assert certificate.pools[0].tied == 0
    assert certificate.evidence.primes == ()
    assert certificate.evidence.log2_error == -math.inf


def test_a_proof_has_no_error():
    for net in (small(), symmetric()):
        proved, likely = (judged(net, flat(), mode=mode) for mode in (Mode.PROOF, Mode.RANDOM))
        assert proved.evidence.log2_error == -math.inf
        assert proved.verdicts[0].num_nonzero == likely.verdicts[0].num_nonzero
        assert proved.pools == likely.pools
        assert likely.evidence.log2_error <= -40
    assert len(proved.evidence.primes) * 20 > proved.evidence.bits


@pytest.mark.parametrize("asked", [-1.0, -40.0, -200.0])
def test_the_error_is_what_was_asked_for(asked):
    assert judged(small(), flat(), log2_error=asked).evidence.log2_error <= asked
    for wrong in (0.0, 1.0, math.nan, -math.inf):
        with pytest.raises(UserError, match="log2_error"):
            certify(small(), flat(), torch.zeros(3).long(), log2_error=wrong)


class Deep(nn.Module):
    """Fourteen convolutions of 24 channels, pools between them, as in a VGG."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers, channels = [], 3
        for place in range(14):
            layers += [nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
            layers += [nn.MaxPool2d(2)] if place in (1, 4, 8, 13) else []
            channels = 24
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(24 * 4, 10)

    def forward(self, x):
        return self.head(self.layers(x).flatten(1))


def test_deep_networks_are_decided_and_every_width_agrees(monkeypatch):
    """float64 is not enough: its bound grows with every layer."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=generator) / 255
    images[:, :, :10] = 1.0
    graph, output = record(Deep(), images)
    cotangent = cotangent_of(CROSS_ENTROPY, output, torch.zeros(2).long())
    widths = {}
    for width in (2, 4, 7):
        monkeypatch.setattr(decide, "FIRST_DIGITS", width)
        widths[width] = certify_graph(graph, cotangent, seed=0)
        assert widths[width].evidence.digits > 0
        assert widths[width].evidence.num_escalated > 0
    assert all(other.verdicts == widths[4].verdicts for other in widths.values())
    assert all(other.pools == widths[4].pools for other in widths.values())
    assert widths[4].pools[0].tied > 0


def test_too_few_digits_are_said_and_not_guessed(monkeypatch):
    monkeypatch.setattr(decide, "FIRST_DIGITS", 1)
    monkeypatch.setattr(decide, "MOST_DIGITS", 1)
    third = 1 / 3
    batch = (
        torch.tensor([third, -third, 2.0**-60], dtype=torch.float64).reshape(1, 3, 1, 1).repeat(1, 1, 1, 2)
    )
    with pytest.raises(NotCertifiableError, match="undecided, because 1 digits"):
        certify_graph(in_a_row(batch, torch.ones(3), relu=True), ones(), seed=0)


def test_rules_of_any_kind_at_once():
    """Several rules share everything but their own differences."""
    net, images = symmetric(), flat()
    rules = (PoolJacobian(beta=1), Fraction(0), Fraction(1, 3), PoolJacobian(beta=-1))
    certificate = certify(net, images, torch.zeros(3).long(), jacobians=rules, seed=0)
    minimal, none, third, minus = certificate.verdicts
    assert not none.different
    assert minimal.num_nonzero == third.num_nonzero == minus.num_nonzero != {}
    assert [verdict.rule for verdict in certificate.verdicts][1:3] == ["beta0", "beta1/3"]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 4)])
def test_a_cotangent_of_another_shape(shape):
    graph, _ = record(small(), flat())
    with pytest.raises(UserError, match="cotangent"):
        certify_graph(graph, torch.ones(shape).double(), seed=0)
    assert certify_module.LOG2_ERROR == -40.0


@pytest.mark.parametrize("chunk", [0, -1])
def test_no_image_is_left_out(chunk):
    """With parts of -1 images none would be looked at, and D = 0 of nothing."""
    graph, _ = record(symmetric(), flat())
    with pytest.raises(UserError, match="chunk"):
        certify_graph(graph, torch.ones(3, 3).double(), chunk=chunk)


@pytest.mark.parametrize("loss", [lambda output, _: output, lambda *_: torch.tensor(1.0), lambda *_: 1.0])
def test_a_loss_without_a_derivative(loss):
    with pytest.raises(UserError, match="the loss must be one number"):
        certify(small(), flat(), torch.zeros(3).long(), loss=loss)


def test_a_window_without_a_pixel_has_no_maximum():
    """All entries of a dilated window lie beside the image: minus infinity, which is no real number."""
    pool = MaxPool2d(PoolGeometry.of(2, padding=1, dilation=4), torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8))
    nodes = (
        Node(Input(), (), (1, 1, 3, 3), "batch"),
        Node(pool, (0,), (1, 1, 1, 1), "pool"),
        Node(Reshape(), (1,), (1, 1), "flatten"),
    )
    with pytest.raises(NotCertifiableError, match="no pixel"):
        certify_graph(Graph(nodes, 2, torch.ones(1, 1, 3, 3).double(), {}), ones())


@pytest.mark.parametrize("kind", ["tensor", "parameter", "module", "module, full"])
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")  # what is registered here on purpose
def test_hooks_that_change_a_derivative(kind):
    net = small()
    match kind:
        case "tensor":
            net[0].register_forward_hook(lambda _, __, output: output.register_hook(lambda g: 2 * g) and None)
        case "parameter":
            net[0].weight.register_hook(lambda g: 2 * g)
        case "module":
            net[0].register_backward_hook(lambda _, __, ___: None)
        case "module, full":
            net[0].register_full_backward_hook(lambda _, __, ___: None)
    with pytest.raises(NotCertifiableError, match="hook"):
        certify(net, flat(), torch.zeros(3).long())


def test_a_batch_that_the_network_changes():
    """The batch is what it was before."""

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = symmetric()

        def forward(self, x):
            return self.net(x.add_(x))

    images = flat()
    graph, _ = record(Doubled(), images.clone())
    assert torch.equal(graph.batch, images.double())
    judged(Doubled(), images)
    with pytest.raises(UserError, match="inference_mode"), torch.inference_mode():
        certify(symmetric(), flat(), torch.zeros(3).long())


def test_a_part_without_derivatives():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = symmetric()

        def forward(self, x):
            with torch.no_grad():
                x = self.net[0](x)
            return self.net[1:](x)

    with pytest.raises(NotCertifiableError, match="no_grad"):
        certify(Frozen(), flat(), torch.zeros(3).long())


NUMBERS = [
    (1e300, -1e300, 1e-300, 1.0),
    (1.5 * 2.0**1023, -1.5 * 2.0**1023, 1.0, -1.0, 0.0),
    (2.0**-538, -(2.0**-538), 2.0**-537, 2.0**-1074),
    (2.0**-1074, 1.0, -1.0, 2.0**-1073),
    (1e160, -1e160, 1e-160, -1e-160, 1.0),
    (1 + 2.0**-52, 1.0, -1.0, 1 - 2.0**-53),
    (1 / 3, -1 / 3, 2 / 3, -2 / 3, 1.0),
]


@pytest.mark.parametrize("numbers", NUMBERS, ids=str)
def test_random_networks_at_the_ends_of_the_range(numbers, monkeypatch):
    """As those beside the oracle, made of the largest, the smallest and the closest numbers of float64."""
    monkeypatch.setattr(networks, "_numbers", lambda _: numbers)
    for seed in range(6):
        point = random_point(seed)
        judged_graph(point.graph, point.cotangent, seed=seed)
