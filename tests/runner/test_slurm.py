"""What is said to SLURM: its commands are stand-ins on the PATH. tests/cluster has the real one."""

import json
import os
import shlex
import subprocess

import pytest

from tiebreak.cli.submitting import slurm_folder
from tiebreak.config import compose_launch
from tiebreak.records.durable import StoreError
from tiebreak.runner import slurm
from tiebreak.runner.launch import Launch, new_launch, read_launch


def settings(*overrides, num_trials=200, cores=1, gpus=0):
    tree = compose_launch(["launcher=slurm", *overrides])
    return slurm.Settings.of(tree, num_trials=num_trials, cores_a_worker=cores, gpus_a_worker=gpus)


def directives(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.fixture
def submit(tmp_path, trials):
    def submit(chosen, *, stages=1, environment=(), folder=tmp_path / "a b'c"):
        launch = new_launch(folder, study="paper/depth", trials=trials, launcher="slurm")
        return slurm.submit(
            launch,
            chosen,
            templates=slurm_folder(),
            stages=stages,
            environment=dict(environment),
            report=["report", "paper/depth", "results=r"],
        )

    return submit


def test_an_array_and_a_report(submit, commands):
    launch = submit(
        settings("partition=gpu", "gpus=2", "slots=3", "memory=8G", "throttle=2", "time=1-00:00:00")
    )
    assert launch.jobs == ("101", "102")
    assert read_launch(launch.folder) == launch
    script = (launch.folder / "stage-1.sbatch").read_text()
    said = directives(script)
    assert "--array=0-5%2" in said  # eight were asked for, and MaxArraySize is 6
    for option in (
        "--partition=gpu",
        "--gres=gpu:2",
        "--cpus-per-task=3",
        "--mem=8G",
        "--time=1-00:00:00",
        "--signal=B:USR1@120",
        "--requeue",
        "--open-mode=append",
        f'--output="{launch.logs}/%A_%a.out"',
    ):
        assert option in said, said
    *_, last = script.strip().splitlines()
    assert shlex.split(last)[0] == "exec"
    assert shlex.split(last)[-5:] == ["tiebreak", "crew", str(launch.folder), "1", "6"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
    report = directives((launch.folder / "report.sbatch").read_text())
    assert "--dependency=afterany:101" in report
    assert not any(option.startswith(("--gres", "--array", "--mem")) for option in report)


def test_a_gate_stands_before_the_second_stage(submit, commands, tmp_path):
    launch = submit(settings("jobs=2"), stages=2, environment={"TIEBREAK_CONFIGS": "/a b/c"})
    assert launch.jobs == ("101", "102", "103", "104")
    gate = (launch.folder / "gate-2.sbatch").read_text()
    assert "--dependency=afterany:101" in directives(gate)
    assert "export TIEBREAK_CONFIGS='/a b/c'" in gate
    assert "--dependency=afterok:102" in directives((launch.folder / "stage-2.sbatch").read_text())
    assert "--dependency=afterany:103" in directives((launch.folder / "report.sbatch").read_text())


def test_modules_setup_container_and_python(submit, commands):
    chosen = settings(
        "modules=[cuda/12.4,gcc]",
        "setup=['source ~/env.sh']",
        "container='apptainer exec x.sif'",
        "python=python3",
    )
    script = (submit(chosen).folder / "stage-1.sbatch").read_text()
    assert "module load cuda/12.4\nmodule load gcc\nsource ~/env.sh\n" in script
    assert "exec apptainer exec x.sif python3 -m tiebreak crew" in script


def test_a_refused_submission_takes_back_what_was_accepted(submit, commands, tmp_path):
    commands.set(
        "sbatch",
        'case "$2" in *report*) echo "error: Job violates accounting policy" >&2; exit 1;; esac; echo 7',
    )
    with pytest.raises(slurm.SlurmError, match=r"Job violates accounting policy.*Change partition"):
        submit(settings())
    assert commands.calls("scancel") == ["7"]


def test_no_slurm_on_this_machine(submit, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(slurm.SlurmError, match=r"no scontrol on this machine.*leave launcher=slurm out"):
        submit(settings())


@pytest.mark.parametrize(
    ("override", "words"),
    {
        "jobs=0": "jobs must be a whole number of 1 or more, got 0",
        "jobs=many": "got 'many'",
        "slots=true": "slots must be a whole number",
        "time=90": "time must be hours:minutes:seconds",
        "time='4h'": "time must be hours:minutes:seconds",
        "modules=cuda": "modules must be a list of texts, got 'cuda'",
        "options=[1]": "options must be a list of texts",
        "throttle=0": "throttle must be a whole number of 1 or more",
        "gpus=two": "gpus must be a whole number",
    }.items(),
)
def test_a_setting_that_cannot_be_is_a_sentence(override, words):
    with pytest.raises(slurm.SlurmError, match=words):
        settings(override)


def test_a_setting_cannot_bring_a_line_of_its_own_into_the_script():
    tree = {**compose_launch(["launcher=slurm"]), "partition": "a\nrm -rf"}
    with pytest.raises(slurm.SlurmError, match="partition must be of one line"):
        slurm.Settings.of(tree, num_trials=1, cores_a_worker=1, gpus_a_worker=0)


def test_no_more_workers_than_trials_and_as_many_cpus_as_they_need():
    chosen = settings("jobs=8", "slots=4", num_trials=10, cores=2, gpus=1)
    assert (chosen.jobs, chosen.slots, chosen.cpus, chosen.gpus) == (3, 4, 8, 1)
    assert settings(num_trials=3).jobs == 3


def test_the_launch_keeps_its_settings_as_json(submit, commands):
    launch = submit(settings())
    tree = json.loads((launch.folder / "launch.json").read_text())
    assert tree["jobs"] == ["101", "102"]
    assert os.path.isabs(launch.folder)


@pytest.mark.parametrize(
    "words", [("time=0:02:00",), ("time=0:03:00",), ("time=1-00", "signal_seconds=86400")]
)
def test_a_job_that_would_be_told_to_stop_as_it_begins_is_refused(words):
    with pytest.raises(slurm.SlurmError, match="leaves a job no time to work"):
        settings(*words)


@pytest.mark.parametrize(
    ("time", "words"),
    [("4:00", "time=4:00 is 4 minutes to SLURM"), ("90:30", "time=90:30 is 90 min 30 s to SLURM")],
)
def test_two_numbers_are_minutes_and_seconds_and_that_is_said(time, words):
    (remark,) = settings(f"time='{time}'").remarks
    assert words in remark
    assert f"Write time={time}:00 if you mean hours:minutes" in remark


@pytest.mark.parametrize("time", ["4:00:00", "0:10:00", "1-00", "1-00:30"])
def test_a_limit_that_has_one_meaning_is_not_remarked_on(time):
    assert settings(f"time='{time}'").remarks == []


def test_a_limit_of_days_and_hours():
    assert settings("time=1-01", "signal_seconds=86400").time == "1-01"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_ends_a_submission_in_the_middle_takes_its_jobs_back(submit, commands, monkeypatch, error):
    write = slurm.write

    def write_or_fail(path, text):
        if path.name == "report.sbatch":
            raise error
        write(path, text)

    monkeypatch.setattr(slurm, "write", write_or_fail)
    with pytest.raises(error):
        submit(settings())
    assert commands.calls("scancel") == ["101"]


def test_jobs_whose_numbers_cannot_be_kept_are_taken_back(submit, commands, monkeypatch):
    def full(launch, **changes):
        raise StoreError("There is no space left")

    monkeypatch.setattr(Launch, "changed", full)
    with pytest.raises(StoreError):
        submit(settings())
    assert commands.calls("scancel") == ["101 102"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_folder_that_slurm_cannot_write_to_is_refused_before_anything_is_submitted(
    submit, commands, tmp_path, name
):
    with pytest.raises(slurm.SlurmError, match="SLURM cannot write logs to"):
        submit(settings(), folder=tmp_path / name)
    assert not commands.calls("sbatch")
