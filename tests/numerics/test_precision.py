import bisect
import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from tiebreak.design.axes import DesignError, Precision
from tiebreak.numerics.precision import arithmetic, as_fed, autocast, cast, dtype_of

HALF = Precision.FP16_ROUNDED
UNIT16, UNIT32 = 2.0**-11, 2.0**-24


def draw(*shape, seed, scale=1.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).half()


def same_bits(one, other):
    assert one.dtype is other.dtype
    assert one.shape == other.shape
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    wrong = one.contiguous().view(kind) != other.contiguous().view(kind)
    wrong &= ~(one.isnan() & other.isnan())
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} differ, first {one[wrong][0]} and {other[wrong][0]}"
    )


def rounded_by_hand(operation, inputs, upstream_seed=99):
    """Value and gradients of one operation in fp32 on widened inputs, each rounded once to fp16."""
    wide = [tensor.float().requires_grad_() for tensor in inputs]
    value = operation(*wide)
    narrow = value.detach().half()
    upstream = draw(*narrow.shape, seed=upstream_seed)
    gradients = torch.autograd.grad(value, wide, upstream.float())
    return narrow, [gradient.half() for gradient in gradients], upstream


def rounded_here(operation, inputs, upstream, precision=HALF):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    with arithmetic(precision):
        value = operation(*leaves)
        gradients = torch.autograd.grad(value, leaves, upstream)
    return value.detach(), list(gradients)


