"""Recorded networks: the graph computes what the module does, and what it cannot stand for is refused."""

import copy
import re
import warnings

import pytest
import torch
from interpreter import run
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torchvision import models as torchvision_models

import tiebreak
from tiebreak.design.axes import PoolJacobian, Selection, StemPool, UserError
from tiebreak.design.cell import Network
from tiebreak.exact.certificate import Mode
from tiebreak.exact.graph import (
    Affine,
    Linear,
    NotCertifiableError,
    Reshape,
)
from tiebreak.exact.record import record
from tiebreak.models import build, rewrite_pools
from tiebreak.numerics.pooling import JacobianSwitch

UNIT = 2.0**-53


def images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_as_module(model, batch, *, ulps=64):
    """The graph's output is the module's, up to some units roundoff of the largest number on the way."""
    graph, output = record(model, batch)
    with torch.no_grad():
        values = run(graph)
        largest = max(float(value.abs().max()) for value in values)
        assert float((values[graph.output] - model(batch)).abs().max()) <= ulps * len(values) * UNIT * largest
    assert torch.equal(output, model(batch))
    assert graph.nonfinite is None
    return graph


TORCHVISION = {
    "alexnet": 63,
    "vgg11": 32,
    "vgg11_bn": 32,
    "resnet18": 33,
    "densenet121": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "squeezenet1_0": 33,
    "squeezenet1_1": 33,
}
NUM_POOLS = {
    "alexnet": 3,
    "vgg11": 5,
    "vgg11_bn": 5,
    "resnet18": 1,
    "densenet121": 1,
    "googlenet": 13,
    "inception_v3": 4,
    "squeezenet1_0": 3,
    "squeezenet1_1": 3,
}


