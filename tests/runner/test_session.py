import errno
import os
from dataclasses import replace

import pytest

from tiebreak.records.durable import StoreError
from tiebreak.records.record import Record, row_to_json
from tiebreak.records.session import Outcome, OutcomeKind, Stopped
from tiebreak.runner.attempt import Ending
from tiebreak.runner.claim import Attempts, Claimed
from tiebreak.runner.events import Note, TrialEnded, TrialProgress, TrialStarted
from tiebreak.runner.session import run_trial

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


def rows_of(bench, trial):
    return [row_to_json(row) for row in bench.store.read(trial).rows]


def endings(bench, trial):
    history = Attempts(bench.store.attempts_folder(trial), trial=trial.id).history()
    return [attempt.ending for attempt in history]


def test_a_trial_is_measured_and_recorded_once(bench, trial, events, expected_rows):
    assert run_trial(trial, bench=bench) == COMPLETED
    record = bench.store.read(trial)
    assert rows_of(bench, trial) == expected_rows[0]
    assert record.provenance["started"] <= record.provenance["ended"]
    assert record.provenance["num_threads"] == 1
    assert not bench.checkpoints.path(trial).parent.parent.exists()
    assert [type(event) for event in events if not isinstance(event, TrialProgress)] == [
        TrialStarted,
        TrialEnded,
    ]
    assert events[-2] == TrialProgress(trial=trial.id, done=12, total=12)

    events.clear()
    again = replace(bench, measure=lambda trial, session: pytest.fail("measured again"))
    assert run_trial(trial, bench=again) == COMPLETED
    assert events == []
    assert endings(bench, trial) == [Ending.RECORDED]


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_a_stopped_trial_goes_on_to_the_same_bits(bench, trial, monkeypatch, expected_rows, steps):
    done = []
    stopping = replace(
        bench,
        stop=lambda: Ending.STOPPED if len(done) >= steps else None,
        on_event=lambda event: done.append(event) if isinstance(event, TrialProgress) else None,
    )
    from tiebreak.runner import session

    monkeypatch.setattr(session, "_PROGRESS_SECONDS", 0.0)
    with pytest.raises(Stopped):
        run_trial(trial, bench=stopping)
    assert bench.store.read(trial) is None
    assert len(bench.checkpoints.read(trial, note=pytest.fail).rows) == steps
    assert run_trial(trial, bench=bench) == COMPLETED
    assert rows_of(bench, trial) == expected_rows[0]
    assert endings(bench, trial) == [Ending.STOPPED, Ending.RECORDED]


def test_one_exception_is_got_over_from_the_checkpoint(bench, trial, toy, events, expected_rows):
    starts = []

    def faulty(trial, session):
        starts.append(True)
        if len(starts) == 1:
            session.save({}, {"step": 0})
            raise OSError("the disk hiccuped")
        assert session.restore().state == {"step": 0}
        for line in expected_rows[0]:
            from tiebreak.records.record import row_from_json

            session.emit(row_from_json(line))
        return COMPLETED

    assert run_trial(trial, bench=replace(bench, measure=faulty)) == COMPLETED
    assert endings(bench, trial) == [Ending.ERROR, Ending.RECORDED]
    assert any(isinstance(event, Note) and "the disk hiccuped" in event.text for event in events)


def test_two_exceptions_make_a_failed_trial_with_its_reason(bench, trial, monkeypatch):
    monkeypatch.setenv("TOY_RAISE", "all")
    outcome = run_trial(trial, bench=bench)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.reason == (
        "2 attempts raised an exception, the last one: RuntimeError: no luck in <data>/images"
    )
    assert bench.store.read(trial).rows == ()
    folder = bench.store.attempts_folder(trial)
    assert "Traceback" in (folder / "2" / "end.json").read_text()
    assert run_trial(trial, bench=bench) == outcome  # counted, not tried for ever

    monkeypatch.delenv("TOY_RAISE")
    assert bench.store.reopen(trial)
    assert run_trial(trial, bench=bench) == COMPLETED
    assert not bench.store.reopen(trial)  # a measured record is never set aside
    assert [path.name for path in folder.glob("failed-*")] == ["failed-2.jsonl"]


