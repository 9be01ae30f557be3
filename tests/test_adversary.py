"""What a hostile user or machine does: each case once broke something."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from tiebreak.cli import main

SMALL = [
    "data=mnist5k",
    "data.batch_size=32",
    "data.train_size=64",
    "data.test_size=50",
    "protocol.num_epochs=1",
]
NOISE = ["run", "protocol=noise", "data=mnist5k", "data.batch_size=32"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("records/*/*.jsonl"))


@pytest.mark.parametrize(
    "words",
    [
        ["study", "smoke", "--dry-run", "results=there"],
        ["study", "--dry-run", "smoke", "results=there"],
        ["study", "smoke", "results=there", "--dry-run"],
        ["run", "arch=lenet5", "--cfg", "results=there"],
        ["run", "arch=lenet5", "-m", "results=there", "--cfg"],
    ],
    ids=" ".join,
)
def test_overrides_stand_on_either_side_of_an_option(words, here, capsys) -> None:
    assert main(words) == 0
    assert not list(here.iterdir()), "nothing was to be written"


def test_an_unknown_option_is_still_refused(here, capsys) -> None:
    for words in (["study", "smoke", "--bogus"], ["run", "-x", "arch=lenet5"], ["kernel", "a=b"]):
        with pytest.raises(SystemExit) as refused:
            main(words)
        assert refused.value.code == 2


@pytest.mark.parametrize("name", ["été", "a b", "(a) #b=c", 'it\'s "x"', "back\\"])
def test_a_folder_may_have_any_name(name, here, capsys) -> None:
    assert main(["run", *SMALL, f"results={name}"]) == 0
    assert len(record_files(here / name)) == 1
    assert main(["run", *SMALL, f"results={here / name}"]) == 0
    assert "recorded before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("results=2026", "Set results=./2026"),
        ("results=r\udcff", "UTF-8"),
        ("results=/proc", "cannot be made there"),
        ("results=loop/r", "loop/r"),
        ("num_threads=1000000", "num_threads must be 1024 or less"),
        ("optimizer.lr=1e39", "optimizer.lr in fp32"),
        ("optimizer.weight_decay=1e39", "optimizer.weight_decay in fp32"),
        ("arch=vgg11", "32x32"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_no_record(override, expected, here, capfd) -> None:
    (here / "loop").symlink_to("loop")
    assert main(["run", *SMALL, override]) == 2
    said = capfd.readouterr().err
    assert expected in said
    assert "fault" not in said
    assert not record_files(here)


def test_a_batch_of_one_image_is_refused_where_batch_norm_needs_two(here, capfd) -> None:
    assert main(["run", *SMALL, "data.batch_size=63", "batch_norm=true"]) == 2
    assert "data.batch_size=63 makes a batch of 1 out of 64 images" in capfd.readouterr().err
    assert main([*NOISE, "data.train_size=33", "protocol.num_batches=1", "batch_norm=true"]) == 0
    assert main(["run", *SMALL, "data.batch_size=1", "data.train_size=2"]) == 0


def test_more_batches_than_an_epoch_has_are_refused(here, capfd) -> None:
    for protocol in ("noise", "zones"):
        words = [*NOISE, f"protocol={protocol}", "data.train_size=64", "protocol.num_batches=3"]
        assert main([words[0], *words[2:]]) == 2
        assert "protocol.num_batches" in capfd.readouterr().err
    assert not record_files(here)


def test_a_folder_that_was_removed_under_us_is_a_sentence(here, capfd) -> None:
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert main(["run", *SMALL]) == 2
    assert "current folder" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_output_that_cannot_be_written_is_told(here) -> None:
    with open("/dev/full", "w") as full:
        for buffered in ("", "1"):
            done = subprocess.run(
                [sys.executable, "-m", "tiebreak", "run", "--cfg"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": buffered},
            )
            assert done.returncode == 2
            assert "no space left" in done.stderr
            assert "Exception" not in done.stderr


def test_a_reader_that_leaves_ends_us_quietly(here) -> None:
    done = subprocess.run(
        f"{sys.executable} -m tiebreak run --cfg | true",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert done.stderr == ""


def test_a_dry_run_leaves_a_damaged_record_alone(here, capfd, caplog) -> None:
    assert main(["run", *SMALL]) == 0
    (record,) = record_files(here)
    record.write_bytes(record.read_bytes()[:100])
    before = sorted(here.rglob("*"))
    capfd.readouterr()
    assert main(["study", "smoke", "--dry-run"]) == 0
    assert "8 trials, 0 done, 8 left" in capfd.readouterr().out
    assert sum(f"{record.name} is damaged" in line for line in caplog.messages) == 1
    assert sorted(here.rglob("*")) == before


def test_a_multirun_answers_with_the_worst_of_its_points(here, monkeypatch) -> None:
    codes = iter([0, 1, 0])
    monkeypatch.setattr("tiebreak.cli.running._run_one", lambda run, tracking: next(codes))
    assert main(["run", "-m", *SMALL, "pool.beta=0,1,2"]) == 1
    assert next(codes, None) is None, "a failed point must not end the sweep"


def test_ctrl_c_ends_a_multirun_not_only_its_present_point(here, monkeypatch, capfd) -> None:
    codes = iter([0, 130, 0])
    monkeypatch.setattr("tiebreak.cli.running._run_one", lambda run, tracking: next(codes))
    assert main(["run", "-m", *SMALL, "pool.beta=0,1,2"]) == 130
    assert next(codes) == 0, "the third point was begun"


@pytest.mark.parametrize(
    "words",
    [
        [*NOISE, "protocol.num_batches=4", "protocol.num_repeats=100000"],
        ["run", "protocol=lr_search", "data=mnist5k", "data.batch_size=2", "data.held_out=50"],
    ],
    ids=["noise", "lr_search"],
)
def test_a_long_measurement_stops_soon_after_ctrl_c(words, here, nursery) -> None:
    process = nursery.start(*words, cwd=here)
    deadline = time.monotonic() + 60
    while not list(here.rglob("*.attempts/1/holder.json")):
        assert time.monotonic() < deadline, "the trial was never begun"
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not record_files(here)


def test_the_page_is_the_one_of_the_study_asked_for(here) -> None:
    """One results folder holds several studies and one page; a page of another study is not this one's."""
    from tiebreak.cli.studying import _is_current
    from tiebreak.config import compose_study
    from tiebreak.design.axes import Device
    from tiebreak.records.store import RecordStore

    store = RecordStore(here)
    page = here / "report.html"
    study = compose_study("smoke", device=lambda: Device.CPU).study
    record = store.path(study.trials[0])
    store.write_study(study)
    assert not _is_current(page, store, study)
    page.write_text("<title>smoke · tiebreak</title>", encoding="utf-8")
    assert _is_current(page, store, study)
    record.parent.mkdir(parents=True)
    record.write_text("measured by another process, after the page")
    os.utime(record, ns=(time.time_ns() + 10**9,) * 2)
    assert not _is_current(page, store, study)
    record.unlink()
    page.write_text("<title>demo · tiebreak</title>", encoding="utf-8")
    assert not _is_current(page, store, study)


def test_the_page_carries_its_study_in_its_title() -> None:
    template = files("tiebreak.report") / "templates" / "report.html.j2"
    assert "<title>{{ study.name }} · " in template.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_finished_leaves_the_last_one(here, monkeypatch, capfd) -> None:
    from tiebreak.config import compose_study
    from tiebreak.design.axes import Device
    from tiebreak.records.store import RecordStore

    def fills_the_disk(root: Path, study: object, out: Path, **_: object) -> None:
        out.write_text("half a pa")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    RecordStore(here / "results").write_study(compose_study("smoke", device=lambda: Device.CPU).study)
    monkeypatch.setattr("tiebreak.report.html.write_report", fills_the_disk)
    page = here / "results" / "report.html"
    page.write_text("the last page")
    assert main(["report", "smoke"]) == 2
    assert "no space left to write results" in capfd.readouterr().err
    assert page.read_text() == "the last page"
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "studies"}
