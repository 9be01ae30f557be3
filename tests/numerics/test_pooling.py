"""The exact pool against a scalar oracle, against PyTorch's own pool, and against its own laws."""

from __future__ import annotations

import copy
import math
import random
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, Forward, PoolJacobian, Selection
from tiebreak.numerics import pool_torch
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.native import compiled_pool
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d, max_pool2d
from tiebreak.numerics.selection import window_draws

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAST = PoolJacobian(selection=Selection.LAST)
RANDOM = PoolJacobian(selection=Selection.RANDOM, seed=7)
ALL_ONES = PoolJacobian(selection=Selection.ALL_ONES)
BETAS = tuple(PoolJacobian(beta=beta) for beta in (0.0, 1.0, 10.0, 1e4, -3.0, 0.1))
RULES = (*BETAS, LAST, RANDOM, ALL_ONES)
NAN, INF = float("nan"), float("inf")


def words(tensor: torch.Tensor) -> torch.Tensor:
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(kind)


def assert_same_bits(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal bits; a NaN equals any NaN, as IEEE 754 leaves its payload open."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    same = (words(got) == words(wanted)) | ((got != got) & (wanted != wanted))
    if not bool(same.all()):
        at = tuple((~same).nonzero()[0].tolist())
        ulps = int(words(got)[at]) - int(words(wanted)[at])
        pytest.fail(f"at {at}: got {got[at].item()!r}, wanted {wanted[at].item()!r}, {ulps} words apart")


# ---- the oracle: one scalar at a time ----------------------------------------------------------------------


def rounded(value: np.floating, dtype: torch.dtype) -> np.floating:
    """A number of the arithmetic format in the storage format, in the arithmetic format again."""
    if dtype == torch.float16:
        return np.float32(np.float16(value))
    if dtype == torch.bfloat16 and math.isfinite(value):
        word = struct.unpack("<I", struct.pack("<f", value))[0]
        word = (word + 0x7FFF + ((word >> 16) & 1)) >> 16 << 16
        return np.float32(struct.unpack("<f", struct.pack("<I", word))[0])
    return value


def splitmix(index: int, seed: int) -> int:
    z = (index * 0x9E3779B97F4A7C15 + seed) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) >> 33


def oracle(x: torch.Tensor, g: torch.Tensor, geometry: PoolGeometry, rule: PoolJacobian):
    """(value, gradient) of one window after the other, for the CPU."""
    number = np.float64 if x.dtype == torch.float64 else np.float32
    beta, rest = number(rule.beta), number(1.0 - rule.beta)
    images, height, width = x.shape[0] * x.shape[1], x.shape[2], x.shape[3]
    pixels = [number(value) for value in x.double().flatten().tolist()]
    upstream = [number(value) for value in g.double().flatten().tolist()]
    result = [number(0.0)] * len(pixels)
    values = []
    rows, columns = g.shape[-2:]
    for window in range(images * rows * columns):
        image, row, column = window // (rows * columns), window // columns % rows, window % columns
        places = []
        for a in range(geometry.kernel[0]):
            for b in range(geometry.kernel[1]):
                y = row * geometry.stride[0] - geometry.padding[0] + a * geometry.dilation[0]
                z = column * geometry.stride[1] - geometry.padding[1] + b * geometry.dilation[1]
                if 0 <= y < height and 0 <= z < width:
                    places.append((image * height + y) * width + z)
        nans = [place for place in places if math.isnan(pixels[place])]
        top = max((pixels[place] for place in places), default=number(-INF)) if not nans else None
        tied = nans[-1:] if nans else [place for place in places if pixels[place] == top]
        values.append(pixels[tied[0]] if tied else number(-INF))
        if not tied:
            continue
        n, incoming = len(tied), upstream[window]
        shares = dict.fromkeys(tied, incoming)
        if rule.selection is Selection.BETA and rule.beta == 0.0:
            shares = {tied[0]: incoming}
        elif rule.selection is Selection.BETA and n > 1:
            part = beta * (incoming / number(n))
            shares = dict.fromkeys(tied, part)
            if rule.beta != 1.0:
                shares[tied[0]] = part + rest * incoming
        elif rule.selection is Selection.LAST:
            shares = {tied[-1]: incoming}
        elif rule.selection is Selection.RANDOM:
            shares = {tied[splitmix(window, rule.seed) * n >> 31]: incoming}
        for place, share in shares.items():
            result[place] = rounded(result[place] + rounded(share, x.dtype), x.dtype)
    value = torch.tensor([float(v) for v in values], dtype=torch.float64).view(g.shape)
    gradient = torch.tensor([float(v) for v in result], dtype=torch.float64).view(x.shape)
    return value.to(x.dtype), gradient.to(x.dtype)


