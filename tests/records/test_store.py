import errno
import json
import os
import subprocess
import threading

import pytest

from tiebreak.design.cell import SCHEMA, Trial
from tiebreak.design.study import Part, Study
from tiebreak.records.durable import RecordError, StoreError, replace
from tiebreak.records.migrate import former_ids
from tiebreak.records.record import NewerRecord
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import AlreadyRecorded, RecordStore


@pytest.fixture(scope="module")
def study(train_cell, zones_cell):
    return Study(
        name="paper/both",
        question="Does it matter?",
        hypothesis="It does.",
        parts=(
            Part(name="zones", cells=(zones_cell,), num_replicates=3),
            Part(name="train", cells=(train_cell,), num_replicates=2),
        ),
    )


def test_a_record_lies_where_its_identity_says(store, trial, make_record):
    assert store.read(trial) is None
    assert not store.is_done(trial)
    path = store.write(make_record(trial))
    assert path == store.root / "records" / trial.cell.id / "0003.jsonl"
    assert path.read_text() == make_record(trial).to_text()
    assert store.read(trial) == make_record(trial)
    assert store.is_done(trial)
    assert [item.name for item in path.parent.iterdir()] == ["0003.jsonl"]


def test_the_first_writer_wins(store, trial, make_record):
    store.write(make_record(trial))
    with pytest.raises(AlreadyRecorded, match="The first one stands"):
        store.write(make_record(trial, rows=()))
    assert store.read(trial).rows == make_record(trial).rows


def test_of_many_writers_exactly_one_wins(store, trial, make_record):
    barrier, lost = threading.Barrier(8), []

    def write(number):
        barrier.wait()
        try:
            store.write(make_record(trial, rows=({"row": "gap", "writer": number},)))
        except AlreadyRecorded:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row,) = store.read(trial).rows
    assert sorted([*lost, row["writer"]]) == list(range(8))
    assert len(list(store.path(trial).parent.iterdir())) == 1


def test_what_a_killed_writer_left_is_swept(store, trial, make_record):
    folder = store.path(trial).parent
    folder.mkdir(parents=True)
    (folder / ".tmp-0003.jsonl-123-abc").write_text("half")
    (folder / ".tmp-0004.jsonl-123-abc").write_text("somebody else's")
    store.write(make_record(trial))
    assert sorted(path.name for path in folder.iterdir()) == [".tmp-0004.jsonl-123-abc", "0003.jsonl"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0.5", "0.6"),
        lambda text: "",
        lambda text: text + "\n",
        lambda text: text.replace("completed", "not_learned"),
    ],
    ids=["truncated", "edited row", "empty", "longer", "edited outcome"],
)
@pytest.mark.parametrize("look", [RecordStore.is_done, RecordStore.read])
def test_a_damaged_record_is_named_set_aside_and_not_done(store, trial, make_record, notices, damage, look):
    for number in (1, 2):
        path = store.write(make_record(trial))
        damaged = damage(path.read_text())
        path.write_text(damaged)
        assert not look(store, trial)
        aside = path.with_name(f"0003.jsonl.corrupt-{number}")
        assert aside.read_text() == damaged
        assert not path.exists()
        assert len(notices) == number
        assert str(path) in notices[-1]
        assert aside.name in notices[-1]


def test_a_record_in_the_wrong_place_is_set_aside(store, trial, make_record, notices):
    path = store.write(make_record(trial))
    elsewhere = path.with_name("0009.jsonl")
    os.rename(path, elsewhere)
    assert list(store.records()) == []
    assert "in the place of" in notices[0]


def test_a_good_record_that_came_in_between_is_not_set_aside(store, trial, make_record, notices, monkeypatch):
    """Between our reading of the damaged file and our renaming, another process has put a good one there."""
    path = store.write(make_record(trial))
    good = path.read_bytes()
    path.write_text("damaged")
    rename = os.rename

    def slow_rename(source, target):
        replace(path, good)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow_rename)
    assert not store.is_done(trial)
    monkeypatch.undo()
    assert store.is_done(trial)
    assert notices == []


def test_every_record_is_found_in_order(store, train_cell, zones_cell, make_record):
    trials = [Trial(cell=cell, replicate=k) for cell in (train_cell, zones_cell) for k in (0, 10, 2)]
    for trial in trials:
        store.write(make_record(trial))
    assert [record.trial.id for record in store.records()] == sorted(trial.id for trial in trials)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "choose another folder"),
        (errno.EACCES, "Change the permissions"),
    ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing(
    store, trial, make_record, monkeypatch, call, number, sentence
):
    folder = store.path(trial).parent
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, call, raising(number))
    with pytest.raises(StoreError, match=sentence) as caught:
        store.write(make_record(trial))
    monkeypatch.undo()
    assert str(store.path(trial)) in str(caught.value)
    assert list(folder.iterdir()) == []
    store.write(make_record(trial))


