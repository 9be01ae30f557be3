"""What an audit says, against planted ties, against `zones` and `certify`, and against rules set by hand."""

import copy
import inspect
import json
import math
import random
import warnings

import pytest
import torch
from nets import LABELS, Net, Normed, bifurcating, images
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import tiebreak
from tiebreak import MINIMAL, NATIVE, PoolJacobian, Precision, Selection, certify, rewrite_pools, zones
from tiebreak.auditing import RULES, audit
from tiebreak.design.axes import DesignError, UserError
from tiebreak.exact.certificate import Label
from tiebreak.numerics.gap import gap
from tiebreak.numerics.precision import cast

LAST = PoolJacobian(selection=Selection.LAST)


def only(found):
    (section,) = found.sections
    return section


def line_of(kind, text):
    lines, start = inspect.getsourcelines(kind.forward)
    return start + next(number for number, line in enumerate(lines) if text in line)


def test_the_name_is_the_function_however_the_room_was_imported():
    assert tiebreak.audit is audit
    assert callable(tiebreak.audit)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_gaps_and_counts_are_those_of_zones(precision):
    model, pixels = Net(), images(flat_rows=6)
    section = only(audit(model, (pixels, LABELS), precisions=[precision], certify=False))
    copied = cast(copy.deepcopy(model), precision)
    draw = zones(copied, pixels.to(copied.head.weight.dtype), LABELS, jacobians=(NATIVE, *RULES))
    for rule, expected in zip(section.rules, draw.gaps, strict=True):
        assert (rule.relative, rule.sup) == (expected.relative, expected.sup)
    assert sum(layer.live for layer in section.layers) == draw.live_ties
    for layer, event in zip(section.layers, draw.events, strict=True):
        counts = tiebreak.numerics.ties.tie_counts(event)
        assert (layer.windows, layer.tied) == (counts.windows, counts.tied)
        assert layer.tied == layer.tied_at_zero + layer.tied_above_zero + layer.tied_below_zero
        assert layer.tied_above_zero == counts.tied_above_zero
    assert any(layer.tied_above_zero for layer in section.layers)


def test_truth_and_labels_are_those_of_certify():
    model, pixels = Net(), images(flat_rows=6)
    section = only(audit(model, (pixels, LABELS)))
    certificate = certify(model, pixels, LABELS, jacobians=RULES)
    assert [layer.truth for layer in section.layers] == list(certificate.pools)
    for rule, verdict in zip(section.rules, certificate.verdicts, strict=True):
        assert rule.label is verdict.label(gap_is_zero=rule.sup == 0, nonfinite=False)
        assert rule.num_nonzero == verdict.num_nonzero


def test_equal_patches_are_compensation_and_dithering_is_advised():
    section = only(audit(Net(), (images(flat_rows=8), LABELS), precisions=["bf16"]))
    assert section.label is Label.COMPENSATION
    assert 0 < section.widest.relative < 64 * Precision.BF16.unit_roundoff
    assert section.verdict.startswith("Rounding alone")
    assert any("dither the images" in sentence for sentence in section.advice)
    assert sum(layer.truth.tied for layer in section.layers) > 0


@pytest.mark.parametrize("layer", [1, 2])
def test_a_planted_bifurcation_is_found_and_its_layer_named(layer):
    section = only(audit(bifurcating(layer), (images(), LABELS), precisions=["fp64"]))
    assert section.label is Label.BIFURCATION
    assert {rule.label for rule in section.choices} == {Label.BIFURCATION}
    assert section.culprit is section.layers[layer - 1]
    assert section.culprit.own_gap > 10 * section.layers[2 - layer].own_gap
    assert str(section.culprit.where) in section.verdict
    assert "rewrite_pools" in section.advice[0]
    assert set(section.choices[0].num_nonzero) <= {"conv1.weight", "conv1.bias", f"conv{layer}.weight"}


def test_pools_have_their_lines():
    first, second = only(audit(Net(), (images(), LABELS), certify=False)).layers
    assert (first.where.module, first.where.line) == ("pool", line_of(Net, "self.pool("))
    assert (second.where.module, second.where.line) == ("", line_of(Net, "max_pool2d(x, 2)"))
    assert first.where.file.endswith("nets.py")


