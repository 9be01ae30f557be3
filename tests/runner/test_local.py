import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from tiebreak.design.cell import Cell, Train, Trial
from tiebreak.records.durable import RecordError
from tiebreak.records.record import row_to_json
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.claim import Attempts
from tiebreak.runner.crew import Refused, WorkersDied, worker_environment
from tiebreak.runner.eta import Eta
from tiebreak.runner.events import (
    Note,
    Refusal,
    TrialEnded,
    TrialLeft,
    TrialProgress,
    TrialStarted,
    from_line,
    to_line,
)
from tiebreak.runner.local import Summary, run_study
from tiebreak.runner.session import run_trial


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "results", notice=pytest.fail)


@pytest.fixture
def expected_rows(toy, trials, bench, tmp_path):
    """By replicate, the rows of a run that nothing disturbed."""
    undisturbed = replace(
        bench,
        store=RecordStore(tmp_path / "undisturbed"),
        measure=toy.light,
        on_event=lambda event: None,
        checkpoint_every_seconds=1e9,
    )
    for trial in trials:
        run_trial(trial, bench=undisturbed)
    return {t.replicate: [row_to_json(row) for row in undisturbed.store.read(t).rows] for t in trials}


@pytest.fixture
def run(tmp_path, store, command, events, monkeypatch):
    monkeypatch.setenv("TOY_LIGHT", "1")

    def run(trials, *, workers=2, on_event=events.append, command=command):
        return run_study(
            trials,
            study="toy",
            store=store,
            workers=workers,
            command=command,
            checkpoints=tmp_path / "checkpoints",
            data_root=tmp_path / "data",
            on_event=on_event,
            checkpoint_every_seconds=1e9,
        )

    return run


def check(store, trials, expected_rows):
    for trial in trials:
        assert [row_to_json(row) for row in store.read(trial).rows] == expected_rows[trial.replicate]


def test_a_study_runs_once_and_then_starts_nobody(run, store, trials, events, expected_rows):
    summary = run(trials)
    assert summary == Summary(total=6, done_before=0, outcomes={OutcomeKind.COMPLETED: 6})
    assert str(summary) == "6 trials: 0 were done, 6 ran now (6 completed), 0 are left."
    check(store, trials, expected_rows)
    assert {event.trial for event in events if isinstance(event, TrialEnded)} == {t.id for t in trials}

    events.clear()
    again = run(trials, command=["/nonexistent/program"])
    assert again == Summary(total=6, done_before=6)
    assert events == []


def test_a_worker_that_is_killed_is_replaced_within_the_bounds(
    run, store, trials, events, expected_rows, monkeypatch
):
    """Trial 1 kills whoever runs its sixth step: five deaths, then it is failed and the others are done."""
    monkeypatch.setenv("TOY_DIE", "1")
    monkeypatch.setenv("TOY_STEPS", "6")
    summary = run(trials[:3])
    assert summary.outcomes == {OutcomeKind.COMPLETED: 2, OutcomeKind.FAILED: 1}
    assert store.read(trials[1]).outcome.reason == (
        "5 attempts died without a word (killed, or out of memory), the last one: its process was gone"
    )
    history = Attempts(store.attempts_folder(trials[1]), trial="").history()
    assert [attempt.ending for attempt in history] == [Ending.KILLED] * 5
    assert sum("died (SIGKILL)" in event.text for event in events if isinstance(event, Note)) == 5


def test_ctrl_c_stops_and_the_same_command_goes_on(run, store, trials, events, expected_rows, monkeypatch):
    monkeypatch.setenv("TOY_STEP_SECONDS", "0.1")

    def listen(event):
        events.append(event)
        if isinstance(event, TrialProgress) and sum(isinstance(e, TrialProgress) for e in events) == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C and SIGTERM go the same way

    summary = run(trials, on_event=listen)
    assert summary.stopped
    assert 4 <= len(summary.left) <= 6
    assert "give the same command again" in str(summary)
    assert any(isinstance(event, TrialLeft) for event in events)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setenv("TOY_STEP_SECONDS", "0")
    assert not run(trials).stopped
    check(store, trials, expected_rows)


