"""Places are those of the network's own code, never of whoever calls it."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL
from tiebreak.exact.call_sites import CallSite
from tiebreak.exact.record import record
from tiebreak.models.rewrite import rewrite_pools

HERE = Path(__file__)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(x)
        return functional.max_pool2d(x, 2).flatten(1)


def line_of(text):
    lines, start = inspect.getsourcelines(Functional)
    return f"{HERE.name}:{start + next(number for number, line in enumerate(lines) if text in line)}"


@pytest.fixture(params=[False, True], ids=["as it is", "rewritten"])
def places_of(request):
    def found(model, images=None):
        network = rewrite_pools(model, jacobian=MINIMAL) if request.param else model
        graph, _ = record(network, torch.rand(1, 1, 8, 8) if images is None else images)
        return [graph.nodes[index].where for index in graph.pools]

    return found


def test_a_module_and_a_functional_call_have_their_lines(places_of):
    assert places_of(nn.Sequential(nn.Conv2d(1, 1, 1), Functional())) == [
        f"1.pool, {line_of('self.pool(x)')}",
        f"1, {line_of('max_pool2d(x, 2)')}",
    ]


def test_the_line_that_calls_the_network_is_not_its_own(places_of):
    assert places_of(nn.Sequential(nn.MaxPool2d(2), nn.Flatten())) == ["0"]


def test_the_network_itself_has_no_path(places_of):
    assert places_of(Functional()) == [f"pool, {line_of('self.pool(x)')}", line_of("max_pool2d(x, 2)")]


def test_a_library_beside_torch_is_not_torch(places_of):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18(num_classes=2).eval()
    (where,) = places_of(network, images=torch.rand(1, 3, 16, 16))
    assert re.fullmatch(r"maxpool, resnet\.py:\d+", where)


def test_a_place_as_words():
    assert str(CallSite("")) == "top level"
    assert str(CallSite("1.pool")) == "1.pool"
    assert str(CallSite("1.pool", HERE, 7)) == "1.pool, test_call_sites.py:7"