def test_own_gaps_are_those_of_rules_set_by_hand():
    """Each layer's pool is a module of ours with the rule, the others with PyTorch's."""

    def gradient(rules):
        net, loss = bifurcating(1), functional.cross_entropy
        first, second = (tiebreak.MaxPool2d(2, jacobian=rule) for rule in rules)
        x = first(functional.relu(net.conv1(pixels)))
        x = second(functional.relu(x + net.conv2(x)))
        return torch.autograd.grad(loss(net.head(x.flatten(1)), LABELS), tuple(net.parameters()))

    pixels = images(flat_rows=6)
    section = only(audit(bifurcating(1), (pixels, LABELS), jacobians=(LAST,), certify=False))
    assert section.switched == "last"
    native = gradient((NATIVE, NATIVE))
    for place, layer in enumerate(section.layers):
        rules = [LAST if other == place else NATIVE for other in range(2)]
        assert layer.own_gap == gap(native, gradient(rules)).relative
    assert any(layer.own_gap for layer in section.layers)


def test_margins_are_in_ulps():
    """One window holds 1 and its predecessor, the next 2 and 1; the third is flat and has no runner-up."""
    row = torch.tensor([1.0, math.nextafter(1.0, 0.0), 2.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    (layer,) = only(audit(model, (row.reshape(1, 1, 1, 6), torch.tensor([0])), certify=False)).layers
    assert (layer.margin_min_ulps, layer.margin_median_ulps) == (1, 1)  # the lower of two is the median
    assert (layer.tied, layer.tied_above_zero) == (1, 1)


def test_a_tie_by_rounding_alone_is_told_from_one_over_the_reals():
    """0.1 * 3 and 0.3 differ by less than half an ulp of bf16 after a sum with 1."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, (1, 2), stride=(1, 2)), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    pixels = torch.tensor([1.0, 2.0**-12, 1.0, 2.0**-11]).reshape(1, 1, 1, 4)
    section = only(audit(model, (pixels, torch.tensor([1])), precisions=["bf16"]))
    (layer,) = section.layers
    assert (layer.tied, layer.truth.tied, layer.truth.tied_only_by_rounding) == (1, 0, 1)
    assert section.label is Label.COMPENSATION
    assert any("wider format than bf16" in sentence for sentence in section.advice)
    wide = only(audit(model, (pixels, torch.tensor([1]))))
    assert (wide.layers[0].tied, wide.label) == (0, Label.REGULAR)
    assert wide.advice == ("Nothing needs to be done.",)


def test_a_pool_of_distinct_numbers_is_regular():
    section = only(audit(bifurcating(2), (images(), LABELS), jacobians=(MINIMAL,), precisions=["fp64"]))
    assert section.label is Label.BIFURCATION
    untied = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(16, 3))
    pixels = torch.randperm(4 * 144, generator=torch.Generator().manual_seed(1)).reshape(4, 1, 12, 12) / 1024
    section = only(audit(untied, (pixels, LABELS)))
    assert section.label is Label.REGULAR
    assert section.verdict.endswith("None of the 64 windows is tied.")
    assert [layer.own_gap for layer in section.layers] == [0]


def test_all_ones_never_makes_a_verdict():
    section = only(audit(Net(), (images(flat_rows=8), LABELS), precisions=["fp64"]))
    all_ones = section.rules[-1]
    assert all_ones.label is Label.BIFURCATION
    assert not all_ones.sums_to_one
    assert section.label in (Label.COMPENSATION, Label.REGULAR)


def test_the_random_rule_is_measured_and_not_certified():
    rules = (MINIMAL, PoolJacobian(selection=Selection.RANDOM, seed=1))
    section = only(audit(bifurcating(1), (images(), LABELS), jacobians=rules))
    assert section.rules[0].label is Label.BIFURCATION
    assert section.rules[1].label is None
    assert section.rules[1].relative > 0


def test_training_mode_is_not_certifiable_and_evaluation_mode_is():
    model, batch = Normed(), (images(flat_rows=6), LABELS)
    section = only(audit(model, batch))
    assert section.label is None
    assert section.reason.startswith("not certifiable, because")
    assert "(drop, nets.py:" in section.reason
    assert all(rule.label is None for rule in section.rules)
    assert all(layer.truth is None for layer in section.layers)
    assert any("evaluation mode" in sentence for sentence in section.advice)
    assert section.repeats[0].relative == section.repeats[1].relative == 0  # dropout draws the same again
    assert only(audit(model.eval(), batch)).label in (Label.COMPENSATION, Label.REGULAR)


def test_an_unsupported_layer_is_named_with_its_place():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(50, 3))
    section = only(audit(model, (images(), LABELS)))
    assert section.reason.startswith("not certifiable, because aten.tanh")
    assert "(1" in section.reason
    assert "is not known" in section.verdict


def test_overflow_is_said_and_is_no_verdict():
    model = Net()
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    section = only(audit(model, (images(), LABELS), precisions=["fp16"]))
    assert section.nonfinite == "the parameter head.weight, once it is a number of fp16"
    assert "bf16 or fp32" in section.advice[0]
    assert section.label in (None, Label.NONFINITE)
    json.loads(audit(model, (images(), LABELS), precisions=["fp16"]).to_json())


def test_an_output_that_overflows_is_nonfinite():
    model = Net()
    with torch.no_grad():
        model.head.weight.fill_(6e4)
    section = only(audit(model, (images() + 1, LABELS), precisions=["fp16"]))
    assert section.nonfinite is not None
    assert section.label is Label.NONFINITE
    assert [layer.own_gap for layer in section.layers] == [None, None]


def test_a_saturated_loss_says_nothing():
    model = Net()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    section = only(audit(model, (images(), torch.zeros(4, dtype=torch.long))))
    assert section.verdict.startswith("Nothing is said")


def test_a_relu_in_place_after_the_pool_hides_nothing():
    def net(inplace):
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            first = (nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=inplace))
            return nn.Sequential(*first, nn.Flatten(), nn.Linear(72, 3))

    batch = (images(flat_rows=8), LABELS)
    assert only(audit(net(True), batch, certify=False)) == only(audit(net(False), batch, certify=False))


def test_a_model_that_holds_our_pools_is_audited_too():
    ours = rewrite_pools(Net(), jacobian=PoolJacobian(beta=100))
    batch = (images(flat_rows=6), LABELS)
    section, plain = (only(audit(model, batch, certify=False)) for model in (ours, Net()))
    assert section.rules == plain.rules
    assert ours.pool.jacobian == PoolJacobian(beta=100)


class Others(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2, return_indices=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x, _ = self.pool(functional.relu(self.conv(x)))
        x = functional.max_pool2d(x, 2)
        x = functional.max_pool1d(x.flatten(2), 3)
        return self.head(functional.adaptive_max_pool1d(x, 1).flatten(1))


class Adaptive(Net):
    def forward(self, x):
        x = self.pool(functional.relu(self.conv1(x)))
        x = functional.adaptive_max_pool2d(functional.relu(self.conv2(x)), 3)
        return self.head(x.flatten(1))


def test_a_certificate_is_about_the_pools_that_are_switched_and_no_others():
    """The planted ties lie in a pool that keeps PyTorch's rule: there is no gap, and no label for it."""
    model = Adaptive()
    with torch.no_grad():
        model.conv2.weight[2] = 0
        model.conv2.bias[2] = 0.5
    assert certify(model, images(), LABELS).verdicts[0].different
    section = only(audit(model, (images(), LABELS), precisions=["fp64"]))
    assert section.label is None
    assert section.reason.startswith("not certifiable, because a certificate is about every max pool")
    assert "nets.py" not in section.reason
    assert "test_audit.py:" in section.reason


def test_pools_that_are_not_handled_are_named():
    found = audit(Others(), (images(), LABELS), certify=False)
    assert len(only(found).layers) == 1
    names = ["max_pool2d_with_indices at pool", "max_pool1d at", "adaptive_max_pool1d at"]
    for sentence, name in zip(found.left, names, strict=True):
        assert sentence.startswith(name)
        assert "test_audit.py:" in sentence
        assert "keeps PyTorch's own rule" in sentence
    assert "Not handled: max_pool1d" in found.to_text()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(144, 3)),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    ],
)
def test_without_a_pool_there_is_nothing_to_audit(model):
    with pytest.raises(UserError, match=r"^nothing to audit: the network ran no max pool"):
        audit(model, (images(), LABELS))


