"""The judge is judged: by tables written by hand, by PyTorch where fp64 is exact, by differences."""

from dataclasses import replace
from fractions import Fraction
from itertools import product
from random import Random

import pytest
import torch
from near_ties import near_ties
from networks import random_point
from torch import nn
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.exact.graph import (
    Affine,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.exact.oracle import derivative, difference, evaluate, tied
from tiebreak.exact.record import record
from tiebreak.exact.rules import TieRule
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.pooling import MaxPool2d as OurPool

F = Fraction
NATIVE = TieRule(F(0))

# What the tied entries of a window get, in their order: one row for one, two, three and four of them.
SHARES = {
    NATIVE: ([1], [1, 0], [1, 0, 0], [1, 0, 0, 0]),
    TieRule(F(1)): ([1], [F(1, 2)] * 2, [F(1, 3)] * 3, [F(1, 4)] * 4),
    TieRule(F(1, 2)): (
        [1],
        [F(3, 4), F(1, 4)],
        [F(2, 3), F(1, 6), F(1, 6)],
        [F(5, 8), F(1, 8), F(1, 8), F(1, 8)],
    ),
    TieRule(F(-1)): (
        [1],
        [F(3, 2), F(-1, 2)],
        [F(5, 3), F(-1, 3), F(-1, 3)],
        [F(7, 4), F(-1, 4), F(-1, 4), F(-1, 4)],
    ),
    TieRule(F(2)): ([1], [0, 1], [F(-1, 3), F(2, 3), F(2, 3)], [F(-1, 2), F(1, 2), F(1, 2), F(1, 2)]),
    TieRule(F(10)): (
        [1],
        [-4, 5],
        [F(-17, 3), F(10, 3), F(10, 3)],
        [F(-13, 2), F(5, 2), F(5, 2), F(5, 2)],
    ),
    TieRule(F(1, 3)): (
        [1],
        [F(5, 6), F(1, 6)],
        [F(7, 9), F(1, 9), F(1, 9)],
        [F(3, 4), F(1, 12), F(1, 12), F(1, 12)],
    ),
    TieRule(F(0), Selection.LAST): ([1], [0, 1], [0, 0, 1], [0, 0, 0, 1]),
    TieRule(F(0), Selection.ALL_ONES): ([1], [1, 1], [1, 1, 1], [1, 1, 1, 1]),
}
PATTERNS = [
    [entry for entry in range(4) if pattern >> entry & 1]  # each non-empty set of entries
    for pattern in range(1, 16)
]


def window_graph(numbers):
    """A 2x2 window whose four entries are the four weights of a linear layer."""
    weight = Parameter(torch.tensor(numbers, dtype=torch.float64)[:, None], "weight")
    pool = MaxPool2d(PoolGeometry.of(2), torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8))
    nodes = (
        Node(Input(), (), (1, 1), "batch"),
        Node(Linear(weight, None), (0,), (1, 4), "linear"),
        Node(Reshape(), (1,), (1, 1, 2, 2), "reshape"),
        Node(pool, (2,), (1, 1, 1, 1), "pool"),
        Node(Reshape(), (3,), (1, 1), "reshape"),
    )
    return Graph(nodes, 4, torch.ones(1, 1).double(), {"weight": (4, 1)})


@pytest.mark.parametrize("rule", SHARES, ids=str)
@pytest.mark.parametrize("level", [2.0, 0.0, -0.5])
def test_all_tie_patterns(rule, level):
    for maxima in PATTERNS:
        graph = window_graph([level if entry in maxima else level - 1 for entry in range(4)])
        values = evaluate(graph)
        assert tied(graph, values) == {3: [tuple(maxima)]}
        expected = [F(0)] * 4
        for entry, share in zip(maxima, SHARES[rule][len(maxima) - 1], strict=True):
            expected[entry] = -3 * F(share)
        assert derivative(graph, values, torch.tensor([[-3.0]]).double(), rule) == {"weight": expected}


def test_the_difference_of_two_rules():
    graph = window_graph([1.0, 0.0, 1.0, 1.0])
    found = difference(graph, torch.ones(1, 1).double(), TieRule(F(1, 2)), NATIVE)
    assert found == {"weight": [F(2, 3) - 1, 0, F(1, 6), F(1, 6)]}


