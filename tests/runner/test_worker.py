"""Worker processes that are raced, killed, frozen and stopped; the records must not show it."""

import os
import random
import signal
import subprocess
import time

import pytest

from tiebreak.records.durable import RecordError
from tiebreak.records.record import row_to_json
from tiebreak.records.session import OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.claim import Attempts
from tiebreak.runner.manifest import read_manifest, write_manifest
from tiebreak.runner.worker import Job, in_turn


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "results", notice=pytest.fail)


def history(store, trial):
    return Attempts(store.attempts_folder(trial), trial=trial.id).history()


def check(store, trials, expected_rows):
    for trial in trials:
        record = store.read(trial)
        assert record.outcome.kind is OutcomeKind.COMPLETED
        assert [row_to_json(row) for row in record.rows] == expected_rows[trial.replicate]
    assert len(list(store.records())) == len(trials)
    assert not list(store.root.rglob(".tmp-*.jsonl-*"))


def test_two_workers_on_one_trial_make_one_record(start_worker, store, trial, expected_rows):
    racers = [start_worker([trial], index=0, TOY_STEP_SECONDS="0.02") for _ in range(2)]
    told = [event for racer in racers for event in racer.finish()]
    check(store, [trial], expected_rows)
    assert sum(event["event"] == "ended" for event in told) == 1
    assert [attempt.ending for attempt in history(store, trial)] == [Ending.RECORDED]


def test_two_workers_share_the_trials(start_worker, store, trials, expected_rows):
    pair = [start_worker(trials, index=index, of=2, TOY_STEP_SECONDS="0.02") for index in (0, 1)]
    ended = [{e["trial"] for e in worker.finish() if e["event"] == "ended"} for worker in pair]
    check(store, trials, expected_rows)
    assert ended[0] | ended[1] == {trial.id for trial in trials}
    assert not ended[0] & ended[1]


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_and_started_again_gives_the_same_bits(
    start_worker, store, trials, expected_rows, seed
):
    moments = random.Random(seed)
    some = trials[:3]
    for _ in range(4):
        worker = start_worker(some, TOY_STEP_SECONDS="0.005", lease_seconds=2.0)
        time.sleep(moments.uniform(0.0, 0.15))
        worker.kill()
    start_worker(some, lease_seconds=2.0).finish()
    if not all(store.is_done(trial) for trial in some):
        # Killed between making a claim and signing it, a worker is missed only after its lease.
        time.sleep(2.1)
        start_worker(some, lease_seconds=2.0).finish()
    check(store, some, expected_rows)
    endings = {attempt.ending for trial in some for attempt in history(store, trial)}
    # A record whose writer was killed before it could say so is not asked about again.
    assert endings <= {Ending.RECORDED, Ending.KILLED, Ending.SUPERSEDED, None}


def test_frozen_beyond_its_lease_a_worker_loses_its_trial(
    start_worker, store, trial, expected_rows, wait_until
):
    frozen = start_worker([trial], lease_seconds=1.0, TOY_STEP_SECONDS="0.2")
    wait_until(lambda: list(frozen_checkpoints(store)))
    frozen.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    start_worker([trial], lease_seconds=1.0).finish()
    bytes_before = store.path(trial).read_bytes()
    frozen.send_signal(signal.SIGCONT)
    told = frozen.finish()
    assert store.path(trial).read_bytes() == bytes_before
    assert not any(event["event"] == "ended" for event in told)
    assert told[-1]["event"] == "left"
    check(store, [trial], expected_rows)
    assert [attempt.ending for attempt in history(store, trial)] == [Ending.KILLED, Ending.RECORDED]


def frozen_checkpoints(store):
    return (store.root.parent / "checkpoints").rglob("checkpoint.safetensors")


def test_asked_to_stop_a_worker_checkpoints_and_another_goes_on(
    start_worker, store, trials, expected_rows, wait_until
):
    some = trials[:2]
    worker = start_worker(some, TOY_STEP_SECONDS="0.1")
    wait_until(lambda: list(frozen_checkpoints(store)))
    worker.send_signal(signal.SIGTERM)
    worker.finish(code=75)
    assert [attempt.ending for attempt in history(store, some[0])] == [Ending.STOPPED]
    start_worker(some).finish()
    check(store, some, expected_rows)


def test_a_worker_nobody_listens_to_stops(command, make_job, store, trial):
    worker = subprocess.Popen(
        [*command, *make_job([trial]).to_arguments()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOY_STEP_SECONDS": "0.3", "TOY_LIGHT": "1"},
    )
    worker.stdout.readline()
    worker.stdout.close()
    with worker.stderr as errors:
        assert errors.read() == ""
    assert worker.wait() == 75
    assert store.read(trial) is None
    assert [attempt.ending for attempt in history(store, trial)] == [Ending.STOPPED]


def test_a_worker_that_is_refused_says_why(start_worker, trials):
    told = start_worker(trials, TOY_REFUSE="1").finish(code=2)
    assert told[-1] == {
        "event": "refusal",
        "text": "There is no data set here. Fetch it with `tiebreak fetch`.",
    }


def test_every_worker_begins_elsewhere_and_reaches_everything(trials):
    turns = [in_turn(trials, index=index, of=4) for index in range(4)]
    assert [turn[0] for turn in turns] == trials[:4]
    for turn in turns:
        assert sorted(trial.id for trial in turn) == [trial.id for trial in trials]
    with pytest.raises(RecordError, match="from 0 to 3"):
        in_turn(trials, index=4, of=4)


def test_a_manifest_is_read_back(tmp_path, trials):
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, trials)
    assert read_manifest(path) == trials
    path.write_text(path.read_text().replace('"batch_size": 128', '"batch_size": 64', 1))
    with pytest.raises(RecordError, match=r"line 1: not a trial .*it states"):
        read_manifest(path)
    with pytest.raises(RecordError, match="There is no manifest"):
        read_manifest(tmp_path / "none")


def test_a_job_survives_its_command_line(tmp_path):
    job = Job(
        manifest=tmp_path,
        index=1,
        of=3,
        results=tmp_path / "with space",
        checkpoints=tmp_path,
        data_root=tmp_path,
        lease_seconds=0.1,
    )
    assert Job.from_arguments(job.to_arguments()) == job