class Several(Net):
    def forward(self, x):
        return {"logits": super().forward(x), "extra": x}


def test_of_several_outputs_the_first_is_the_loss_and_that_is_said():
    section = only(audit(Several(), (images(), LABELS)))
    assert "returns 2 tensors" in section.remarks[0]
    assert section.loss == only(audit(Net(), (images(), LABELS), certify=False)).loss
    assert section.label is not None
    own = only(
        audit(
            Several(), (images(), LABELS), lambda out, labels: functional.cross_entropy(out["logits"], labels)
        )
    )
    assert own.loss == section.loss
    assert own.reason.startswith("not certifiable, because the network must return one tensor")


def test_without_labels_a_loss_of_the_output_alone_will_do():
    found = audit(Net(), images(), lambda output: output.logsumexp(1).sum())
    assert only(found).label is not None
    with pytest.raises(UserError, match="the batch has no labels"):
        audit(Net(), images())


def test_frozen_parameters_take_no_part():
    model = Net()
    for parameter in (*model.conv1.parameters(), *model.conv2.parameters()):
        parameter.requires_grad_(False)
    section = only(audit(model, (images(flat_rows=6), LABELS)))
    assert section.widest.relative == 0
    assert section.label is Label.REGULAR


def test_each_precision_has_its_section():
    found = audit(
        Net(), (images(), LABELS), precisions=["fp32", "bf16", "fp32", "amp16", "e4m3"], certify=False
    )
    assert [section.precision for section in found.sections] == ["fp32", "bf16", "amp16", "e4m3"]
    assert only(audit(Net().double(), (images(), LABELS), certify=False)).precision is Precision.FP64


