"""Rewritten modules: torchvision's classifiers and small modules that call pools in every way there is."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torchvision import models as torchvision_models

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models import build, pools_left, rewrite_pools
from tiebreak.numerics.pooling import JacobianSwitch, MaxPool2d


class Calls(nn.Module):
    """One pool as a module, the others called as functions, behind a branch that no tracer can follow."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x, *, branch=True):
        x = self.pool(x)
        if branch and x.sum() > -1:
            x = F.max_pool2d(x, kernel_size=(2, 2))
        x = torch.max_pool2d(x, 2, [])
        return torch.ops.aten.max_pool2d(x, [2, 2])


class Shared(nn.Module):
    """The same pool under two names and twice in one forward pass."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.MaxPool2d(2)
        self.parts = nn.ModuleList([self.first, nn.Sequential(self.first)])

    def forward(self, x):
        return self.parts[1](self.second(self.first(x)))


class Own(nn.MaxPool2d):
    """A subclass that does more than pool."""

    def forward(self, input):
        return 2 * super().forward(input)


class Straight(nn.Module):
    """What a tracer can follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return F.max_pool2d(torch.max_pool2d(self.pool(self.conv(x)), 2), 2, stride=2)


def slope(model, x=None, **arguments):
    """Gradient at a flat image, 16x16 unless given: every window of every pool is tied."""
    x = torch.ones(1, 1, 16, 16) if x is None else x
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x, **arguments).sum(), x)
    return gradient


FLAT = torch.full((1, 1, 16, 16), 1 / 256)
"""The minimal-norm gradient of four pools in a row: one 256th everywhere."""


def classifier(name):
    """Torchvision's network in eval mode, its widest linear layers made one small one."""
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = getattr(torchvision_models, name)(weights=None, num_classes=10, **slow)
        if name in ("alexnet", "vgg11"):
            first = next(layer for layer in model.classifier if isinstance(layer, nn.Linear))
            model.classifier = nn.Linear(first.in_features, 10)
    model.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "side", "num_pools"),
    [
        ("alexnet", 63, 3),
        ("vgg11", 32, 5),
        ("squeezenet1_1", 32, 3),
        ("resnet18", 33, 1),
        ("densenet121", 33, 1),
        ("googlenet", 33, 13),
        ("inception_v3", 75, 4),
    ],
)
def test_torchvisions_classifiers(name, side, num_pools):
    model = classifier(name)
    switch = JacobianSwitch(MINIMAL, events=[])
    rewritten = rewrite_pools(model, jacobian=switch)
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = model(x), rewritten(x)
    assert torch.equal(expected, got)
    assert len(switch.events) == num_pools
    assert isinstance(rewritten, type(model))
    before, after = model.state_dict(), rewritten.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {id(tensor) for tensor in before.values()}.isdisjoint(id(tensor) for tensor in after.values())
    assert pools_left(rewritten) == []


def test_native_gradients_of_a_whole_classifier_are_torchs_bit_for_bit():
    model = classifier("inception_v3")
    rewritten = rewrite_pools(model, jacobian=NATIVE)
    x = torch.rand(2, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad(net(x).sum(), [*net.parameters()], allow_unused=True)
        for net in (model, rewritten)
    ]
    used = [pair for pair in zip(*gradients, strict=True) if pair != (None, None)]
    assert len(used) > 280  # all but the auxiliary classifier's
    assert all(torch.equal(theirs, ours) for theirs, ours in used)


def test_functions_are_rewritten_where_no_tracer_can_follow():
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(Calls())
    assert torch.equal(slope(rewrite_pools(Calls(), jacobian=MINIMAL)), FLAT)
    eighth = slope(rewrite_pools(Calls(), jacobian=MINIMAL), branch=False)
    assert torch.equal(eighth, torch.full((1, 1, 16, 16), 1 / 64))
    assert torch.equal(slope(rewrite_pools(Calls(), jacobian=NATIVE)), slope(Calls()))


