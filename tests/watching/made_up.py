"""Results folders of any size with made-up numbers: test data, not results."""

from __future__ import annotations

import math
import random
from pathlib import Path

from tiebreak.design.axes import Arch, DataName, Forward, PoolJacobian, Precision
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Trial, Zones
from tiebreak.design.study import Part, Study
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind, Row
from tiebreak.records.store import RecordStore

PRECISIONS = (Precision.FP16_ROUNDED, Precision.BF16, Precision.FP32, Precision.FP64)
BETAS = (0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0)
PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
    "device": "cpu",
    "device_name": "Made-up CPU",
    "cpu": "Made-up CPU",
    "started": "2026-01-02T03:04:05+00:00",
}


def train_cells(count: int, *, num_epochs: int = 10) -> tuple[Cell, ...]:
    """Cells over architecture, precision, forward arm, batch norm and beta; then over the learning rate."""
    cells = []
    index = 0
    while len(cells) < count:
        number = index
        number, beta = divmod(number, len(BETAS))
        number, forward = divmod(number, 2)
        number, precision = divmod(number, len(PRECISIONS))
        number, norm = divmod(number, 2)
        number, arch = divmod(number, 3)
        cells.append(
            Cell(
                network=Network(arch=(Arch.LENET5, Arch.VGG11, Arch.VGG16)[arch], batch_norm=bool(norm)),
                data=Data(name=DataName.CIFAR10),
                precision=PRECISIONS[precision],
                jacobians=(PoolJacobian(beta=BETAS[beta], forward=tuple(Forward)[forward]),),
                measure=Train(optimizer=Optimizer(lr=0.01 * (number + 1)), num_epochs=num_epochs),
            )
        )
        index += 1
    return tuple(cells)


def zone_cells(*, num_batches: int = 4) -> tuple[Cell, ...]:
    jacobians = tuple(PoolJacobian(beta=beta) for beta in BETAS)
    return tuple(
        Cell(
            network=Network(arch=Arch.LENET5),
            data=Data(name=DataName.MNIST5K),
            precision=precision,
            jacobians=jacobians,
            measure=Zones(num_batches=num_batches, margins=False),
        )
        for precision in PRECISIONS
    )


def big_study(num_trials: int, *, name: str = "big", num_replicates: int = 4, num_epochs: int = 10) -> Study:
    """`num_trials` trials: a few of zones, the rest of training."""
    zones = zone_cells()
    parts = []
    num_zones = min(len(zones) * num_replicates, num_trials // 2 // num_replicates * num_replicates)
    if num_zones:
        cells = zones[: num_zones // num_replicates]
        parts.append(Part(name="zones", cells=cells, num_replicates=num_replicates))
    rest = num_trials - num_zones
    whole, odd = divmod(rest, num_replicates)
    cells = train_cells(whole + odd, num_epochs=num_epochs)
    if whole:
        parts.append(Part(name="accuracy", cells=cells[:whole], num_replicates=num_replicates))
    if odd:
        parts.append(Part(name="rest", cells=cells[whole:], num_replicates=1))
    return Study(
        name=name,
        question="Does the derivative that max-pooling takes at a tie matter?",
        hypothesis="Only in 16 bits <and for large beta>.",
        parts=tuple(parts),
    )


def record(trial: Trial, *, outcome: Outcome | None = None) -> Record:
    rng = random.Random(f"{trial.id}")
    rows, found = _train(trial, rng) if isinstance(trial.cell.measure, Train) else _zones(trial, rng)
    outcome = outcome or found
    return Record(
        trial=trial,
        provenance={
            **PROVENANCE,
            "ended": f"2026-01-02T0{trial.replicate % 10}:{rng.randrange(60):02d}:06+00:00",
        },
        rows=() if outcome.kind is OutcomeKind.FAILED else tuple(rows),
        outcome=outcome,
        elapsed_seconds=round(rng.uniform(5, 90), 3),
    )


def _train(trial: Trial, rng: random.Random) -> tuple[list[Row], Outcome]:
    cell, rows = trial.cell, []
    beta, coarse = cell.reference.beta, cell.precision in (Precision.FP16_ROUNDED, Precision.BF16)
    if rng.random() < 0.01:
        kind = rng.choice(("a CUDA error: device-side assert", "RuntimeError: out of memory <b>4 GiB</b>"))
        return [], Outcome(
            kind=OutcomeKind.FAILED, reason=f"2 attempts raised an exception, the last one: {kind}"
        )
    dies = coarse and beta >= 1000 and cell.reference.forward is Forward.BLENDED
    stuck = not dies and coarse and beta >= 10000
    for epoch in range(1, cell.measure.num_epochs + 1):
        if dies and epoch == 2 + trial.replicate:
            rows.append(
                {
                    "row": "nonfinite",
                    "step": 50 * epoch,
                    "epoch": epoch,
                    "where": "gradient",
                    "tensor": "conv1.weight",
                }
            )
            return rows, Outcome(kind=OutcomeKind.DIVERGED, step=50 * epoch)
        accuracy = 0.113 if stuck else 0.98 - 0.5 * 0.6**epoch + rng.gauss(0, 0.004) - 0.00001 * beta
        rows.append(
            {
                "row": "epoch", "epoch": epoch, "step": 50 * epoch, "lr": 0.05,
                "train_loss": 2.3 * 0.7**epoch, "train_accuracy": accuracy, "split": "test",
                "test_loss": 2.4 * 0.7**epoch * math.exp(rng.gauss(0, 0.05)), "test_accuracy": accuracy,
                "test_images": 1000, "chance": 0.113,
            }
        )  # fmt: skip
    return rows, Outcome(kind=OutcomeKind.NOT_LEARNED if stuck else OutcomeKind.COMPLETED)


def _zones(trial: Trial, rng: random.Random) -> tuple[list[Row], Outcome]:
    unit = trial.cell.precision.unit_roundoff
    rows: list[Row] = []
    for draw in range(trial.cell.measure.num_batches):
        for jacobian in trial.cell.jacobians[1:]:
            size = unit * max(1.0, jacobian.beta) * rng.lognormvariate(0, 1)
            if rng.random() < (0.2 if trial.cell.precision is not Precision.FP64 else 0.9):
                size = 0.0
            bad = (
                trial.cell.precision is Precision.FP16_ROUNDED and jacobian.beta > 1000 and rng.random() < 0.5
            )
            value = math.nan if bad else size
            rows.append(
                {
                    "row": "gap", "draw": draw, "jacobian": jacobian.label, "beta": jacobian.beta,
                    "gap_l1": value, "gap_l2": value, "gap_sup_sum": value, "gap_sup": value,
                    "gap_relative": value, "nonfinite": bad, "live_ties": 3,
                }
            )  # fmt: skip
    return rows, Outcome(kind=OutcomeKind.COMPLETED)


def fill(root: Path, study: Study, *, count: int | None = None, durable: bool = True) -> RecordStore:
    """Records of the first `count` trials. `durable=False` writes them without waiting for the disk."""
    store = RecordStore(root)
    store.write_study(study)
    for trial in study.trials[:count]:
        if durable:
            store.write(record(trial))
        else:
            path = store.path(trial)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(record(trial).to_text())
    return store
