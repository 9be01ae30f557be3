"""Many small trials: packed on the cores by `tiebreak study`, against one process after the other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ratios

from tiebreak.design.axes import PoolJacobian
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Trial
from tiebreak.records.store import RecordStore
from tiebreak.runner.crew import worker_environment
from tiebreak.runner.local import run_study

NUM_TRIALS = 64
SETTINGS = ["data=mnist5k", "data.train_size=1024", "data.test_size=100", "protocol.num_epochs=1"]


def cell() -> Cell:
    return Cell(
        network=Network(arch="lenet5"),  # pyright: ignore[reportArgumentType]
        data=Data(name="mnist5k", train_size=1024, test_size=100),  # pyright: ignore[reportArgumentType]
        precision="fp32",  # pyright: ignore[reportArgumentType]
        jacobians=(PoolJacobian(),),
        measure=Train(num_epochs=1, optimizer=Optimizer()),
    )


def packed(folder: Path, *, workers: int) -> float:
    trials = [Trial(cell=cell(), replicate=index) for index in range(NUM_TRIALS)]
    begin = time.perf_counter()
    summary = run_study(
        trials,
        study="packed",
        store=RecordStore(folder / "packed"),
        workers=workers,
        command=[sys.executable, "-m", "tiebreak", "worker"],
        checkpoints=folder / "checkpoints",
        data_root=Path("data"),
        on_event=lambda event: None,
    )
    assert summary.recorded == NUM_TRIALS
    return time.perf_counter() - begin


def serial(folder: Path, *, count: int) -> float:
    """Seconds for `count` processes, one after the other, scaled to all trials."""
    begin = time.perf_counter()
    for index in range(count):
        subprocess.run(
            [sys.executable, "-m", "tiebreak", "run", *SETTINGS, f"replicate={index}"],
            cwd=folder,
            check=True,
            capture_output=True,
            env=worker_environment(1),
        )
    return (time.perf_counter() - begin) * NUM_TRIALS / count


def main() -> None:
    parser = ratios.arguments(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    pairs = []
    for _ in range(max(1, options.repeats // 5)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pairs.append(packed(folder, workers=options.workers) / serial(folder, count=8))
    line = ratios.row(
        f"{NUM_TRIALS} LeNet-5 trials of 8 steps packed on {options.workers} cores",
        pairs,
        baseline="serial processes (8 of them, scaled)",
        target=0.6,
    )
    ratios.report("Packing", [line], path=options.json)


if __name__ == "__main__":
    main()
