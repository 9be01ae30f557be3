"""Networks against published parameter counts and against torchvision's networks."""

import copy
import hashlib

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from tiebreak.design.axes import NATIVE, Arch, DesignError, Init, PoolJacobian, StemPool
from tiebreak.design.cell import Network, stream_seed
from tiebreak.models import build
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d

SEED = 3


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def described(arch, *, batch_norm=False, num_classes=10, in_channels=3, stem_pool="2x2", init="pytorch"):
    """The network without values: counts and names cost nothing."""
    network = Network(arch=arch, batch_norm=batch_norm, stem_pool=stem_pool, init=init)
    with torch.device("meta"):
        return build(network, num_classes=num_classes, in_channels=in_channels, seed=SEED)


def drawn(arch, *, batch_norm=False, num_classes=10, in_channels=3, seed=SEED, **axes):
    network = Network(arch=arch, batch_norm=batch_norm, **axes)
    return build(network, num_classes=num_classes, in_channels=in_channels, seed=seed)


def reference(name, **arguments):
    """Torchvision's network of that name, drawn quickly."""
    with torch.random.fork_rng(devices=[]):
        return getattr(torchvision_models, name)(weights=None, **arguments)


def images(shape, *, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_same_bits(ours, theirs, *, x):
    """Logits and every gradient, in training mode; names may differ, order may not."""
    ours.train()
    theirs.train()
    logits = [model(x) for model in (ours, theirs)]
    assert torch.equal(*logits)
    upstream = images(logits[0].shape, seed=1) - 0.5
    gradients = [
        torch.autograd.grad(y, [*m.parameters()], upstream)
        for y, m in zip(logits, (ours, theirs), strict=True)
    ]
    for name, mine, yours in zip(dict(ours.named_parameters()), *gradients, strict=True):
        assert torch.equal(mine, yours), name


@pytest.mark.parametrize(
    ("arch", "batch_norm", "num_classes", "in_channels", "parameters"),
    [
        ("lenet5", False, 10, 1, 44_426),
        ("vgg11", False, 10, 3, 9_225_610),
        ("resnet18", False, 10, 3, 11_164_362),
        ("resnet18", True, 10, 3, 11_173_962),
        ("resnet50", True, 1000, 3, 25_557_032),
        ("densenet121_published", False, 10, 3, 6_880_458),
    ],
)
def test_published_parameter_counts(arch, batch_norm, num_classes, in_channels, parameters):
    model = described(arch, batch_norm=batch_norm, num_classes=num_classes, in_channels=in_channels)
    assert count(model) == parameters


@pytest.mark.parametrize(("arch", "num_pools"), [*zip(Arch, (2, 5, 5, 5, 5, 1, 1, 1, 1, 1), strict=True)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_pool_is_ours_and_holds_the_jacobian_that_was_passed(arch, num_pools, batch_norm):
    switch = JacobianSwitch(NATIVE)
    with torch.device("meta"):
        network = Network(arch=arch, batch_norm=batch_norm)
        model = build(network, num_classes=10, in_channels=1, jacobian=switch, seed=SEED)
    pools = [module for module in model.modules() if isinstance(module, MaxPool2d)]
    assert len(pools) == num_pools
    assert all(pool.jacobian is switch for pool in pools)
    assert all(pool.geometry.is_2x2 for pool in pools)
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "densenet121", "densenet121_published"])
def test_stem_pool_is_an_axis(arch):
    model = described(arch, stem_pool=StemPool.P3X3)
    (pool,) = (module for module in model.modules() if isinstance(module, MaxPool2d))
    assert (pool.geometry.kernel, pool.geometry.stride, pool.geometry.padding) == ((3, 3), (2, 2), (1, 1))


@pytest.mark.parametrize("arch", Arch)
def test_batch_norm_stands_behind_every_convolution_or_nowhere(arch):
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    without, with_norm = (described(arch, batch_norm=on, in_channels=1) for on in (False, True))
    assert not any(isinstance(module, norms) for module in without.modules())
    num_norms = sum(isinstance(module, norms) for module in with_norm.modules())
    num_layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in with_norm.modules())
    if arch is Arch.DENSENET121_PUBLISHED:
        assert num_norms == 2
    elif arch is Arch.DENSENET121:
        assert num_norms == 121  # one before each of the 120 convolutions behind the stem's, one at the end
    else:
        assert num_norms == num_layers - 1  # all but the last linear layer


