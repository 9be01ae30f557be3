"""Counting ties and margins, against a loop over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.numerics.pooling import JacobianSwitch, PoolEvent, max_pool2d
from tiebreak.numerics.ties import TieCounts, live_ties, margins_in_ulps, tie_counts

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def event_of(x: torch.Tensor, **geometry) -> PoolEvent:
    switch = JacobianSwitch(events=[])
    max_pool2d(x, jacobian=switch, **geometry)
    return switch.events[0]


def windows_of(x: torch.Tensor, *, kernel: int, stride: int, padding: int) -> list[list[float]]:
    height, width = x.shape[-2:]
    rows, columns = ((length + 2 * padding - kernel) // stride + 1 for length in (height, width))
    found = []
    for image in x.double().reshape(-1, height, width).tolist():
        for top in range(-padding, rows * stride - padding, stride):
            for left in range(-padding, columns * stride - padding, stride):
                found.append(
                    [
                        image[y][z]
                        for y in range(max(top, 0), min(top + kernel, height))
                        for z in range(max(left, 0), min(left + kernel, width))
                    ]
                )
    return found


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_counts_are_those_of_a_loop(data) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    kernel, stride, padding = data.draw(
        st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 0), (4, 3, 2), (5, 2, 2)])
    )
    numbers = st.sampled_from([0.0, -0.0, 1.0, 1.0, -1.0, math.inf, -math.inf, math.nan])
    x = torch.tensor(data.draw(st.lists(numbers, min_size=98, max_size=98)), dtype=dtype).view(1, 2, 7, 7)
    if data.draw(st.booleans()):
        x = x.expand(2, 2, 7, 7).contiguous(memory_format=torch.channels_last)
    event = event_of(x, kernel=kernel, stride=stride, padding=padding)
    several = []
    windows = windows_of(x, kernel=kernel, stride=stride, padding=padding)
    largest = 0
    for window in windows:
        number = 1 if any(map(math.isnan, window)) else window.count(max(window))
        largest = max(largest, number)
        if number > 1:
            several.append((max(window), number))
    wanted = TieCounts(
        windows=len(windows),
        tied=len(several),
        tied_at_zero=sum(value == 0 for value, _ in several),
        tied_above_zero=sum(value > 0 for value, _ in several),
        tied_below_zero=sum(value < 0 for value, _ in several),
        mean_multiplicity=sum(n for _, n in several) / len(several) if several else None,
        max_multiplicity=largest,
    )
    assert tie_counts(event) == wanted
    assert live_ties(event) == wanted.tied - wanted.tied_at_zero


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [2, 3])
def test_live_ties_without_the_kernel_are_the_same(dtype, kernel, monkeypatch) -> None:
    x = torch.randint(-1, 3, (3, 4, 40, 42)).to(dtype)
    x[0, 0, 0, 0] = math.nan
    event = event_of(x, kernel=kernel)
    counted = live_ties(event)
    monkeypatch.setattr("tiebreak.numerics.kernels.live_ties", lambda output, mask: None)
    assert live_ties(event) == counted > 0


def test_no_windows_no_ties() -> None:
    event = event_of(torch.empty(0, 2, 4, 4), kernel=2)
    assert tie_counts(event) == TieCounts(
        windows=0,
        tied=0,
        tied_at_zero=0,
        tied_above_zero=0,
        tied_below_zero=0,
        mean_multiplicity=None,
        max_multiplicity=0,
    )
    assert live_ties(event) == 0


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_margins_count_the_numbers_between(number) -> None:
    one, two = number(1.0), number(2.0)
    step = np.nextafter(one, two) - one
    rows = [
        ([one, one, one, one], math.inf),
        ([one + step, one, 0.0, -5.0], 1.0),
        ([two, one, one, two], 1.0 / step),  # a whole binade
        ([0.0, -0.0, 0.0, -0.0], math.inf),
        ([0.0, -np.nextafter(number(0), one), -1.0, -1.0], 1.0),
        ([np.nextafter(number(0), one), -0.0, -1.0, -1.0], 1.0),
        ([math.nan, 1.0, 2.0, 3.0], math.nan),
        ([-1.0, -1.0 - 2 * step, -3.0, -4.0], 2.0),
        ([math.inf, np.finfo(number).max, 0.0, 0.0], 1.0),
        ([-math.inf] * 4, math.inf),
    ]
    x = torch.tensor(np.array([entries for entries, _ in rows], dtype=number)).view(len(rows), 1, 2, 2)
    got = margins_in_ulps(event_of(x, kernel=2)).flatten().tolist()
    wanted = [margin for _, margin in rows]
    assert [str(margin) for margin in got] == [str(float(margin)) for margin in wanted]


def test_margins_of_overlapping_padded_windows() -> None:
    x = torch.tensor([[4.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64).view(1, 3, 3)
    got = margins_in_ulps(event_of(x, kernel=3, stride=2, padding=1)).flatten().tolist()
    binade = 2.0**52
    assert got == [binade, binade, binade, binade]
