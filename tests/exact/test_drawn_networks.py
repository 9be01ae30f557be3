"""Drawn networks of all operations: nothing is called certain of AD that the oracle denies."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from as_network import as_network
from torch import nn
from torch.nn import functional

from tiebreak.exact.graph import NotCertifiableError
from tiebreak.exact.record import record
from tiebreak.exact.sufficient import sufficient
from tiebreak.theory.activations import Rules
from tiebreak.theory.oracle import Kind, judge

FOLLOWS = {
    "input": ("conv",),
    "conv": ("relu", "relu", "relu", "pool", "norm", "norm", "add", "concat", "average"),
    "norm": ("relu", "relu", "pool", "conv", "add"),
    "relu": ("pool", "pool", "conv", "relu", "norm", "add", "concat", "average"),
    "pool": ("pool", "conv", "relu", "norm", "add", "concat"),
    "add": ("relu", "relu", "pool", "conv", "norm"),
    "concat": ("relu", "pool", "conv"),
    "average": ("relu", "pool", "conv"),
}
"""What may come after what; a word that stands twice is twice as likely."""


class Drawn(nn.Module):
    """A random row of steps, each of which reads the one before it and perhaps an earlier one."""

    def __init__(self, draw):
        super().__init__()
        self.modules_, self.steps = nn.ModuleList(), []
        size = (draw.choice([1, 1, 2]), 1, draw.choice([3, 4, 5]))
        self.size, sizes, kind = size, [size], "input"
        for _ in range(draw.randint(2, 6)):
            kind = draw.choice(FOLLOWS[kind])
            step = self._step(draw, kind, sizes)
            if step is None:
                break
            self.steps.append(step)
            with torch.no_grad():
                sizes.append(tuple(self._values(torch.zeros(1, *size))[-1].shape[1:]))
        head = nn.Linear(sizes[-1][0] * sizes[-1][2], 1, bias=draw.random() < 0.3)
        self.modules_.append(head)
        self.double().eval()
        for parameter in self.parameters():
            drawn = [float(draw.randint(-1, draw.choice([1, 2]))) for _ in range(parameter.numel())]
            parameter.data = torch.tensor(drawn).double().reshape(parameter.shape)
            parameter.requires_grad_(draw.random() < 0.9)
        head.weight.requires_grad_(True)

    def _step(self, draw, kind, sizes):
        channels, _, width = sizes[-1]
        if kind == "conv":
            return self._conv(draw, channels, width)
        if kind == "norm":
            norm = nn.BatchNorm2d(channels, eps=0.0, affine=draw.random() < 0.9)
            norm.running_mean = torch.tensor([float(draw.randint(-1, 1)) for _ in range(channels)])
            self.modules_.append(norm.eval())
            return ("module", len(self.modules_) - 1)
        if kind == "pool":
            if width < 2:
                return None
            options = {"kernel_size": (1, 2), "stride": (1, draw.choice([1, 2]))}
            options |= draw.choice([{}, {}, {"padding": (0, 1)}, {"ceil_mode": True}])
            return ("pool", options)
        if kind == "average":
            return ("average", {"kernel_size": (1, 2), "stride": (1, 1)}) if width > 1 else None
        if kind in ("add", "concat"):
            like = slice(None) if kind == "add" else slice(1, None)
            others = [
                place for place, size in enumerate(sizes[:-1]) if place and size[like] == sizes[-1][like]
            ]
            return (kind, draw.choice(others)) if others and channels < 3 else None
        return ("relu", None)

    def _conv(self, draw, channels, width):
        again = [
            place
            for place, module in enumerate(self.modules_)
            if isinstance(module, nn.Conv2d)
            and module.in_channels == channels
            and module.kernel_size[1] <= width
        ]
        if again and draw.random() < 0.25:
            return ("module", draw.choice(again))
        outputs, kernel = draw.choice([1, 2]), draw.choice([1, min(2, width)])
        groups = 2 if channels == outputs == 2 and draw.random() < 0.4 else 1
        padding = (0, 1 if kernel == 2 and draw.random() < 0.4 else 0)
        bias = draw.random() < 0.5
        self.modules_.append(
            nn.Conv2d(channels, outputs, (1, kernel), padding=padding, groups=groups, bias=bias)
        )
        return ("module", len(self.modules_) - 1)

    def _values(self, x):
        values = [x]
        for name, what in self.steps:
            match name:
                case "module":
                    values.append(self.modules_[what](values[-1]))
                case "pool":
                    values.append(functional.max_pool2d(values[-1], **what))
                case "average":
                    values.append(functional.avg_pool2d(values[-1], **what))
                case "add":
                    values.append(values[-1] + values[what])
                case "concat":
                    values.append(torch.cat([values[what], values[-1]], 1))
                case _:
                    values.append(functional.relu(values[-1]))
        return values

    def forward(self, x):
        return self.modules_[-1](functional.relu(self._values(x)[-1]).flatten(1))


def drawn(case):
    """A network and one or two images."""
    draw = random.Random(case)
    model = Drawn(draw)
    number = draw.choice([1, 1, 2])
    pixels = [float(draw.randint(-1, 2)) for _ in range(number * model.size[0] * model.size[2])]
    return model, torch.tensor(pixels).double().reshape(number, *model.size)


def test_the_translation_has_torchs_derivative():
    for case in range(30):
        model, images = drawn(case)
        network, point = as_network(model, images)
        asked = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(model(images).sum(), asked, materialize_grads=True)
        by_torch = [Fraction(entry.item()) for part in found for entry in part.flatten()]
        by_oracle = list(judge(network, point, rules=Rules()).by_ad.gradient)
        assert by_torch == by_oracle, case


@pytest.mark.parametrize("part", range(3))
def test_nothing_is_certain_that_the_oracle_denies(part):
    seen = Counter()
    for case in range(1000 + 40 * part, 1040 + 40 * part):
        model, images = drawn(case)
        graph, _ = record(model, images)
        try:
            found = sufficient(graph, seed=case)
        except NotCertifiableError:
            seen["refused"] += 1
            continue
        assert sufficient(graph, seed=case, chunk=1) == found, case
        network, point = as_network(model, images)
        truth = judge(network, point, rules=Rules())
        is_limit = truth.by_ad.gradient in truth.cells
        seen["derivative"] += found.whole_derivative
        seen["limit"] += found.whole_limit
        seen["denied"] += not is_limit
        assert not found.whole_derivative or truth.kind is Kind.CORRECT, case
        assert not found.whole_limit or is_limit, case
        if len(images) == 1 and found.independent:
            seen["independent"] += 1
            for proxy in (1, Fraction(1, 2), 2):
                other = judge(network, point, rules=Rules(proxy=Fraction(proxy)), known=truth.cells)
                assert other.kind is not Kind.INCORRECT, (case, proxy)
    assert seen["derivative"] > 3, seen
    assert seen["limit"] > 0, seen
    assert seen["refused"] < 20, seen