def random_case(seed: int):
    pick = random.Random(seed)
    while True:
        kernel = pick.choice([(2, 2), (3, 3), (pick.randint(1, 5), pick.randint(1, 5))])
        plain = pick.random() < 0.3
        geometry = PoolGeometry(
            kernel=kernel,
            stride=kernel if plain else (pick.randint(1, 4), pick.randint(1, 4)),
            padding=(0, 0) if plain else tuple(pick.randint(0, size // 2) for size in kernel),
            dilation=(1, 1) if plain else (pick.randint(1, 2), pick.randint(1, 2)),
            ceil_mode=not plain and pick.random() < 0.5,
        )
        size = (pick.randint(1, 9), pick.randint(1, 12))
        try:
            output = geometry.output_size(size)
            break
        except DesignError:
            continue
    generator = torch.Generator().manual_seed(seed)
    dtype = pick.choice(DTYPES)
    shape = (2, 2, *size)
    x = torch.randint(-2, 3, shape, generator=generator).to(dtype)
    if pick.random() < 0.5:
        x = torch.randn(shape, generator=generator).to(dtype).relu()
    if pick.random() < 0.4:
        for special in (NAN, INF, -INF, -0.0):
            x[torch.rand(shape, generator=generator) < pick.choice([0.0, 0.1, 0.4])] = special
    g = torch.randn((2, 2, *output), generator=generator).mul(10.0 ** pick.uniform(-5, 4)).to(dtype)
    if pick.random() < 0.3:
        for special in (NAN, INF, -0.0):
            g[torch.rand(g.shape, generator=generator) < 0.1] = special
    return x, g, geometry, pick.choice(RULES)


@pytest.mark.parametrize("block", range(10))
@pytest.mark.filterwarnings("ignore:.*encountered in .*:RuntimeWarning")  # numpy's scalars say inf - inf
def test_every_backend_has_the_bits_of_the_scalar_oracle(block: int) -> None:
    kernel = compiled_pool()
    for seed in range(block * 400, (block + 1) * 400):
        x, g, geometry, rule = random_case(seed)
        value, gradient = oracle(x, g, geometry, rule)
        got, mask = pool_torch.forward(x, geometry=geometry)
        assert_same_bits(got, value)
        back = pool_torch.scatter(g, mask, size=x.shape, geometry=geometry, jacobian=rule)
        assert_same_bits(back, gradient)
        for order in (torch.contiguous_format, torch.channels_last) if kernel is not None else ():
            got, own_mask = kernel.forward(x.contiguous(memory_format=order), geometry=geometry)
            assert_same_bits(got, value)
            assert torch.equal(own_mask, mask)
            back = kernel.scatter(
                g, own_mask, size=x.shape, memory_format=order, geometry=geometry, jacobian=rule
            )
            assert_same_bits(back, gradient)


# ---- against PyTorch ---------------------------------------------------------------------------------------

GEOMETRIES = [
    {"kernel": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 3, "stride": 1, "padding": 1, "ceil_mode": True},
    {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)},
    {"kernel": 2, "stride": 3},
    {"kernel": 5, "stride": 2, "padding": 2, "ceil_mode": True},
    {"kernel": 1},
    {"kernel": 9, "stride": 4},
    {"kernel": 17, "stride": 16},
]


def native(x: torch.Tensor, kernel, stride=None, padding=0, dilation=1, ceil_mode=False) -> torch.Tensor:
    return functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)