@pytest.mark.parametrize("arch", Arch)
def test_a_shared_parameter_has_the_same_name_with_and_without_batch_norm(arch):
    shapes = {}
    for batch_norm in (False, True):
        model = described(arch, batch_norm=batch_norm, in_channels=1)
        shapes[batch_norm] = {name: tensor.shape for name, tensor in model.named_parameters()}
    assert shapes[False].items() <= shapes[True].items()


@pytest.mark.parametrize("arch", ["lenet5", "vgg11", "resnet18", "densenet121", "densenet121_published"])
@pytest.mark.parametrize("init", Init)
def test_weights_depend_on_arch_init_and_seed_only(arch, init):
    plain = drawn(arch, init=init, in_channels=1).state_dict()
    stem_pool = "2x2" if arch in ("lenet5", "vgg11") else "3x3"
    torch.rand(7)  # the global generator has no say
    other = drawn(arch, init=init, in_channels=1, batch_norm=True, stem_pool=stem_pool).state_dict()
    assert plain.keys() <= other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    moved = drawn(arch, init=init, in_channels=1, seed=SEED + 1).state_dict()
    weights = [name for name in plain if name.endswith("weight")]
    assert not any(torch.equal(plain[name], moved[name]) for name in weights)


def test_two_layers_of_one_shape_get_different_weights():
    weights = [w for w in drawn("resnet18").parameters() if w.shape == (64, 64, 3, 3)]
    assert len(weights) == 4
    assert len({hashlib.sha256(w.detach().numpy().tobytes()).hexdigest() for w in weights}) == 4


def test_seed_zero_is_a_seed_like_any_other():
    first, again, other = (drawn("lenet5", in_channels=1, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_global_state_is_neither_read_nor_written(dtype):
    expected = drawn("lenet5", in_channels=1, batch_norm=True).state_dict()
    before = torch.random.get_rng_state()
    torch.set_default_dtype(dtype)
    try:
        state = drawn("lenet5", in_channels=1, batch_norm=True).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(tensor.dtype == expected[name].dtype for name, tensor in state.items())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


@pytest.mark.parametrize("arch", ["lenet5", "vgg11", "resnet18", "densenet121"])
def test_built_in_fp32_contiguous_on_the_cpu_in_training_mode(arch):
    model = drawn(arch, batch_norm=True, in_channels=1)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()
        assert tensor.isfinite().all(), name
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_under_the_meta_device_a_network_has_shapes_and_no_values():
    for arch in Arch:
        assert all(tensor.device.type == "meta" for tensor in described(arch).state_dict().values())


class TestInit:
    """Draws against torch's own layers, from the same generator state."""

    def layers(self, model):
        return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}

    @pytest.mark.parametrize("arch", ["lenet5", "vgg11"])
    def test_pytorch_is_what_the_layers_do_by_themselves(self, arch):
        for name, layer in self.layers(drawn(arch, in_channels=1)).items():
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream_seed(f"init/{name}", replicate=SEED))
                fresh = copy.deepcopy(layer)
                fresh.reset_parameters()
            assert torch.equal(layer.weight, fresh.weight), name
            assert torch.equal(layer.bias, fresh.bias), name

    @pytest.mark.parametrize(("arch", "mode"), [("resnet18", 0), ("resnet50", 0), ("densenet121", 1)])
    def test_pytorch_of_residual_and_dense_networks_is_kaiming_normal(self, arch, mode):
        model = drawn(arch)
        for name, layer in self.layers(model).items():
            if isinstance(layer, nn.Conv2d):
                fan = layer.weight[:, 0].numel() if mode == 0 else layer.weight[0].numel()
                scaled = layer.weight.detach().double() * (fan / 2) ** 0.5
                # Six standard errors of a sample's standard deviation and mean; 120 layers, so 1e-6 in all.
                assert abs(scaled.std() - 1) < 6 / (2 * scaled.numel()) ** 0.5, name
                assert abs(scaled.mean()) < 6 / scaled.numel() ** 0.5, name
        if arch == "densenet121":
            assert not model.classifier.bias.any()

    @pytest.mark.parametrize("arch", ["lenet5", "resnet18", "densenet121"])
    def test_kaiming_uniform(self, arch):
        for name, layer in self.layers(drawn(arch, init="kaiming_uniform")).items():
            assert layer.bias is None or not layer.bias.any(), name
            weight = layer.weight.detach().double()
            if isinstance(layer, nn.Conv2d):
                bound = (6 / layer.weight[0].numel()) ** 0.5
                assert weight.abs().max() <= bound * (1 + 2**-23), name
                assert weight.abs().max() > 0.9 * bound, name
            else:
                assert abs(weight.std() / 0.01 - 1) < 6 / (2 * weight.numel()) ** 0.5, name


