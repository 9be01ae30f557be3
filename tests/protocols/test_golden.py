"""Numbers that must not move unnoticed, in fp64, where another machine's kernels agree to many digits.

A change that is meant to move them says so under *Numbers* in the changelog and writes them anew.
"""

from __future__ import annotations

import pytest

from tiebreak.design.axes import OptimizerName, Precision, Schedule
from tiebreak.design.cell import LrSearch, Optimizer, Train, Trial, Zones
from tiebreak.protocols import measure

TOLERANCE = 1e-9  # 4.5e6 unit roundoffs of fp64: other kernels, a handful of steps
GOLDEN = {
    "sgd": [(1.9586735452304662, 2.239529727401966), (0.8041281063494324, 2.063428354454455)],
    "adam": [(2.168506352382453, 2.2886433026240485), (1.2585034599889782, 2.256111477074416)],
}
GOLDEN_LR = 3.0288445551396896e-05
GOLDEN_TIED = 0.4956
OPTIMIZERS = {
    "sgd": Optimizer(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule=Schedule.COSINE),
    "adam": Optimizer(name=OptimizerName.ADAM, lr=1e-3),
}


@pytest.mark.parametrize("name", list(GOLDEN))
@pytest.mark.parametrize("beta", [0.0, 100.0])
def test_training_curve(make_cell, session, name, beta) -> None:
    """The curve does not depend on beta: no live tie of these images is a bifurcation over the reals."""
    cell = make_cell(
        Train(num_epochs=2, optimizer=OPTIMIZERS[name]),
        betas=(beta,),
        network={"batch_norm": True},
        precision=Precision.FP64,
    )
    measure(Trial(cell=cell, replicate=0), session)
    measured = [(row["train_loss"], row["test_loss"]) for row in session.rows]
    for (train, test), (golden_train, golden_test) in zip(measured, GOLDEN[name], strict=True):
        assert train == pytest.approx(golden_train, rel=TOLERANCE)
        assert test == pytest.approx(golden_test, rel=TOLERANCE)


def test_first_proposal_of_the_search(make_cell, session) -> None:
    cell = make_cell(LrSearch(num_epochs=1, num_candidates=1), data={"held_out": 64})
    measure(Trial(cell=cell, replicate=0), session)
    assert session.rows[0]["lr"] == pytest.approx(GOLDEN_LR, rel=1e-12)


def test_windows_and_dead_ties_of_lenet5(make_cell, session) -> None:
    measure(Trial(cell=make_cell(Zones(num_batches=1), betas=(0.0, 1.0)), replicate=0), session)
    first, second = (row for row in session.rows if row["row"] == "pool")
    assert (first["windows"], second["windows"]) == (32 * 6 * 12 * 12, 32 * 16 * 4 * 4)
    assert first["tied"] / first["windows"] == pytest.approx(GOLDEN_TIED, abs=0.02)
