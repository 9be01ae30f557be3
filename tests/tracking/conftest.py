import os
import sys
from pathlib import Path

import measured
import pytest
from wandb_files import measured_bytes

from tiebreak.design.axes import NATIVE, Arch, DataName, PoolJacobian, Precision
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Trial, Zones
from tiebreak.records.store import RecordStore
from tiebreak.runner.checkpoint import CheckpointStore
from tiebreak.runner.session import Bench, run_trial
from tiebreak.tracking.mirror import Mirror
from tiebreak.tracking.settings import Mode, Task, Tracking

COMMAND = [sys.executable, "-m", "tiebreak", "mirror"]


@pytest.fixture(scope="session")
def trials():
    """Two that train, and one of zones."""
    about = {
        "network": Network(arch=Arch.LENET5),
        "data": Data(name=DataName.MNIST5K),
        "precision": Precision.FP32,
    }
    train = Cell(**about, jacobians=(NATIVE,), measure=Train(optimizer=Optimizer(lr=0.1), num_epochs=2))
    zones = Cell(
        **about,
        jacobians=(NATIVE, PoolJacobian(beta=1.0), PoolJacobian(beta=100.0)),
        measure=Zones(num_batches=3),
    )
    return [
        Trial(cell=train, replicate=0),
        Trial(cell=train, replicate=1),
        Trial(cell=zones, replicate=0),
    ]


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """No account, no settings and no cache of this machine's user."""
    if not {"TIEBREAK_CACHE", "XDG_CACHE_HOME"} & set(os.environ):  # the compiled kernel is not built again
        monkeypatch.setenv("TIEBREAK_CACHE", str(Path.home() / ".cache" / "tiebreak"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bench(tmp_path):
    """A bench whose trials take no torch; `on_event` and others may be replaced."""

    def make(**changes):
        given = {
            "store": RecordStore(tmp_path / "results", notice=pytest.fail),
            "checkpoints": CheckpointStore(tmp_path / "checkpoints"),
            "measure": measured.measure,
            "data_root": tmp_path,
            "checkpoint_every_seconds": 1e9,
        }
        return Bench(**(given | changes))

    return make


@pytest.fixture
def notices():
    return []


@pytest.fixture
def mirror(tmp_path, trials, notices):
    """A mirror that writes offline, with what a test changes."""

    def make(*, mode=Mode.OFFLINE, folder=tmp_path / "wandb", study="toys/first", command=COMMAND, **changes):
        task = Task(tracking=Tracking(mode=mode, folder=folder), study=study, results=tmp_path / "results")
        known = {trial.id: trial for trial in trials}
        return Mirror(task, trials=known, command=command, notice=notices.append, **changes)

    return make


@pytest.fixture
def undisturbed(tmp_path, bench, trials):
    """By trial id, the rows and outcome of a run without a mirror, as text."""
    quiet = bench(
        store=RecordStore(tmp_path / "quiet" / "results"),
        checkpoints=CheckpointStore(tmp_path / "quiet" / "checkpoints"),
    )
    for trial in trials:
        run_trial(trial, bench=quiet)
    return {trial.id: measured_bytes(quiet.store, trial) for trial in trials}