def test_a_network_by_hand():
    """Two pixels, relu(2 x - 1) and its maximum, then 3 m + 1; the second pixel is at the kink."""
    batch = torch.tensor([[[[0.5, 1.5]]], [[[0.5, 0.5]]]]).double()
    conv = Conv2d(_weight([[[[2.0]]]], "w"), _weight([-1.0], "b"), (1, 1), (0, 0), (1, 1), 1)
    geometry = PoolGeometry.of((1, 2))
    nodes = (
        Node(Input(), (), (2, 1, 1, 2), "batch"),
        Node(conv, (0,), (2, 1, 1, 2), "conv"),
        Node(ReLU(), (1,), (2, 1, 1, 2), "relu"),
        Node(MaxPool2d(geometry, torch.zeros(1, 2, 1, 1, 1, dtype=torch.uint8)), (2,), (2, 1, 1, 1), "pool"),
        Node(Reshape(), (3,), (2, 1), "flatten"),
        Node(Linear(_weight([[3.0]], "v"), _weight([1.0], None)), (4,), (2, 1), "linear"),
    )
    graph = Graph(nodes, 5, batch, {"w": (1, 1, 1, 1), "b": (1,), "v": (1, 1), "alone": (2,)})
    values = evaluate(graph)
    assert list(values[5].values()) == [7, 1]
    assert tied(graph, values) == {3: [(1,), (0, 1)]}
    found = derivative(graph, values, torch.tensor([[1.0], [8.0]]).double(), NATIVE)
    assert found == {"w": [F(9, 2)], "b": [3], "v": [2], "alone": [0, 0]}


def _weight(numbers, name):
    return Parameter(torch.tensor(numbers, dtype=torch.float64), name)


