"""What SLURM says of jobs and is told about them; its commands are stand-ins on the PATH."""

import pytest

from tiebreak.runner import scheduler
from tiebreak.runner.attempt import Ending


@pytest.fixture
def queue(commands):
    """Sets what squeue prints, on standard output and standard error, and its exit code."""

    def set_queue(lines, *, complaint="", code=0):
        printed = "".join(f"{line}\\n" for line in lines)
        commands.set("squeue", f"printf '{printed}'; echo '{complaint}' >&2; exit {code}")

    return set_queue


def test_the_tasks_of_each_job_are_counted_by_their_state(queue, commands):
    queue(["17 RUNNING", "17 PENDING", "17 PENDING", "18 RUNNING", "170 RUNNING"])
    found = scheduler.in_queue(["17", "18", "19"])
    assert found == {"17": {"RUNNING": 1, "PENDING": 2}, "18": {"RUNNING": 1}}
    assert "--jobs=17,18,19" in commands.calls("squeue")[0]
    assert scheduler.in_queue([]) == {}
    assert len(commands.calls("squeue")) == 1


def test_a_job_that_slurm_has_forgotten_has_ended(queue):
    queue([], complaint="slurm_load_jobs error: Invalid job id specified", code=1)
    assert scheduler.in_queue(["17"]) == {}
    queue(["18 RUNNING"], complaint="squeue: error: Invalid job id: 17", code=1)
    assert scheduler.in_queue(["17", "18"]) == {"18": {"RUNNING": 1}}


def test_that_slurm_does_not_answer_does_not_mean_that_the_jobs_have_ended(queue, monkeypatch, commands):
    queue([], complaint="Unable to contact slurm controller", code=1)
    assert scheduler.in_queue(["17"]) is None
    commands.set("squeue", "sleep 5")
    assert scheduler.in_queue(["17"], seconds=0.05) is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert scheduler.in_queue(["17"]) is None


@pytest.mark.parametrize(
    ("left", "ending"),
    [
        ("0:45", Ending.TIMEOUT),
        ("2:30", Ending.TIMEOUT),
        ("1-02:00:00", Ending.PREEMPTED),
        ("", Ending.TIMEOUT),
    ],
)
def test_a_signal_long_before_the_end_is_a_pre_emption(commands, monkeypatch, left, ending):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    commands.set("squeue", f"echo {left}")
    assert scheduler.how_asked(Ending.TIMEOUT, signal_seconds=120) is ending
    assert scheduler.how_asked(Ending.STOPPED, signal_seconds=120) is Ending.STOPPED


def test_a_job_comes_back_unless_it_was_cancelled_or_came_too_often(commands, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    commands.set("squeue", "echo RUNNING")
    assert "goes back" in scheduler.requeue(most=2)
    assert commands.calls("scontrol") == ["requeue 5"]
    commands.set("squeue", "echo CANCELLED")
    assert "The job is cancelled" in scheduler.requeue(most=2)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert "come back 2 times" in scheduler.requeue(most=2)
    assert len(commands.calls("scontrol")) == 1
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    commands.set("squeue", "echo RUNNING")
    commands.set("scontrol", "echo no >&2; exit 1")
    assert "could not be requeued" in scheduler.requeue(most=2)