def state_of(model):
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "asked": [p.requires_grad for p in model.parameters()],
        "mode": [module.training for module in model.modules()],
        "kinds": [type(module) for module in model.modules()],
        "hooks": [
            list(hooks)
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ],
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "random": torch.get_rng_state(),
        "python": random.getstate(),
        "settings": (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        ),
    }


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("problem", ["none", "labels", "loss", "shape", "raises", "backward"])
def test_the_model_is_left_as_it_was(problem):
    model, calls = Normed(), []
    model.conv.register_forward_hook(lambda module, *_: calls.append(module))
    model.conv.bias.requires_grad_(False)
    model.drop.eval()
    model(images()).sum().backward()
    calls.clear()
    before, batch, loss = state_of(model), (images(), LABELS), None
    if problem == "labels":
        batch = (images(), LABELS + 3)
    if problem == "loss":
        loss = lambda output, labels: output  # noqa: E731
    if problem == "shape":
        batch = (images()[:, :, :-3], LABELS)
    if problem == "raises":
        loss = lambda output, labels: {}["nothing"]  # noqa: E731
    if problem == "backward":
        loss = lambda output, labels: _Broken.apply(output.sum())  # noqa: E731
    with pytest.raises(UserError) if problem != "none" else torch.no_grad():
        audit(model, batch, loss, precisions=["fp32", "bf16"])
    assert same(before, state_of(model))
    assert model.conv not in calls  # only copies ran


class _Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("on purpose")


