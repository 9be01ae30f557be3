import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tiebreak.records.durable import StoreError
from tiebreak.runner.attempt import Ending, Holder, ask_to_end
from tiebreak.runner.claim import MOST_DEATHS, MOST_ERRORS, Attempts, Claimed, ClaimLost, Exhausted


@pytest.fixture
def attempts(tmp_path):
    return Attempts(tmp_path / "0000.attempts", trial="abc/0000")


def endings(attempts):
    return [attempt.ending for attempt in attempts.history()]


def forge(attempts, holder, *, silent_seconds=0.0):
    """An open attempt of somebody else's."""
    folder = attempts.folder / str(attempts.latest() + 1)
    folder.mkdir(parents=True)
    if holder is not None:
        (folder / "holder.json").write_text(json.dumps(dataclasses.asdict(holder)))
    (folder / "heartbeat").touch()
    then = time.time() - silent_seconds
    os.utime(folder / "heartbeat", (then, then))


ELSEWHERE = Holder(
    host="node7", pid=1, started="1", machine="another boot", since="2026-01-31T12:00:00+00:00"
)


def test_one_claim_at_a_time(attempts):
    claim = attempts.claim()
    with pytest.raises(Claimed, match=rf"abc/0000 is being run by process {os.getpid()} on .* \(attempt 1\)"):
        attempts.claim()
    claim.end(Ending.STOPPED)
    second = attempts.claim()
    assert second.number == 2
    second.check()
    second.end(Ending.RECORDED)
    assert endings(attempts) == [Ending.STOPPED, Ending.RECORDED]


def test_of_many_claimants_exactly_one_gets_it(attempts):
    barrier, got, refused = threading.Barrier(8), [], []

    def claim():
        barrier.wait()
        try:
            got.append(attempts.claim())
        except Claimed:
            refused.append(True)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].end(Ending.STOPPED)


def test_a_process_of_this_machine_that_is_gone_is_noticed_at_once(attempts):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    holder = dataclasses.replace(Holder.this_process(), pid=process.pid, started=stat[19])
    assert not holder.is_gone()
    forge(attempts, holder)
    with pytest.raises(Claimed):
        attempts.claim()
    process.kill()
    while not holder.is_gone():  # a zombie is gone: nobody has waited for the process yet
        time.sleep(0.001)
    assert process.returncode is None
    process.communicate()
    assert holder.is_gone()
    claim = attempts.claim()
    claim.end(Ending.STOPPED)
    assert endings(attempts) == [Ending.KILLED, Ending.STOPPED]


def test_a_later_process_with_the_same_number_is_another(attempts):
    forge(attempts, dataclasses.replace(Holder.this_process(), started="12345"))
    attempts.claim().end(Ending.STOPPED)
    assert endings(attempts) == [Ending.KILLED, Ending.STOPPED]


@pytest.mark.parametrize("holder", [ELSEWHERE, None], ids=["another machine", "unsigned"])
def test_elsewhere_the_heartbeat_decides(attempts, holder):
    forge(attempts, holder, silent_seconds=110)
    with pytest.raises(Claimed, match="node7" if holder else "another process"):
        attempts.claim()
    forge(attempts, holder, silent_seconds=130)
    attempts.claim().end(Ending.STOPPED)
    assert attempts.history()[1].reason.startswith("no sign of life for 13")
    assert attempts.history()[1].ending is (Ending.NODE_FAIL if holder else Ending.KILLED)


def test_a_sign_of_life_from_the_future_does_not_hold_a_trial_until_then(attempts):
    forge(attempts, ELSEWHERE, silent_seconds=-110)
    with pytest.raises(Claimed, match="node7"):
        attempts.claim()
    forge(attempts, ELSEWHERE, silent_seconds=-3600)
    attempts.claim().end(Ending.STOPPED)
    assert attempts.history()[1].ending is Ending.NODE_FAIL
    assert "in the future" in attempts.history()[1].reason


@pytest.mark.parametrize("name", ["holder.json", "end.json"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'"text"', b"1", b"null", b"{}", b"\xff", b'{"pid": 1}', b'{"ending": 3}'),
        b'{"ending": "from a later version", "at": null, "reason": ["x"]}',
        *(json.dumps({**vars(ELSEWHERE), "pid": pid}).encode() for pid in (-1, 2**70, None, "\0", [])),
    ],
)
def test_a_damaged_file_of_an_attempt_blocks_nobody(attempts, name, content):
    forge(attempts, ELSEWHERE, silent_seconds=3600)
    (attempts.folder / "1" / name).write_bytes(content)
    attempts.claim().end(Ending.STOPPED)
    assert len(attempts.history()) == 2
    assert not attempts.failure()


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "007", "-1", "1e3", "notes"])
def test_a_folder_that_is_no_attempt_is_passed_over(attempts, name):
    (attempts.folder / name).mkdir(parents=True)
    assert attempts.latest() == 0
    attempts.claim().end(Ending.STOPPED)
    assert attempts.latest() == 1


def test_attempts_that_are_removed_meanwhile_stop_nobody(attempts):
    claim = attempts.claim()
    shutil.rmtree(attempts.folder)
    with pytest.raises(ClaimLost):
        claim.check()
    claim.end(Ending.STOPPED)
    attempts.claim().end(Ending.STOPPED)
    assert endings(attempts) == [Ending.STOPPED]


def test_thousands_of_attempts_are_looked_through_once(attempts, monkeypatch):
    for number in range(1, 501):
        (attempts.folder / str(number)).mkdir(parents=True)
    looks, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or scandir(folder))
    assert len(attempts.history()) == 500
    assert len(looks) < 10