def wild(shape, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, shape, generator=generator).to(dtype)
    for special in (NAN, INF, -INF, -0.0):
        x[torch.rand(shape, generator=generator) < 0.06] = special
    return x


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["rows", "channels_last", "strided", "image"])
def test_native_rule_is_pytorch_bit_for_bit(geometry, dtype, order) -> None:
    x = wild((2, 3, 19, 23), dtype)
    if order == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if order == "strided":
        x = x.transpose(2, 3)[:, :, 1:, :]
    if order == "image":
        x = x[0]
    gradients = []
    for pool in (native, max_pool2d):
        inner = x.detach().requires_grad_()
        middle = inner * 1.0  # not a leaf, so that the gradient keeps the order that the pool gave it
        middle.retain_grad()
        output = pool(middle, **geometry)
        torch.manual_seed(1)
        g = torch.randn(output.shape).to(dtype)
        g.view(-1)[::7] = -0.0
        output.backward(g)
        gradients.append((output, middle.grad))
    (value, gradient), (own_value, own_gradient) = gradients
    assert_same_bits(own_value, value)
    assert_same_bits(own_gradient, gradient)
    assert own_value.stride() == value.stride()
    assert own_gradient.stride() == gradient.stride()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_value_is_the_maximum_whatever_the_rule(data) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    rule = data.draw(st.sampled_from(RULES))
    numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-7, 6e4])
    x = torch.tensor(data.draw(st.lists(numbers, min_size=36, max_size=36)), dtype=dtype).view(1, 1, 6, 6)
    assert_same_bits(max_pool2d(x, kernel=2, jacobian=rule), functional.max_pool2d(x, 2))
    assert_same_bits(
        max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=rule), functional.max_pool2d(x, 3, 2, 1)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_minimal_rule_is_the_gradient_of_amax(dtype, size) -> None:
    x = torch.randint(0, 3, (2, 3, 12, 12)).to(dtype).requires_grad_()
    windows = x.unfold(2, size, size).unfold(3, size, size)
    g = torch.randn(2, 3, 12 // size, 12 // size).to(dtype)
    (wanted,) = torch.autograd.grad(windows.amax((-2, -1)), x, g)
    (got,) = torch.autograd.grad(max_pool2d(x, kernel=size, jacobian=MINIMAL), x, g)
    assert_same_bits(got, wanted + 0.0)


# ---- the rule at ties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", range(1, 16))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_tie_patterns_of_a_2x2_window(pattern, dtype) -> None:
    tied = [bool(pattern >> entry & 1) for entry in range(4)]
    k, first, last = sum(tied), tied.index(True), 3 - tied[::-1].index(True)
    x = torch.tensor([2.0 if is_tied else -1.0 for is_tied in tied], dtype=dtype).view(1, 2, 2)
    share = {1: 8.0, 2: 4.0, 4: 2.0, 3: torch.tensor(8 / 3, dtype=torch.float64).to(dtype).item()}[k]
    table = {
        NATIVE: [8.0 if entry == first else 0.0 for entry in range(4)],
        LAST: [8.0 if entry == last else 0.0 for entry in range(4)],
        ALL_ONES: [8.0 if is_tied else 0.0 for is_tied in tied],
        MINIMAL: [share if is_tied else 0.0 for is_tied in tied],
    }
    for rule, wanted in table.items():
        leaf = x.clone().requires_grad_()
        max_pool2d(leaf, kernel=2, jacobian=rule).backward(torch.full((1, 1, 1), 8.0, dtype=dtype))
        assert leaf.grad.flatten().tolist() == wanted, rule.label


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 10.0, 100.0, 1e3, 1e4, -2.0])
@pytest.mark.parametrize("num_tied", [1, 2, 3, 4])
def test_entries_sum_to_one_and_have_the_norm_of_the_design(beta, num_tied) -> None:
    rule = PoolJacobian(beta=beta)
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    x.view(-1)[:num_tied] = 1.0
    x.requires_grad_()
    max_pool2d(x, kernel=2, jacobian=rule).backward(torch.ones(1, 1, 1, dtype=torch.float64))
    roundoff = 2.0**-53 * 8 * (1.0 + abs(beta))  # eight roundings of numbers up to 1 + |beta|
    assert abs(x.grad.sum().item() - 1.0) <= roundoff
    assert abs(x.grad.norm().item() - rule.norm(num_tied)) <= roundoff


