"""What a protocol is given: parameters and inputs in the numbers of the precision."""

from __future__ import annotations

import pytest
import torch

from tiebreak.design.axes import NATIVE, Precision
from tiebreak.design.cell import Noise, Trial, Zones
from tiebreak.numerics.precision import as_fed
from tiebreak.protocols import measure
from tiebreak.protocols.setting import prepare


@pytest.mark.parametrize("precision", [Precision.E4M3, Precision.E5M2])
def test_eight_bit_parameters_and_inputs_are_those_of_fp32_rounded(make_cell, session, precision) -> None:
    settings = {}
    for name in (precision, Precision.FP32):
        cell = make_cell(Noise(), precision=name, data={"dither": 0.1}, network={"batch_norm": True})
        with prepare(Trial(cell=cell, replicate=0), session) as setting:
            settings[name] = setting.network(NATIVE), next(setting.train_batches())
    (narrow, fed), (wide, plain) = settings[precision], settings[Precision.FP32]
    for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert one.dtype is torch.float32
        assert one.requires_grad
        assert torch.equal(one, as_fed(other, precision))
        assert (
            not torch.equal(one, other) or not (other.abs() % 1).any()
        )  # but for batch norm's ones and zeros
    assert torch.equal(fed.images, as_fed(plain.images, precision))
    assert len(fed.images.unique()) <= 2**8
    assert not torch.equal(fed.images, plain.images)


@pytest.mark.parametrize("precision", [Precision.E4M3, Precision.E5M2])
def test_zones_are_measured_on_eight_bit_parameters(make_cell, session, precision) -> None:
    cell = make_cell(Zones(num_batches=1), betas=(0.0, 1.0), precision=precision)
    measure(Trial(cell=cell, replicate=0), session)
    (gap,) = [row for row in session.rows if row["row"] == "gap"]
    assert gap["live_ties"] > 0
    assert not gap["nonfinite"]


def test_a_cell_that_asks_for_certified_labels_measures_its_gaps(make_cell, session) -> None:
    cell = make_cell(Zones(num_batches=1, certify=True), betas=(0.0, 1.0))
    measure(Trial(cell=cell, replicate=0), session)
    assert [row["row"] for row in session.rows].count("gap") == 1
