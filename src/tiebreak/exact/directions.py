"""Directions along which linear forms are positive, and forms that are independent: found fast, then proved.

A linear program in float64 proposes a direction; that every form is positive along it is then checked with a
bound on all rounding. So a direction that is returned is one, and None means that none was found.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from tiebreak.exact.bounds import UNIT, Ball

_TINY = 2.0**-1074


def positive_direction(forms: Ball) -> Tensor | None:
    """A direction along which every form is positive for certain.

    Args:
        forms: (number, dimension), a form a row, each coefficient known within its radius.

    Returns:
        (dimension,) float64, or None if none was found.

    Example:
        >>> forms = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
        >>> exactly = torch.zeros_like(forms)
        >>> positive_direction(Ball(forms, exactly)) is not None
        True
        >>> positive_direction(Ball(torch.cat([forms, -forms]), torch.cat([exactly, exactly]))) is None
        True
    """
    largest = forms.value.abs().amax(1, keepdim=True) if forms.value.shape[1] else None
    if largest is None or not bool((largest > 0).all()) or not bool(forms.value.isfinite().all()):
        return None
    scaled = forms.value / largest
    middle = scaled.sum(0)  # most cones are wide
    if _is_positive(forms, middle):
        return middle
    proposed = _widest(scaled.unique(dim=0))
    return proposed if proposed is not None and _is_positive(forms, proposed) else None


def are_independent(rows: Tensor, *, prime: int) -> bool:
    """Whether rows of whole numbers are linearly independent modulo a prime, and so over the rationals.

    Args:
        rows: (number, dimension) float64 holding whole numbers of at most 2**20 in size.
        prime: below 2**21.

    Example:
        >>> are_independent(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), prime=1048583)
        False
    """
    number, dimension = rows.shape
    if number > dimension:
        return False
    left = rows.cpu().to(torch.int64).numpy() % prime
    for row in range(number):
        pivots = np.flatnonzero(left[row])
        if not len(pivots):
            return False
        column = pivots[0]
        unit = left[row] * pow(int(left[row, column]), -1, prime) % prime
        left[row + 1 :] = (left[row + 1 :] - left[row + 1 :, column, None] * unit) % prime
    return True


def _is_positive(forms: Ball, direction: Tensor) -> bool:
    """Whether every form is positive along a direction, whatever was rounded."""
    size = direction.abs()
    terms = len(direction) + 4
    lost = forms.radius @ size + 2 * terms * UNIT * (forms.value.abs() @ size) + 8 * terms * _TINY
    # The bound's own sums and products lose less than that much of it.
    return bool((forms.value @ direction > lost * (1 + 4 * terms * UNIT)).all())


def _widest(forms: Tensor) -> Tensor | None:
    """The direction in the unit cube with the largest least form; None if that is not above 0."""
    rows = forms.cpu().numpy()
    number, dimension = rows.shape
    found = linprog(
        c=np.append(np.zeros(dimension), -1.0),
        A_ub=np.hstack([-rows, np.ones((number, 1))]),
        b_ub=np.zeros(number),
        bounds=[(-1, 1)] * dimension + [(0, None)],
        method="highs",
    )
    if found.x is None or not found.x[-1] > 0:
        return None
    return torch.from_numpy(found.x[:-1].copy()).to(forms.device)