MISTAKES = {
    "no module": (lambda: audit(3, (images(), LABELS)), "takes a torch.nn.Module, got int"),
    "nan weight": (
        lambda: audit(spoilt(math.nan), (images(), LABELS)),
        "parameter conv2.weight holds an inf",
    ),
    "inf weight": (
        lambda: audit(spoilt(math.inf), (images(), LABELS)),
        "parameter conv2.weight holds an inf",
    ),
    "lazy": (
        lambda: audit(nn.Sequential(nn.LazyConv2d(2, 3)), (images(), LABELS)),
        "0.weight has no shape yet",
    ),
    "meta": (lambda: audit(Net().to("meta"), (images(), LABELS)), "is on the meta device"),
    "frozen": (
        lambda: audit(Net().requires_grad_(False), (images(), LABELS)),
        "no parameter of the network asks",
    ),
    "nan image": (lambda: audit(Net(), (images() * math.nan, LABELS)), "images must be finite, got 576"),
    "bytes": (lambda: audit(Net(), (images().byte(), LABELS)), "got torch.uint8. Convert and normalise"),
    "no images": (lambda: audit(Net(), (images()[:0], LABELS[:0])), "got (0, 1, 12, 12)"),
    "no batch": (lambda: audit(Net(), None), "a batch is a pair (images, labels)"),
    "two of x": (lambda: audit(Net(), {"x": images(), "images": images()}), "one tensor `images` (or `x`)"),
    "few labels": (
        lambda: audit(Net(), (images(), LABELS[:3])),
        "labels must be a tensor of 4, one an image, got (3,)",
    ),
    "high label": (lambda: audit(Net(), (images(), LABELS + 1)), "must lie in [0, 3)"),
    "shape": (
        lambda: audit(Net(), (images()[:, :, :8], LABELS)),
        "cannot take images of shape (4, 1, 8, 12) in fp32 (torch.float32): RuntimeError",
    ),
    "loss of many": (
        lambda: audit(Net(), (images(), LABELS), lambda o, _: o),
        "must be one floating-point number",
    ),
    "loss of none": (
        lambda: audit(Net(), (images(), LABELS), lambda o, _: o.detach().sum()),
        "does not depend on any parameter",
    ),
    "precision": (lambda: audit(Net(), (images(), LABELS), precisions=["fp31"]), "got 'fp31'"),
    "no precision": (lambda: audit(Net(), (images(), LABELS), precisions=[]), "at least one precision"),
    "tf32": (lambda: audit(Net(), (images(), LABELS), precisions=["tf32"]), "tf32 is arithmetic of CUDA"),
    "no choice": (
        lambda: audit(Net(), (images(), LABELS), jacobians=RULES[2:]),
        "at least one of which shares",
    ),
    "blended": (
        lambda: audit(Net(), (images(), LABELS), jacobians=[PoolJacobian(beta=1, forward="blended")]),
        "the exact forward arm",
    ),
    "compiled": (
        lambda: audit(scripted(), (images(), LABELS)),
        "needs a model that runs as Python",
    ),
    "uncopied": (lambda: audit(uncopied(), (images(), LABELS)), "the network cannot be copied"),
}


def spoilt(value):
    net = Net()
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = value
    return net


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about scripting at all
        return torch.jit.script(Net())