def test_no_hard_links_is_told(store, trial, make_record, monkeypatch):
    monkeypatch.setattr(os, "link", raising(errno.EPERM))
    with pytest.raises(StoreError, match="hard link"):
        store.write(make_record(trial))


def raising(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def test_a_link_that_a_server_reports_twice_is_ours(store, trial, make_record, monkeypatch):
    link = os.link

    def repeated(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", repeated)
    store.write(make_record(trial))
    assert store.is_done(trial)


def test_a_file_in_the_way_is_told(tmp_path, trial, make_record):
    (tmp_path / "results").write_text("a file")
    store = RecordStore(tmp_path / "results")
    with pytest.raises(StoreError, match="is a file"):
        store.write(make_record(trial))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tiebreak-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk, trial, make_record):
    store = RecordStore(small_disk)
    large = make_record(trial, rows=[{"row": "gap", "text": "x" * 1000} for _ in range(100)])
    with pytest.raises(StoreError, match="no space left"):
        store.write(large)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    store.write(make_record(trial))
    assert store.is_done(trial)


def test_a_disk_that_is_really_read_only(small_disk, trial, make_record):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only"):
        RecordStore(small_disk).write(make_record(trial))


def test_a_study_is_read_back(store, study):
    path = store.write_study(study)
    assert path == store.root / "studies" / "paper" / "both.json"
    assert store.read_study("paper/both") == study
    assert store.studies() == ("paper/both",)
    tree = json.loads(path.read_text())
    assert [part["trials"] for part in tree["parts"]] == [[t.id for t in part.trials] for part in study.parts]
    store.write_study(study)  # replaces


def test_a_copy_of_a_study_is_not_another_study(store, study):
    path = store.write_study(study)
    copy = path.with_name("both-before.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(RecordError, match="states the name 'paper/both'"):
        store.read_study("paper/both-before")
    assert store.read_study("paper/both") == study


@pytest.mark.parametrize("key", ["name", "question", "hypothesis", "cells", "parts", "schema"])
@pytest.mark.parametrize("value", [None, 999, [None], {"a": 1}])
def test_a_study_file_of_another_shape_is_named(store, study, key, value):
    path = store.write_study(study)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(RecordError, match=r"both\.json|Update tiebreak"):
        store.read_study("paper/both")


def test_a_study_that_is_not_there_or_damaged(store, study):
    with pytest.raises(RecordError, match=r"no study 'demo' .* none yet"):
        store.read_study("demo")
    path = store.write_study(study)
    with pytest.raises(RecordError, match="were run: paper/both"):
        store.read_study("demo")
    path.write_text(path.read_text().replace('"batch_size": 128', '"batch_size": 64'))
    with pytest.raises(RecordError, match="not a study file"):
        store.read_study("paper/both")
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    with pytest.raises(NewerRecord, match="Update tiebreak"):
        store.read_study("paper/both")


def test_only_a_failed_record_is_reopened(store, trial, make_record):
    assert not store.reopen(trial)
    store.write(make_record(trial, rows=(), outcome=Outcome(kind=OutcomeKind.FAILED, reason="bad luck")))
    (store.attempts_folder(trial) / "2").mkdir(parents=True)
    assert store.reopen(trial)
    assert store.read(trial) is None
    assert (store.attempts_folder(trial) / "failed-2.jsonl").exists()
    store.write(make_record(trial, outcome=Outcome(kind=OutcomeKind.DIVERGED, step=4)))
    assert not store.reopen(trial)


def test_what_is_asked_of_thousands_is_what_is_asked_of_each(store, study, make_record, tmp_path):
    """Some trials are recorded, one record is damaged, one lies under the id that an older schema gave it."""
    trials = list(study.trials)
    present = [trials[0], trials[2], trials[4]]
    for trial in present:
        store.write(make_record(trial))
    damaged = store.path(trials[2])
    damaged.write_bytes(damaged.read_bytes()[:-2])
    old = store.root / "records" / next(former_ids(trials[4].cell)) / store.path(trials[4]).name
    old.parent.mkdir()
    store.path(trials[4]).rename(old)
    (store.root / "records" / "0123456789ab").mkdir()
    looks = RecordStore(store.root, only_looks=True, notice=lambda text: None)
    assert looks.present(trials) == [trial for trial in trials if looks.path(trial).exists()] == present
    done = {trial.id for trial in trials if looks.is_done(trial)}
    assert looks.done(trials) == done == {trials[0].id, trials[4].id}
    assert RecordStore(tmp_path / "none").done(trials) == frozenset()


def test_a_folder_that_cannot_be_listed_is_a_sentence(store, study, make_record):
    store.write(make_record(study.trials[0]))
    folder = store.path(study.trials[0]).parent
    folder.rename(folder.with_name("aside"))
    folder.write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="is a file"):
        store.done(study.trials)