class TestAgainstTorchvision:
    """The same weights give the same logits and gradients, bit for bit."""

    def test_resnet50_with_its_true_stem_pool(self):
        model = drawn("resnet50", batch_norm=True, stem_pool="3x3", num_classes=1000)
        theirs = reference("resnet50")
        assert list(theirs.state_dict()) == list(model.state_dict())
        theirs.load_state_dict(model.state_dict())
        assert_same_bits(model, theirs, x=images((2, 3, 64, 64)))

    def test_densenet121_with_its_true_stem_pool(self):
        model = drawn("densenet121", batch_norm=True, stem_pool="3x3", num_classes=1000)
        theirs = reference("densenet121")
        assert count(model) == count(theirs) == 7_978_856
        assert list(theirs.state_dict()) == list(model.state_dict())
        theirs.load_state_dict(model.state_dict())
        assert_same_bits(model, theirs, x=images((2, 3, 64, 64)))

    @pytest.mark.parametrize(
        ("arch", "batch_norm", "stem_pool"),
        [
            ("resnet18", False, StemPool.P2X2),
            ("resnet18", True, StemPool.P2X2),
            ("resnet18", True, StemPool.P3X3),
            ("resnet34", True, StemPool.P2X2),
        ],
    )
    def test_small_resnets_are_torchvisions_with_a_small_stem(self, arch, batch_norm, stem_pool):
        model = drawn(arch, batch_norm=batch_norm, stem_pool=stem_pool)
        theirs = reference(arch, num_classes=10, norm_layer=nn.BatchNorm2d if batch_norm else nn.Identity)
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if stem_pool is StemPool.P2X2:
            theirs.maxpool = nn.MaxPool2d(2)
        theirs.load_state_dict(model.state_dict())
        assert_same_bits(model, theirs, x=images((2, 3, 32, 32)))

    @pytest.mark.parametrize("arch", ["vgg11", "vgg13", "vgg16", "vgg19"])
    @pytest.mark.parametrize("batch_norm", [False, True])
    def test_features_of_vgg(self, arch, batch_norm):
        model = drawn(arch, batch_norm=batch_norm).features
        with torch.device("meta"):
            theirs = reference(f"{arch}_bn" if batch_norm else arch).features
        if batch_norm:
            assert list(theirs.state_dict()) == list(model.state_dict())
        state = dict(zip(theirs.state_dict(), model.state_dict().values(), strict=True))
        theirs.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        assert_same_bits(model, theirs, x=images((2, 3, 32, 32)))

    def test_published_densenet_is_the_true_one_with_most_norms_taken_out(self):
        model = drawn("densenet121_published", batch_norm=True)
        theirs = reference("densenet121", num_classes=10)
        theirs.features.pool0 = nn.MaxPool2d(2)
        kept = {"features.norm0", "features.norm5"}
        for name, module in list(theirs.named_modules()):
            if isinstance(module, nn.BatchNorm2d) and name not in kept:
                theirs.set_submodule(name, nn.Identity())
        theirs.load_state_dict(model.state_dict())
        assert count(model) == count(theirs) == 6_880_458 + 2 * (64 + 1024)
        assert_same_bits(model, theirs, x=images((2, 3, 32, 32)))