def send_at_the_second_step(events, *signals):
    def listen(event):
        events.append(event)
        if isinstance(event, TrialProgress) and sum(isinstance(e, TrialProgress) for e in events) == 2:
            for number in signals:
                os.kill(os.getpid(), number)

    return listen


def test_ctrl_c_again_ends_everybody_and_is_no_death_of_a_trial(run, store, trials, events, monkeypatch):
    monkeypatch.setenv("TOY_STEP_SECONDS", "60")
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)

    def listen(event):
        events.append(event)
        if isinstance(event, TrialStarted) and sum(isinstance(e, TrialStarted) for e in events) == 2:
            for _ in range(4):  # the later ones change nothing: nobody is left behind
                os.kill(os.getpid(), signal.SIGINT)

    assert run(trials, on_event=listen).stopped
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert "Ended at once" in str(events)
    ended = [attempts.history()[-1].ending for trial in trials if (attempts := of(store, trial)).latest()]
    assert ended == [Ending.STOPPED] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_is_ended_with_the_crew_has_been_stopped(
    run, store, trials, events, expected_rows, monkeypatch, number
):
    """SLURM sends its SIGTERM to every process of a cancelled job, and SIGKILL when it waits no longer."""
    monkeypatch.setenv("TOY_STEP_SECONDS", "0.2" if number is signal.SIGTERM else "60")
    workers = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            workers.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Popen)

    def listen(event):
        events.append(event)
        if isinstance(event, TrialProgress) and sum(isinstance(e, TrialProgress) for e in events) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            if number is signal.SIGTERM:
                for pid in workers:
                    os.kill(pid, number)
        if number is signal.SIGKILL and isinstance(event, Note) and event.text.startswith("Stopping"):
            threading.Timer(0.3, lambda: [os.kill(pid, number) for pid in workers]).start()

    assert run(trials[:2], on_event=listen).stopped
    ended = [attempt.ending for trial in trials[:2] for attempt in of(store, trial).history()]
    assert ended == [Ending.STOPPED] * 2
    assert any("Ctrl-C" in event.text for event in events if isinstance(event, Note)) is False
    monkeypatch.setenv("TOY_STEP_SECONDS", "0")
    run(trials[:2])
    check(store, trials[:2], expected_rows)


def test_signals_of_different_kinds_are_one_request(run, trials, events, store, monkeypatch):
    """SLURM warns with SIGUSR1 and sends SIGTERM at the end: the trials have until then to checkpoint."""
    monkeypatch.setenv("TOY_STEP_SECONDS", "0.1")
    listen = send_at_the_second_step(events, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    assert run(trials, on_event=listen).stopped
    assert "Ended at once" not in str(events)
    ended = [attempts.history()[-1].ending for trial in trials if (attempts := of(store, trial)).latest()]
    assert Ending.TIMEOUT in ended
    assert set(ended) <= {Ending.TIMEOUT, Ending.RECORDED}


def of(store, trial):
    return Attempts(store.attempts_folder(trial), trial=trial.id)


def test_what_is_refused_ends_the_run_with_its_sentence(run, trials, monkeypatch):
    monkeypatch.setenv("TOY_REFUSE", "1")
    with pytest.raises(Refused, match="Fetch it with"):
        run(trials)


def test_workers_that_cannot_start_end_the_run_with_their_last_words(run, trials, monkeypatch):
    monkeypatch.setenv("TOY_BROKEN", "1")
    with pytest.raises(WorkersDied, match=r"\(exit code 1\), .* toy: cannot even start") as caught:
        run(trials)
    assert "\n" not in str(caught.value)
    assert "toy: cannot even start" in caught.value.__notes__[0]


def test_no_workers_is_a_mistake(run, trials):
    with pytest.raises(RecordError, match="1 or more, got 0"):
        run(trials, workers=0)


def test_the_watching_process_never_loads_torch(tmp_path, trials, command):
    """A whole run, and the second one that finds everything done, without torch, numpy or pandas."""
    program = f"""
import sys, time
from pathlib import Path
from tiebreak.runner.local import run_study
from tiebreak.runner.manifest import read_manifest
from tiebreak.records.store import RecordStore

def run():
    return run_study(
        read_manifest(Path({str(tmp_path / "manifest")!r})),
        study="toy", store=RecordStore(Path({str(tmp_path / "results")!r})),
        workers=1, command={command!r},
        checkpoint_every_seconds=1e9, checkpoints=Path({str(tmp_path / "c")!r}),
        data_root=Path("d"), on_event=lambda event: None)

assert run().recorded == 1
assert run().done_before == 1
assert not {{"torch", "numpy", "pandas"}} & set(sys.modules), "heavy"
"""
    from tiebreak.runner.manifest import write_manifest

    write_manifest(tmp_path / "manifest", trials[:1])
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "TOY_LIGHT": "1"})