def uncopied():
    net = Net()
    net.kept = net.head.weight * 2  # a tensor of a graph cannot be copied
    return net


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*:DeprecationWarning"
)  # torch's own, where it is called
@pytest.mark.parametrize("case", list(MISTAKES))
def test_a_mistake_is_a_sentence(case):
    mistake, sentence = MISTAKES[case]
    with pytest.raises(UserError) as caught:
        mistake()
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")
    assert isinstance(caught.value, DesignError | UserError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_a_sentence():
    with pytest.raises(UserError, match="this torch sees none"):
        audit(Net(), (images(), LABELS), device="cuda")


@pytest.mark.parametrize("device", ["mps", "meta", "nowhere"])
def test_a_device_that_cannot_be_is_a_sentence(device):
    with pytest.raises(UserError, match=f"device must be cpu or cuda, got '{device}'"):
        audit(Net(), (images(), LABELS), device=device)


class Again(nn.Module):
    """A pool twice from one line; in a checkpoint if asked to."""

    def __init__(self, **kinds):
        super().__init__()
        self.kinds = kinds
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.first, self.conv = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
            self.head = nn.Linear(9, 3)
        self.pool = nn.MaxPool2d(2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.fill_(0.5)

    def forward(self, x):
        x = self.first(x)
        for _ in range(2):
            x = checkpoint(self.part, x, **self.kinds) if self.kinds else self.part(x)
        return self.head(x.flatten(1))

    def part(self, x):
        return self.pool(self.conv(x))


def test_calls_from_one_line_are_numbered():
    section = only(audit(Again(), (images(), LABELS)))
    assert [layer.where.call for layer in section.layers] == [1, 2]
    assert str(section.layers[1].where).endswith(", call 2")
    assert "pool, call 2" in audit(Again(), (images(), LABELS), certify=False).to_text()


def test_a_checkpoint_that_keeps_the_graph_changes_nothing_and_another_is_named():
    plain, kept = (
        audit(net, (images(), LABELS), certify=False) for net in (Again(), Again(use_reentrant=False))
    )
    assert only(kept).rules == only(plain).rules
    assert only(kept).widest.relative > 0
    with pytest.raises(UserError, match=r"nothing to audit: .*in a reentrant checkpoint"):
        audit(Again(use_reentrant=True), (images(), LABELS))


def test_a_loss_that_is_a_module_is_copied_to_each_precision():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    found = audit(Net(), (images(flat_rows=6), LABELS), loss, precisions=["fp32", "bf16"])
    assert all(section.evidence is not None for section in found.sections)
    assert loss.weight.dtype is torch.float32
    expected = certify(Net(), images(flat_rows=6), LABELS, loss=copy.deepcopy(loss).double())
    assert found.sections[0].rules[0].num_nonzero == expected.verdicts[0].num_nonzero


def test_evaluation_mode_is_advised_where_it_changes_something():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(50, 3))
    for net, advised in ((model, False), (nn.Sequential(model, nn.Dropout()), True)):
        advice = only(audit(net, (images(), LABELS))).advice
        assert any("evaluation mode" in sentence for sentence in advice) is advised


def test_the_callers_modes_do_not_matter():
    model, batch = Net(), (images(), LABELS)
    expected = only(audit(model, batch, certify=False))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert only(audit(model, batch, certify=False)) == expected


@pytest.mark.gpu
def test_on_a_gpu_the_truth_is_that_of_the_cpu():
    for model, batch in ((bifurcating(1), images()), (Net(), images(flat_rows=8))):
        here = only(audit(model, (batch, LABELS), precisions=["fp32"]))
        there = only(audit(model, (batch, LABELS), precisions=["fp32"], device="cuda"))
        assert [layer.truth.tied for layer in there.layers] == [layer.truth.tied for layer in here.layers]
        assert [rule.num_nonzero for rule in there.rules] == [rule.num_nonzero for rule in here.rules]
        assert there.repeats[-1].condition == "both passes with deterministic algorithms off"
        assert next(model.parameters()).device.type == "cpu"


def test_a_certificate_that_does_not_fit_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("tiebreak.exact.memory.available_bytes", lambda device: 1e4)
    section = audit(Net(), (images(), LABELS)).sections[0]
    assert section.label is None
    assert section.reason.startswith("not certified, because a certificate of 1 image at a time needs about")
    assert "GiB, and this machine has" in section.reason
    text = audit(Net(), (images(), LABELS)).to_text()
    assert "Not certified, because a certificate of 1 image" in " ".join(text.split())
    assert "not known" in " ".join(text.split())


def test_images_at_a_time_are_chosen_and_one_too_many_is_told(monkeypatch):
    said = []
    whole = audit(Net(), (images(), LABELS), images_at_a_time=3, progress=said.append)
    assert any("images 1 to 3 of 4" in line for line in said)
    assert any("images 4 to 4 of 4" in line for line in said)
    assert whole.sections[0].label is audit(Net(), (images(), LABELS)).sections[0].label
    monkeypatch.setattr("tiebreak.exact.memory.needed_bytes", lambda *_, **__: (10.0, 100.0))
    monkeypatch.setattr("tiebreak.exact.memory.available_bytes", lambda device: 315.0)
    reason = audit(Net(), (images(), LABELS), images_at_a_time=4).sections[0].reason
    assert reason.startswith("not certified, because a certificate of 4 images at a time needs about")
    assert "Use --images 3" in reason
    assert audit(Net(), (images(), LABELS)).sections[0].label is not None


def test_a_certificate_that_takes_too_long_is_given_up_and_said_so(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("tiebreak.auditing.passes.time.monotonic", lambda: next(clock))
    section = audit(Net(), (images(), LABELS), certify_seconds=2.5).sections[0]
    assert section.label is None
    assert section.reason.startswith(
        "not certified, because the 2.5 seconds that it may take were over before"
    )
    assert "--certify-seconds" in section.reason
    assert "not known" in section.verdict
    assert audit(Net(), (images(), LABELS), certify_seconds=1e9).sections[0].label is not None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"certify_seconds": 0}, "certify_seconds must be above 0"),
        ({"images_at_a_time": 0}, "images_at_a_time must be 1 or more"),
        ({"jacobians": MINIMAL}, "audit compares a sequence of PoolJacobians"),
        ({"jacobians": (MINIMAL, 100.0)}, "got 100.0"),
        ({"jacobians": ()}, "got none"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(given, sentence):
    with pytest.raises(UserError, match=sentence):
        audit(Net(), (images(), LABELS), **given)
