"""The largest eigenvalue of the Hessian: Lanczos on Hessian-vector products, a batch of runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiebreak.data.streams import normals, stream
from tiebreak.design.axes import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Sharpness:
    """The largest eigenvalue of each run's Hessian, with how good it is.

    Args:
        value: the largest Ritz value, which never lies above the true eigenvalue (but for rounding), (R,).
        residual: ||H v - value v|| of its unit vector: an eigenvalue lies within this of `value`, (R,).
    """

    value: Float[Tensor, " R"]
    residual: Float[Tensor, " R"]


def sharpness(
    losses: Callable[[Sequence[Tensor]], Float[Tensor, " R"]],
    points: Sequence[Tensor],
    *,
    num_products: int = 40,
    seed: int = 0,
) -> Sharpness:
    """The largest eigenvalue, in the order of the numbers and not of their sizes.

    A power iteration finds the eigenvalue of largest size, which may be a negative one, so it needs a shift.
    Lanczos does not: its space is the same for H and for H + c I, so it is shifted by every c at once, and
    its largest Ritz value goes to the largest eigenvalue. Each new vector is made orthogonal to all former
    ones, twice. Runs never meet, so one double backward pass gives the products of all of them. At a kink the
    Hessian is that of the pieces autograd chose.

    Args:
        losses: from points to a loss a run; twice differentiable by autograd.
        points: tensors whose first dimension counts runs.
        num_products: of Hessian and vector; the space cannot outgrow the number of parameters.
        seed: of the first vectors.

    Returns:
        In the dtype of the points.

    Raises:
        UserError: no products.

    Example:
        >>> point = torch.zeros(1, 3)
        >>> found = sharpness(lambda p: (p[0] ** 2 * torch.tensor([1.0, 2.0, -5.0])).sum(-1), [point])
        >>> round(float(found.value), 5)
        4.0
    """
    if num_products < 1:
        raise UserError(f"sharpness needs one product of Hessian and vector or more, got {num_products}.")
    leaves = [point.detach().clone().requires_grad_() for point in points]
    num_runs = leaves[0].shape[0]
    sizes = [leaf[0].numel() for leaf in leaves]
    gradients = torch.autograd.grad(losses(leaves).sum(), leaves, create_graph=True)
    flat = torch.cat([gradient.reshape(num_runs, -1) for gradient in gradients], 1)

    def product(vector: Tensor) -> Tensor:
        if not flat.requires_grad:  # a loss that is linear in its parameters
            return torch.zeros_like(vector)
        parts = torch.autograd.grad(flat, leaves, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([part.reshape(num_runs, -1) for part in parts], 1)

    first = normals(stream("descent/lanczos", seed=seed), shape=(num_runs, sum(sizes))).to(flat)
    basis = [first / first.norm(dim=1, keepdim=True)]
    diagonal, off, ends = [], [], []
    for _ in range(min(num_products, sum(sizes))):
        moved = product(basis[-1])
        diagonal.append((moved * basis[-1]).sum(1))
        known = torch.stack(basis, 1)
        for _ in range(2):
            moved = moved - (known.mT @ (known @ moved.unsqueeze(-1))).squeeze(-1)
        length = moved.norm(dim=1)
        off.append(length)
        # where the space is closed the next vector is 0, and so is all that follows from it
        closed = length <= 10 * torch.finfo(flat.dtype).eps * torch.stack(diagonal).abs().amax(0)
        basis.append(torch.where(closed, 0.0, 1 / length.clamp_min(1e-300)).unsqueeze(1) * moved)
        ends.append(closed)
    ends[-1] = torch.ones_like(ends[-1])
    return _largest(
        torch.stack(diagonal, 1),
        torch.stack(off, 1),
        ends=torch.stack(ends, 1),
        basis=torch.stack(basis[:-1], 1),
    )


def _largest(diagonal: Tensor, off: Tensor, *, ends: Tensor, basis: Tensor) -> Sharpness:
    """The largest Ritz value of each run; coordinates behind the end of its space are left out."""
    kept = torch.where(ends, 0.0, off)[:, :-1]
    matrix = torch.diag_embed(diagonal) + torch.diag_embed(kept, 1) + torch.diag_embed(kept, -1)
    finite = torch.isfinite(matrix).all(-1).all(-1)
    matrix = torch.where(finite[:, None, None], matrix, 0.0)
    inside = basis.abs().amax(-1) > 0
    lowest = torch.where(inside, 0.0, -2 * matrix.abs().sum((-1, -2)).unsqueeze(1) - 1)
    values, vectors = torch.linalg.eigh(matrix + torch.diag_embed(lowest))
    # what the space lacks of H v: the lengths at its ends, each times v's share there
    residual = (vectors[:, :, -1] * torch.where(ends, off, 0.0)).norm(dim=1)
    nothing = torch.full_like(residual, torch.nan)
    return Sharpness(
        value=torch.where(finite, values[:, -1], nothing), residual=torch.where(finite, residual, nothing)
    )
