"""What constant-step descent does in the limit, where a formula says it: T-L1 to T-L3, T1 to T4.

Each is derived in docs/descent.md; `claims` holds them against measured runs.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from scipy.optimize import root_scalar
from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Loss


def lasso_norm(moment: Float64[Tensor, "... P"], *, lr: float, penalty: Float64[Tensor, " ..."]) -> Tensor:
    """T-L1: mean ||b||_1 of gradient descent on an L1 penalty when X'X/N = I.

    A coordinate with |z_j| < c = a lambda/(2 - a) ends in the cycle z_j +- c, whose mean size is c; one with
    |z_j| >= lambda settles at |z_j| - lambda. So far above lambda_max the norm is P c: it *grows* with the
    penalty, while the true solution is 0. Between the two a coordinate has a longer cycle, which the formula
    does not cover.

    Args:
        moment: z = X'y/N.
        lr: the step a, below 2.
        penalty: lambda, over the leading dimensions of z.

    Returns:
        The norm over the leading dimensions, NaN where a coordinate has a longer cycle.

    Raises:
        UserError: a step at which the quadratic itself diverges.

    Example:
        >>> norm = lasso_norm(torch.zeros(20).double(), lr=0.1, penalty=torch.tensor(1.0).double())
        >>> round(float(norm), 6)
        1.052632
    """
    if not 0 < lr < 2:
        raise UserError(f"the closed form holds for a step between 0 and 2, got {lr}.")
    level = penalty.unsqueeze(-1)
    cycle = lr * level / (2 - lr)
    settled = torch.where(moment.abs() >= level, moment.abs() - level, torch.nan)
    return torch.where(cycle > moment.abs(), cycle, settled).sum(-1)


def crossing_penalty(unpenalised_norm: Tensor, *, lr: float, num_features: int) -> Tensor:
    """T-L2: the penalty above which descent's ||b||_1 exceeds that of no penalty at all (X'X/N = I)."""
    return unpenalised_norm * (2 - lr) / (num_features * lr)


def rmsprop_plateau(*, lr: float, num_features: int) -> float:
    """T-L3: ||b||_1 of RMSprop as the penalty grows: P a/2, whatever the penalty."""
    return num_features * lr / 2


def best_gap_bound(*, lipschitz: float, lr: Tensor, distance: Tensor, num_steps: int) -> Tensor:
    """T1: min over i <= k of f_i - f* <= R^2 / (2 a (k+1)) + a G^2 / 2.

    For every convex G-Lipschitz f and every a > 0: expand ||x_{k+1} - x*||^2 and sum.

    Args:
        lipschitz: G.
        lr: a.
        distance: R, from the start to the minimiser.
        num_steps: k.
    """
    return distance**2 / (2 * lr * (num_steps + 1)) + lr * lipschitz**2 / 2


def sharp_floor(*, mu: float, lr: Tensor) -> Tensor:
    """T2: where f - f* >= mu |x - x*|, descent that never hits x* has limsup f - f* >= a mu^2 / 2."""
    return lr * mu**2 / 2


def cycle_amplitude(loss: Loss, *, lr: float) -> float:
    """T3: the |x| of the one attracting 2-cycle of logcosh or sqrt1 beyond a = 2, where f'(x)/x = 2/a.

    Args:
        loss: logcosh or sqrt1, whose f'(x)/x falls strictly from 1 to 0.
        lr: a, above 2.

    Raises:
        UserError: another loss, or a step that is stable.

    Example:
        >>> round(cycle_amplitude(Loss.SQRT1, lr=2.5), 12)
        0.75
    """
    if loss not in (Loss.LOGCOSH, Loss.SQRT1) or not 2 < lr < math.inf:
        raise UserError(f"there is one 2-cycle of logcosh and sqrt1 at a step above 2, got {loss} and {lr}.")
    if loss is Loss.SQRT1:
        return math.sqrt(lr**2 / 4 - 1)

    def secant_minus(x: float) -> float:
        return math.tanh(x) / x - 2 / lr

    return float(root_scalar(secant_minus, bracket=(1e-9, lr / 2), xtol=1e-15).root)


def huber_amplitudes(*, lr: float) -> tuple[float, float]:
    """T4: beyond a = 2 every x in (1, a - 1) is a 2-cycle of Huber's loss, so amplitudes fill [a/2, a - 1].

    The amplitude, the larger |x| of the two, jumps from 0 to 1 at a = 2, and the curvature on a cycle is 0.

    Raises:
        UserError: a step that is stable.
    """
    if not 2 < lr < math.inf:
        raise UserError(f"Huber's loss has cycles at a step above 2, got {lr}.")
    return lr / 2, lr - 1
