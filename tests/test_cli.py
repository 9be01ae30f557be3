"""The verbs as people type them: sentences and exit codes, one record a trial, kill -9 at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiebreak.cli import INTERRUPTED, MISTAKE, main
from tiebreak.config import compose_run, config_folder
from tiebreak.design.axes import Device
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.crew import WorkersDied

SMALL = [
    "data=mnist5k",
    "data.batch_size=32",
    "data.train_size=64",
    "data.test_size=50",
    "protocol.num_epochs=1",
]


@pytest.fixture
def tiebreak(nursery):
    """Runs `python -m tiebreak` to its end."""
    return nursery.run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/records/*/*.jsonl"))


MISTAKES = {
    "unknown arch": (["run", "arch=vgg12"], "vgg12"),
    "unknown key": (["run", "bach_norm=true"], "Did you mean batch_norm"),
    "beta nan": (["run", "pool.beta=nan"], "pool.beta must be a finite number, got nan"),
    "beta inf": (["run", "pool.beta=inf"], "pool.beta must be a finite number, got inf"),
    "beta text": (["run", "pool.beta=big"], "pool.beta must be a finite number, got 'big'"),
    "negative rate": (["run", "optimizer.lr=-0.1"], "optimizer.lr must be above 0, got -0.1"),
    "batch of none": (
        ["run", "data.batch_size=0"],
        "data.batch_size must be a whole number, 1 or more, got 0",
    ),
    "tf32 on a CPU": (["run", "precision=tf32", "device=cpu"], "tf32 is arithmetic of CUDA devices"),
    "cuda without one": (["run", "data=mnist5k", "device=cuda"], "device=cuda needs a CUDA device"),
    "batch above the data": (["run", *SMALL, "data.batch_size=65"], "65"),
    "no data": (["run", "data=mnist", "data_root=nowhere"], "nowhere"),
    "malformed": (["run", "pool.beta=[1"], "pool.beta=[1"),
    "no such study": (["study", "demmo"], "Did you mean demo"),
    "no workers": (["study", "smoke", "--workers", "0"], "--workers must be 1 or more, got 0"),
    "study never run": (["report", "demo"], "demo"),
    "tables of nothing": (["draw", "demo"], "no tables of demo"),
    "strange word": (["report", "demo", "out=x"], "results=DIR"),
    "fetch of nothing": (["fetch", "mnits"], "mnits"),
    "fetch by hand": (["fetch", "imagenet"], "cannot be fetched"),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_a_mistake_is_one_sentence_and_exit_code_2(case, here, capfd) -> None:
    words, expected = MISTAKES[case]
    if case == "cuda without one":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    assert main(words) == 2
    said = capfd.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not record_files(here), "a mistake must leave no record"


def test_a_fault_of_ours_is_a_sentence_and_exit_code_1(here, capfd, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("tiebreak.config.compose_run", broken)
    assert main(["run"]) == 1
    said = capfd.readouterr().err
    assert "a fault of ours: ZeroDivisionError" in said
    assert "Traceback" not in said
    assert "ZeroDivisionError" in (here / ".tiebreak" / "error.txt").read_text()


def test_help_and_study_list_do_not_import_torch() -> None:
    code = (
        "import sys; from tiebreak.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "main(['study'])\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules, 'slow import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_a_trial_runs_once(here, tiebreak) -> None:
    first = tiebreak("run", *SMALL, cwd=here)
    assert first.returncode == 0, first.stderr
    assert "device: cpu" in first.stderr or "device: cuda" in first.stderr
    (path,) = record_files(here)
    content = path.read_bytes()
    second = tiebreak("run", *SMALL, cwd=here)
    assert second.returncode == 0
    assert "recorded before" in second.stdout
    assert path.read_bytes() == content


def test_multirun_works_with_hydras_own_launcher(here, tiebreak) -> None:
    done = tiebreak("run", "-m", *SMALL, "pool.beta=0,100", cwd=here)
    assert done.returncode == 0, done.stderr
    assert len(record_files(here)) == 2
    mistake = tiebreak("run", "-m", *SMALL, "pool.beta=0,nan", cwd=here)
    assert mistake.returncode == 2
    assert "pool.beta must be a finite number" in mistake.stderr


def test_the_smoke_study_runs_every_protocol_and_reports(here, tiebreak) -> None:
    done = tiebreak("study", "smoke", "--workers", "2", cwd=here)
    assert done.returncode == 0, done.stderr
    page = here / "results" / "report.html"
    assert str(page.relative_to(here)) in done.stdout
    assert page.stat().st_size > 10_000
    kinds = {path.name for path in (here / "results/tables/smoke").glob("*.csv")}
    assert {"zones.csv", "accuracy.csv", "drift.csv", "noise.csv", "lr_search.csv", "ties.csv"} <= kinds
    before = page.stat().st_mtime_ns
    again = tiebreak("study", "smoke", cwd=here)
    assert again.returncode == 0
    assert "0 ran now" in again.stdout
    assert page.stat().st_mtime_ns == before, "nothing changed, so the page need not be written again"
    dry = tiebreak("study", "smoke", "--dry-run", cwd=here)
    assert "8 trials, 8 done, 0 left" in dry.stdout


def rows_of(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[1:-1]


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_ends_with_the_same_rows(here, nursery, tiebreak) -> None:
    """kill -9 of the process that trains; the rows hold losses of every epoch to the last digit."""
    words = ["run", "data=mnist5k", "data.batch_size=16", "protocol.num_epochs=6", "optimizer.lr=0.02"]
    words += ["data.test_size=100", "batch_norm=true"]
    whole = here / "whole"
    killed = here / "killed"
    whole.mkdir()
    killed.mkdir()
    assert tiebreak(*words, cwd=whole).returncode == 0
    dice = random.Random(3)
    for _ in range(4):
        process = nursery.start(*words, cwd=killed, TIEBREAK_CHECKPOINT_SECONDS="0.2")
        time.sleep(0.5 + 3 * dice.random())
        process.kill()
        if record_files(killed):
            break
    done = tiebreak(*words, cwd=killed)
    assert done.returncode == 0, done.stderr
    (first,), (second,) = record_files(whole), record_files(killed)
    assert rows_of(first) == rows_of(second)
    assert first.parent.name == second.parent.name


def test_two_processes_on_one_trial_leave_one_record(here, nursery) -> None:
    words = ["run", *SMALL, "protocol.num_epochs=8"]
    processes = [nursery.start(*words, cwd=here) for _ in range(2)]
    said = [process.communicate() for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 2]), said
    assert len(record_files(here)) == 1
    assert all("Traceback" not in errors for _, errors in said)


def test_a_corrupt_record_is_named_set_aside_and_run_again(here, tiebreak) -> None:
    assert tiebreak("run", *SMALL, cwd=here).returncode == 0
    (path,) = record_files(here)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    again = tiebreak("run", *SMALL, cwd=here)
    assert again.returncode == 0
    assert path.name in again.stderr
    assert rows_of(path) == [json.loads(line) for line in good.decode().splitlines()][1:-1]
    assert list(path.parent.glob("*.corrupt-*"))


def test_an_unwritable_results_folder_is_a_sentence(here, tiebreak) -> None:
    (here / "results").write_text("a file where a folder should be")
    done = tiebreak("run", *SMALL, cwd=here)
    assert done.returncode == 2, done.stderr
    assert "results" in done.stderr
    assert "Traceback" not in done.stderr


def test_migrate_says_how_many_records_it_moved(here, capsys) -> None:
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out == "0 records in results were given their present names\n"
    assert main(["migrate", "results"]) == MISTAKE


def test_a_dry_run_without_the_images_says_that_ids_are_not_final(here, monkeypatch, capsys) -> None:
    configs = here / "configs"
    shutil.copytree(config_folder(), configs)
    part = {"name": "one", "replicates": 1, "overrides": ["data=imagenet"]}
    study = {"question": "Does it matter?", "parts": [part]}
    (configs / "study" / "folder.yaml").write_text(json.dumps(study))
    monkeypatch.setattr("tiebreak.config.composition.config_folder", lambda: configs)
    assert main(["study", "folder", "--dry-run"]) == 0
    assert "imagenet has no images in data" in capsys.readouterr().out
    image = here / "data/imagenet/train/cat/1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"1")
    assert main(["study", "folder", "--dry-run"]) == 0
    assert "no images" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("launcher=slurm", "jobs=many"), "jobs must be a whole number of 1 or more, got 'many'"),
        (("launcher=slurm", "time=0:01:00"), "leaves a job no time to work"),
        (("launcher=slurm", "--shard", "1/2"), "--shard is for machines without a scheduler"),
        (("--shard", "9/8"), "--shard must be K/N"),
    ],
)
def test_a_dry_run_refuses_what_the_command_would_refuse(here, capsys, words, sentence) -> None:
    assert main(["study", "smoke", *words, "--dry-run"]) == MISTAKE
    assert sentence in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported_is_no_traceback(monkeypatch, capsys) -> None:
    from tiebreak import __main__

    def interrupted(arguments=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("tiebreak.cli.main", interrupted)
    assert __main__.main() == INTERRUPTED
    assert capsys.readouterr().err == "tiebreak: interrupted\n"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trial_waits_for_no_compiler(here, optimizer) -> None:
    """torch's compiler and SymPy take as long to load as torch itself, and a trial needs neither."""
    words = ["run", "device=cpu", *SMALL, f"optimizer={optimizer}"]
    code = (
        "import sys\n"
        "from tiebreak.cli import main\n"
        f"code = main({words})\n"
        "slow = {'torch._dynamo', 'torch._inductor', 'sympy', 'pandas', 'optuna', 'torchvision'}\n"
        "sys.exit(code or ' '.join(sorted(slow & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


_OTHER_PROCESSES = """
import os
import pickle

from hydra.core.config_store import ConfigStore
from hydra.core.utils import run_job
from hydra.plugins.launcher import Launcher


class ForkingLauncher(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        return [self._in_a_child(overrides) for overrides in job_overrides]

    def _in_a_child(self, overrides):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            config.hydra.job.num = config.hydra.job.id = 0
            result = run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            with os.fdopen(writer, "wb") as stream:
                pickle.dump(result, stream)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            result = pickle.load(stream)
        os.wait()
        return result


node = {"_target_": "hydra_plugins.forking.ForkingLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="forking", node=node)
"""


def test_a_point_that_fails_in_another_process_is_told(here) -> None:
    """A launcher that runs each point in a process of its own, as those for clusters do."""
    plugin = here / "hydra_plugins" / "forking.py"
    plugin.parent.mkdir()
    plugin.write_text(_OTHER_PROCESSES)
    overrides = [*SMALL, "device=cpu"]
    trial = compose_run([*overrides, "pool.beta=1"], device=lambda: Device.CPU).trial
    outcome = Outcome(kind=OutcomeKind.FAILED, reason="bad luck")
    record = Record(trial=trial, provenance={}, rows=(), outcome=outcome, elapsed_seconds=0.0)
    RecordStore(here / "results").write(record)
    words = ["run", "-m", "hydra/launcher=forking", *overrides]
    for betas, code in (("1,0", 1), ("0,2", 0), ("0,nan,1", MISTAKE)):
        done = subprocess.run(  # Hydra looks for plugins when it is first used: a fresh interpreter
            [sys.executable, "-m", "tiebreak", *words, f"pool.beta={betas}"],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert ("pool.beta must be a finite number" in done.stderr) == ("nan" in betas)
    assert len(record_files(here)) == 3, "a failed point must not end the sweep"


def test_a_sweep_folder_that_cannot_be_made_is_the_users_mistake(here, capfd) -> None:
    assert main(["run", "-m", *SMALL, "pool.beta=0,1", "hydra.sweep.dir=/proc/x"]) == MISTAKE
    said = capfd.readouterr().err
    assert "Hydra cannot write /proc/x" in said
    assert "hydra.sweep.dir" in said
    assert not record_files(here)


def test_workers_that_cannot_start_are_one_sentence(here, capfd, monkeypatch) -> None:
    def died(*_: object, **__: object) -> None:
        error = WorkersDied("workers end before they begin a trial (exit code 1), the last one with: oh")
        error.add_note("Traceback (most recent call last): the rest")
        raise error

    monkeypatch.setattr("tiebreak.runner.local.run_study", died)
    assert main(["study", "smoke"]) == 1
    said = capfd.readouterr().err
    assert "WorkersDied: workers end before they begin a trial (exit code 1)" in said
    assert "Traceback (" not in said
    assert "Traceback (most recent call last): the rest" in (here / ".tiebreak/error.txt").read_text()