def torchvision_model(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng([]), torch.device("meta"):
        model = getattr(torchvision_models, name)(num_classes=3, **options)
        if name.startswith(("alexnet", "vgg")):  # a hundred million weights prove nothing more
            width = 8
            for index, layer in enumerate(model.classifier):
                if isinstance(layer, nn.Linear):
                    inputs = width if layer.in_features == 4096 else layer.in_features
                    outputs = width if layer.out_features == 4096 else layer.out_features
                    model.classifier[index] = nn.Linear(inputs, outputs)
    model = model.to_empty(device="cpu").double().eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            fan = tensor[0].numel() if tensor.dim() > 1 else 4
            tensor.normal_(0, (2 / fan) ** 0.5, generator=generator)
        else:
            tensor.zero_()
    return model


@pytest.mark.parametrize("name", TORCHVISION)
def test_classifiers_of_torchvision(name):
    graph = same_as_module(torchvision_model(name), images(1, 3, TORCHVISION[name], TORCHVISION[name]))
    assert len(graph.pools) == NUM_POOLS[name]
    assert all(graph.nodes[index].where for index in graph.pools)


JACOBIANS = [
    PoolJacobian(),
    PoolJacobian(beta=1),
    PoolJacobian(beta=-0.5),
    PoolJacobian(beta=100, forward="blended"),
    PoolJacobian(selection=Selection.LAST),
    PoolJacobian(selection=Selection.RANDOM, seed=3),
    PoolJacobian(selection=Selection.ALL_ONES),
    JacobianSwitch(),
]


@pytest.mark.parametrize("jacobian", JACOBIANS, ids=str)
def test_our_networks_with_every_rule(jacobian):
    model = build(Network(arch="lenet5"), num_classes=10, in_channels=1, jacobian=jacobian, seed=0).double()
    graph = same_as_module(model, images(2, 1, 28, 28), ulps=64 if jacobian != JACOBIANS[3] else 64 * 100)
    assert [graph.nodes[index].shape for index in graph.pools] == [(2, 6, 12, 12), (2, 16, 4, 4)]


@pytest.mark.parametrize("arch", ["vgg11", "resnet18", "densenet121"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_our_architectures(arch, batch_norm):
    stem = StemPool.P3X3 if arch != "vgg11" else StemPool.P2X2
    network = Network(arch=arch, batch_norm=batch_norm, stem_pool=stem)
    model = build(network, num_classes=3, seed=0).double().eval()
    same_as_module(model, images(1, 3, 32, 32))


def test_a_rewritten_network_gives_the_same_graph():
    model = torchvision_model("squeezenet1_1")
    batch = images(1, 3, 33, 33)
    first = record(model, batch)[0]
    second = record(rewrite_pools(model, jacobian=PoolJacobian(beta=1)), batch)[0]
    assert [type(node.operation) for node in first.nodes] == [type(node.operation) for node in second.nodes]
    for index in first.pools:
        assert first.nodes[index].operation.geometry == second.nodes[index].operation.geometry
        assert torch.equal(first.nodes[index].operation.float_mask, second.nodes[index].operation.float_mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_parameters_of_any_format_are_taken_exactly(dtype):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)).to(
        dtype
    )
    batch = images(2, 1, 8, 8).to(dtype)
    graph, output = record(model, batch)
    assert output.dtype == dtype
    assert torch.equal(graph.batch, batch.double())
    assert torch.equal(graph.nodes[1].operation.weight.value, model[0].weight.detach().double())
    assert graph.nodes[1].operation.weight.name == "0.weight"
    assert graph.parameters == {name: tuple(p.shape) for name, p in model.named_parameters()}


# -- Options: each must arrive in the graph, and none may be ignored.

OPTIONS = {
    "max pool stride": nn.MaxPool2d(3, 2),
    "max pool padding": nn.MaxPool2d(3, 2, 1),
    "max pool dilation": nn.MaxPool2d(2, 1, 0, 2),
    "max pool ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max pool sides": nn.MaxPool2d((1, 3), (2, 1), (0, 1)),
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
    "average stride": nn.AvgPool2d(3, 2),
    "average padding": nn.AvgPool2d(3, 2, 1),
    "average ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "average without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average ceil without padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average divisor": nn.AvgPool2d(2, divisor_override=3),
    "average sides": nn.AvgPool2d((2, 3), (1, 2), (1, 0)),
    "adaptive average": nn.AdaptiveAvgPool2d((4, 5)),
    "global average": nn.AdaptiveAvgPool2d(1),
    "conv stride": nn.Conv2d(2, 4, 3, 2),
    "conv padding": nn.Conv2d(2, 4, 3, 1, (2, 1)),
    "conv same padding": nn.Conv2d(2, 4, (3, 4), padding="same", dilation=2),
    "conv dilation": nn.Conv2d(2, 4, 2, 1, 0, (1, 3)),
    "conv groups": nn.Conv2d(2, 4, 3, groups=2),
    "conv without bias": nn.Conv2d(2, 4, 3, bias=False),
    "conv circular padding": nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "batch norm": nn.BatchNorm2d(2),
    "batch norm without affine": nn.BatchNorm2d(2, affine=False),
    "batch norm with another eps": nn.BatchNorm2d(2, eps=0.25),
    "dropout in evaluation": nn.Dropout(0.5),
    "identity": nn.Identity(),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_arrive_or_are_refused(name):
    layer = copy.deepcopy(OPTIONS[name])
    model = nn.Sequential(layer, nn.Flatten()).double().eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    try:
        same_as_module(model, images(2, 2, 9, 9))
    except NotCertifiableError:
        assert name in ("conv circular padding", "conv same padding")


class Block(nn.Module):
    """A function of what a convolution with parameters gives, and a linear layer where it needs one."""

    def __init__(self, function, size=None):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(2, 2, 1)
        self.linear = nn.Linear(size, 3) if size else None
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x):
        return self.function(self, self.conv(x))


FINE = {
    "a mean over rows and columns": Block(lambda self, x: x.mean((2, 3))),
    "a mean that keeps its axes": Block(lambda self, x: x.mean((-1, -2), keepdim=True).flatten(1)),
    "a view": Block(lambda self, x: x.view(len(x), -1)),
    "a reshape and back": Block(lambda self, x: x.flatten(1).reshape(-1, 2, 4, 4).relu().flatten(1)),
    "relu in place": Block(lambda self, x: functional.relu(x + x, inplace=True).flatten(1)),
    "a sum in place": Block(lambda self, x: functional.relu(x).add_(x).flatten(1)),
    "the batch itself, changed nowhere": Block(lambda self, x: (x + x).flatten(1)),
    "concatenation in each axis": Block(
        lambda self, x: torch.cat([torch.cat([x, x], 1), torch.cat([x, x], 1)], -1).flatten(1)
    ),
    "a linear layer twice": Block(lambda self, x: self.linear(x.flatten(1)) + self.linear(x.flatten(1)), 32),
    "a product with a parameter's transpose": Block(
        lambda self, x: x.flatten(1) @ self.linear.weight.t(), 32
    ),
    "a copy": Block(lambda self, x: x.clone().contiguous().flatten(1)),
    "a pool as a function": Block(lambda self, x: functional.max_pool2d(x, 2).flatten(1)),
    "indices that nobody reads": Block(
        lambda self, x: functional.max_pool2d(x, 2, return_indices=True)[0].flatten(1)
    ),
    "a pool in one dimension": Block(lambda self, x: functional.max_pool1d(x.flatten(2), 2).flatten(1)),
    "squeeze": Block(lambda self, x: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
    "no gradient where nobody reads it": Block(lambda self, x: (torch.no_grad()(x.relu)(), x.flatten(1))[1]),
    "an operation whose result nobody reads": Block(lambda self, x: (x.sin(), x.flatten(1))[1]),
}


@pytest.mark.parametrize("name", FINE)
def test_ways_to_write_it(name):
    same_as_module(copy.deepcopy(FINE[name]).double(), images(3, 2, 4, 4))


class Doubled(torch.autograd.Function):
    """relu forward, and twice its derivative backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.relu(x)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * (ctx.saved_tensors[0] > 0)


class Relu(torch.autograd.Function):
    """A relu with gradients on, and a derivative that has the name of PyTorch's own."""

    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            return torch.relu(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def with_backward_hook(layer):
    layer.register_full_backward_hook(lambda *args: None)
    return layer


def hooked(self, x):
    x = x.relu()
    x.register_hook(lambda gradient: 2 * gradient)
    return x.flatten(1)


def aliased(self, x):
    y = x + x
    view = y.view(len(y), -1)
    y.relu_()
    return view


def aliased_part(self, x):
    y = x + x
    y[:, 0].zero_()
    return y.flatten(1)


def written_through_data(self, x):
    y = x + x
    y.data.mul_(2)
    return y.flatten(1)


def through_numpy(self, x):
    return torch.from_numpy(x.detach().numpy().copy()).flatten(1) + x.flatten(1)


def norms(*, variance, bias=False):
    """Two batch norms, the weight of the second being the first's weight or bias."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Flatten()).eval()
    model[1].running_var.fill_(variance)
    model[1].weight = model[0].bias if bias else model[0].weight
    return model


REFUSED = {
    "tanh": (Block(lambda self, x: x.tanh().flatten(1)), "tanh"),
    "sigmoid": (Block(lambda self, x: x.sigmoid().flatten(1)), "sigmoid"),
    "relu6": (Block(lambda self, x: functional.relu6(x).flatten(1)), "hardtanh"),
    "hardtanh": (Block(lambda self, x: functional.hardtanh(x).flatten(1)), "hardtanh"),
    "leaky relu": (Block(lambda self, x: functional.leaky_relu(x).flatten(1)), "leaky_relu"),
    "softmax": (Block(lambda self, x: x.flatten(1).softmax(1)), "softmax"),
    "abs": (Block(lambda self, x: x.abs().flatten(1)), "abs"),
    "where": (Block(lambda self, x: torch.where(x > 0, x, 0.0).flatten(1)), "where|gt"),
    "amax": (Block(lambda self, x: x.amax((2, 3))), "amax"),
    "maximum": (Block(lambda self, x: torch.maximum(x, -x).flatten(1)), "neg"),
    "a constant factor": (Block(lambda self, x: (2 * x).flatten(1)), "mul"),
    "a constant divisor": (Block(lambda self, x: (x / 2).flatten(1)), "div"),
    "a constant summand": (Block(lambda self, x: (x + 1).flatten(1)), "add.*a number"),
    "a constant tensor added": (
        Block(lambda self, x: (x + torch.ones(3, 2, 4, 4).double()).flatten(1)),
        "does not come from",
    ),
    "a parameter added": (Block(lambda self, x: (x + self.scale).flatten(1)), "add"),
    "a parameter as a factor": (Block(lambda self, x: (x * self.scale).flatten(1)), "mul"),
    "alpha": (Block(lambda self, x: torch.add(x, x, alpha=2).flatten(1)), "alpha"),
    "a difference": (Block(lambda self, x: (x - x.relu()).flatten(1)), "sub"),
    "batch mean": (Block(lambda self, x: (x - x.mean(0)).flatten(1)), "mean"),
    "batch mean, kept": (Block(lambda self, x: (x - x.mean(0, keepdim=True)).flatten(1)), "mean"),
    "images mixed by a view": (Block(lambda self, x: x.reshape(1, -1).expand(3, -1)), "mixes|expand"),
    "images in another order": (Block(lambda self, x: x.flip(0).flatten(1)), "flip"),
    "images next to each other": (Block(lambda self, x: torch.cat([x, x], 0).flatten(1)), "axis 0"),
    "rows for columns": (Block(lambda self, x: x.transpose(2, 3).flatten(1)), "transpose"),
    "images for channels": (Block(lambda self, x: x[:, 0, :3, 0].t()), "select|slice"),
    "a part of the batch": (Block(lambda self, x: x[:, :1].flatten(1)), "slice"),
    "a product of two values": (Block(lambda self, x: (x * x).flatten(1)), "mul"),
    "a matrix made of the batch": (Block(lambda self, x: x.flatten(1) @ x.flatten(1).t()), "not a parameter"),
    "transposed convolution": (nn.Sequential(nn.ConvTranspose2d(2, 2, 2), nn.Flatten()), "transposed"),
    "1-d convolution": (nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 2), nn.Flatten()), "convolution"),
    "one weight over two deviations": (norms(variance=2.0), "another variance"),
    "a weight over a deviation that is a bias too": (
        norms(variance=1.0, bias=True),
        "something else as well",
    ),
    "dropout in training": (nn.Sequential(nn.Dropout(0.5), nn.Flatten()), "div_|bernoulli"),
    "layer norm": (nn.Sequential(nn.LayerNorm((2, 4, 4)), nn.Flatten()), "layer_norm"),
    "group norm": (nn.Sequential(nn.GroupNorm(1, 2), nn.Flatten()), "group_norm"),
    "weight norm": (
        nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 2, 2)), nn.Flatten()),
        "_weight_norm",
    ),
    "spectral norm": (
        nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 2, 2)).eval(), nn.Flatten()),
        "parametrizations",
    ),
    "a weight that is computed": (
        Block(lambda self, x: functional.linear(x.flatten(1), self.linear.weight * 2), 32),
        "computed|mul",
    ),
    "custom derivative": (Block(lambda self, x: Doubled.apply(x).flatten(1)), "autograd.Function"),
    "custom derivative with a common name": (
        Block(lambda self, x: Relu.apply(x).flatten(1)),
        "ReluBackward",
    ),
    "a hook on a tensor": (Block(hooked), "hook"),
    "a backward hook": (
        nn.Sequential(with_backward_hook(nn.Conv2d(2, 2, 1)), nn.Flatten()),
        "backward hook of 0",
    ),
    "detach": (Block(lambda self, x: (x.relu().detach() + x).flatten(1)), "detach"),
    "no gradient": (Block(lambda self, x: torch.no_grad()(x.relu)().flatten(1) + x.flatten(1)), "no_grad"),
    "a copy without gradient": (
        Block(lambda self, x: (torch.no_grad()(x.clone)() + x).flatten(1)),
        "no_grad",
    ),
    "a change in place behind a view": (Block(aliased), "in place"),
    "a part changed in place": (Block(aliased_part), "in place|select|zero_"),
    "a change through .data": (Block(written_through_data), "mul_|detach|in place"),
    "derivative of relu at 0": (
        nn.Sequential(nn.Conv2d(2, 2, 1), tiebreak.ReLU(derivative_at_zero=0.5), nn.Flatten()),
        "autograd.Function",
    ),
    "a value through NumPy": (Block(through_numpy), "does not come from"),
    "norm pool": (
        Block(lambda self, x: tiebreak.norm_pool2d(x, kernel=2).flatten(1)),
        "not an operation",
    ),
    "fractional pool": (
        Block(lambda self, x: functional.fractional_max_pool2d(x, 2, 2).flatten(1)),
        "fractional",
    ),
    "adaptive pool of several sizes": (nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Flatten()), "several sizes"),
    "a mean over one axis": (Block(lambda self, x: x.mean(3).flatten(1)), "axes"),
    "a mean over channels": (Block(lambda self, x: x.mean(1).flatten(1)), "axes"),
    "a sum": (Block(lambda self, x: x.sum((2, 3))), "sum"),
    "a linear layer of pixels": (
        Block(lambda self, x: self.linear(x).flatten(1), 4),
        "linear|view|shape|mixes|matrix",
    ),
    "interpolation": (Block(lambda self, x: functional.interpolate(x, 8).flatten(1)), "upsample"),
    "padding with ones": (Block(lambda self, x: functional.pad(x, (1, 1), value=1.0).flatten(1)), "pad"),
    "attention": (
        Block(lambda self, x: functional.scaled_dot_product_attention(x, x, x).flatten(1)),
        "attention|mul|batch|bmm",
    ),
    "a value from elsewhere": (
        Block(lambda self, x: torch.ones(3, 2).double()),
        "does not come from the batch",
    ),
    "a tuple": (Block(lambda self, x: (x.flatten(1), x)), "tuple"),
    "images": (Block(lambda self, x: x.relu()), r"\(3, 2, 4, 4\)"),
    "a loss": (Block(lambda self, x: x.flatten(1).mean()), r"\(\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certifiable_is_refused(name):
    model, reason = REFUSED[name]
    model = copy.deepcopy(model).double()
    with pytest.raises(NotCertifiableError, match=reason) as caught:
        record(model, images(3, 2, 4, 4))
    message = str(caught.value)
    assert message.endswith("."), message
    assert "\n" not in message
    places = re.findall(r"\([^()]*\.py:\d+\)", message)
    assert len(places) <= 1, f"the place stands more than once: {message}"


@pytest.mark.parametrize(
    ("name", "path"),
    [("tanh", "1.inner"), ("conv", "1.inner")],
)
def test_the_place_is_named_once(name, path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Block(lambda self, x: x.tanh()) if name == "tanh" else nn.ConvTranspose2d(2, 2, 1)

        def forward(self, x):
            return self.inner(x)

    model = nn.Sequential(nn.ReLU(), Inner(), nn.ReLU(), nn.Flatten()).double()
    with pytest.raises(NotCertifiableError) as caught:
        record(model, images(1, 2, 4, 4))
    assert str(caught.value).count(path) == 1
    assert str(caught.value).count(".py:") == 1


def test_places_of_pools():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            x = self.pool(x)
            return functional.max_pool2d(x, 2).flatten(1)

    graph, _ = record(nn.Sequential(nn.ReLU(), Twice()), torch.ones(1, 1, 8, 8))
    first, second = (graph.nodes[index].where for index in graph.pools)
    assert first.startswith("1.pool")
    assert second.startswith("1, test_record.py:")
    assert int(second.rpartition(":")[2]) == int(first.rpartition(":")[2]) + 1


@pytest.mark.parametrize(
    "batch",
    [torch.ones(2, 1, 8, 8).int(), torch.ones(3), torch.ones(0, 1, 8, 8), None, [1.0]],
    ids=["int", "one axis", "empty", "none", "list"],
)
def test_batches_that_are_none(batch):
    with pytest.raises(UserError, match="floating-point tensor"):
        record(nn.Flatten(), batch)


def test_numbers_that_are_not_finite_are_placed():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten()).double()
    batch = images(1, 1, 2, 2)
    assert record(model, batch)[0].nonfinite is None
    broken = batch.clone()
    broken[0, 0, 0, 0] = torch.nan
    assert record(model, broken)[0].nonfinite == "the batch"
    with torch.no_grad():
        model[0].weight.fill_(1e308)
    assert record(model, 100 * batch)[0].nonfinite.startswith("0")


# -- The model is left as it was.


class Counting(nn.Module):
    """Gives its buffers anew at each pass and clamps its parameters, as some layers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        with torch.no_grad():
            self.linear.weight.clamp_(-0.125, 0.125)
        return self.linear(x)


def test_buffers_given_anew_and_parameters_changed_in_the_pass_are_put_back():
    model, batch = Counting(), torch.randn(2, 4)
    before = state_of(model, batch)
    with pytest.raises(NotCertifiableError, match="clamp_"):
        record(model, batch)
    assert state_of(model, batch) == before


class Stateful(nn.Module):
    """Every kind of state that a forward pass moves."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.drop, self.pool = nn.Dropout(0.5), nn.MaxPool2d(2)
        self.head = nn.Linear(18, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        return self.head(self.pool(self.norm(self.conv(self.drop(x)))).flatten(1))


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training):
    model = Stateful().train(training)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    seen = []
    model.pool.register_forward_hook(lambda *args: seen.append("forward"))
    batch = torch.randn(2, 1, 8, 8)
    before = state_of(model, batch)
    if training:
        with pytest.raises(NotCertifiableError):
            record(model, batch)
    else:
        record(model, batch)
    assert state_of(model, batch) == before
    assert seen, "the model's own hooks are its own"


def state_of(model, batch):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers()), "batch": batch}
    return {
        "values": {name: tensor.detach().flatten().tolist() for name, tensor in tensors.items()},
        "addresses": {name: tensor.data_ptr() for name, tensor in tensors.items()},
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "asks for a gradient": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "gradients": {
            name: None if tensor.grad is None else tensor.grad.tolist() for name, tensor in tensors.items()
        },
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for name, module in model.named_modules()
        },
        "hooks of all modules": len(nn.modules.module._global_forward_hooks),
        "generator": torch.get_rng_state().tolist(),
        "gradients are on": torch.is_grad_enabled(),
    }


def test_a_pass_that_raises_leaves_everything_as_it_was():
    def fail(self, x):
        torch.rand(3)
        raise RuntimeError("no")

    model, batch = Block(fail), torch.ones(1, 2, 2, 2)
    before = state_of(model, batch)
    with pytest.raises(RuntimeError, match="no"):
        record(model, batch)
    assert state_of(model, batch) == before


def test_a_batch_that_the_network_changes_is_put_back():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Identity())
    batch = torch.tensor([[1.0, -1.0], [-2.0, 2.0]])
    graph, output = record(model, batch)
    assert batch.tolist() == graph.batch.tolist() == [[1.0, -1.0], [-2.0, 2.0]]
    assert output.tolist() == run(graph)[graph.output].tolist() == [[1.0, 0.0], [0.0, 2.0]]


def test_a_graph_does_not_change_with_its_model():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1).eval(), nn.MaxPool2d(2), nn.Flatten())
    batch = torch.randn(1, 1, 5, 5)
    graph, _ = record(model, batch)
    before = [value.clone() for value in run(graph)]
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers(), batch):
            tensor.fill_(7)
    assert all(torch.equal(one, two) for one, two in zip(before, run(graph), strict=True))


# -- What stands in the graph.


def test_frozen_and_unused_parameters():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(1, 1)
            self.first.weight.requires_grad_(False)

        def forward(self, x):
            return self.second(self.first(x).relu())

    graph, _ = record(Partly(), torch.randn(2, 4))
    assert set(graph.parameters) == {
        "first.bias",
        "second.weight",
        "second.bias",
        "unused.weight",
        "unused.bias",
    }
    first, second = (node.operation for node in graph.nodes if isinstance(node.operation, Linear))
    assert (first.weight.name, first.bias.name) == (None, "first.bias")
    assert (second.weight.name, second.bias.name) == ("second.weight", "second.bias")


def test_one_parameter_under_two_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    graph, _ = record(Tied(), torch.randn(2, 4))
    names = [node.operation.weight.name for node in graph.nodes if isinstance(node.operation, Linear)]
    assert names == ["first.weight", "first.weight"]
    assert set(graph.parameters) == {"first.weight", "first.bias", "second.bias"}


def test_batch_norms_of_one_deviation_may_share_a_weight():
    graph = same_as_module(norms(variance=1.0).double(), images(1, 2, 3, 3))
    assert [node.operation.weight for node in graph.nodes[1:3]] == ["0.weight", "0.weight"]


def test_nodes_without_an_influence_are_left_out():
    model = Block(lambda self, x: (x.relu(), x + x)[1].flatten(1)).double()
    graph, _ = record(model, images(1, 2, 2, 2))
    assert [type(node.operation).__name__ for node in graph.nodes] == ["Input", "Conv2d", "Add", "Reshape"]


def test_batch_norm_is_folded():
    norm = nn.BatchNorm2d(2).double().eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.3, -2.0]))
        norm.bias.copy_(torch.tensor([0.7, 0.1]))
        norm.running_mean.copy_(torch.tensor([0.1, 5.0]))
        norm.running_var.copy_(torch.tensor([0.9, 3.0]))
    graph, _ = record(nn.Sequential(norm, nn.Flatten()), images(1, 2, 3, 3))
    affine = graph.nodes[1].operation
    assert isinstance(affine, Affine)
    inverse = 1.0 / torch.sqrt(norm.running_var + norm.eps)
    assert torch.equal(affine.scale, norm.weight.detach() * inverse)
    assert torch.equal(affine.shift, norm.bias.detach() - norm.running_mean * affine.scale)
    assert torch.equal(affine.mean, norm.running_mean)
    assert (affine.weight, affine.bias) == ("0.weight", "0.bias")


def test_autocast_is_recorded_through_its_conversions():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    batch = torch.randn(2, 1, 8, 8)

    def forward():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch)

    graph, output = record(model, batch, forward=forward)
    assert output.dtype == torch.bfloat16
    kinds = [type(node.operation) for node in graph.nodes[1:] if not isinstance(node.operation, Reshape)]
    assert [kind.__name__ for kind in kinds] == ["Conv2d", "ReLU", "MaxPool2d", "Linear"]
    assert torch.equal(graph.nodes[1].operation.weight.value, model[0].weight.detach().double())


def test_channels_last_is_the_same_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)).double()
    batch = images(2, 3, 8, 8)
    first = run(record(model, batch)[0])[-1]
    model = model.to(memory_format=torch.channels_last)
    second = same_as_module(model, batch.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(first, run(second)[-1], rtol=2.0**-45, atol=2.0**-45)


def test_masks_are_those_of_the_program():
    """In bf16 more windows tie than in fp64: the mask is of the pass that ran."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten()).to(torch.bfloat16)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(256.0)
    batch = torch.tensor([[[[0.5, 0.25], [0.125, -8.0]]]], dtype=torch.bfloat16)
    graph, _ = record(model, batch)
    (index,) = graph.pools
    assert graph.nodes[index].operation.float_mask.flatten().tolist() == [0b0111]


def _unmade():
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def _scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated; users have it all the same
        return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), "1.weight of the network has no shape yet"),
        (_unmade, "1.weight of the network has no numbers"),
        (_scripted, "a TorchScript module"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False), "asks for a derivative"),
    ],
)
def test_a_network_without_numbers_or_derivative_is_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        tiebreak.certify(make(), torch.ones(1, 1, 2, 2), torch.tensor([0]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mode": "proved"}, "mode must be one of random, proof"),
        ({"seed": -1}, "seed must be a whole number, 0 or more"),
        ({"seed": 0.5}, "seed must be a whole number, 0 or more"),
        ({"labels": torch.tensor([9])}, "the loss cannot take an output of the shape"),
        ({"labels": torch.tensor([0, 1])}, "the loss cannot take an output of the shape"),
        ({"model": "net"}, "is a torch.nn.Module, got str"),
    ],
)
def test_a_mistake_in_a_call_is_a_sentence(given, sentence):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    call = {"model": net, "images": torch.ones(1, 1, 2, 2), "labels": torch.tensor([0])} | given
    with pytest.raises(UserError, match=sentence):
        tiebreak.certify(**call)


