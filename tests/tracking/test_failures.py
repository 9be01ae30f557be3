"""Whatever becomes of the mirror, the record is the one without it, and the trial does not wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wandb_files import measured_bytes, read_runs

from tiebreak.cli.tracking import mirrored
from tiebreak.runner.events import TrialRow, ignore
from tiebreak.runner.session import run_trial
from tiebreak.tracking.settings import Mode, TrackingError

MAIN = "import sys; from tiebreak.cli import main; sys.exit(main(['mirror', *sys.argv[1:]]))"


@pytest.fixture
def check(tmp_path, bench, trials, undisturbed, notices):
    """Run all trials beside a mirror that fails: one notice, and the records of a run without it."""

    def run(mirror, *, on_event=lambda far, event: None, words=""):
        with mirror as far:
            here = bench(on_event=mirrored(far, lambda event: on_event(far, event)))
            for trial in trials:
                run_trial(trial, bench=here)
        assert {trial.id: measured_bytes(here.store, trial) for trial in trials} == undisturbed
        assert len(notices) == 1, notices
        assert words in notices[0]
        assert "tiebreak wandb-export toys/first" in notices[0]
        assert far.has_failed
        return far

    return run


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_a_mirror_that_is_killed(tmp_path, mirror, check, trials):
    def kill(far, event):
        if isinstance(event, TrialRow) and (event.trial, event.index) == (trials[0].id, 5):
            wait_until(lambda: list((tmp_path / "wandb").rglob("*.wandb")))
            os.kill(far.pid, signal.SIGKILL)

    check(mirror(), on_event=kill, words="its process ended (-9)")


def test_a_mirror_that_hangs_is_given_up_and_ended(mirror, check):
    waited = []

    def stop(far, event):
        if isinstance(event, TrialRow) and event.index == 1:
            os.kill(far.pid, signal.SIGSTOP)
        waited.append(time.monotonic())

    far = check(mirror(patience_seconds=1.0), on_event=stop, words="silent for 1 s")
    with pytest.raises(ProcessLookupError):
        os.kill(far.pid, 0)


def test_a_mirror_that_takes_nothing_fills_its_queue_and_no_trial_waits(bench, trials, check, mirror):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]

    def burst(far, event):
        for _ in range(200):  # more than pipe and queue hold
            far.send("x" * 2000, trial=trials[0].id)

    began = time.monotonic()
    check(mirror(command=sleeper, capacity=50, patience_seconds=0.5), on_event=burst, words="hangs")
    assert time.monotonic() - began < 30  # not 600: a bound on waiting, not a timing


def test_a_folder_that_is_a_file(tmp_path, mirror, check):
    (tmp_path / "wandb").write_text("not a folder")
    check(mirror(), words="FileExistsError")
    assert (tmp_path / "wandb").read_text() == "not a folder"


def test_a_full_disk(tmp_path, mirror, check):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")

    def fill(far, event):
        if isinstance(event, TrialRow) and event.index == 3:
            wait_until(lambda: list(disk.rglob("*.wandb")))
            with open(disk / "filler", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass

    try:
        check(mirror(folder=disk / "wandb"), on_event=fill, words="No space left on device")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('wandb is broken')", "ImportError: wandb is broken"),
        ("raise SystemExit(9)", "its process ended (9)"),
        ("import os; os.abort()", "its process ended (-6)"),
    ],
)
def test_a_broken_wandb(tmp_path, mirror, check, monkeypatch, text, words):
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text(text)
    path = os.pathsep.join(filter(None, [str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    check(mirror(), words=words)


def test_a_mirror_that_cannot_be_started(mirror, check):
    check(mirror(command=["/nonexistent/program"]), words="cannot be started")


def test_online_without_a_key_is_refused_before_anything_runs(tmp_path, mirror):
    with pytest.raises(TrackingError, match=r"mode=online needs a key for W&B.*mode=offline"):
        mirror(mode=Mode.ONLINE).__enter__()
    assert not (tmp_path / "results").exists()


def test_an_interrupted_start_leaves_no_process(tmp_path, mirror, monkeypatch):
    far = mirror(mode=Mode.ONLINE, command=[sys.executable, "-c", "import time; time.sleep(600)"])

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("tiebreak.tracking.mirror.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        far.__enter__()
    monkeypatch.undo()
    with pytest.raises(ProcessLookupError):
        os.kill(far.pid, 0)


def test_without_a_network_the_runs_are_kept_offline(tmp_path, bench, mirror, trials, notices, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    hasty = f"import tiebreak.tracking.wandb_runs as runs; runs._INIT_SECONDS = 1.0; {MAIN}"
    with mirror(mode=Mode.ONLINE, command=[sys.executable, "-c", hasty]) as far:
        for trial in trials:
            run_trial(trial, bench=bench(on_event=mirrored(far, ignore)))
    assert far.num_mirrored == 3
    assert len(notices) == 1
    assert "W&B cannot be reached" in notices[0]
    assert "wandb sync" in notices[0]
    runs = [run for run in read_runs(tmp_path / "wandb") if run.exit_code is not None]
    assert {run.id for run in runs} >= {trial.id.replace("/", "-") for trial in trials}
    kept = sorted(path.parent.name for path in (tmp_path / "wandb").rglob("offline-run-*/*.wandb"))
    assert len(kept) == 3


def test_a_study_whose_watcher_dies_leaves_no_mirror_behind(tmp_path, trials):
    program = f"""
import os, signal, sys
from pathlib import Path
from tiebreak.tracking.mirror import Mirror
from tiebreak.tracking.settings import Mode, Task, Tracking
tracking = Tracking(mode=Mode.OFFLINE, folder=Path({str(tmp_path / "w")!r}))
task = Task(tracking=tracking, study="s", results=Path("r"))
command = [sys.executable, "-m", "tiebreak", "mirror"]
far = Mirror(task, trials={{}}, command=command, notice=print).__enter__()
print(far.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).stdout)

    def is_gone():
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    wait_until(is_gone)
