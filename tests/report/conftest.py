"""A study with made-up numbers that look like real ones: test data, not results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiebreak.design.axes import (
    MINIMAL,
    NATIVE,
    Arch,
    DataName,
    Forward,
    LossScale,
    PoolJacobian,
    Precision,
)
from tiebreak.design.cell import Cell, Data, Drift, LrSearch, Network, Noise, Optimizer, Train, Trial, Zones
from tiebreak.design.study import Part, Study
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind, Row
from tiebreak.records.store import RecordStore

NAN = float("nan")
PRECISIONS = (Precision.FP16_ROUNDED, Precision.BF16, Precision.FP32, Precision.FP64)
GAPS = {"fp16": 2e-3, "fp16_rounded": 2e-3, "bf16": 6e-3, "fp32": 9e-8, "fp64": 3e-16}
PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "versions": {"torch": "2.14.1"},
    "device": "cpu",
    "device_name": "Made-up CPU",
    "cpu": "Made-up CPU",
}
DATA = Data(name=DataName.MNIST5K, batch_size=64)


def cell(
    measure, *jacobians: PoolJacobian, precision: Precision = Precision.FP32, batch_norm: bool = False, **data
):
    return Cell(
        network=Network(arch=Arch.LENET5, batch_norm=batch_norm),
        data=Data(name=DataName.MNIST5K, batch_size=64, **data),
        precision=precision,
        jacobians=jacobians or (NATIVE,),
        measure=measure,
    )


def zone_cells(precisions=PRECISIONS, *, num_batches: int = 8) -> tuple[Cell, ...]:
    jacobians = (NATIVE, MINIMAL, PoolJacobian(beta=100.0), PoolJacobian(beta=10_000.0))
    return tuple(cell(Zones(num_batches=num_batches), *jacobians, precision=item) for item in precisions)


def train_cells(
    *,
    precisions=(Precision.FP16_ROUNDED, Precision.FP32),
    betas=(0.0, 1.0, 100.0, 1e4),
    forwards=(Forward.EXACT, Forward.BLENDED),
    num_epochs: int = 4,
) -> tuple[Cell, ...]:
    optimizer = Optimizer(lr=0.05, momentum=0.9, loss_scale=LossScale.NONE)
    return tuple(
        cell(
            Train(optimizer=optimizer, num_epochs=num_epochs),
            PoolJacobian(beta=beta, forward=forward),
            precision=precision,
            batch_norm=batch_norm,
        )
        for precision in precisions
        for batch_norm in (False, True)
        for forward in forwards
        for beta in betas
    )


def gap_rows(trial: Trial, random: np.random.Generator) -> Iterator[Row]:
    unit = trial.cell.precision.unit_roundoff
    for draw in range(trial.cell.measure.num_batches):
        for jacobian in trial.cell.jacobians[1:]:
            size = GAPS[trial.cell.precision] * max(1.0, jacobian.beta) ** 0.9 * random.lognormal(0, 0.6)
            if random.random() < 0.15:
                size = 0.0
            nonfinite = (
                trial.cell.precision.storage == "float16" and jacobian.beta > 1e3 and random.random() < 0.3
            )
            yield {
                "row": "gap", "draw": draw, "jacobian": jacobian.label, "beta": jacobian.beta,
                "gap_l1": NAN if nonfinite else 30 * size, "gap_l2": NAN if nonfinite else 2 * size,
                "gap_sup_sum": NAN if nonfinite else size, "gap_sup": NAN if nonfinite else size / 2,
                "gap_relative": NAN if nonfinite else size * 4 * unit / GAPS[trial.cell.precision],
                "nonfinite": nonfinite, "live_ties": int(random.integers(1, 99)) if size else 0,
            }  # fmt: skip
        for pool, windows in enumerate((64 * 6 * 196, 64 * 16 * 25)):
            at_zero = int(windows * random.uniform(0.36, 0.44))
            above = int(windows * 0.15 * random.uniform(0.9, 1.1)) if pool == 0 else 0
            if pool and trial.cell.precision.storage != "float64":
                above = int(windows * 4e-4 * (unit / 2**-11) ** 0.2 * random.uniform(0.5, 1.5))
            yield {
                "row": "pool", "draw": draw, "pool": pool, "windows": windows, "tied": at_zero + above,
                "tied_at_zero": at_zero, "tied_above_zero": above, "tied_below_zero": 0,
                "mean_multiplicity": 3.1, "max_multiplicity": 4,
                "margin_median_ulps": random.uniform(1e3, 1e5) if draw == 0 else None,
                "margin_min_ulps": 1.0 if draw == 0 else None,
            }  # fmt: skip


def train_rows(trial: Trial, random: np.random.Generator) -> tuple[list[Row], Outcome]:
    beta, forward, precision = trial.cell.reference.beta, trial.cell.reference.forward, trial.cell.precision
    coarse = precision.storage == "float16"
    dies_in = None
    if coarse and beta >= 1e4:
        dies_in = 1 if forward is Forward.BLENDED else (trial.replicate if trial.replicate else None)
    if coarse and beta == 100 and forward is Forward.BLENDED and trial.replicate == 0:
        dies_in = 3
    stuck = coarse and beta >= 1e4 and dies_in is None
    rows: list[Row] = []
    paired = np.random.default_rng(trial.replicate).normal(0, 0.004)
    for epoch in range(1, trial.cell.measure.num_epochs + 1):
        if epoch == dies_in:
            step = 50 * (epoch - 1) + 3
            rows.append(
                {
                    "row": "nonfinite",
                    "step": step,
                    "epoch": epoch,
                    "where": "gradient",
                    "tensor": "conv1.weight",
                }
            )
            return rows, Outcome(kind=OutcomeKind.DIVERGED, step=step)
        accuracy = 0.981 - 0.35 * 0.3**epoch + paired + random.normal(0, 0.002) - 2e-6 * beta
        loss = 2.3 * 0.35**epoch * random.lognormal(0, 0.08)
        rows.append(
            {
                "row": "epoch", "epoch": epoch, "step": 50 * epoch, "lr": 0.05,
                "train_loss": 2.302 if stuck else loss, "train_accuracy": 0.113 if stuck else accuracy,
                "test_loss": 2.302 if stuck else 1.2 * loss, "test_accuracy": 0.113 if stuck else accuracy,
                "test_images": 1000, "chance": 0.113,
            }
        )  # fmt: skip
    return rows, Outcome(kind=OutcomeKind.NOT_LEARNED if stuck else OutcomeKind.COMPLETED)


def measured(trial: Trial) -> tuple[list[Row], Outcome]:
    random = np.random.default_rng([int(trial.cell.id[:8], 16), trial.replicate])
    done = Outcome(kind=OutcomeKind.COMPLETED)
    match trial.cell.measure:
        case Zones():
            return list(gap_rows(trial, random)), done
        case Train():
            return train_rows(trial, random)
        case Noise(num_batches=batches, num_repeats=repeats):
            zero = dict.fromkeys(("gap_l1", "gap_l2", "gap_sup_sum", "gap_sup", "gap_relative"), 0.0)
            return [
                {"row": "noise", "draw": draw, "repeat": repeat, **zero, "nonfinite": False}
                for draw in range(batches)
                for repeat in range(1, repeats)
            ], done
        case Drift(num_epochs=epochs):
            return [
                {
                    "row": "drift", "epoch": epoch, "step": 50 * epoch, "jacobian": jacobian.label,
                    "copy": copy, "distance_l1": copy * epoch * 1e-3, "distance_l2": copy * epoch * 1e-5,
                    "test_accuracy": 0.9, "nonfinite": False,
                }
                for epoch in range(1, epochs + 1)
                for jacobian, copy in ((trial.cell.jacobians[0], 1), (trial.cell.jacobians[1], 0))
            ], done  # fmt: skip
        case LrSearch():
            return [
                {"row": "candidate", "candidate": 0, "lr": 0.1, "validation_accuracy": None, "pruned": False,
                 "nonfinite": True},
                {"row": "candidate", "candidate": 1, "lr": 0.01, "validation_accuracy": 0.97, "pruned": False,
                 "nonfinite": False},
                {"row": "best", "lr": 0.01, "validation_accuracy": 0.97},
            ], done  # fmt: skip
    raise AssertionError(trial.cell.measure)


def record(trial: Trial, *, rows: list[Row] | None = None, outcome: Outcome | None = None, **provenance: Any):
    made_rows, made_outcome = measured(trial) if rows is None else (rows, Outcome(kind=OutcomeKind.COMPLETED))
    ended = f"2026-01-02T03:{trial.replicate:02d}:05Z"
    return Record(
        trial=trial,
        provenance=PROVENANCE | {"started": ended, "ended": ended} | provenance,
        rows=tuple(made_rows),
        outcome=outcome or made_outcome,
        elapsed_seconds=1.25,
    )


def full_study(*, num_inits: int = 8, num_replicates: int = 3) -> Study:
    return Study(
        name="made_up",
        question="Does the derivative that max-pooling takes at a tie matter?",
        hypothesis="It matters in 16 bits and for large beta <only>.",
        parts=(
            Part(name="zones", cells=zone_cells(), num_replicates=num_inits),
            Part(name="train", cells=train_cells(), num_replicates=num_replicates),
            Part(name="noise", cells=(cell(Noise()),), num_replicates=1),
            Part(name="drift", cells=(cell(Drift(num_epochs=2), NATIVE, MINIMAL),), num_replicates=2),
            Part(name="lr", cells=(cell(LrSearch(), held_out=500),), num_replicates=1),
        ),
    )


def fill(root: Path, study: Study, *, keep: Callable[[Trial], bool] = lambda trial: True) -> RecordStore:
    store = RecordStore(root)
    store.write_study(study)
    for trial in study.trials:
        if keep(trial):
            store.write(record(trial))
    return store


@pytest.fixture(scope="session")
def study() -> Study:
    return full_study()


@pytest.fixture(scope="session")
def store(study, tmp_path_factory) -> RecordStore:
    return fill(tmp_path_factory.mktemp("results"), study)


@pytest.fixture(scope="session")
def partial_store(study, tmp_path_factory) -> RecordStore:
    """Only the first replicate of a third of the cells."""
    cells = sorted({trial.cell.id for trial in study.trials})[::3]
    return fill(
        tmp_path_factory.mktemp("partial"),
        study,
        keep=lambda item: item.replicate == 0 and item.cell.id in cells,
    )


@pytest.fixture(scope="session")
def diverged(tmp_path_factory) -> tuple[RecordStore, Study]:
    """Training that diverged in the first epoch, in every run."""
    cells = train_cells(precisions=(Precision.FP16_ROUNDED,), betas=(1e4,), forwards=(Forward.BLENDED,))
    only = Study(
        name="diverged",
        question="Does anything survive?",
        parts=(Part(name="t", cells=cells, num_replicates=3),),
    )
    return fill(tmp_path_factory.mktemp("diverged"), only), only


@pytest.fixture(scope="session")
def tables_folder(store, study, tmp_path_factory) -> Path:
    from tiebreak.report.table_files import write_tables

    folder = tmp_path_factory.mktemp("tables")
    write_tables(store, study, folder)
    return folder


@pytest.fixture(scope="session")
def figures_folder(tables_folder, tmp_path_factory) -> Path:
    from tiebreak.report.figures import draw_figures

    folder = tmp_path_factory.mktemp("figures")
    draw_figures(tables_folder, folder)
    return folder


@pytest.fixture(scope="session")
def conftest_module():
    """The makers of this file, for tests that build a study of their own."""
    import sys

    return sys.modules[__name__]