def test_a_mode_may_be_spelled_as_in_yaml():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    found = tiebreak.certify(net, torch.ones(1, 1, 2, 2), torch.tensor([0]), mode="proof")
    assert found.evidence.mode is Mode.PROOF
    assert found.evidence.log2_error == -float("inf")


class Restrided(nn.Module):
    """Its average is given other strides in place: the same entries, or other ones."""

    def __init__(self, *strides):
        super().__init__()
        self.conv, self.head, self.strides = nn.Conv2d(1, 3, 1), nn.Linear(3, 2), strides

    def forward(self, x):
        x = functional.relu(self.conv(x)).mean((2, 3), keepdim=True)
        return self.head(x.as_strided_(x.shape, self.strides).flatten(1))


def test_other_strides_of_the_same_entries_are_followed_and_of_others_refused():
    batch = images(2, 1, 4, 4)
    same_as_module(Restrided(3, 1, 3, 3).double(), batch)
    with pytest.raises(NotCertifiableError, match="another layout"):
        record(Restrided(1, 2, 1, 1).double(), batch)


@pytest.mark.parametrize("arch", ["vgg11", "resnet18", "densenet121"])
def test_channels_last_networks_are_followed(arch):
    model = build(Network(arch=arch), num_classes=2, in_channels=3, seed=1)
    batch = images(2, 3, 32, 32).float()
    plain = record(model, batch)[0]
    last = record(
        model.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    )[0]
    assert [type(node.operation) for node in last.nodes] == [type(node.operation) for node in plain.nodes]
    assert [node.shape for node in last.nodes] == [node.shape for node in plain.nodes]