class Residual(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.pool, self.head = pool(), nn.LazyLinear(2)

    def forward(self, x):
        x = self.first(x)
        x = self.pool(x + functional.relu(self.second(x)))
        return self.head(functional.avg_pool2d(x, 2).flatten(1))


class Branches(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.pool = pool()

    def forward(self, x):
        x = torch.cat([self.pool(self.left(x)), self.pool(functional.relu(self.right(x))), self.pool(x)], 1)
        return functional.avg_pool2d(x, 2, 1).flatten(1)


class TiedWeights(nn.Module):
    """One filter in three places, the pool before a ReLU."""

    def __init__(self, pool):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 2, 2, padding=1), pool()

    def forward(self, x):
        x = self.pool(self.conv(self.conv(x))).relu()
        return functional.conv2d(x, self.conv.weight).flatten(1)


class FromLinear(nn.Module):
    """A pool over what a linear layer gave, and one on the batch."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.linear, self.head = pool(), nn.LazyLinear(16), nn.LazyLinear(3, bias=False)

    def forward(self, x):
        x = self.linear(self.pool(x).flatten(1)).reshape(-1, 1, 4, 4)
        return self.head(self.pool(x).flatten(1))


def plain(channels, *features):
    return lambda pool: nn.Sequential(
        nn.Conv2d(channels, 4, 2),
        nn.ReLU(),
        pool(),
        *[feature() for feature in features],
        nn.Flatten(),
        nn.LazyLinear(3),
    )


MODELS = {
    "plain": (1, plain(1)),
    "strided, dilated, grouped": (2, plain(2, lambda: nn.Conv2d(4, 4, 2, 2, 1, 2, groups=2))),
    "average pool": (1, plain(1, lambda: nn.AvgPool2d(2, 1, 1))),
    "average over what is there": (1, plain(1, lambda: nn.AvgPool2d(2, 2, 1, count_include_pad=False))),
    "residual": (1, Residual),
    "branches": (2, Branches),
    "tied weights": (2, TiedWeights),
    "from linear": (1, FromLinear),
}
POOLS = {
    "2x2": {"kernel": 2},
    "overlapping": {"kernel": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel": 2, "stride": 1, "dilation": 2},
    "cut off": {"kernel": (3, 2), "stride": 2, "ceil_mode": True},
}
JACOBIANS = [
    PoolJacobian(),
    *(PoolJacobian(beta=beta) for beta in (-1, 0.5, 1, 2, 10)),
    *(PoolJacobian(selection=selection) for selection in (Selection.LAST, Selection.ALL_ONES)),
]


def on_grid(model, channels, *, seed):
    """The module and a batch in halves, so that fp64 computes it and its gradient exactly."""
    random = Random(seed)
    batch = torch.zeros(2, channels, 7, 7).double()
    model.double()(batch)
    for tensor in (*model.parameters(), batch):
        numbers = random.choices((-1.0, -0.5, 0.0, 0.5, 1.0), k=tensor.numel())
        tensor.data.copy_(torch.tensor(numbers).reshape(tensor.shape))
    return batch


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("pool", POOLS)
def test_the_native_rule_is_bit_for_bit_pytorch_where_fp64_is_exact(model, pool):
    geometry = dict(POOLS[pool])
    kernel = geometry.pop("kernel")
    channels, make = MODELS[model]
    module = make(lambda: nn.MaxPool2d(kernel, **geometry))
    for seed in range(2):
        batch = on_grid(module, channels, seed=seed)
        _same_as_pytorch(module, batch, NATIVE)


@pytest.mark.parametrize("jacobian", JACOBIANS, ids=lambda jacobian: jacobian.label)
def test_other_rules_are_bit_for_bit_those_of_our_pool_where_fp64_is_exact(jacobian):
    """A share of beta / 3 is no float, so windows of the beta family have one entry or two."""
    compared = 0
    for (channels, make), (kernel, stride) in product(MODELS.values(), (((1, 2), None), ((2, 1), 1))):
        module = make(lambda k=kernel, s=stride: OurPool(k, s, jacobian=jacobian))
        batch = on_grid(module, channels, seed=7)
        compared += _same_as_pytorch(module, batch, TieRule.of(jacobian))
    assert compared > 200, "few ties: the rules were hardly compared"


def _same_as_pytorch(module, batch, rule):
    """Compare values and gradients to the bit; returns the number of tied windows."""
    graph, output = record(module, batch)
    values = evaluate(graph)
    assert list(values[graph.output].values()) == [F(number) for number in output.flatten().tolist()]
    cotangent = torch.arange(output.numel()).reshape(output.shape).double() / 4 - 1
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(module(batch), list(parameters.values()), cotangent)
    found = derivative(graph, values, cotangent, rule)
    for name, gradient in zip(parameters, gradients, strict=True):
        assert [F(number) for number in gradient.flatten().tolist()] == found[name], name
    return sum(len(window) > 1 for windows in tied(graph, values).values() for window in windows)


def test_the_native_entry_is_the_one_that_pytorch_picks():
    """Every geometry in a small range: values, and which pixel has the lowest number of the tied ones."""
    checked = 0
    for rows, kernel, stride, padding, dilation, ceil_mode in product(
        (3, 4, 6), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True)
    ):
        if 2 * padding > kernel or (kernel - 1) * dilation + 1 > rows + 2 * padding:
            continue
        x = torch.tensor(Random(checked).choices((0.0, 1.0, 2.0), k=rows * 5)).reshape(1, 1, rows, 5).double()
        options = (kernel, stride, padding, dilation)
        best, index = functional.max_pool2d(x, *options, ceil_mode=ceil_mode, return_indices=True)
        if not bool(best.isfinite().all()):
            continue
        graph, _ = record(
            nn.Sequential(nn.MaxPool2d(*options, ceil_mode=ceil_mode), nn.Flatten()), x.requires_grad_(False)
        )
        values = evaluate(graph)
        assert list(values[1].values()) == best.flatten().tolist()
        first = []
        for (_, _, i, j), window in zip(values[1], tied(graph, values)[1], strict=True):
            a, b = divmod(window[0], kernel)
            first.append((i * stride - padding + a * dilation) * 5 + j * stride - padding + b * dilation)
        assert first == index.flatten().tolist(), options
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (2, 1), (3, 0), (3, 1), ((2, 3), 1)])
@pytest.mark.parametrize("stride", [None, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": 7}]
)
def test_average_pools_in_exact_rationals(kernel, padding, stride, options):
    x = torch.randint(-4, 5, (2, 2, 5, 6), generator=torch.Generator().manual_seed(0)).double()
    pool = nn.AvgPool2d(kernel, stride, padding, **options)
    graph, output = record(nn.Sequential(pool, nn.Flatten()), x)
    _within_one_ulp(evaluate(graph)[1].values(), output.flatten().tolist())


@pytest.mark.parametrize("size", [1, 2, 3, (3, 2), (5, 6), (7, 4)])
def test_adaptive_average_pools_in_exact_rationals(size):
    x = torch.randint(-4, 5, (2, 2, 5, 6), generator=torch.Generator().manual_seed(0)).double()
    graph, output = record(nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten()), x)
    _within_one_ulp(evaluate(graph)[1].values(), output.flatten().tolist())


def _within_one_ulp(exact, floats):
    """An average of small integers is rounded at most three times: in 1 / d, and in two divisions."""
    for number, rounded in zip(exact, floats, strict=True):
        assert abs(number - F(rounded)) <= 3 * F(2) ** -53 * abs(number)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
@pytest.mark.parametrize("padding", [0, (1, 2)])
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_convolutions(stride, padding, dilation, groups):
    layer = nn.Conv2d(4, 8, (2, 3), stride, padding, dilation, groups)
    batch = on_grid(layer, 4, seed=0)
    module = nn.Sequential(layer, nn.Flatten())
    _same_as_pytorch(module, batch, NATIVE)


def test_batch_norm_over_its_deviation():
    """scale and shift are as folded; the derivative of the weight is a rational over the deviation."""
    norm = nn.BatchNorm2d(2).double().eval()
    module = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2)).double()
    batch = on_grid(module, 1, seed=1)
    norm.running_mean.copy_(torch.tensor([0.5, -1.0]))
    norm.running_var.copy_(torch.tensor([2.0, 0.75]))
    module.eval()
    graph, output = record(module, batch)
    cotangent = torch.ones_like(output)
    found = derivative(graph, evaluate(graph), cotangent, NATIVE)
    gradients = torch.autograd.grad(module(batch).sum(), list(module.parameters()))
    deviation = [float(number) for number in (norm.running_var + norm.eps).sqrt()]
    for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True):
        numbers = [float(number) for number in found[name]]
        if name == "1.weight":
            numbers = [number / dev for number, dev in zip(numbers, deviation, strict=True)]
        torch.testing.assert_close(
            torch.tensor(numbers, dtype=torch.float64), gradient.flatten(), rtol=2.0**-46, atol=2.0**-46
        )


def test_derivatives_are_differences_of_values():
    """A value is linear in a number that is used once, as long as no maximum and no sign changes."""
    compared = dict.fromkeys((Conv2d, Linear, Affine), 0)
    for point in (*map(random_point, range(300)), *map(near_ties, range(3))):
        values = evaluate(point.graph)
        found = derivative(point.graph, values, point.cotangent, NATIVE)
        for name, numbers in found.items():
            entry = Random(name).randrange(len(numbers))
            users = [node.operation for node in point.graph.nodes if name in _names(node.operation)]
            if len(users) != 1:
                continue
            try:
                after = evaluate(_moved(point.graph, name, entry))
            except ArithmeticError:
                continue
            if not _is_smooth_between(point.graph, values, after):
                continue
            change = _dot(after[-1], point.cotangent) - _dot(values[-1], point.cotangent)
            assert change == STEP * found[name][entry], f"{point.graph.parameters}, {name}[{entry}]"
            compared[type(users[0])] += 1
    assert min(compared.values()) > 10, compared


STEP = F(2) ** -30


def _names(operation):
    match operation:
        case Conv2d(weight, bias) | Linear(weight, bias):
            return [parameter.name for parameter in (weight, bias) if parameter is not None]
        case Affine(weight=weight, bias=bias):
            return [weight, bias]
    return []


def _moved(graph, name, entry):
    """The graph with one number of a parameter increased by a step."""
    nodes = []
    for node in graph.nodes:
        operation = node.operation
        match operation:
            case Conv2d(weight, bias) | Linear(weight, bias):
                for part, parameter in (("weight", weight), ("bias", bias)):
                    if parameter is not None and parameter.name == name:
                        value = _increased(parameter.value, entry, STEP)
                        operation = replace(operation, **{part: Parameter(value, name)})
            case Affine(scale, shift, mean, weight) if name in _names(operation):
                # The weight moves the scale, and the shift with it: shift = bias - mean * scale.
                is_weight = name == weight
                operation = replace(
                    operation,
                    scale=_increased(scale, entry, STEP if is_weight else F(0)),
                    shift=_increased(shift, entry, -F(mean[entry].item()) * STEP if is_weight else STEP),
                )
        nodes.append(replace(node, operation=operation))
    return replace(graph, nodes=tuple(nodes))


def _increased(value, entry, step):
    """Raises ArithmeticError where the sum is no float."""
    value = value.clone()
    numbers = value.view(-1)
    exact = F(numbers[entry].item()) + step
    numbers[entry] = float(exact)
    if F(numbers[entry].item()) != exact:
        raise ArithmeticError(f"{exact} is no float")
    return value


def _is_smooth_between(graph, values, after):
    """Whether nothing is tied and every maximum and sign is the same at both points."""
    sides = []
    for numbers in (values, after):
        maxima = list(tied(graph, numbers).values())
        if any(len(window) > 1 for windows in maxima for window in windows):
            return False
        kinks = [
            [number > 0 for number in numbers[node.inputs[0]].values()]
            for node in graph.nodes
            if isinstance(node.operation, ReLU)
        ]
        sides.append((maxima, kinks))
    return sides[0] == sides[1]


def _dot(value, cotangent):
    return sum(a * F(b) for a, b in zip(value.values(), cotangent.flatten().tolist(), strict=True))


def test_what_has_no_value_over_the_reals_is_refused():
    graph = window_graph([1.0, float("nan"), 0.0, 0.0])
    with pytest.raises(NotCertifiableError, match="not finite"):
        evaluate(graph)
    graph = window_graph([1.0, 0.0, 0.0, 0.0])
    with pytest.raises(NotCertifiableError, match="not finite"):
        derivative(graph, evaluate(graph), torch.tensor([[float("inf")]]), NATIVE)
    outside = MaxPool2d(
        PoolGeometry.of(2, padding=1, dilation=3), torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8)
    )
    nodes = (*graph.nodes[:3], replace(graph.nodes[3], operation=outside), graph.nodes[4])
    with pytest.raises(NotCertifiableError, match="no pixel"):
        evaluate(replace(graph, nodes=nodes))
