"""The pool, the ReLU and the Monte-Carlo loop of the published study, written anew with the same operations.

The pool evaluates `beta * minimal + (1 - beta) * native` in the tensor's dtype and lets autograd combine the
two derivatives; `minimal` selects its entries by boolean indexing. The ReLU is a clamp whose backward pass
copies the gradient and writes into it by boolean indexing, twice. The loop builds one network a beta, gives
all the same weights, runs each, differentiates the sum of their losses, and adds up the sup norms of the
gradient difference of each tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models import build
from tiebreak.numerics.pooling import MaxPool2d


class _EqualShare(torch.autograd.Function):
    """Block maximum in two passes; backward by boolean indexing, then a division by the number of maxima."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
        top = blocks.amax(3).amax(4)
        ctx.save_for_backward(blocks, top)
        return top

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        blocks, top = ctx.saved_tensors
        attained = blocks == top[:, :, :, None, :, None]
        shares = torch.zeros_like(blocks)
        shares[attained] = gradient[:, :, :, None, :, None].expand_as(blocks)[attained]
        shares /= attained.sum((3, 5), keepdim=True)
        n, c, rows, _, columns, _ = blocks.shape
        return shares.reshape(n, c, 2 * rows, 2 * columns)


class _Clamp(torch.autograd.Function):
    """max(x, 0); backward by boolean indexing into a copy of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at_zero: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.at_zero = at_zero
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        result = gradient.clone()
        result[x < 0] = 0
        result[x == 0] = ctx.at_zero * gradient[x == 0]
        return result, None


class PublishedReLU(nn.Module):
    """ReLU of the published study, with the derivative 0 at 0 that its loop takes."""

    def forward(self, x: Tensor) -> Tensor:
        return _Clamp.apply(x, 0.0)  # pyright: ignore[reportReturnType]


class PublishedPool(nn.Module):
    """2x2/2 max pool of the published study."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        minimal: Tensor = _EqualShare.apply(x)  # pyright: ignore[reportAssignmentType]
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
    relu: Callable[[], nn.Module] = nn.ReLU,
) -> list[list[float]]:
    """Sum over tensors of the gradient difference's sup norm to the first beta, a batch and a beta."""
    models = [
        with_pools(
            build(
                network, num_classes=10, in_channels=channels, jacobian=PoolJacobian(), relu=relu, seed=seed
            ),
            lambda beta=beta: PublishedPool(beta),
        )
        for beta in betas
    ]
    for model in models:
        model.to(batches[0][0].device)
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    gaps = []
    for images, labels in batches:
        for model in models:
            model.zero_grad()
        losses = [functional.cross_entropy(model(images), labels) for model in models]
        torch.stack(losses).sum().backward()
        gaps.append([_distance(models[0], model) for model in models[1:]])
    return gaps


def _distance(first: nn.Module, second: nn.Module) -> float:
    """Sum over parameters of the largest absolute difference of their gradients."""
    total = torch.zeros((), device=next(first.parameters()).device)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        total += torch.linalg.vector_norm(one.grad - other.grad, float("inf"))
    return total.item()