def test_pools_inside_submodules_containers_and_lists_are_rewritten():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.MaxPool2d(2)]  # unknown to nn.Module

        def forward(self, x):
            return self.hidden[0](x)

    model = nn.Sequential(nn.Sequential(Hidden()), nn.ModuleDict({"a": Hidden()})["a"], Hidden(), Hidden())
    assert torch.equal(slope(rewrite_pools(model, jacobian=MINIMAL)), FLAT)


def test_a_pool_alone_is_rewritten():
    pool = rewrite_pools(nn.MaxPool2d(2), jacobian=MINIMAL)
    assert isinstance(pool, MaxPool2d)
    assert torch.equal(slope(pool), torch.full((1, 1, 16, 16), 0.25))


def test_a_shared_pool_stays_shared():
    model = rewrite_pools(Shared(), jacobian=MINIMAL)
    assert model.first is model.second is model.parts[0] is model.parts[1][0]
    assert torch.equal(slope(model), torch.full((1, 1, 16, 16), 1 / 64))


def test_a_subclass_keeps_its_forward_and_gets_the_jacobian():
    model = rewrite_pools(nn.Sequential(Own(2)), jacobian=MINIMAL)
    assert type(model[0]) is Own
    assert pools_left(model) == []
    assert torch.equal(slope(model), torch.full((1, 1, 16, 16), 0.5))


def test_parts_that_a_traced_model_calls_as_they_are_get_the_jacobian():
    class Leaves(fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, Calls) or super().is_leaf_module(module, name)

    model = nn.Sequential(Calls(), nn.Identity())
    traced = fx.GraphModule(model, Leaves().trace(model))
    rewritten = rewrite_pools(traced, jacobian=MINIMAL)
    assert torch.equal(slope(rewritten), FLAT)
    assert torch.equal(slope(copy.deepcopy(rewritten)), FLAT)
    assert torch.equal(slope(traced), slope(model))


def test_a_forward_of_one_instance_is_kept():
    model = nn.Identity()
    model.forward = lambda x: F.max_pool2d(x, 2)
    assert torch.equal(slope(rewrite_pools(model, jacobian=MINIMAL)), torch.full((1, 1, 16, 16), 0.25))


def test_a_module_that_calls_no_pool_by_itself_keeps_its_class():
    for model in (nn.Sequential(nn.MaxPool2d(2)), build(Network(arch="lenet5"), num_classes=10, seed=0)):
        assert type(rewrite_pools(model, jacobian=MINIMAL)) is type(model)