def test_a_folder_without_a_heartbeat_is_judged_by_its_own_age(attempts):
    (attempts.folder / "1").mkdir(parents=True)
    with pytest.raises(Claimed):
        attempts.claim()
    os.utime(attempts.folder / "1", (time.time() - 200,) * 2)
    attempts.claim().end(Ending.STOPPED)
    assert endings(attempts) == [Ending.KILLED, Ending.STOPPED]


def test_the_heart_beats(tmp_path):
    attempts = Attempts(tmp_path / "a", trial="t", lease_seconds=0.08)
    claim = attempts.claim()
    heartbeat = attempts.folder / "1" / "heartbeat"
    first = heartbeat.stat().st_mtime_ns
    until = time.monotonic() + 30
    while heartbeat.stat().st_mtime_ns == first:
        assert time.monotonic() < until
    claim.end(Ending.STOPPED)
    assert threading.active_count() == 1 or all("heartbeat" not in t.name for t in threading.enumerate())


def test_an_overtaken_claim_knows_and_its_end_changes_nothing(attempts):
    claim = attempts.claim()
    attempts.write_end(1, Ending.KILLED, reason="no sign of life")
    later = attempts.claim()
    with pytest.raises(ClaimLost, match=r"taken over \(attempt 2\)"):
        claim.check()
    claim.end(Ending.RECORDED)
    later.check()
    later.end(Ending.RECORDED)
    assert endings(attempts) == [Ending.KILLED, Ending.RECORDED]


@pytest.mark.parametrize(
    ("ending", "most", "words"),
    [
        (Ending.ERROR, MOST_ERRORS, "the last one: bad luck"),
        (Ending.KILLED, MOST_DEATHS, "without a word .*, the last one: bad luck"),
    ],
)
def test_failures_are_bounded(attempts, ending, most, words):
    for _ in range(most):
        attempts.claim().end(ending, reason="bad luck", traceback="Traceback ...")
    for _ in range(2):
        with pytest.raises(Exhausted, match=words):
            attempts.claim()
    (attempts.folder / f"failed-{most}.jsonl").write_text("")  # as `RecordStore.reopen` leaves it
    assert attempts.history() == []
    claim = attempts.claim()
    assert claim.number == most + 1
    claim.end(Ending.RECORDED)


def test_stops_and_refusals_are_not_failures(attempts):
    for ending in (Ending.STOPPED, Ending.REFUSED) * 10:
        attempts.claim().end(ending)
    attempts.claim().end(Ending.RECORDED)


@pytest.mark.parametrize("call", ["mkdir", "replace"])
def test_a_claim_that_cannot_be_written_is_told_and_leaves_nothing(attempts, monkeypatch, call):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    attempts.folder.mkdir()
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StoreError, match="choose another folder"):
        attempts.claim()
    monkeypatch.undo()
    assert list(attempts.folder.iterdir()) == []
    attempts.claim().end(Ending.STOPPED)


GONE = dataclasses.replace(Holder.this_process(), started="12345")


@pytest.mark.parametrize(("holder", "silent_seconds"), [(GONE, 0.0), (ELSEWHERE, 130.0), (None, 130.0)])
@pytest.mark.parametrize(
    ("asked", "ending"),
    [
        (Ending.STOPPED, Ending.STOPPED),
        (Ending.PREEMPTED, Ending.PREEMPTED),
        (Ending.TIMEOUT, Ending.KILLED),  # it had a minute or two to checkpoint in
    ],
)
def test_who_was_asked_to_end_and_is_gone_did_not_die_by_itself(
    attempts, holder, silent_seconds, asked, ending
):
    for number in range(1, MOST_DEATHS + 1):
        forge(attempts, holder, silent_seconds=silent_seconds)
        ask_to_end(attempts.folder / str(number), asked)
        assert attempts.last_ending() is ending
    if ending is Ending.KILLED:
        with pytest.raises(Exhausted, match="did not come to a checkpoint before it was killed"):
            attempts.claim()
    else:
        attempts.claim().end(Ending.RECORDED)


def test_who_was_asked_to_end_and_lives_holds_its_trial(attempts):
    claim = attempts.claim()
    ask_to_end(attempts.folder / "1", Ending.STOPPED)
    with pytest.raises(Claimed):
        attempts.claim()
    claim.end(Ending.RECORDED)
    assert endings(attempts) == [Ending.RECORDED]


@pytest.mark.parametrize("content", [b"", b"from a later version", b"\xff", b"stopped\nkilled"])
def test_a_damaged_note_of_what_was_asked_is_none(attempts, content):
    forge(attempts, GONE)
    (attempts.folder / "1" / "asked").write_bytes(content)
    assert attempts.last_ending() is Ending.KILLED


def test_where_the_note_cannot_be_written_nothing_breaks(tmp_path):
    ask_to_end(tmp_path / "gone" / "1", Ending.STOPPED)
    assert not (tmp_path / "gone").exists()


def test_a_torn_holder_file_is_not_trusted(attempts):
    forge(attempts, None, silent_seconds=1)
    (attempts.folder / "1" / "holder.json").write_text('{"host": "no')
    with pytest.raises(Claimed, match="another process"):
        attempts.claim()


def test_a_stopped_process_is_there(attempts):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    assert not dataclasses.replace(Holder.this_process(), pid=process.pid, started=stat[19]).is_gone()
    process.kill()
    process.communicate()
