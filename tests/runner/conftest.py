import importlib.util
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from nursery import Process

from tiebreak.design.axes import NATIVE, Arch, DataName, Precision
from tiebreak.design.cell import Cell, Data, Network, Optimizer, Train, Trial
from tiebreak.records.store import RecordStore
from tiebreak.runner.checkpoint import CheckpointStore
from tiebreak.runner.manifest import write_manifest
from tiebreak.runner.session import Bench
from tiebreak.runner.worker import Job

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="session")
def cell():
    return Cell(
        network=Network(arch=Arch.LENET5),
        data=Data(name=DataName.MNIST5K),
        precision=Precision.FP32,
        jacobians=(NATIVE,),
        measure=Train(optimizer=Optimizer(lr=0.1), num_epochs=2),
    )


@pytest.fixture(scope="session")
def trials(cell):
    return [Trial(cell=cell, replicate=replicate) for replicate in range(6)]


@pytest.fixture(scope="session")
def trial(trials):
    return trials[0]


@pytest.fixture(scope="session")
def toy():
    spec = importlib.util.spec_from_file_location("toy", TOY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def events():
    return []


@pytest.fixture
def bench(tmp_path, toy, events):
    """A bench in this process: checkpoints after every step."""
    return Bench(
        store=RecordStore(tmp_path / "results", notice=pytest.fail),
        checkpoints=CheckpointStore(tmp_path / "checkpoints"),
        measure=toy.measure,
        data_root=tmp_path / "data",
        on_event=events.append,
        checkpoint_every_seconds=0.0,
    )


@pytest.fixture
def command():
    return [sys.executable, str(TOY)]


@pytest.fixture
def make_job(tmp_path):
    def make(trials, *, index=0, of=1, lease_seconds=60.0):
        manifest = tmp_path / "manifest.jsonl"
        write_manifest(manifest, trials)
        return Job(
            manifest=manifest,
            index=index,
            of=of,
            results=tmp_path / "results",
            checkpoints=tmp_path / "checkpoints",
            data_root=tmp_path / "data",
            checkpoint_every_seconds=0.0,
            lease_seconds=lease_seconds,
        )

    return make


@dataclass
class Worker:
    """A worker process."""

    process: Process

    def kill(self):
        return self.process.kill()

    def send_signal(self, number):
        self.process.send_signal(number)

    def finish(self, code=0):
        """The events, once it has ended with that exit code."""
        out, err = self.process.communicate()
        assert self.process.returncode == code, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def start_worker(tmp_path, nursery, make_job):
    """Starts a worker process on the given trials; ended with the test."""
    workers = []

    def start(trials, *, index=0, of=1, lease_seconds=60.0, **environment):
        job = make_job(trials, index=index, of=of, lease_seconds=lease_seconds)
        process = nursery.start(*job.to_arguments(), cwd=tmp_path, program=TOY, **environment)
        workers.append(Worker(process))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def wait_until():
    def wait(condition, seconds=60.0):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def expected_rows(toy, trials, tmp_path_factory):
    """By replicate, the rows of a run that nothing disturbed."""
    from tiebreak.records.record import row_to_json
    from tiebreak.runner.session import run_trial

    folder = tmp_path_factory.mktemp("undisturbed")
    store = RecordStore(folder / "results")
    quiet = Bench(
        store=store,
        checkpoints=CheckpointStore(folder / "checkpoints"),
        measure=toy.measure,
        data_root=folder,
    )
    for trial in trials:
        run_trial(trial, bench=quiet)
    return {trial.replicate: [row_to_json(row) for row in store.read(trial).rows] for trial in trials}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Sets what the stand-in of a command does, as shell, and gives the words it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    class Commands:
        def set(self, name, script):
            path = folder / name
            path.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(folder))}/{name}.calls\n{script}\n')
            path.chmod(0o755)

        def calls(self, name):
            path = folder / f"{name}.calls"
            return path.read_text().splitlines() if path.exists() else []

    commands = Commands()
    commands.set("scontrol", "echo 'MaxArraySize = 6'")
    commands.set("sbatch", f"n=$(wc -l < {shlex.quote(str(folder))}/sbatch.calls); echo $((100 + n))")
    commands.set("squeue", "")
    commands.set("scancel", "")
    return commands
