"""A program that computes 0 and whose derivative, as automatic differentiation takes it, is not 0."""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.numerics.relu import relu


def zero_program(x: Tensor, t: Tensor) -> Tensor:
    """max(t * x) - max(t * x), the two maxima written differently.

    The first maximum is a running one and differentiates to its first winner; the second is `torch.max` over
    all entries, which splits the gradient equally. Their difference is 0 at every t, its derivative is 0 or
    undefined over the reals; what comes out at a tie tells rounding from choice. With four equal entries the
    exact derivative of both is the entry, and the residue is the rounding of a sum (2**-24 for 1.14 in fp32);
    with distinct entries and t = 0 the two choices differ (-1.5 for 1, 2, 3, 4).

    Args:
        x: (n,), n of at least 1.
        t: (), in the dtype of x, requiring a gradient.

    Returns:
        (), 0 unless a product is not finite.

    Source:
        R. Boustany, TMLR 2024, opening example.

    Example:
        >>> t = torch.tensor(1.0, requires_grad=True)
        >>> zero_program(torch.full((4,), 1.14), t).backward()
        >>> t.grad.item() == 2.0**-24
        True
    """
    scaled = t * x
    largest = scaled[0]
    for value in scaled[1:]:
        if value > largest:
            largest = value
    return largest - torch.max(scaled)


def zero_program_of_relus(x: Tensor, t: Tensor) -> Tensor:
    """max(t * x) - max(t * x), both maxima made of ReLUs, with two derivatives of the ReLU at 0.

    max(a, b) = (a + b) / 2 + relu((a - b) / 2) + relu((b - a) / 2), applied to pairs of entries and then to
    the two results. In the second maximum the first of the two ReLUs has derivative 1 at 0, so that it passes
    the gradient of a tie on to the first entry of a pair; in the first maximum it is split.

    Args:
        x: (4,).
        t: () or (1,), in the dtype of x, requiring a gradient.

    Returns:
        (), 0 unless a number is not finite.

    Source:
        R. Boustany, TMLR 2024, opening example.

    Example:
        >>> t = torch.tensor(1.0, requires_grad=True)
        >>> zero_program_of_relus(torch.full((4,), 1.14), t).backward()
        >>> t.grad.item() == -(2.0**-24)
        True
    """
    scaled = t * x
    return _largest(scaled, derivative_at_zero=0.0) - _largest(scaled, derivative_at_zero=1.0)


def _largest(x: Tensor, *, derivative_at_zero: float) -> Tensor:
    def larger(a: Tensor, b: Tensor) -> Tensor:
        first = relu((a - b) / 2, derivative_at_zero=derivative_at_zero)
        return (a + b) / 2 + first + relu((b - a) / 2)

    return larger(larger(x[0], x[1]), larger(x[2], x[3]))
