"""What a caller of `certify` gets wrong is a sentence, and what is not finite is named."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from networks import random_point
from torch import nn

from tiebreak import MINIMAL, certify
from tiebreak.design.axes import UserError
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.record import record

IMAGES = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1])


def net(*, normed=False):
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    if normed:
        made.insert(1, nn.BatchNorm2d(2))
    return made.eval()


@pytest.mark.parametrize(
    ("jacobians", "sentence"),
    [
        ((), "at least one rule to compare with PyTorch's, got none"),
        (MINIMAL, "a sequence of rules, got PoolJacobian"),
        (None, "a sequence of rules, got None"),
        ("minimal", "a sequence of rules, got 'minimal'"),
        ((MINIMAL, 100.0), "PoolJacobians, or Fractions for rational betas, got 100.0"),
        (("minimal",), "got 'minimal'"),
    ],
)
def test_rules_that_are_none_are_a_sentence(jacobians, sentence):
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        certify(net(), IMAGES, LABELS, jacobians=jacobians)
    graph, output = record(net(), IMAGES)
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        certify_graph(graph, torch.zeros_like(output), jacobians=jacobians)


def test_rules_may_come_from_anything_that_yields_them():
    found = certify(net(), IMAGES, LABELS, jacobians=(rule for rule in (MINIMAL, Fraction(1, 3))))
    assert [verdict.rule for verdict in found.verdicts] == ["minimal", "beta1/3"]


@pytest.mark.parametrize("images", [IMAGES.to("meta"), IMAGES.to_sparse()], ids=["meta", "sparse"])
def test_images_without_numbers_in_order_are_a_sentence(images):
    with pytest.raises(UserError, match="a dense tensor that holds numbers, got"):
        certify(net(), images, LABELS)


def test_a_number_that_is_not_finite_is_named_as_its_user_knows_it():
    model = net(normed=True)
    model[0].bias.data[1] = math.inf
    assert certify(model, IMAGES, LABELS).reason == "an infinity or a NaN at the parameter 0.bias at 0"
    model = net(normed=True)
    model[1].weight.data[0] = math.nan
    assert certify(model, IMAGES, LABELS).nonfinite == "the batch norm of 1.weight and 1.bias at 1"
    assert certify(net(), IMAGES * math.nan, LABELS).nonfinite == "the batch"


def test_progress_is_told_layer_by_layer_and_may_end_the_work():
    point = random_point(3)
    said = []
    quiet = certify_graph(point.graph, point.cotangent, seed=1, chunk=1)
    assert certify_graph(point.graph, point.cotangent, seed=1, chunk=1, progress=said.append) == quiet
    assert said[0].startswith(f"images 1 to 1 of {len(point.graph.batch)}: ")
    assert said[-1].startswith(f"images {len(point.graph.batch)} to ")

    def stop(_):
        raise TimeoutError

    with pytest.raises(TimeoutError):
        certify_graph(point.graph, point.cotangent, seed=1, progress=stop)


def test_primes_are_named_only_where_something_rests_on_zero_residues():
    """Sums that float64 leaves open and residues tell apart are put in order by fixed point alone.

    Which sums float64 leaves open is the machine's; what a statement rests on must not be.
    """
    conv = nn.Conv2d(1, 1, (1, 3), bias=False).double()
    conv.weight.data.copy_(torch.tensor([[[[1.0, 1e16, -1e16]]]]))  # 1 + 1e16 - 1e16: rounding may take all
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(1, 2).double())
    graph, output = record(model, torch.ones(1, 1, 1, 3).double())
    cotangent = cotangent_of(nn.functional.cross_entropy, output, torch.tensor([0]))
    evidence = certify_graph(graph, cotangent, seed=1).evidence
    assert evidence.num_escalated == 1
    assert evidence == replace(evidence, primes=(), log2_error=-math.inf, num_equalities=0)
