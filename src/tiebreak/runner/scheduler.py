"""What SLURM is asked and told about jobs, through its own commands; the only place that calls them."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tiebreak.records.durable import RecordError
from tiebreak.runner.attempt import Ending, slurm_job

ANSWER_SECONDS = 60.0
"""How long a command of SLURM's is waited for."""

HURRY_SECONDS = 5.0
"""The same where somebody waits: workers who are to checkpoint, or a person who looks."""

SIGNAL_SLACK_SECONDS = 60
"""So much earlier than it was asked to SLURM may send a signal."""


class SlurmError(RecordError):
    """SLURM is not there or refuses; the message has its words and says what to change."""


def ask(*words: str, seconds: float = ANSWER_SECONDS) -> str:
    """What a command of SLURM's prints.

    Args:
        words: the command line.
        seconds: how long to wait.

    Raises:
        SlurmError: there is no such command here, it does not answer, or it refuses.
    """
    done = _done(words, seconds=seconds)
    if done.returncode:
        raise SlurmError(_refusal(done, words[0]))
    return done.stdout.strip()


def _done(words: Sequence[str], *, seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {words[0]} on this machine, and launcher=slurm needs it. Give the command on a "
            "login node of the cluster, or leave launcher=slurm out to run here."
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"{words[0]} did not answer within {seconds:g} s. Try again when SLURM is well."
        ) from None


def _refusal(done: subprocess.CompletedProcess[str], program: str) -> str:
    said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
    return (
        f"{program} refused: {said or f'exit code {done.returncode}'}. Change partition, account, time or "
        "another key of the launcher (launcher=slurm partition=NAME ...; slurm/README.md lists them)."
    )


def in_queue(jobs: Sequence[str], *, seconds: float = ANSWER_SECONDS) -> Mapping[str, Counter[str]] | None:
    """Of these jobs those that wait or run, and how many of their tasks are in each state.

    Args:
        jobs: their numbers; that of an array stands for all its tasks.
        seconds: how long to wait for the answer.

    Returns:
        Counts by job and state, such as `{"17": {"PENDING": 3, "RUNNING": 2}}`, without the jobs that have
        ended; None where SLURM cannot be asked.
    """
    if not jobs:
        return {}
    words = ("squeue", "-h", "-r", "-o", "%F %T", f"--jobs={','.join(jobs)}")
    try:
        done = _done(words, seconds=seconds)
    except SlurmError:
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # one that has been forgotten has ended
        return None
    found: dict[str, Counter[str]] = {}
    for line in done.stdout.splitlines():
        job, _, state = line.strip().partition(" ")
        if job in jobs:
            found.setdefault(job, Counter())[state] += 1
    return found


def how_asked(ending: Ending, *, signal_seconds: int) -> Ending:
    """What a signal of the scheduler's means: near the end of the job's time a timeout, else pre-emption."""
    if ending is not Ending.TIMEOUT:
        return ending
    with suppress(KeyError, SlurmError, ValueError):
        question = ("squeue", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%L")
        left = in_seconds(ask(*question, seconds=HURRY_SECONDS))
        return Ending.TIMEOUT if left <= signal_seconds + SIGNAL_SLACK_SECONDS else Ending.PREEMPTED
    return Ending.TIMEOUT


def requeue(*, most: int) -> str:
    """Put the job of this process back into the queue, unless it was cancelled or came back too often.

    Args:
        most: how often a job may come back.

    Returns:
        A sentence that says what became of it.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if restarts >= most:
        return f"The job has come back {restarts} times (requeues={most}). Submit the study again to go on."
    try:
        state = ask("squeue", "-h", "-j", job, "-o", "%T")
        if state != "RUNNING":
            return f"The job is {state.lower() or 'gone'}: it stays so. Submit the study again to go on."
        ask("scontrol", "requeue", job)
    except SlurmError as error:
        return f"The job could not be requeued: {error}"
    return f"Job {slurm_job()} goes back into the queue and continues from the checkpoints."


def max_array_size() -> int | None:
    """How many tasks an array may have; None where SLURM does not say.

    Raises:
        SlurmError: it cannot be asked.
    """
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return int(match[1]) if match else None


def in_seconds(text: str) -> int:
    """A length of time as SLURM writes it: `1-02:03:04`, `1-02` (days and hours), `03:04` (minutes).

    Example:
        >>> in_seconds("1-00:00:01"), in_seconds("1-02"), in_seconds("2:30")
        (86401, 93600, 150)
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    parts = [*parts, 0, 0][:3] if dash else [0, 0, *parts][-3:]
    return 86400 * int(days or 0) + 3600 * parts[0] + 60 * parts[1] + parts[2]