def test_a_window_without_a_tie_passes_the_gradient_on_untouched() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8).half().requires_grad_()
    g = torch.randn(1, 1, 4, 4).half()
    wanted = torch.autograd.grad(functional.max_pool2d(x, 2), x, g)[0]
    for rule in RULES:
        assert_same_bits(torch.autograd.grad(max_pool2d(x, kernel=2, jacobian=rule), x, g)[0], wanted)


def test_minimal_rule_keeps_infinity_and_no_rule_makes_nan_of_it_elsewhere() -> None:
    x = torch.ones(1, 2, 2, requires_grad=True)
    g = torch.full((1, 1, 1), INF)
    (minimal,) = torch.autograd.grad(max_pool2d(x, kernel=2, jacobian=MINIMAL), x, g)
    assert minimal.flatten().tolist() == [INF] * 4
    (first,) = torch.autograd.grad(max_pool2d(x, kernel=2), x, g)
    assert first.flatten().tolist() == [INF, 0.0, 0.0, 0.0]


def test_nan_and_signed_zeros_are_pinned() -> None:
    x = torch.tensor([[NAN, 1.0, -0.0, 0.0], [NAN, 2.0, 0.0, -0.0]]).view(1, 2, 4).requires_grad_()
    output = max_pool2d(x, kernel=2, jacobian=MINIMAL)
    assert math.isnan(output[0, 0, 0].item())
    assert math.copysign(1.0, output[0, 0, 1].item()) == -1.0
    (gradient,) = torch.autograd.grad(output, x, torch.tensor([[[3.0, 4.0]]]))
    assert gradient.view(2, 4).tolist() == [[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 1.0, 1.0]]


