"""Liveness against autograd: an adjoint that is not 0 is live, and what is dead has none."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tiebreak.exact import primes
from tiebreak.exact.decide import Walk
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.graph import MaxPool2d, ReLU
from tiebreak.exact.liveness import liveness
from tiebreak.exact.record import record
from tiebreak.exact.residues import Residues


class Everything(nn.Module):
    """All operations of a graph; keeps what its ReLUs and pools gave."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 1, groups=2)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(8, 3)

    def forward(self, x):
        self.kept = []

        def keep(value):
            if value.requires_grad:
                value.retain_grad()
                self.kept.append(value)
            return value

        x = keep(functional.relu(self.first(x)))
        x = keep(functional.max_pool2d(x, 2, stride=1))
        x = keep(functional.relu(self.norm(self.second(x)) + x))
        x = torch.cat([x, keep(functional.max_pool2d(x, 3, stride=1, padding=1))], 1)
        return keep(functional.relu(self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))))


def test_what_has_an_adjoint_is_live():
    generator = torch.Generator().manual_seed(0)
    dead = 0
    for case in range(20):
        model = Everything().double().eval()
        for parameter in model.parameters():
            parameter.data = torch.randint(-1, 2, parameter.shape, generator=generator).double()
        images = torch.randint(0, 2, (3, 1, 4, 4), generator=generator).double()
        graph, _ = record(model, images)
        fields = [Residues(prime) for prime in primes.draw_primes(2, seed=case)]
        walk = Walk(graph, images, fields=fields, wide=FixedPoint)
        walk.run()
        live = liveness(walk)
        output = model(images)
        output.backward(torch.randint(1, 100, output.shape, generator=generator).double())
        nodes = [i for i, node in enumerate(graph.nodes) if isinstance(node.operation, ReLU | MaxPool2d)]
        assert len(nodes) == len(model.kept)
        for index, value in zip(nodes, model.kept, strict=True):
            mask = live.get(index, torch.zeros(value.shape, dtype=torch.bool))
            assert mask.shape == value.shape
            assert not bool(((value.grad != 0) & ~mask).any()), (case, index)
            dead += int((~mask).sum())
    assert dead > 100