def test_a_thread_may_run_a_study(run, trials):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(trials[:1], workers=1)))
    thread.start()
    thread.join()
    assert found[0].recorded == 1


def test_what_others_hold_is_left_to_them(run, store, trials):
    claim = Attempts(store.attempts_folder(trials[0]), trial=trials[0].id).claim()
    summary = run(trials[:2], workers=1)
    claim.end(Ending.STOPPED)
    assert summary.left == (trials[0],)
    assert "Other processes hold them" in str(summary)


def test_the_environment_of_a_worker(monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    environment = worker_environment(3)
    assert environment["KEPT"] == "yes"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert int(environment["MALLOC_MMAP_THRESHOLD_"]) == 2**30


@pytest.mark.parametrize(
    "event",
    [
        TrialStarted(trial="a/0000", name="é", attempt=1),
        TrialProgress(trial="a/0000", done=1, total=2),
        TrialEnded(trial="a/0000", outcome=Outcome(kind=OutcomeKind.DIVERGED, step=3), elapsed_seconds=0.1),
        TrialLeft(trial="a/0000"),
        Note(text="two\nlines"),
        Refusal(text="no"),
    ],
)
def test_an_event_is_read_back(event):
    assert "\n" not in to_line(event)
    assert from_line(to_line(event) + "\n") == event


@pytest.mark.parametrize(
    "line", ["Downloading 3%\n", "[1]\n", '{"event": "what"}\n', '{"event": "note"}\n', "3\n"]
)
def test_a_line_that_is_no_event_is_a_note(line):
    assert from_line(line) == Note(text=line.rstrip("\n"))


def test_the_time_left_is_learned_from_trials_alike(cell, trials):
    eta = Eta()
    longer = Cell(
        network=cell.network,
        data=cell.data,
        precision=cell.precision,
        jacobians=cell.jacobians,
        measure=Train(optimizer=cell.measure.optimizer, num_epochs=20),
    )
    assert eta.seconds_left(trials, workers=2) is None
    assert eta.seconds_left([], workers=2) == 0.0
    eta.add(cell, elapsed_seconds=2.0)
    eta.add(cell, elapsed_seconds=4.0)
    assert eta.trial_seconds(cell) == 3.0
    assert eta.trial_seconds(longer) == 3.0  # nothing nearer is known
    eta.add(longer, elapsed_seconds=30.0)
    assert eta.trial_seconds(longer) == 30.0
    assert eta.trial_seconds(cell) == 3.0
    assert eta.seconds_left(trials, workers=2) == 9.0
    assert eta.seconds_left(trials[:2], workers=4, shares_done={trials[0].id: 1.0}) == 3.0
    assert eta.seconds_left([*trials, Trial(cell=longer, replicate=0)], workers=4) == 30.0