def test_random_rule_is_a_function_of_seed_and_place() -> None:
    x = torch.zeros(4, 3, 32, 32, requires_grad=True)
    ones = torch.ones(4, 3, 16, 16)

    def gradient(seed: int, images: torch.Tensor = x) -> torch.Tensor:
        rule = PoolJacobian(selection=Selection.RANDOM, seed=seed)
        output = max_pool2d(images, kernel=2, jacobian=rule)
        return torch.autograd.grad(output, images, torch.ones_like(output))[0]

    state = torch.get_rng_state()
    assert torch.equal(gradient(1), gradient(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(gradient(1), gradient(2))
    assert torch.equal(
        gradient(1), gradient(1, x.detach().to(memory_format=torch.channels_last).requires_grad_())
    )
    counts = gradient(3).unfold(2, 2, 2).unfold(3, 2, 2).sum((0, 1, 2, 3)).flatten()
    assert counts.sum().item() == ones.numel()
    # Each entry is drawn with probability 1/4: five standard deviations of the binomial count.
    assert (counts - ones.numel() / 4).abs().max().item() < 5 * math.sqrt(ones.numel() * 3 / 16)


def test_draws_are_splitmix() -> None:
    for seed in (0, 5, 2**63 - 1):
        got = window_draws(torch.Size((3, 7)), seed=seed, device=torch.device("cpu")).flatten().tolist()
        assert got == [splitmix(index, seed) for index in range(21)]


# ---- switch and events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_graph_serves_many_rules_with_the_bits_of_separate_runs(dtype) -> None:
    x = torch.randint(0, 3, (2, 3, 13, 13)).to(dtype).requires_grad_()
    weight = torch.randn(3, 1, 1).to(dtype)
    switch = JacobianSwitch(NATIVE)
    shared = (max_pool2d(x, kernel=3, stride=2, jacobian=switch) * weight).square().sum()
    for rule in RULES:
        switch.jacobian = rule
        (got,) = torch.autograd.grad(shared, x, retain_graph=True)
        alone = (max_pool2d(x, kernel=3, stride=2, jacobian=rule) * weight).square().sum()
        assert_same_bits(got, torch.autograd.grad(alone, x)[0])


def test_events_are_the_tensors_of_the_graph_in_order() -> None:
    switch = JacobianSwitch(MINIMAL, events=[])
    pools = nn.Sequential(MaxPool2d(2, jacobian=switch), MaxPool2d(3, 1, 1, jacobian=switch))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    output = pools(x)
    first, second = switch.events
    assert first.input is x
    assert first.output is second.input
    assert second.output is output
    assert first.mask.shape == (1, 2, 3, 4, 4)
    assert second.mask.shape == (2, 2, 3, 4, 4)
    assert second.geometry.kernel == (3, 3)
    (halfway,) = torch.autograd.grad(output.sum(), first.output, retain_graph=True)
    (pieced,) = torch.autograd.grad(first.output, x, halfway, retain_graph=True)
    assert torch.equal(pieced, torch.autograd.grad(output.sum(), x)[0])
    switch.events = None
    pools(x)


@pytest.mark.parametrize(("size", "bytes_a_window"), [(2, 1), (3, 2), (4, 2), (5, 4)])
@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_backward_keeps_the_mask_and_nothing_else(size, bytes_a_window, backend, monkeypatch) -> None:
    if backend == "torch":
        monkeypatch.setattr("tiebreak.numerics.kernels._kernel", lambda x, geometry: pool_torch)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(2, 3, 20, 20, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = max_pool2d(x, kernel=size, jacobian=JacobianSwitch(MINIMAL))
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == bytes_a_window * output.numel()


# ---- transformations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)
def test_backward_is_linear_and_its_derivative_is_the_jacobian_applied_forward(rule) -> None:
    x = torch.randint(0, 3, (1, 2, 7, 7)).double().requires_grad_()
    output = max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=rule)
    g = torch.randn_like(output).requires_grad_()
    (back,) = torch.autograd.grad(output, x, g, create_graph=True)
    v = torch.randn_like(x)
    (forward,) = torch.autograd.grad(back, g, v)
    # <J^T g, v> = <g, J v>: 98 products, shares up to 1 + |beta|
    room = 2.0**-53 * 128 * (1 + abs(rule.beta)) * 16
    assert abs(((back * v).sum() - (g * forward).sum()).item()) <= room
    with warnings.catch_warnings():  # PyTorch's own forward mode compiles decompositions with torch.jit
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        _, tangent = torch.func.jvp(
            lambda x: max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=rule), (x.detach(),), (v,)
        )
    assert torch.equal(tangent, forward)


@pytest.mark.parametrize("rule", [NATIVE, PoolJacobian(beta=10), RANDOM, ALL_ONES], ids=lambda r: r.label)
def test_grad_and_vmap(rule) -> None:
    x = torch.randint(0, 3, (5, 2, 6, 6)).double()

    def loss(image: torch.Tensor) -> torch.Tensor:
        return max_pool2d(image, kernel=2, jacobian=rule).pow(2).sum()

    each = torch.stack([torch.func.grad(loss)(image) for image in x])
    plain = torch.stack([torch.autograd.grad(loss(image), image)[0] for image in x.requires_grad_().unbind()])
    assert torch.equal(each, plain)
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(x.detach()), plain)
    pairs = x.detach().unsqueeze(1).expand(-1, 2, -1, -1, -1)
    assert torch.equal(
        torch.func.vmap(lambda t: max_pool2d(t, kernel=2), in_dims=0)(pairs)[:, 1], max_pool2d(x, kernel=2)
    )
    output = max_pool2d(x, kernel=2, jacobian=rule)
    upstream = torch.randn(3, *output.shape, dtype=torch.float64)
    (batched,) = torch.autograd.grad(output, x, upstream, is_grads_batched=True, retain_graph=True)
    for g, got in zip(upstream, batched, strict=True):
        assert torch.equal(got, torch.autograd.grad(output, x, g, retain_graph=True)[0])


