"""Zones: gaps are exactly zero where they must be, and the numbers of the study come out."""

from __future__ import annotations

import math

import pytest
import torch
from memory_session import MemorySession, run_interrupted
from torch import nn

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, Forward, PoolJacobian, Precision
from tiebreak.design.cell import Trial, Zones
from tiebreak.protocols import measure
from tiebreak.protocols.zones import zones
from tiebreak.records.session import OutcomeKind

BETAS = (0.0, 1.0, 10.0, 100.0)


def rows(session: MemorySession, kind: str) -> list[dict]:
    return [row for row in session.rows if row["row"] == kind]


def test_rows_hold_a_gap_for_each_draw_and_jacobian(make_cell, session) -> None:
    outcome = measure(Trial(cell=make_cell(Zones(num_batches=3), betas=BETAS), replicate=0), session)
    assert outcome.kind is OutcomeKind.COMPLETED
    gaps = rows(session, "gap")
    assert [(row["draw"], row["beta"]) for row in gaps] == [(d, b) for d in range(3) for b in BETAS[1:]]
    assert len(rows(session, "pool")) == 3 * 2
    assert len(rows(session, "tensor")) == 3 * 10
    for row in rows(session, "pool"):
        assert row["tied"] == row["tied_at_zero"] + row["tied_above_zero"] + row["tied_below_zero"]
        assert (row["margin_min_ulps"] is None) == (row["draw"] > 0)
    by_tensor = rows(session, "tensor")
    assert all(row["num_draws"] == 3 and row["l1_mean"] <= row["l1_max"] for row in by_tensor)


def test_zero_batches_means_one_epoch(make_cell, session) -> None:
    measure(Trial(cell=make_cell(Zones(num_batches=0), betas=(0.0, 1.0)), replicate=0), session)
    assert len(rows(session, "gap")) == 3  # 96 images in batches of 32


@pytest.mark.parametrize("replicate", [0, 1, 2])
def test_no_live_tie_implies_a_gap_of_exactly_zero(make_cell, session, replicate) -> None:
    """Acceptance item 8: with dithered input nearly every fp32 draw has no live tie, and then no gap."""
    cell = make_cell(
        Zones(num_batches=12, margins=False),
        betas=BETAS,
        data={"dither": 0.1, "train_size": 384},
    )
    measure(Trial(cell=cell, replicate=replicate), session)
    gaps = rows(session, "gap")
    without = [row for row in gaps if row["live_ties"] == 0]
    assert all(row["gap_l1"] == 0.0 for row in without)
    assert len(without) >= 0.95 * len(gaps)


def test_fp32_gap_of_flat_digits_has_the_published_decades(make_cell, session) -> None:
    cell = make_cell(Zones(num_batches=4), betas=(0.0, 1.0), data={"batch_size": 128, "train_size": 512})
    measure(Trial(cell=cell, replicate=0), session)
    for row in rows(session, "gap"):
        assert 1e-8 < row["gap_l1"] < 1e-5
        assert row["live_ties"] > 0


def test_resumed_at_every_draw_gives_the_same_rows(make_cell, session, tmp_path) -> None:
    trial = Trial(cell=make_cell(Zones(num_batches=3), betas=BETAS), replicate=1)
    measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts == 4
    assert interrupted.rows == session.rows


def test_blended_zones_run_one_forward_a_jacobian(make_cell, session) -> None:
    jacobians = tuple(PoolJacobian(beta=beta, forward=Forward.BLENDED) for beta in (0.0, 1.0, 1e4))
    cell = make_cell(Zones(num_batches=1), jacobians=jacobians)
    measure(Trial(cell=cell, replicate=0), session)
    minimal, large = rows(session, "gap")
    assert large["gap_relative"] > 10 * minimal["gap_relative"]


def test_blended_passes_draw_the_same_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten())
    model.append(nn.Linear(36, 2))
    native = PoolJacobian(forward=Forward.BLENDED)
    images, labels = torch.randn(5, 1, 8, 8), torch.zeros(5, dtype=torch.long)
    first = zones(model, images, labels, jacobians=(native, native))
    second = zones(model, images, labels, jacobians=(native, native))
    assert first.gaps[0].l1 == second.gaps[0].l1 == 0.0


def test_more_batches_than_an_epoch_has_are_refused(make_cell, session) -> None:
    with pytest.raises(DesignError, match=r"protocol.num_batches=4 is more than the 3 batches"):
        measure(Trial(cell=make_cell(Zones(num_batches=4), betas=BETAS), replicate=0), session)


def test_half_precision_overflow_is_reported_nonfinite(make_cell, session) -> None:
    jacobians = (NATIVE, PoolJacobian(beta=1e30))
    cell = make_cell(Zones(num_batches=1), jacobians=jacobians, precision=Precision.FP16_ROUNDED)
    measure(Trial(cell=cell, replicate=0), session)
    (row,) = rows(session, "gap")
    assert row["nonfinite"] is True
    assert not math.isfinite(row["gap_l1"])


def test_api_on_a_users_network_leaves_it_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.zeros(5, 1, 8, 8)
    labels = torch.zeros(5, dtype=torch.long)
    result = zones(model, images, labels, jacobians=(NATIVE, MINIMAL, PoolJacobian(beta=1000)))
    assert len(result.gaps) == 2
    assert result.live_ties > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert isinstance(model[2], nn.MaxPool2d)
    with pytest.raises(DesignError, match="two or more Jacobians"):
        zones(model, images, labels, jacobians=(NATIVE,))
