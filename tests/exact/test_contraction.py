"""Sums of products of residues, against Python's whole numbers: long ones, split ones, and those of CUDA."""

import functools

import numpy as np
import pytest
import torch
import whole_numbers as whole
from torch import nn
from torch.nn import functional

from tiebreak import certify
from tiebreak.exact import contraction
from tiebreak.exact.contraction import LARGEST, MOST_PRODUCTS
from tiebreak.exact.dyadic import residues
from tiebreak.exact.graph import Conv2d, NotCertifiableError
from tiebreak.exact.primes import draw_primes
from tiebreak.exact.residues import Residues

PRIME = draw_primes(1, seed=0)[0]
FIELD = Residues(PRIME)
ROUTES = ["cpu", "cuda"]


def spec(*, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return Conv2d(None, None, stride, padding, dilation, groups)


SPECS = [
    spec(),
    spec(stride=(2, 3), padding=(1, 2)),
    spec(dilation=(2, 1), padding=(2, 0)),
    spec(groups=2, padding=(1, 1)),
    spec(groups=4, stride=(2, 2)),
    spec(groups=2, stride=(3, 1), dilation=(1, 2), padding=(0, 3)),
]


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """The way of the CPU; or that of CUDA, by matrix products alone, on the CPU."""
    if request.param == "cuda":
        for name in ("conv", "_conv_input", "_conv_weight"):
            monkeypatch.setattr(contraction, name, _as_on_cuda(getattr(contraction, name)))
    return request.param


def _as_on_cuda(function):
    @functools.wraps(function)
    def run(first, *rest):
        result = function(_Elsewhere(first), *rest)
        return result.as_subclass(torch.Tensor)

    return run


class _Elsewhere(torch.Tensor):
    """A tensor that does not say that it is on the CPU."""

    @staticmethod
    def __new__(cls, x):
        return x.as_subclass(cls)

    @property
    def device(self):
        return torch.device("cuda")


def integers(generator, *shape, largest=LARGEST):
    """Of the largest size, of any sign."""
    size = torch.randint(largest - 64, largest + 1, shape, generator=generator)
    return (size * torch.randint(0, 2, shape, generator=generator).mul(2).sub(1)).double()


def same(found, true):
    """Residues of whole numbers."""
    assert tuple(found.shape) == true.shape
    assert found.abs().max() <= PRIME / 2 + 4
    difference = found.long().numpy().astype(object) - true
    assert not (difference % PRIME).any()


def product_of(x, weight, place):
    return whole.conv(whole.exact(x), whole.exact(weight), place).numbers


def input_gradient(gradient, weight, place, size):
    """Scattered product by product."""
    result = np.zeros(size, dtype=object)
    g, w = whole.exact(gradient).numbers, whole.exact(weight).numbers
    per_group, depth = w.shape[0] // place.groups, w.shape[1]
    rows, columns = size[2] + 2 * place.padding[0], size[3] + 2 * place.padding[1]
    padded = np.zeros((*size[:2], rows, columns), dtype=object)
    for output in range(w.shape[0]):
        start = output // per_group * depth
        for channel in range(depth):
            for a in range(w.shape[2]):
                for b in range(w.shape[3]):
                    i, j = a * place.dilation[0], b * place.dilation[1]
                    across = slice(i, i + (g.shape[2] - 1) * place.stride[0] + 1, place.stride[0])
                    along = slice(j, j + (g.shape[3] - 1) * place.stride[1] + 1, place.stride[1])
                    padded[:, start + channel, across, along] += g[:, output] * w[output, channel, a, b]
    result[:] = padded[
        :, :, place.padding[0] : rows - place.padding[0], place.padding[1] : columns - place.padding[1]
    ]
    return result


def weight_gradient(x, gradient, place, shape):
    """For each entry of the kernel the product of what it saw with the gradient."""
    result = np.zeros(shape, dtype=object)
    g = whole.exact(gradient).numbers
    (top, left), (rows, columns) = place.padding, x.shape[2:]
    padded = np.zeros((*x.shape[:2], rows + 2 * top, columns + 2 * left), dtype=object)
    padded[:, :, top : top + rows, left : left + columns] = whole.exact(x).numbers
    per_group, depth = shape[0] // place.groups, shape[1]
    for output in range(shape[0]):
        start = output // per_group * depth
        for channel in range(depth):
            for a in range(shape[2]):
                for b in range(shape[3]):
                    i, j = a * place.dilation[0], b * place.dilation[1]
                    across = slice(i, i + (g.shape[2] - 1) * place.stride[0] + 1, place.stride[0])
                    along = slice(j, j + (g.shape[3] - 1) * place.stride[1] + 1, place.stride[1])
                    result[output, channel, a, b] = (
                        padded[:, start + channel, across, along] * g[:, output]
                    ).sum()
    return result


def all_three(generator, place, *, x, weight):
    """A convolution and both of its adjoints."""
    result = contraction.exact_conv(x, weight, place, reduce=FIELD.reduce)
    same(result, product_of(x, weight, place))
    gradient = integers(generator, *result.shape)
    back = contraction.exact_conv_input(gradient, weight, place, size=x.shape, reduce=FIELD.reduce)
    same(back, input_gradient(gradient, weight, place, x.shape))
    kernel = contraction.exact_conv_weight(x, gradient, place, shape=weight.shape, reduce=FIELD.reduce)
    same(kernel, weight_gradient(x, gradient, place, weight.shape))


@pytest.mark.parametrize("place", SPECS, ids=str)
def test_convolutions_of_any_geometry(route, place):
    generator = torch.Generator().manual_seed(0)
    x, weight = integers(generator, 3, 4, 7, 8), integers(generator, 4, 4 // place.groups, 2, 3)
    all_three(generator, place, x=x, weight=weight)


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(1030, 2, 1), (2, 1030, 1), (2064, 2064, 2)])
def test_more_products_than_one_sum_holds(route, channels, outputs, groups):
    """9,270 and 9,288 products: split over the channels that go in, and over those that come out."""
    generator = torch.Generator().manual_seed(0)
    place = spec(groups=groups)
    x = integers(generator, 1, channels, 3, 3).abs()
    weight = LARGEST * torch.ones(outputs, channels // groups, 3, 3, dtype=torch.float64)
    if groups == 1:
        all_three(generator, place, x=x, weight=weight)
        return
    result = contraction.exact_conv(x, weight, place, reduce=FIELD.reduce)  # each group has one sum
    sums = x.reshape(groups, -1).long().sum(1).tolist()
    true = np.repeat(np.array(sums, dtype=object) * LARGEST, outputs // groups).reshape(result.shape)
    same(result, true)
    back = contraction.exact_conv_input(result, weight, place, size=x.shape, reduce=FIELD.reduce)
    sums = result.reshape(groups, -1).long().sum(1).tolist()
    same(back, np.repeat(np.array(sums, dtype=object) * LARGEST, channels // groups * 9).reshape(x.shape))


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_weight_gradient_of_a_large_image(route, images, stride):
    """224 x 224 outputs are 50,176 products an image, of the residue of 1/2, which is the largest one."""
    half = residues(torch.full((1,), 0.5, dtype=torch.float64), prime=PRIME)
    x = half.expand(images, 1, 224, 224).clone()
    place = spec(stride=stride, padding=(1, 1))
    weight = half.expand(1, 1, 3, 3).clone()
    result = contraction.exact_conv(x, weight, place, reduce=FIELD.reduce)
    gradient = half.expand(result.shape).clone()
    found = contraction.exact_conv_weight(x, gradient, place, shape=weight.shape, reduce=FIELD.reduce)
    same(found, weight_gradient(x, gradient, place, weight.shape))


def test_a_row_too_long_for_one_sum(route):
    """Not certifiable, and the message says why; the longest row that fits is exact."""
    generator = torch.Generator().manual_seed(0)
    x = LARGEST * torch.ones(1, 1, 2, MOST_PRODUCTS, dtype=torch.float64)
    found = contraction.exact_conv_weight(x, x, spec(), shape=torch.Size((1, 1, 1, 1)), reduce=FIELD.reduce)
    same(found, weight_gradient(x, x, spec(), (1, 1, 1, 1)))
    x = integers(generator, 1, 1, 1, MOST_PRODUCTS + 1)
    with pytest.raises(NotCertifiableError, match="8161 outputs"):
        contraction.exact_conv_weight(x, x, spec(), shape=torch.Size((1, 1, 1, 1)), reduce=FIELD.reduce)
    with pytest.raises(NotCertifiableError, match="a kernel of 8281 entries"):
        contraction.exact_conv(x, torch.ones(1, 1, 91, 91).double(), spec(), reduce=FIELD.reduce)


@pytest.mark.parametrize("inner", [1, 8160, 8161, 9216, 30000])
def test_matrix_products(inner):
    generator = torch.Generator().manual_seed(0)
    first = integers(generator, 2, inner).abs()
    second = LARGEST * torch.ones(inner, 2, dtype=torch.float64)
    found = contraction.exact_product(first, second, reduce=FIELD.reduce)
    same(found, np.dot(whole.exact(first).numbers, whole.exact(second).numbers))


def test_the_longest_sum_is_below_2_to_the_53():
    """And leaves the room that a reduction needs."""
    assert MOST_PRODUCTS * LARGEST**2 < 2**53 - 2**22
    largest = torch.tensor([MOST_PRODUCTS * LARGEST**2], dtype=torch.float64)
    for prime in draw_primes(50, seed=1):
        for sign in (1, -1):
            reduced = int(Residues(prime).reduce(sign * largest))
            assert (reduced - sign * MOST_PRODUCTS * LARGEST**2) % prime == 0
            assert abs(reduced) <= prime / 2 + 4 <= LARGEST


def test_sums_that_round_are_noticed(monkeypatch):
    """A library whose convolution is no plain sum of products, as of Winograd, is refused."""
    plain = contraction.conv

    def rounded(x, weight, place):
        return plain(x.float(), weight.float(), place).double()

    monkeypatch.setattr(contraction, "conv", rounded)
    contraction.require_exact.cache_clear()
    try:
        with pytest.raises(NotCertifiableError, match="self-test against integers failed"):
            contraction.require_exact(torch.device("cpu"))
    finally:
        contraction.require_exact.cache_clear()


def test_sums_that_round_are_noticed_where_float64_alone_would_decide(monkeypatch):
    """The bound of the filter, too, is about plain sums of products."""
    plain = contraction.conv

    def rounded(x, weight, place):
        return plain(x.float(), weight.float(), place).double()

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    assert not certify(network, images, labels).evidence.primes
    monkeypatch.setattr(contraction, "conv", rounded)
    contraction.require_exact.cache_clear()
    try:
        with pytest.raises(NotCertifiableError, match="self-test against integers failed"):
            certify(network, images, labels)
    finally:
        contraction.require_exact.cache_clear()


@pytest.mark.parametrize("part", ["_conv_input", "_conv_weight"])
def test_adjoints_that_round_are_noticed(monkeypatch, part):
    plain = getattr(contraction, part)
    monkeypatch.setattr(contraction, part, lambda *given: plain(*given) + 1)
    contraction.require_exact.cache_clear()
    try:
        with pytest.raises(NotCertifiableError, match="self-test"):
            contraction.require_exact(torch.device("cpu"))
    finally:
        contraction.require_exact.cache_clear()


def test_the_self_test_leaves_the_generator_and_does_not_mind_the_default_device():
    state = torch.get_rng_state()
    contraction.require_exact.cache_clear()
    with torch.device("meta"):
        contraction.require_exact(torch.device("cpu"))
    assert torch.equal(state, torch.get_rng_state())


def test_channels_in_the_last_place_are_the_same_numbers():
    generator = torch.Generator().manual_seed(0)
    x, weight = integers(generator, 2, 4, 6, 6), integers(generator, 4, 4, 3, 3)
    last = torch.channels_last
    found = contraction.exact_conv(
        x.to(memory_format=last), weight.to(memory_format=last), spec(), reduce=FIELD.reduce
    )
    same(found, product_of(x, weight, spec()))
    assert torch.equal(found, contraction.exact_conv(x, weight, spec(), reduce=FIELD.reduce))


def test_the_other_way_is_taken(monkeypatch):
    """The route of CUDA runs without one convolution of the library."""
    called = []
    monkeypatch.setattr(functional, "conv2d", lambda *given: called.append(given))
    generator = torch.Generator().manual_seed(0)
    x, weight = integers(generator, 1, 2, 4, 4), integers(generator, 2, 2, 3, 3)
    found = _as_on_cuda(contraction.conv)(x, weight, spec())
    assert not called
    assert (found.long().numpy().astype(object) == product_of(x, weight, spec())).all()
