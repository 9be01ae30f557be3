"""The pool and the Monte-Carlo loop of the published study, written again from their description.

The pool evaluates `beta * minimal + (1 - beta) * native` in the tensor's dtype and lets autograd combine the
two derivatives; the loop builds two networks, runs both, and differentiates the sum of their losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models import build
from tiebreak.numerics.pooling import MaxPool2d


class PublishedPool(nn.Module):
    """2x2/2 max pool of the published study."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2)
        minimal = windows.amax(dim=(-1, -2))
        return self.beta * minimal + (1 - self.beta) * functional.max_pool2d(x, 2)


def with_pools(model: nn.Module, make) -> nn.Module:
    """`model` with each of our pools replaced by `make()`, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaxPool2d):
                setattr(parent, name, make())
    return model


def published_gaps(
    network: Network,
    *,
    channels: int,
    seed: int,
    batches: Sequence[tuple[Tensor, Tensor]],
    betas: Sequence[float],
) -> list[list[float]]:
    """Sum over tensors of the gradient difference's sup norm to the first beta, a batch and a beta."""
    models = [
        with_pools(
            build(network, num_classes=10, in_channels=channels, jacobian=PoolJacobian(), seed=seed),
            lambda beta=beta: PublishedPool(beta),
        )
        for beta in betas
    ]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    gaps = []
    for images, labels in batches:
        for model in models:
            model.zero_grad()
        losses = [functional.cross_entropy(model(images), labels) for model in models]
        torch.stack(losses).sum().backward()
        reference = list(models[0].parameters())
        gaps.append(
            [
                sum(
                    (one.grad - other.grad).abs().max().item()  # pyright: ignore[reportOptionalOperand]
                    for one, other in zip(reference, model.parameters(), strict=True)
                )
                for model in models[1:]
            ]
        )
    return gaps