def test_the_published_densenet_starts_from_the_weights_of_the_true_one():
    published, true = (drawn(arch).state_dict() for arch in ("densenet121_published", "densenet121"))
    assert all(torch.equal(published[name], true[name]) for name in published)


def test_lenet5_written_out():
    model = drawn("lenet5", in_channels=1, batch_norm=True)
    state = model.state_dict()
    f = nn.functional
    x = images((4, 1, 28, 28))

    def norm(y, layer):
        return f.batch_norm(y, None, None, state[f"{layer}.weight"], state[f"{layer}.bias"], training=True)

    expected = x
    for conv, bn in (("features.0", "features.3"), ("features.4", "features.7")):
        expected = f.conv2d(expected, state[f"{conv}.weight"], state[f"{conv}.bias"])
        expected = norm(f.max_pool2d(f.relu(expected), 2), bn)
    expected = expected.flatten(1)
    for linear, bn in (("classifier.0", "classifier.2"), ("classifier.3", "classifier.5")):
        expected = norm(f.relu(f.linear(expected, state[f"{linear}.weight"], state[f"{linear}.bias"])), bn)
    expected = f.linear(expected, state["classifier.6.weight"], state["classifier.6.bias"])
    assert torch.equal(model(x), expected)


def test_relu_is_an_argument():
    made = []

    def relu():
        made.append(nn.LeakyReLU(0.5))
        return made[-1]

    model = build(Network(arch="vgg11"), num_classes=10, relu=relu, seed=SEED)
    assert len(made) == 8
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize("beta", [0.0, 1.0, 1e4])
def test_the_jacobian_moves_the_gradient_of_a_flat_image_and_no_logit(beta):
    network = Network(arch="lenet5")
    jacobian = PoolJacobian(beta=beta)
    native = build(network, num_classes=10, in_channels=1, seed=SEED)
    model = build(network, num_classes=10, in_channels=1, jacobian=jacobian, seed=SEED)
    x = torch.ones(2, 1, 28, 28)
    assert torch.equal(native(x), model(x))
    gradients = [torch.autograd.grad(m(x).square().sum(), m.features[0].weight)[0] for m in (native, model)]
    assert torch.equal(*gradients) == (beta == 0)


@pytest.mark.parametrize(
    ("arch", "side", "message"),
    [
        ("lenet5", 32, "lenet5 takes images of 28x28 pixels, got 32x32."),
        ("lenet5", 24, "lenet5 takes images of 28x28 pixels, got 24x24."),
        ("vgg11", 28, "vgg11 takes images of 32x32 pixels or larger, got 28x28."),
        ("densenet121", 28, "densenet121 takes images of 32x32 pixels or larger, got 28x28."),
    ],
)
def test_images_of_a_wrong_size_are_refused_in_a_sentence(arch, side, message):
    model = described(arch, in_channels=1)
    with pytest.raises(DesignError, match=message.replace(".", r"\.")):
        model(torch.empty(2, 1, side, side, device="meta"))


@pytest.mark.parametrize("arch", ["vgg11", "resnet18", "resnet50", "densenet121"])
@pytest.mark.parametrize("side", [32, 64, 97, 224])
@pytest.mark.parametrize("stem_pool", StemPool)
def test_larger_and_odd_images_are_averaged(arch, side, stem_pool):
    if arch == "vgg11":
        stem_pool = StemPool.P2X2
    model = described(arch, stem_pool=stem_pool, num_classes=7)
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", 0), ("num_classes", True), ("in_channels", 0), ("in_channels", 1.0), ("seed", -1)],
)
def test_a_number_that_cannot_be_is_refused_in_a_sentence(key, value):
    arguments = {"num_classes": 10, "in_channels": 1, "seed": 0} | {key: value}
    with pytest.raises(DesignError, match=f"{key} of a network must be a whole number.*got {value!r}"):
        build(Network(arch="lenet5"), **arguments)