def test_compiles_without_a_break_and_follows_the_switch() -> None:
    switch = JacobianSwitch(PoolJacobian(beta=10))

    def loss(x: torch.Tensor) -> torch.Tensor:
        return max_pool2d(x * 1.0, kernel=3, stride=2, padding=1, jacobian=switch).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x = torch.randint(0, 3, (2, 3, 8, 8)).float().requires_grad_()
    for rule in (PoolJacobian(beta=10), NATIVE):
        switch.jacobian = rule
        assert_same_bits(torch.autograd.grad(compiled(x), x)[0], torch.autograd.grad(loss(x), x)[0])
    torch._dynamo.reset()


def test_operators_keep_the_promises_of_the_dispatcher() -> None:
    x = torch.randint(0, 3, (2, 3, 8, 8)).float()
    numbers = ([3, 3, 2, 2, 1, 1, 1, 1], False, 10.0, "beta", 0)
    mask = torch.ops.tiebreak.max_pool2d(x, *numbers)[1]
    g = torch.randn(2, 3, 4, 4)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.tiebreak.max_pool2d.default, (x.requires_grad_(), *numbers), test_utils=checks
    )
    torch.library.opcheck(
        torch.ops.tiebreak.max_pool2d_scatter.default,
        (g.requires_grad_(), mask, [2, 3, 8, 8], False, *numbers),
        test_utils=checks,
    )
    torch.library.opcheck(
        torch.ops.tiebreak.max_pool2d_gather.default, (x, mask, *numbers), test_utils=checks
    )
    (back,) = torch.autograd.grad(torch.ops.tiebreak.max_pool2d(x, *numbers)[0], x, g, create_graph=True)
    (forward,) = torch.autograd.grad(back, g, torch.ones_like(back), create_graph=True)
    assert forward.requires_grad is False or forward.grad_fn is not None


def test_meta_and_fake_tensors_have_the_shape() -> None:
    assert max_pool2d(torch.empty(2, 3, 9, 9, device="meta"), kernel=3, stride=2, padding=1).shape == (
        2,
        3,
        5,
        5,
    )
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert max_pool2d(torch.empty(2, 3, 9, 9), kernel=2, ceil_mode=True).shape == (2, 3, 5, 5)