def test_a_refusal_passes_and_does_not_count(bench, trial, monkeypatch):
    monkeypatch.setenv("TOY_REFUSE", "1")
    refusing = replace(bench, refusals=(LookupError,))
    for _ in range(4):
        with pytest.raises(LookupError, match="tiebreak fetch"):
            run_trial(trial, bench=refusing)
    monkeypatch.delenv("TOY_REFUSE")
    assert run_trial(trial, bench=bench) == COMPLETED
    assert endings(bench, trial) == [Ending.REFUSED] * 4 + [Ending.RECORDED]


def test_a_row_that_cannot_be_kept_is_refused_where_it_is_made(bench, trial):
    def measure(trial, session):
        session.emit({"row": "gap", "x": [1.0]})

    with pytest.raises(ValueError, match="'x' of a row must be a number"):
        run_trial(trial, bench=replace(bench, measure=measure))


def test_a_trial_held_by_a_live_process_is_left_alone(bench, trial):
    claim = Attempts(bench.store.attempts_folder(trial), trial=trial.id).claim()
    with pytest.raises(
        Claimed, match=rf"is being run by process {os.getpid()} on .* goes on from its checkpoint"
    ):
        run_trial(trial, bench=bench)
    claim.end(Ending.STOPPED)
    assert run_trial(trial, bench=bench) == COMPLETED


def test_a_record_that_came_first_stands(bench, trial, toy):
    """Somebody else records while we measure: ours is dropped and theirs is the answer."""
    theirs = Record(
        trial=trial,
        provenance={},
        rows=(),
        outcome=Outcome(kind=OutcomeKind.DIVERGED, step=3),
        elapsed_seconds=1.0,
    )

    def measure(trial, session):
        bench.store.write(theirs)
        return toy.measure(trial, session)

    assert run_trial(trial, bench=replace(bench, measure=measure)) == theirs.outcome
    assert endings(bench, trial) == [Ending.SUPERSEDED]


def test_a_process_that_was_overtaken_leaves_the_trial(bench, trial, toy):
    def measure(trial, session):
        (bench.store.attempts_folder(trial) / "2").mkdir()
        return toy.measure(trial, session)

    with pytest.raises(Claimed, match="was taken over"):
        run_trial(trial, bench=replace(bench, measure=measure))
    assert bench.store.read(trial) is None


def test_a_checkpoint_of_another_origin_is_not_continued(bench, trial, events, expected_rows):
    asked = []
    elsewhere = replace(
        bench,
        stop=lambda: asked.append(1) or (Ending.STOPPED if len(asked) > 8 else None),
        provenance=lambda trial: {"device_name": "A"},
    )
    with pytest.raises(Stopped):
        run_trial(trial, bench=elsewhere)
    run_trial(trial, bench=replace(bench, provenance=lambda trial: {"device_name": "B"}))
    assert rows_of(bench, trial) == expected_rows[0]
    assert any(isinstance(event, Note) and "another device_name" in event.text for event in events)


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_full_disk_is_told_and_leaves_nothing(bench, trial, monkeypatch, call):
    bench = replace(bench, checkpoint_every_seconds=1e9)
    run = bench.measure

    def measure(trial, session):
        outcome = run(trial, session)

        real = getattr(os, call)

        def full(*args, **kwargs):
            if call == "link" and not str(args[1]).endswith(".jsonl"):
                return real(*args, **kwargs)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, call, full)
        return outcome

    with pytest.raises(StoreError, match=r"There is no space left to write .*0000\.jsonl"):
        run_trial(trial, bench=replace(bench, measure=measure))
    monkeypatch.undo()
    folder = bench.store.path(trial).parent
    assert [path.name for path in folder.iterdir()] == ["0000.attempts"]
    assert run_trial(trial, bench=bench) == COMPLETED