@given(
    kernel=st.integers(1, 3),
    stride=st.sampled_from([None, 1, 2, (2, 1)]),
    padding=st.booleans(),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_geometry_is_carried_over(kernel, stride, padding, dilation, ceil_mode, seed):
    geometry = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding * (kernel // 2),
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    x = torch.randint(0, 3, (2, 2, 9, 8), generator=torch.Generator().manual_seed(seed)).double()

    class Function(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, **geometry)

    for model in (nn.MaxPool2d(**geometry), Function()):
        rewritten = rewrite_pools(model, jacobian=NATIVE)
        assert torch.equal(rewritten(x), model(x))
        assert torch.equal(slope(rewritten, x), slope(model, x))


class TestTheOriginal:
    """Nothing of the model that is handed in changes."""

    def test_is_not_touched(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Dropout()).eval()
        model[0].train()
        model[0].weight.grad = torch.ones_like(model[0].weight)
        model[0].bias.requires_grad_(False)
        seen = []
        model[1].register_forward_hook(lambda *_: seen.append("hook"))
        pool, before = model[1], copy.deepcopy(model.state_dict())
        native = slope(model)
        rewritten = rewrite_pools(model, jacobian=MINIMAL).train()
        with torch.no_grad():
            for parameter in rewritten.parameters():
                parameter.add_(1)
        assert model[1] is pool
        assert type(pool) is nn.MaxPool2d
        assert [module.training for module in model] == [True, False, False]
        assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
        assert not model[0].bias.requires_grad
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        assert torch.equal(slope(model), native)
        assert seen == ["hook"] * 2

    def test_keeps_its_jacobian_and_its_switch(self):
        switch = JacobianSwitch(NATIVE, events=[])
        model = build(Network(arch="lenet5"), num_classes=10, in_channels=1, jacobian=switch, seed=0)
        model(torch.ones(1, 1, 28, 28))
        rewritten = rewrite_pools(model, jacobian=MINIMAL)  # the events hold a graph that cannot be copied
        rewritten(torch.ones(1, 1, 28, 28))
        assert len(switch.events) == 2
        assert [m.jacobian for m in model.modules() if isinstance(m, MaxPool2d)] == [switch] * 2
        assert [m.jacobian for m in rewritten.modules() if isinstance(m, MaxPool2d)] == [MINIMAL] * 2


class TestTheCopy:
    """What else holds for a rewritten model."""

    def test_hooks_and_mode_of_a_pool_are_carried_over(self):
        model = nn.Sequential(nn.MaxPool2d(2), nn.Identity())
        model[0].eval()
        seen = []
        model[0].register_forward_hook(lambda module, *_: seen.append(type(module)))
        rewritten = rewrite_pools(model, jacobian=MINIMAL)
        slope(rewritten)
        assert seen == [MaxPool2d]
        assert [module.training for module in rewritten] == [False, True]

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    @pytest.mark.parametrize("model", [Calls(), fx.symbolic_trace(Straight())], ids=["code", "graph"])
    def test_can_be_copied_and_pickled(self, duplicate, model):
        rewritten = rewrite_pools(model, jacobian=MINIMAL)
        expected = slope(rewritten)
        again = duplicate(duplicate(rewritten))
        assert isinstance(again, fx.GraphModule if isinstance(model, fx.GraphModule) else Calls)
        assert torch.equal(slope(again), expected)
        assert not torch.equal(slope(model), expected)

    def test_keeps_one_switch_when_copied(self):
        model = copy.deepcopy(rewrite_pools(Calls(), jacobian=JacobianSwitch(NATIVE)))
        model.pool.jacobian.jacobian = MINIMAL
        assert torch.equal(slope(model), FLAT)

    def test_records_events_in_forward_order(self):
        switch = JacobianSwitch(MINIMAL, events=[])
        rewrite_pools(Calls(), jacobian=switch)(torch.ones(1, 1, 16, 16))
        assert [event.input.shape[-1] for event in switch.events] == [16, 8, 4, 2]

    def test_can_be_rewritten_again(self):
        first = rewrite_pools(Calls(), jacobian=MINIMAL)
        second = rewrite_pools(first, jacobian=NATIVE)
        assert torch.equal(slope(second), slope(Calls()))
        assert torch.equal(slope(first), FLAT)
        assert type(second).__mro__[1:] == type(first).__mro__[1:]

    def test_can_be_a_part_of_a_model_that_is_rewritten(self):
        outer = nn.Sequential(rewrite_pools(Calls(), jacobian=MINIMAL), nn.Identity())
        assert torch.equal(slope(outer), FLAT)
        assert torch.equal(slope(rewrite_pools(outer, jacobian=NATIVE)), slope(Calls()))

    def test_leaves_torch_as_it_was(self):
        def fails(*_):
            raise RuntimeError("stop")

        model = rewrite_pools(Calls(), jacobian=MINIMAL)
        model.pool.register_forward_hook(fails)
        with pytest.raises(RuntimeError, match="stop"):
            model(torch.ones(1, 1, 16, 16))
        native = slope(lambda x: F.max_pool2d(x, 2))
        assert native.count_nonzero() == 64

    def test_threads_do_not_see_each_other(self):
        model, inside, done = rewrite_pools(Calls(), jacobian=MINIMAL), threading.Event(), threading.Event()
        gradients = []

        def wait(*_):
            inside.set()
            assert done.wait(60)

        model.pool.register_forward_hook(wait)
        thread = threading.Thread(target=lambda: gradients.append(slope(model)))
        thread.start()
        assert inside.wait(60)
        native = slope(lambda x: F.max_pool2d(x, 2))
        done.set()
        thread.join(60)
        assert native.count_nonzero() == 64
        assert torch.equal(gradients[0], FLAT)

    def test_takes_the_place_of_the_model_in_functional_calls_and_transforms(self):
        model = rewrite_pools(Calls(), jacobian=MINIMAL)
        value = torch.func.functional_call(model, {}, (torch.ones(1, 1, 16, 16),))
        assert value.item() == 1
        gradient = torch.func.grad(lambda x: model(x, branch=False).sum())(torch.ones(1, 1, 16, 16))
        assert torch.equal(gradient, torch.full((1, 1, 16, 16), 1 / 64))

    # The compiler looks at tensors where it breaks its graph, and warns itself of doing so.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_compiles(self):
        model = rewrite_pools(Calls(), jacobian=MINIMAL)
        gradient = slope(torch.compile(model, backend="aot_eager"), branch=False)
        assert torch.equal(gradient, torch.full((1, 1, 16, 16), 1 / 64))


class TestLeftToTorch:
    """What our operator does not stand for stays torch's."""

    def test_pools_that_return_indices(self):
        class Unpooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool = nn.MaxPool2d(2, return_indices=True)

            def forward(self, x):
                x, first = self.pool(x)
                x, second = F.max_pool2d(x, 2, return_indices=True)
                x, third = F.max_pool2d_with_indices(x, 2)
                for indices in (third, second, first):
                    x = F.max_unpool2d(x, indices, 2)
                return x

        model = Unpooled()
        rewritten = rewrite_pools(model, jacobian=MINIMAL)
        assert pools_left(rewritten) == ["pool"]
        assert torch.equal(slope(rewritten), slope(model))

    def test_pools_of_other_kinds(self):
        model = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(1), nn.MaxPool1d(2))
        rewritten = rewrite_pools(model, jacobian=MINIMAL)
        assert pools_left(model) == pools_left(rewritten) == ["0", "2"]
        assert torch.equal(slope(rewritten), slope(model))

    def test_integers(self):
        class Integers(nn.Module):
            def forward(self, x):
                return F.max_pool2d(x, 2)

        x = torch.arange(16).view(1, 1, 4, 4)
        assert rewrite_pools(Integers(), jacobian=MINIMAL)(x).flatten().tolist() == [5, 7, 13, 15]

    def test_pools_of_a_graph_that_return_indices(self):
        class Unpooled(nn.Module):
            def forward(self, x):
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                return F.max_unpool2d(x, indices, 2)

        model = fx.symbolic_trace(Unpooled())
        assert torch.equal(slope(rewrite_pools(model, jacobian=MINIMAL)), slope(model))


class TestRefusals:
    """A mistake is answered in a sentence."""

    def test_no_module(self):
        with pytest.raises(DesignError, match=r"takes a torch\.nn\.Module, got function"):
            rewrite_pools(lambda x: x, jacobian=MINIMAL)

    def test_no_jacobian(self):
        with pytest.raises(DesignError, match="must be a PoolJacobian or a JacobianSwitch, got float"):
            rewrite_pools(nn.MaxPool2d(2), jacobian=1.0)

    def test_compiled(self):
        model = nn.Sequential(torch.compile(Calls()))
        with pytest.raises(DesignError, match=r"its part '0' is compiled .* Rewrite the model first"):
            rewrite_pools(model, jacobian=PoolJacobian(beta=2))

    def test_scripted(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # by its makers
            model = torch.jit.script(nn.Sequential(nn.MaxPool2d(2)))
        with pytest.raises(DesignError, match=r"the model is compiled .* Rewrite the model first"):
            rewrite_pools(model, jacobian=MINIMAL)

    def test_threaded(self):
        with pytest.raises(DesignError, match=r"cannot follow nn\.DataParallel"):
            rewrite_pools(nn.DataParallel(Calls()), jacobian=MINIMAL)