def test_autocast_leaves_the_dtype_alone() -> None:
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert max_pool2d(x, kernel=2).dtype == torch.float32
        assert max_pool2d(x.bfloat16(), kernel=2).dtype == torch.bfloat16


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x = torch.randint(0, 3, (8, 16, 33, 35)).float().requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            output = max_pool2d(x, kernel=3, stride=2, jacobian=PoolJacobian(beta=100))
            results.append((output, torch.autograd.grad(output.square().sum(), x)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


# ---- shapes and mistakes -----------------------------------------------------------------------------------


def test_an_empty_batch_and_an_unused_border() -> None:
    x = torch.randn(0, 3, 5, 5, requires_grad=True)
    max_pool2d(x, kernel=2).sum().backward()
    assert x.grad.shape == (0, 3, 5, 5)
    y = torch.ones(1, 1, 5, 5, requires_grad=True)
    max_pool2d(y, kernel=2, jacobian=MINIMAL).sum().backward()
    assert y.grad[0, 0, 4].tolist() == [0.0] * 5
    assert y.grad[0, 0, :, 4].tolist() == [0.0] * 5


def test_module_takes_the_place_of_pytorchs() -> None:
    x = torch.randn(2, 3, 9, 9)
    module = MaxPool2d(3, 2, 1, ceil_mode=True)
    assert torch.equal(module(x), nn.MaxPool2d(3, 2, 1, ceil_mode=True)(x))
    assert not module.state_dict()
    assert "native" in repr(module)
    module.jacobian = MINIMAL
    assert "minimal" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kernel": 0}, "kernel"),
        ({"kernel": (2, 2, 2)}, "kernel"),
        ({"kernel": 2.0}, "kernel"),
        ({"kernel": "2"}, "kernel"),
        ({"kernel": 2, "stride": 0}, "stride"),
        ({"kernel": 2, "padding": 2}, "padding"),
        ({"kernel": 2, "padding": -1}, "padding"),
        ({"kernel": 2, "dilation": 0}, "dilation"),
        ({"kernel": 2, "ceil_mode": 1}, "ceil_mode"),
        ({"kernel": 9}, "no window"),
        ({"kernel": 2, "jacobian": 1.0}, "jacobian"),
    ],
)
def test_impossible_arguments_are_refused_in_a_sentence(arguments, said) -> None:
    with pytest.raises(DesignError, match=said):
        max_pool2d(torch.zeros(1, 1, 8, 8), **arguments)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 1, 4, 4, dtype=torch.int64),
        torch.zeros(4, 4),
        torch.zeros(1, 0, 4, 4),
        torch.zeros(1, 1, 4, 4).to_sparse(),
        None,
        [[[1.0]]],
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'shape', '')} {getattr(x, 'layout', '')}",
)
def test_impossible_inputs_are_refused_in_a_sentence(x) -> None:
    with pytest.raises(DesignError, match="max_pool2d"):
        max_pool2d(x, kernel=2)


def test_events_and_transformations_do_not_mix() -> None:
    switch = JacobianSwitch(events=[])
    with pytest.raises(DesignError, match="eager"):
        torch.func.vmap(lambda x: max_pool2d(x, kernel=2, jacobian=switch))(torch.zeros(2, 1, 4, 4))


def test_a_copy_of_a_network_records_on_its_own() -> None:
    switch = JacobianSwitch(PoolJacobian(beta=2), events=[])
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), MaxPool2d(2, jacobian=switch), MaxPool2d(2))
    network[2].jacobian = switch
    network(torch.zeros(1, 1, 4, 4))
    other = copy.deepcopy(network)
    assert other[1].jacobian is other[2].jacobian is not switch
    assert other[1].jacobian.jacobian == switch.jacobian
    assert other[1].jacobian.events == []
    other(torch.zeros(1, 1, 4, 4))
    assert len(other[1].jacobian.events) == len(switch.events) == 2
    assert copy.deepcopy(JacobianSwitch()).events is None


def test_a_blended_rule_cannot_join_an_exact_forward_pass() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    switch = JacobianSwitch(NATIVE)
    output = max_pool2d(x, kernel=2, jacobian=switch)
    switch.jacobian = PoolJacobian(beta=2, forward=Forward.BLENDED)
    with pytest.raises(DesignError, match=r"pool\.forward"):
        output.sum().backward()


def test_import_compiles_nothing_and_leaves_triton_alone(tmp_path) -> None:
    code = (
        "import sys; import tiebreak.numerics.pooling; "
        "assert 'tiebreak.numerics.pool_triton' not in sys.modules"
    )
    environment = {"TIEBREAK_CACHE": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)
    assert not list(tmp_path.iterdir())