OPERATIONS = {
    "convolution": (
        lambda x, w, b: functional.conv2d(x, w, b, padding=1),
        [(4, 16, 9, 9), (8, 16, 3, 3), (8,)],
    ),
    "strided convolution": (lambda x, w: functional.conv2d(x, w, stride=2), [(2, 3, 11, 11), (4, 3, 3, 3)]),
    "grouped convolution": (lambda x, w: functional.conv2d(x, w, groups=2), [(2, 8, 7, 7), (4, 4, 3, 3)]),
    "dilated convolution": (lambda x, w: functional.conv2d(x, w, dilation=2), [(2, 8, 9, 9), (4, 8, 3, 3)]),
    "channels-last convolution": (
        lambda x, w: functional.conv2d(x.contiguous(memory_format=torch.channels_last), w),
        [(2, 8, 7, 7), (4, 8, 3, 3)],
    ),
    "linear": (functional.linear, [(32, 400), (30, 400), (30,)]),
    "linear without bias": (functional.linear, [(32, 400), (30, 400)]),
    "linear of a sequence": (functional.linear, [(4, 5, 60), (7, 60), (7,)]),
    "matrix product": (torch.matmul, [(3, 20, 40), (3, 40, 10)]),
    "average pool": (lambda x: functional.avg_pool2d(x, 2), [(4, 8, 8, 8)]),
    "padded average pool": (lambda x: functional.avg_pool2d(x, 3, stride=2, padding=1), [(4, 8, 9, 9)]),
    "global average": (lambda x: functional.adaptive_avg_pool2d(x, 1), [(4, 8, 9, 9)]),
    "mean": (lambda x: x.mean(dim=(2, 3)), [(4, 8, 9, 9)]),
    "sum": (lambda x: x.sum(dim=0), [(1000, 7)]),
    "negative log-likelihood": (
        lambda x: functional.nll_loss(x, torch.arange(64) % 10),
        [(64, 10)],
    ),
    "summed log-likelihood": (
        lambda x: functional.nll_loss(x, torch.arange(64) % 10, reduction="sum"),
        [(64, 10)],
    ),
    "batch norm": (
        lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
        [(16, 6, 5, 5), (6,), (6,)],
    ),
    "batch norm without weights": (
        lambda x: functional.batch_norm(x, None, None, training=True),
        [(16, 6, 5, 5)],
    ),
    "addition": (torch.add, [(50, 7), (50, 7)]),
    "product": (torch.mul, [(50, 7), (50, 7)]),
    "relu": (torch.relu, [(50, 7)]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_rounded_once_forward_and_backward(name):
    operation, shapes = OPERATIONS[name]
    inputs = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    value, gradients, upstream = rounded_by_hand(operation, inputs)
    here, gradients_here = rounded_here(operation, inputs, upstream)
    same_bits(here, value)
    for one, other in zip(gradients_here, gradients, strict=True):
        same_bits(one, other)


def test_log_softmax_is_rounded_once_and_goes_back_from_its_rounded_value():
    x, upstream = draw(64, 10, seed=0, scale=4.0).requires_grad_(), draw(64, 10, seed=1)
    with arithmetic(HALF):
        value = functional.log_softmax(x, dim=1)
        (gradient,) = torch.autograd.grad(value, x, upstream)
    same_bits(value.detach(), functional.log_softmax(x.detach().float(), dim=1).half())
    kept, wide = value.detach().double(), upstream.double()
    expected = wide - kept.exp() * wide.sum(dim=1, keepdim=True)
    inside = 32 * UNIT32 * (wide.abs() + kept.exp() * wide.abs().sum(dim=1, keepdim=True))
    assert ((gradient.double() - expected).abs() <= UNIT16 * (expected.abs() + inside) + inside).all()


def test_convolution_is_within_one_rounding_of_the_reals():
    """Against fp64, which holds every product of two fp16 numbers exactly."""
    x, weight = draw(2, 64, 8, 8, seed=0), draw(16, 64, 3, 3, seed=1)
    with arithmetic(HALF):
        value = functional.conv2d(x, weight)
    truth = functional.conv2d(x.double(), weight.double())
    terms = 64 * 9
    inside = functional.conv2d(x.double().abs(), weight.double().abs()) * terms * UNIT32
    error = (value.double() - truth).abs()
    assert (error <= UNIT16 * (truth.abs() + inside) + inside).all()
    assert error.max() > 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_layers_keep_their_running_statistics(training, momentum):
    layer = nn.BatchNorm2d(6, momentum=momentum).half()
    twin = nn.BatchNorm2d(6, momentum=momentum)
    with torch.no_grad():
        for index, own in enumerate((layer.weight, layer.bias, layer.running_mean, layer.running_var)):
            own.copy_(draw(6, seed=index).abs() + 0.5)
    layer.train(training)
    twin.train(training)
    for step in range(3):
        x = draw(8, 6, 5, 5, seed=10 + step)
        upstream = draw(8, 6, 5, 5, seed=20 + step)
        twin.load_state_dict({key: value.float() for key, value in layer.state_dict().items()})
        twin.num_batches_tracked.copy_(layer.num_batches_tracked)
        own, wide = x.clone().requires_grad_(), x.float().requires_grad_()
        expected = twin(wide)
        expected_gradients = torch.autograd.grad(expected, [wide, twin.weight, twin.bias], upstream.float())
        with arithmetic(HALF):
            value = layer(own)
            gradients = torch.autograd.grad(value, [own, layer.weight, layer.bias], upstream)
        same_bits(value.detach(), expected.detach().half())
        for one, other in zip(gradients, expected_gradients, strict=True):
            same_bits(one, other.half())
        same_bits(layer.running_mean, twin.running_mean.half())
        same_bits(layer.running_var, twin.running_var.half())
        assert layer.running_mean.dtype is torch.float16
        assert layer.num_batches_tracked == (step + 1 if training else 0)


def test_batch_norm_statistics_by_hand():
    """Mean, variance and the update of the running ones, from their definition in fp64."""
    layer = nn.BatchNorm2d(2).half()
    x = draw(4, 2, 3, 3, seed=0)
    with arithmetic(HALF):
        value = layer(x)
    wide = x.double().transpose(0, 1).reshape(2, -1)
    mean, count = wide.mean(dim=1), wide.shape[1]
    spread = ((wide - mean[:, None]) ** 2).mean(dim=1)
    expected = (x.double() - mean[:, None, None]) / (spread + layer.eps)[:, None, None].sqrt()
    tolerance = UNIT16 * expected.abs() + 64 * UNIT32
    assert ((value.double() - expected).abs() <= tolerance).all()
    running = 0.9 + 0.1 * spread * count / (count - 1)
    assert ((layer.running_mean.double() - 0.1 * mean).abs() <= UNIT16 * (0.1 * mean).abs() + UNIT32).all()
    assert ((layer.running_var.double() - running).abs() <= UNIT16 * running + UNIT32).all()


class Comparer(TorchDispatchMode):
    """Repeats every operation of fp16 tensors in fp32 and compares its result, rounded once."""

    def __init__(self):
        super().__init__()
        self.compared, self.wrong = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        halves = any(isinstance(leaf, Tensor) and leaf.dtype is torch.float16 for leaf in tree_leaves(args))
        expected = None
        if halves and not func._schema.is_mutable:
            expected = func(*(_wide(value) for value in args), **kwargs)
        result = func(*args, **kwargs)
        if expected is not None:
            self.compared.add(func.overloadpacket._qualified_op_name)
            for one, other in zip(tree_leaves(result), tree_leaves(expected), strict=True):
                half = isinstance(one, Tensor) and one.dtype is torch.float16
                if half and not torch.equal(one, other.half()):
                    self.wrong.add(func.overloadpacket._qualified_op_name)
        return result


def _wide(value):
    if isinstance(value, Tensor):
        copy = value.detach().clone()
        return copy.float() if value.dtype is torch.float16 else copy
    return torch.float32 if value is torch.float16 else value


class Small(nn.Module):
    """One of each layer that the networks have."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = functional.max_pool2d(x, 2)
        x = functional.avg_pool2d(x + self.second(x), 2)
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_no_operation_of_a_training_step_rounds_more_than_once(training):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cast(Small(), HALF).train(training)
    x, labels = draw(16, 3, 16, 16, seed=1), torch.arange(16) % 10
    with arithmetic(HALF), Comparer() as comparer:
        functional.cross_entropy(model(x), labels).backward()
    assert not comparer.wrong
    assert {"aten::convolution", "aten::convolution_backward", "aten::addmm", "aten::mm"} <= comparer.compared
    assert {"aten::native_batch_norm", "aten::native_batch_norm_backward"} <= comparer.compared
    assert {"aten::_log_softmax", "aten::_log_softmax_backward_data"} <= comparer.compared
    assert {"aten::nll_loss_forward", "aten::nll_loss_backward", "aten::mean"} <= comparer.compared
    assert all(parameter.grad.dtype is torch.float16 for parameter in model.parameters())


def test_native_fp16_is_untouched_by_the_rounded_arm():
    operation, shapes = OPERATIONS["convolution"]
    inputs = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    _, rounded_gradients, upstream = rounded_by_hand(operation, inputs)

    def plain():
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = operation(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]

    before = plain()
    with arithmetic(HALF):
        operation(*inputs)
    with pytest.raises(KeyError), arithmetic(HALF):
        raise KeyError("inside")
    assert _get_current_dispatch_mode() is None
    value, gradients = rounded_here(operation, inputs, upstream, precision=Precision.FP16)
    for one, after, within in zip(before, plain(), [value, *gradients], strict=True):
        same_bits(one, after)
        same_bits(one, within)
    # the arms differ, or this test would hold of anything
    assert any(not torch.equal(one, other) for one, other in zip(before[1:], rounded_gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_rounded_arm_leaves_other_formats_alone(dtype):
    layer = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    layer.load_state_dict({key: torch.ones_like(value) for key, value in layer.state_dict().items()})
    layer.to(dtype)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    outside = layer(x)
    with arithmetic(HALF):
        inside = layer(x)
    same_bits(inside.detach(), outside.detach())


def test_rounded_arms_nest():
    x, weight = draw(2, 4, 6, 6, seed=0), draw(4, 4, 3, 3, seed=1)
    with arithmetic(HALF):
        once = functional.conv2d(x, weight)
        with arithmetic(HALF):
            twice = functional.conv2d(x, weight)
        after = functional.conv2d(x, weight)
    assert _get_current_dispatch_mode() is None
    same_bits(once, twice)
    same_bits(once, after)


def test_a_result_beyond_fp16_is_infinite():
    x = torch.full((1, 100), 1000.0).half()
    with arithmetic(HALF):
        assert functional.linear(x, x).item() == math.inf
        assert (
            functional.linear(x, x / 1000).item() == 65504 + 34496 or functional.linear(x, x / 1000).isinf()
        )


@pytest.mark.parametrize("precision", Precision)
def test_parameters_are_cast_to_the_storage_format(precision):
    layer = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    result = cast(layer, precision)
    assert result is layer
    dtype = dtype_of(precision)
    assert str(dtype) == f"torch.{precision.storage}"
    parameters = dict(layer.named_parameters())
    for key, value in layer.state_dict().items():
        if value.is_floating_point():
            wanted = before[key].to(dtype)
            same_bits(value, as_fed(wanted, precision) if key in parameters else wanted)
        else:
            assert value.dtype is torch.int64
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("precision", Precision)
def test_autocast_is_on_for_the_mixed_precisions_only(precision):
    layer = cast(nn.Conv2d(3, 4, 3), precision)
    x = torch.ones(1, 3, 5, 5, dtype=dtype_of(precision))
    narrow = {Precision.AMP16: torch.float16, Precision.AMPBF16: torch.bfloat16}
    with pytest.raises(KeyError), autocast(precision):
        raise KeyError(torch.is_autocast_enabled("cpu"))
    assert not torch.is_autocast_enabled("cpu")
    rounded = arithmetic(Precision.FP32 if precision is Precision.TF32 else precision)  # tf32: CUDA only
    with rounded:
        with autocast(precision):
            logits = layer(x).flatten(1)
            loss = functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64))
        loss.backward()
    with autocast(precision):
        assert torch.is_autocast_enabled("cpu") is (precision in narrow)
    assert logits.dtype is narrow.get(precision, dtype_of(precision))
    assert loss.dtype is (torch.float32 if precision in narrow else dtype_of(precision))
    assert layer.weight.grad.dtype is dtype_of(precision)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta"])
def test_tf32_is_refused_without_cuda(device):
    with (
        pytest.raises(DesignError, match=r"precision=tf32 .* got device=(cpu|meta)\..*fp32") as caught,
        arithmetic(Precision.TF32, device=device),
    ):
        pass  # pragma: no cover - never reached
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("fails", [True, False])
def test_tf32_is_switched_for_cuda_and_restored(precision, fails):
    """The switches exist without a device, so this holds on every machine."""

    def switches():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before = switches()
    try:
        with arithmetic(precision, device="cuda:0"):
            wanted = "tf32" if precision is Precision.TF32 else "ieee"
            assert switches() == (wanted, wanted)
            with arithmetic(Precision.FP32, device="cuda"):
                assert switches() == ("ieee", "ieee")
            assert switches() == (wanted, wanted)
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert switches() == before


# ------------------------------------------------------------------------------------------ eight-bit formats

EIGHT_BIT = {  # bits of the stored significand, bias of the exponent, bit patterns that are numbers
    Precision.E4M3: (3, 7, range(0x7F)),
    Precision.E5M2: (2, 15, range(0x7C)),
}


def numbers_of(precision):
    """Every number from 0 up that the format holds, by the definition of its bits, in order."""
    bits, bias, patterns = EIGHT_BIT[precision]
    found = []
    for pattern in patterns:
        exponent, significand = pattern >> bits, Fraction(pattern % 2**bits, 2**bits)
        scale = Fraction(2) ** (max(exponent, 1) - bias)
        found.append((significand + (exponent > 0)) * scale)
    return found


def rounded_slowly(value, numbers):
    """The nearest number to a float, ties to an even pattern, beyond the largest to the largest."""
    if math.isnan(value):
        return value
    size = numbers[-1] if math.isinf(value) else min(Fraction(abs(value)), numbers[-1])
    above = bisect.bisect_left(numbers, size)
    below = max(above - 1, 0)
    distances = (size - numbers[below], numbers[above] - size)
    even = below if below % 2 == 0 else above
    chosen = even if distances[0] == distances[1] else below if distances[0] < distances[1] else above
    return math.copysign(float(numbers[chosen]), value)


@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_the_largest_number_and_the_unit_roundoff_are_those_of_the_definition(precision):
    numbers = numbers_of(precision)
    assert float(numbers[-1]) == {Precision.E4M3: 448.0, Precision.E5M2: 57344.0}[precision]
    assert numbers == sorted(set(numbers))
    after_one = numbers[numbers.index(1) + 1]
    assert precision.unit_roundoff == (after_one - 1) / 2


@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_eight_bits_round_as_the_definition_says(precision):
    """At every number, every midpoint and the fp32 numbers beside them, and at random ones of every size."""
    numbers = numbers_of(precision)
    points = [float(number) for number in numbers]
    points += [float((one + other) / 2) for one, other in itertools.pairwise(numbers)]
    exact = torch.tensor(points)
    assert exact.tolist() == points
    up = torch.full_like(exact, math.inf)
    near = torch.cat([exact, exact.nextafter(up), exact.nextafter(-up)])
    seeded = torch.Generator().manual_seed(0)
    random = torch.randn(2000, generator=seeded) * 2.0 ** torch.randint(-20, 18, (2000,), generator=seeded)
    beyond = torch.tensor([464.0, 465.0, 480.0, 6e4, 61440.0, 65536.0, 3e38, math.inf, 1e-45, 0.0])
    values = torch.cat([near, random, beyond])
    values = torch.cat([values, -values, torch.tensor([math.nan])])
    rounded = as_fed(values, precision)
    same_bits(rounded, torch.tensor([rounded_slowly(value, numbers) for value in values.tolist()]))
    same_bits(as_fed(rounded, precision), rounded)
    assert rounded[-1].isnan()


@pytest.mark.parametrize("precision", [item for item in Precision if item not in EIGHT_BIT])
def test_what_is_fed_in_the_other_precisions_is_cast_only(precision):
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    same_bits(as_fed(values, precision), values.to(dtype_of(precision)))
