"""The published forward pass: its rounding error is a known table, its gradient has the same error."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import NATIVE, Forward, PoolJacobian
from tiebreak.numerics.pooling import JacobianSwitch, max_pool2d
from tiebreak.numerics.ties import tie_counts

UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def blended(beta: float) -> PoolJacobian:
    return PoolJacobian(beta=beta, forward=Forward.BLENDED)


def errors(dtype: torch.dtype, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 16, 64, 64, generator=generator, dtype=torch.float64).relu().to(dtype)
    exact = functional.max_pool2d(x, 2)
    got = max_pool2d(x, kernel=2, jacobian=blended(beta))
    positive = exact > 0
    return ((got.double() - exact.double()).abs() / exact.double())[positive], got[positive]


def published() -> list[dict[str, str]]:
    """The table of errors, without the values at single inputs, which tests/test_paper.py computes."""
    path = Path(__file__).parents[2] / "results" / "paper" / "published.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"].startswith("forward_error.")]
    return [row for row in rows if not row["quantity"].startswith("value of")]


@pytest.mark.parametrize("row", published(), ids=lambda row: row["id"].removeprefix("forward_error."))
def test_every_error_of_the_table(row) -> None:
    """On relu(randn(16, 16, 64, 64)), 2x2: every number of the table, as it is shown on the paper's page."""
    dtype, beta, wanted = FORMATS[row["precision"]], float(row["beta"]), float(row["value"])
    # The table gives one or two digits: a quarter of beta unit roundoffs is less than their last one.
    room = UNIT[dtype] * beta / 4 if beta > 1 else 0.0
    kind = row["id"].rsplit(".", 1)[1]
    if kind == "overflow":
        ends = [torch.full((1, 2, 2), wanted * (1 + side * 2e-3)).to(dtype) for side in (-1, 1)]
        finite = [max_pool2d(x, kernel=2, jacobian=blended(beta)).isfinite().item() for x in ends]
        assert finite == [True, False]
        return
    error, values = errors(dtype, beta)
    if kind in ("median", "max"):
        got = error.median().item() if kind == "median" else error.max().item()
        assert abs(got - wanted) <= room
        return
    shares = {"exact": error == 0, "zeros": values == 0}
    assert abs(shares[kind].double().mean().item() - wanted) <= 2.0**-11 * 16


@pytest.mark.parametrize(
    ("value", "beta", "wanted"),
    [(1.0, 1e4, 0.0), (1.5, 1e3, 2.0), (3.3, 1e3, 2.0), (6.6, 1e4, None), (70.0, 1e3, None)],
)
def test_published_examples_in_fp16(value, beta, wanted) -> None:
    got = max_pool2d(torch.full((1, 2, 2), value).half(), kernel=2, jacobian=blended(beta)).item()
    assert math.isnan(got) if wanted is None else got == wanted


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_gradient_is_the_sum_that_autograd_makes(dtype) -> None:
    x = torch.randint(0, 3, (2, 2, 9, 9)).to(dtype).requires_grad_()
    g = torch.randn(2, 2, 5, 5).to(dtype)
    (got,) = torch.autograd.grad(max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=blended(10)), x, g)
    minimal = max_pool2d(x, kernel=3, stride=2, padding=1, jacobian=PoolJacobian(beta=1))
    (first,) = torch.autograd.grad(minimal, x, 10.0 * g)
    (second,) = torch.autograd.grad(functional.max_pool2d(x, 3, 2, 1), x, -9.0 * g)
    assert torch.equal(got, second + first)


def test_events_and_switch() -> None:
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    switch = JacobianSwitch(blended(3), events=[])
    output = max_pool2d(x, kernel=2, jacobian=switch)
    assert switch.events[0].output is output
    assert len(switch.events) == 1
    assert tie_counts(switch.events[0]).tied == 4
    switch.jacobian = NATIVE  # the graph holds the rule of its forward pass
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient[0, 0, :2, :2].flatten().tolist() == [-1.25, 0.75, 0.75, 0.75]
