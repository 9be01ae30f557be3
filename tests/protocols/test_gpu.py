"""What must hold on a CUDA device: `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from tiebreak.design.axes import LossScale, PoolJacobian, Precision
from tiebreak.design.cell import Execution, Noise, Optimizer, Train, Trial, Zones
from tiebreak.protocols import measure
from tiebreak.protocols.setting import prepare
from tiebreak.protocols.zones import draw_gaps
from tiebreak.records.session import OutcomeKind

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = Execution(device="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", list(Precision))
def test_every_precision_trains(make_cell, session, precision) -> None:
    scale = LossScale.DYNAMIC if precision is Precision.AMP16 else LossScale.NONE
    optimizer = Optimizer(lr=0.02, momentum=0.9, loss_scale=scale)
    cell = make_cell(Train(num_epochs=2, optimizer=optimizer), precision=precision, execution=CUDA)
    assert measure(Trial(cell=cell, replicate=0), session).kind in (
        OutcomeKind.COMPLETED,
        OutcomeKind.NOT_LEARNED,
    )


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.FP32, Precision.FP64])
def test_the_same_backward_pass_has_the_same_bits_when_deterministic(make_cell, session, precision) -> None:
    cell = make_cell(Noise(num_batches=2, num_repeats=4), precision=precision, execution=CUDA)
    measure(Trial(cell=cell, replicate=0), session)
    assert all(row["gap_l1"] == 0.0 for row in session.rows)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.FP32, Precision.FP64])
def test_pruned_zones_have_the_gaps_of_whole_backward_passes(make_cell, session, precision) -> None:
    from functools import partial

    from tiebreak.numerics.pooling import JacobianSwitch

    jacobians = tuple(PoolJacobian(beta=beta) for beta in (0.0, 1.0, 100.0))
    cell = make_cell(Zones(num_batches=1), jacobians=jacobians, precision=precision, execution=CUDA)
    with prepare(Trial(cell=cell, replicate=0), session) as setting:
        switch = JacobianSwitch(jacobians[0])
        model = setting.network(switch)
        batch = next(iter(setting.train_batches()))
        loss = partial(setting.loss, model, batch)
        pruned, whole = (
            draw_gaps(model, loss, switch=switch, jacobians=jacobians, prune=prune) for prune in (True, False)
        )
    assert pruned.gaps == whole.gaps


def test_resumed_on_the_gpu_gives_the_same_rows(make_cell, session, tmp_path) -> None:
    from memory_session import run_interrupted

    trial = Trial(cell=make_cell(Train(num_epochs=2), execution=CUDA), replicate=0)
    measure(trial, session)
    interrupted, _ = run_interrupted(measure, trial, tmp_path)
    assert interrupted.rows == session.rows
