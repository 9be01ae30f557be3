"""Certificates as files: what was written is read, and whatever was edited is named."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_point
from safetensors.torch import load, save
from torch import nn

from tiebreak.design.axes import MINIMAL, Forward, PoolJacobian, Selection, UserError
from tiebreak.exact import files
from tiebreak.exact.certificate import Certificate, Mode
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.files import FloatGap, Stored, pack, unpack
from tiebreak.exact.graph import Parameter
from tiebreak.exact.graph_text import OPERATIONS
from tiebreak.exact.json_fields import CertificateError
from tiebreak.exact.memory import images_that_fit, needed_bytes
from tiebreak.exact.recheck import Standing, recheck
from tiebreak.exact.record import record
from tiebreak.numerics.geometry import PoolGeometry

NAME = "c.safetensors"
GAP = FloatGap(l1=3e-8, l2=2e-8, sup_sum=2e-8, sup=1.5e-8, relative=1e-8, nonfinite=False)
JACOBIANS = (MINIMAL, PoolJacobian(beta=0.1), Fraction(1, 3), PoolJacobian(selection=Selection.LAST))


def stored_of(graph, cotangent, *, jacobians=(MINIMAL,), mode=Mode.RANDOM, gaps=None, seed=1):
    certificate = certify_graph(graph, cotangent, jacobians=jacobians, mode=mode, seed=seed)
    return Stored(
        about="a network",
        graph=graph,
        cotangent=cotangent,
        jacobians=jacobians,
        mode=mode,
        log2_error=-40.0,
        certificate=certificate,
        gaps={} if gaps is None else gaps,
        provenance={"commit": None, "versions": {"torch": "2"}},
    )


def bifurcating(*, image=None, dtype=torch.float32):
    """One window with two maxima, 2 + 1 + 0 + 0 and 1 + 2 + 0 + 0."""
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    net = net.to(dtype)
    with torch.no_grad():
        net[0].weight[0], net[0].weight[1] = 1.0, 0.5
        net[0].bias.fill_(0.25)
        net[4].weight.copy_(torch.tensor([[0.5, -1.0], [0.25, 1.0]]))
        net[4].bias.zero_()
    images = torch.zeros(1, 1, 4, 4, dtype=dtype) if image is None else image
    if image is None:
        images[0, 0, 0] = torch.tensor([2.0, 1.0, 2.0, 0.0])
    graph, output = record(net, images)
    return graph, cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0]))


@pytest.fixture(scope="module")
def stored():
    point = stored_of(*bifurcating(), gaps={"minimal": GAP})
    assert point.certificate.verdicts[0].different
    assert len(point.certificate.evidence.primes) >= 3
    return point


@pytest.fixture(scope="module")
def written(stored):
    return pack(stored, tensors_name=NAME)


def read(text, block):
    def tensors(name):
        assert name == NAME
        return block

    return unpack(text, tensors)


def wrong_fields(unpacked, **how):
    return [
        found.field
        for found in recheck(unpacked, **how)
        if not isinstance(found, Certificate) and found.standing is Standing.OTHER
    ]


def test_what_was_written_is_read(stored, written):
    found = read(*written)
    assert found.altered == ()
    assert found.labels == {"minimal": "bifurcation"}
    assert pack(found.stored, tensors_name=NAME) == written
    assert found.stored.certificate == stored.certificate
    assert found.stored.gaps == stored.gaps
    assert found.stored.jacobians == stored.jacobians


@pytest.mark.parametrize("how", [{}, {"slow": True}, {"mode": Mode.PROOF}, {"seed": 77}, {"chunk": 1}])
def test_a_certificate_holds_in_every_way(written, how):
    assert wrong_fields(read(*written), **how) == []


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_hold_in_exact_rationals(seed):
    """Every operation of a graph is among them; the count is asserted below."""
    point = random_point(seed)
    text, block = pack(stored_of(point.graph, point.cotangent, jacobians=JACOBIANS), tensors_name=NAME)
    unpacked = read(text, block)
    assert wrong_fields(unpacked, slow=True) == []
    assert wrong_fields(unpacked, seed=3, mode=Mode.PROOF) == []
    for one, other in zip(point.graph.nodes, unpacked.stored.graph.nodes, strict=True):
        assert (one.inputs, one.shape, one.where) == (other.inputs, other.shape, other.where)
        for before, after in zip(vars(one.operation).values(), vars(other.operation).values(), strict=True):
            assert_same(before, after)


def assert_same(one, other):
    if isinstance(one, Parameter):
        assert one.name == other.name
        one, other = one.value, other.value
    if isinstance(one, torch.Tensor):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)
        assert torch.equal(one.double().signbit(), other.double().signbit())
    else:
        assert one == other


def test_the_random_networks_have_every_operation():
    kinds = {type(node.operation) for seed in range(12) for node in random_point(seed).graph.nodes}
    assert {kind.__name__ for kind in kinds} == set(OPERATIONS) - {"BatchNorm2d"}


def test_every_kind_of_rule_is_kept():
    graph, cotangent = bifurcating()
    rules = (
        *JACOBIANS,
        PoolJacobian(beta=3, forward=Forward.BLENDED),
        PoolJacobian(selection=Selection.ALL_ONES),
    )
    found = read(*pack(stored_of(graph, cotangent, jacobians=rules), tensors_name=NAME)).stored
    assert found.jacobians == rules


EDITS = {
    "verdict": (
        "answer.verdicts.minimal.different",
        False,
        {"answer.verdicts.minimal.different"},
    ),
    "count of entries": ("answer.verdicts.minimal.num_nonzero.0.weight", 5, None),
    "an entry more": ("answer.verdicts.minimal.num_nonzero.4.bias", 1, None),
    "ties": ("answer.pools.0.tied", 0, None),
    "missed ties": ("answer.pools.0.missed_by_rounding", 1, None),
    "place": ("answer.pools.0.where", "elsewhere", None),
    "nonfinite": ("answer.nonfinite", "the batch", None),
    "reason": ("answer.reason", "none was given", None),
    "seed": ("evidence.seed", 2, {"evidence.primes"}),
    "primes": ("evidence.primes", [1048583, 1048589, 1048601], None),
    "error": ("evidence.log2_error", -90.5, None),
    "bits": ("evidence.bits", 20.0, None),
    "equalities": ("evidence.num_equalities", 1, None),
    "vacuous": ("evidence.vacuous", True, None),
    "evidence of another mode": ("evidence.mode", "proof", {"question.mode"}),
    "label": ("floats.minimal.label", "compensation", None),
    "sum of differences": ("floats.minimal.l1", 1e-8, None),
    "Euclidean norm": ("floats.minimal.l2", 1.0, None),
    "largest difference": ("floats.minimal.sup", 2.5e-8, None),
    "sum of largest differences": ("floats.minimal.sup_sum", 0.0, None),
    "relative gap": ("floats.minimal.relative", 0.0, None),
    "sign of a norm": ("floats.minimal.l2", -2e-8, None),
    "nonfinite gradient": ("floats.minimal.nonfinite", True, None),
    "infinite norm": ("floats.minimal.sup", "inf", None),
}


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("case", list(EDITS))
def test_an_edited_field_is_named_although_the_sums_were_made_anew(written, case, slow):
    field, value, named = EDITS[case]
    body = json.loads(written[0])
    put(body, field, value)
    found = wrong_fields(read(with_sums(body), written[1]), slow=slow)
    assert named <= set(found) if named else field in found


@pytest.mark.parametrize(
    ("field", "value"),
    [("about", "another network"), ("provenance.commit", "abc"), ("floats.minimal.l1", 3.1e-8)],
)
def test_a_section_that_cannot_be_computed_again_is_told_by_its_sum(written, field, value):
    body = json.loads(written[0])
    put(body, field, value)
    assert wrong_fields(read(json.dumps(body), written[1])) == [field.split(".")[0]]


def test_work_of_the_filter_is_noted_and_fails_nothing(written):
    body = json.loads(written[0])
    put(body, "evidence.num_escalated", 7)
    found = [item for item in recheck(read(with_sums(body), written[1])) if not isinstance(item, Certificate)]
    assert [item.field for item in found if item.standing is Standing.NOTED] == ["evidence.num_escalated"]
    assert all(item.standing is not Standing.OTHER for item in found)


def put(body, field, value):
    """Set a field; names of parameters have dots in them."""
    head, _, name = field.partition(".num_nonzero.")
    *way, last = head.split(".") + (["num_nonzero", name] if name else [])
    for key in way:
        body = body[int(key) if isinstance(body, list) else key]
    body[last] = value


def with_sums(body):
    body["sums"] = {name: files.sum_of(section) for name, section in body.items() if name != "sums"}
    return json.dumps(body)


BROKEN = {
    "kind": ("kind", "receipt", "the field kind must be 'tiebreak certificate', got 'receipt'"),
    "format": ("format", 2, "the field format must be 1, got 2"),
    "format of text": ("format", "1", "the field format must be a whole number, 1 or more, got '1'"),
    "unknown field": ("extra", 1, "the field extra is not one of a certificate"),
    "error of 2**-20000": ("question.log2_error", -20000, "must be below 0 and at least -10000"),
    "error of 1": ("question.log2_error", 0, "question.log2_error must be below 0"),
    "no number": ("evidence.bits", "many", "evidence.bits must be a number, got 'many'"),
    "negative count": ("evidence.num_equalities", -1, "evidence.num_equalities must be a whole number, 0"),
    "zero entries": ("answer.verdicts.minimal.num_nonzero.0.weight", 0, "must be a whole number, 1 or more"),
    "another rule": ("question.rules.minimal.beta", 2.0, "question.rules.minimal is the rule beta2"),
    "no rule": ("question.rules.minimal", {"beta": "x"}, "must be a number or a ratio of whole numbers"),
    "no verdict": ("answer.verdicts", {}, "answer.verdicts must have the rules minimal"),
    "mode": ("question.mode", "guess", "the field question.mode must be one of random, proof"),
    "label": ("floats.minimal.label", "fine", "the field floats.minimal.label must be one of"),
    "operation": ("graph.nodes.1.operation", "tanh", "graph.nodes.1.operation must be one of Input, Conv2d"),
    "stride": ("graph.nodes.1.options.stride", [0, 1], "graph.nodes.1 cannot be"),
    "groups": ("graph.nodes.1.options.groups", 2, "graph.nodes.1 cannot be"),
    "geometry": ("graph.nodes.3.options.geometry.kernel", [0, 2], "kernel of a pool must be a whole number"),
    "stride of a pool": ("graph.nodes.3.options.geometry.stride", [1, 1], "graph.nodes.3 cannot be"),
    "shape": ("graph.nodes.2.shape", [1, 2, 4, 4], "graph.nodes.2.shape cannot be: the result has"),
    "later input": ("graph.nodes.2.inputs", [2], "graph.nodes.2.inputs must be places of earlier nodes"),
    "no input": ("graph.nodes.2.inputs", [], "graph.nodes.2 cannot be"),
    "output": ("graph.output", 9, "graph.output cannot be"),
    "no nodes": ("graph.nodes", [], "graph.nodes cannot be"),
    "tensor": ("graph.nodes.1.options.weight.tensor", "7.weight", "names the tensor 7.weight, and there is"),
    "parameter": ("graph.nodes.1.options.weight.parameter", "x", "the parameter x is not one of the graph's"),
    "cotangent": ("graph.cotangent", "batch", "graph.cotangent must name a tensor of the shape"),
    "folder": ("tensors.file", "../c.safetensors", "tensors.file must be the name of a file beside"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_a_field_that_cannot_be_is_named(written, case):
    field, value, sentence = BROKEN[case]
    body = json.loads(written[0])
    put(body, field, value)
    with pytest.raises(UserError) as error:
        read(with_sums(body), written[1])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "1", '{"kind": NaN}', "[" * 100_000, '{"kind": 1e999}', "\ud800"]
)
def test_text_that_is_no_certificate_is_a_sentence(text):
    with pytest.raises(CertificateError):
        read(text, b"")


@pytest.fixture(scope="module")
def every_field(written):
    """The way to every member of the text."""
    ways = []

    def walk(tree, way):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            ways.append((*way, key))
            if isinstance(tree[key], dict | list):
                walk(tree[key], (*way, key))

    walk(json.loads(written[0]), ())
    return ways


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_field_is_read_or_refused(written, every_field, data):
    """No edit ends in an exception that is not a sentence, with the sums made anew or not."""
    way = data.draw(st.sampled_from(every_field))
    values = st.sampled_from(
        [None, True, -1, 0, 1, 10**30, 1e308, "x", "inf", [], [[]], {}, {"a": 1}, "DROP"]
    )
    value, anew = data.draw(values), data.draw(st.booleans())
    body = json.loads(written[0])
    tree = body
    for key in way[:-1]:
        tree = tree[key]
    if value == "DROP":
        del tree[way[-1]]
    else:
        tree[way[-1]] = value
    text = with_sums(body) if anew and way[0] != "sums" else json.dumps(body)
    with suppress(UserError):
        list(recheck(unpack(text, lambda _: written[1])))


def test_one_byte_of_a_parameter_is_told(written):
    tensors = load(written[1])
    tensors["1.weight"].view(torch.uint8)[0, 0, 0, 0] ^= 1
    with pytest.raises(CertificateError, match=r"the tensor 1\.weight in c\.safetensors is not the one"):
        read(written[0], save(tensors))


def test_tensors_cut_short_or_missing_or_added_are_told(written):
    with pytest.raises(CertificateError, match="no whole safetensors file"):
        read(written[0], written[1][:-1])
    tensors = load(written[1])
    with pytest.raises(CertificateError, match="the tensor more in"):
        read(written[0], save(tensors | {"more": torch.ones(1)}))
    del tensors["batch"]
    with pytest.raises(CertificateError, match="the tensor batch is missing"):
        read(written[0], save(tensors))


def test_other_bytes_for_the_same_tensors_are_told(written):
    with pytest.raises(CertificateError, match=r"tensors\.sha256"):
        read(written[0], save(load(written[1]), metadata={"a": "b"}))


def test_another_network_behind_new_sums_gets_another_answer(written):
    """Sums are no signature: the verdict of other weights is computed and does not agree."""
    body, tensors = json.loads(written[0]), load(written[1])
    tensors["1.weight"][..., 0, 0] *= 2
    block = save(tensors)
    body["tensors"]["sums"]["1.weight"] = files.tensor_sum(tensors["1.weight"])
    body["tensors"]["sha256"] = files.bytes_sum(block)
    found = wrong_fields(read(with_sums(body), block))
    assert "answer.verdicts.minimal.different" in found


@pytest.mark.parametrize("where", ["batch", "parameter", "cotangent"])
def test_a_point_that_is_not_finite_has_no_verdict_and_that_is_checked(where):
    graph, cotangent = bifurcating()
    if where == "batch":
        graph, _ = bifurcating(image=torch.full((1, 1, 4, 4), math.nan))
    elif where == "parameter":
        graph.nodes[1].operation.weight.value[0] = math.inf
    else:
        cotangent = cotangent * math.nan
    text, block = pack(stored_of(graph, cotangent, gaps={"minimal": GAP}), tensors_name=NAME)
    unpacked = read(text, block)
    assert unpacked.stored.certificate.verdicts[0].different is None
    assert unpacked.labels == {"minimal": "nonfinite"}
    assert wrong_fields(unpacked) == wrong_fields(unpacked, slow=True) == []
    body = json.loads(text)
    put(body, "answer.verdicts.minimal.different", False)
    assert wrong_fields(read(with_sums(body), block)) == ["answer.verdicts.minimal.different"]


def test_numbers_are_kept_in_the_narrowest_format_that_holds_them():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        graph, cotangent = bifurcating(dtype=dtype)
        graph.nodes[1].operation.weight.value[0, 0, 0, 0] = torch.tensor(1 / 3, dtype=dtype).double()
        _, block = pack(stored_of(graph, cotangent), tensors_name=NAME)
        assert load(block)["1.weight"].dtype is dtype
        assert load(block)["batch"].dtype is torch.bfloat16


def test_the_recorded_seed_is_no_fresh_one(written):
    with pytest.raises(UserError, match="the seed 1 is the one of the certificate"):
        list(recheck(read(*written), seed=1))


def test_a_network_too_large_for_rationals_is_refused_with_its_size(written, monkeypatch):
    monkeypatch.setattr("tiebreak.exact.recheck.MOST_PRODUCTS", 100)
    with pytest.raises(UserError, match=r"would take \S+ products of rationals.*Leave --slow out"):
        list(recheck(read(*written), slow=True))


def fit(point, **how):
    asked = {"jacobians": (MINIMAL,), "mode": Mode.RANDOM, "log2_error": -40.0}
    return images_that_fit(point.graph, point.cotangent, **asked, **how)


def test_a_network_too_large_for_memory_says_how_much_it_needs(stored):
    many = replace(stored, graph=replace(stored.graph, batch=stored.graph.batch.expand(64, -1, -1, -1)))
    for room in (0.0, -1e9):
        with pytest.raises(UserError, match=r"1 image at a time needs about \S+ GiB, and this machine has"):
            fit(many, available=room)
    fixed, each = needed_bytes(many.graph, num_primes=4, num_rules=1)
    assert 1 <= fit(many, available=2 * (fixed + 8 * each)) < 64
    with pytest.raises(UserError, match=r"64 images at a time .* Use --images \d+"):
        fit(many, chunk=64, available=2 * (fixed + 8 * each))
    assert fit(many, available=math.inf) >= 1
    assert fit(many, chunk=5, available=math.inf) == 5


def test_a_geometry_is_spelled_with_all_its_numbers():
    geometry = PoolGeometry.of((3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil_mode=True)
    net = nn.Sequential(
        nn.MaxPool2d(geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, ceil_mode=True),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    images = torch.arange(2 * 36.0).reshape(2, 1, 6, 6) % 5
    net(images)
    graph, output = record(net, images)
    cotangent = cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0, 1]))
    unpacked = read(*pack(stored_of(graph, cotangent), tensors_name=NAME))
    assert unpacked.stored.graph.nodes[1].operation.geometry == geometry
    assert wrong_fields(unpacked, slow=True) == []
