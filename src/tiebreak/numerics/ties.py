"""How many maxima the windows of a pool have, and how far the runner-up is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.numerics import kernels
from tiebreak.numerics.selection import has_entry, multiplicity
from tiebreak.numerics.switch import PoolEvent


@dataclass(frozen=True, kw_only=True)
class TieCounts:
    """Ties of one forward pass of a pool.

    A window is tied if more than one entry equals its maximum; 0.0 and -0.0 are equal. A window with NaN is
    not tied: only its last NaN is selected.

    Args:
        windows: all windows.
        tied: windows with a tie.
        tied_at_zero: of these, those whose maximum is 0 or -0.
        tied_above_zero: those with a maximum above 0, infinity included.
        tied_below_zero: those with a maximum below 0, minus infinity included.
        mean_multiplicity: mean number of maxima of a *tied* window; None without one.
        max_multiplicity: largest number of maxima of any window; 0 without windows.
    """

    windows: int
    tied: int
    tied_at_zero: int
    tied_above_zero: int
    tied_below_zero: int
    mean_multiplicity: float | None
    max_multiplicity: int


def tie_counts(event: PoolEvent) -> TieCounts:
    """Counts the ties of one forward pass.

    Args:
        event: the pass.

    Returns:
        The counts, exact.

    Example:
        >>> from tiebreak.numerics.pooling import JacobianSwitch, max_pool2d
        >>> switch = JacobianSwitch(events=[])
        >>> _ = max_pool2d(torch.ones(1, 1, 2, 4), kernel=2, jacobian=switch)
        >>> tie_counts(switch.events[0]).mean_multiplicity
        4.0
    """
    number = multiplicity(event.mask)
    value = _value(event)
    tied = number > 1
    num_tied = int(tied.sum())
    above = int((tied & (value > 0)).sum())
    below = int((tied & (value < 0)).sum())
    total = int(torch.where(tied, number, 0).sum(dtype=torch.int64))
    return TieCounts(
        windows=number.numel(),
        tied=num_tied,
        tied_at_zero=num_tied - above - below,
        tied_above_zero=above,
        tied_below_zero=below,
        mean_multiplicity=total / num_tied if num_tied else None,
        max_multiplicity=int(number.max()) if number.numel() else 0,
    )


def live_ties(event: PoolEvent) -> int:
    """Number of windows with several maxima whose value is not 0.

    Behind a ReLU whose derivative at 0 is 0 only these can change a gradient. A window with NaN does not
    count: every rule sends its gradient to the same entry.

    Args:
        event: the pass.

    Returns:
        The number of live ties.
    """
    counted = kernels.live_ties(_value(event), event.mask)
    if counted is not None:
        return counted
    lowest_cleared = (event.mask & (event.mask - 1)).bool()
    tied = lowest_cleared[0] if len(event.mask) == 1 else multiplicity(event.mask) > 1
    return int((tied & (_value(event) != 0)).sum())


def margins_in_ulps(event: PoolEvent) -> Tensor:
    """Distance from each window's maximum to its runner-up, in units in the last place.

    The runner-up is the largest entry that is strictly smaller than the maximum. The distance is the number
    of representable numbers from one to the other (0.0 and -0.0 being one), so that 1 says: neighbours.

    Args:
        event: the pass.

    Returns:
        float64 of the output's shape (an integer up to 2**53, rounded above); infinity where a window has no
        smaller entry, NaN where it has a NaN.
    """
    keys = _order(event.input.detach())
    top = _order(_value(event))
    lowest = torch.iinfo(torch.int64).min
    runner_up = torch.full_like(top, lowest)
    for tap in event.geometry.taps((event.input.shape[-2], event.input.shape[-1])):
        at, key = (..., *tap.windows), keys[(..., *tap.pixels)]
        smaller = torch.where(has_entry(event.mask, tap.entry)[at].bool() | (key >= top[at]), lowest, key)
        runner_up[at] = torch.maximum(runner_up[at], smaller)
    distance = top.double() - runner_up.double()
    near = distance.abs() < 2.0**53  # int64 differences are exact there, float64 ones of large keys are not
    distance = torch.where(near, (top - runner_up).double(), distance)
    distance.masked_fill_(runner_up == lowest, float("inf"))
    return distance.masked_fill_(_value(event).isnan(), float("nan"))


def _value(event: PoolEvent) -> Tensor:
    """The maxima, detached from the graph."""
    return event.output.detach()


def _order(values: Tensor) -> Tensor:
    """int64 keys in the order of the values, one apart for neighbours; 0.0 and -0.0 have the key 0."""
    width = torch.finfo(values.dtype).bits
    signed = {16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    bits = values.contiguous().view(signed).long()
    magnitude = bits & ((1 << (width - 1)) - 1)
    return torch.where(bits < 0, -magnitude, magnitude)
