import json
import os
import time
from collections import Counter

import made_up
import pytest

from tiebreak.design.cell import SCHEMA, Cell
from tiebreak.design.study import Part, Study
from tiebreak.records.migrate import MIGRATIONS, former_ids, identity
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.claim import Attempts, Claimed
from tiebreak.runner.launch import new_launch
from tiebreak.watching.standing import State
from tiebreak.watching.survey import Survey
from tiebreak.watching.waiting import Launches


def states(survey, name="big"):
    return {item.trial.id: item.state for item in survey.studies[name].standings}


def test_states_are_those_of_the_records_read_whole(filled, study, survey_of):
    store = RecordStore(filled, notice=pytest.fail, only_looks=True)
    slow = {}
    for trial in study.trials:
        record = store.read(trial)
        slow[trial.id] = str(record.outcome.kind) if record else "left"
    assert states(survey_of(filled)) == slow
    assert {"completed", "diverged", "failed", "left"} <= set(slow.values())


def test_a_glance_is_what_the_whole_record_says(filled, study, survey_of):
    store = RecordStore(filled, only_looks=True)
    for item in survey_of(filled).studies["big"].standings:
        record = store.read(item.trial)
        if record is None:
            assert item.record is None
            continue
        assert item.record.outcome == record.outcome
        assert item.record.elapsed_seconds == record.elapsed_seconds
        assert item.record.num_rows == len(record.rows)
        assert item.record.ended == record.provenance["ended"]
        assert repr(item.record.last_row) == repr(record.rows[-1] if record.rows else None)
        assert (filled / "records" / f"{item.place}.jsonl") == store.path(item.trial)


def test_nothing_is_written(filled, survey_of):
    before = {path: path.stat().st_mtime_ns for path in filled.rglob("*")}
    survey_of(filled).refresh()
    assert {path: path.stat().st_mtime_ns for path in filled.rglob("*")} == before


def test_a_refresh_tells_what_changed_and_no_more(copied, study, survey_of):
    survey = survey_of(copied)
    version = survey.version
    assert not survey.refresh()
    assert survey.version == version
    store, trial = RecordStore(copied), study.trials[-1]
    store.write(made_up.record(trial, outcome=Outcome(kind=OutcomeKind.NOT_LEARNED)))
    assert survey.refresh().trials == {trial.id}
    assert survey.version == version + 1
    assert states(survey)[trial.id] is State.NOT_LEARNED
    store.path(trial).unlink()
    assert survey.refresh().trials == {trial.id}
    assert states(survey)[trial.id] is State.LEFT


def test_a_record_that_comes_within_a_tick_of_the_folders_clock_is_seen(copied, study, survey_of):
    survey = survey_of(copied)
    trial = study.trials[-1]
    folder = RecordStore(copied).path(trial).parent
    folder.mkdir(exist_ok=True)
    survey.refresh()
    stamp = folder.stat()
    RecordStore(copied).write(made_up.record(trial))
    os.utime(folder, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a coarse clock would have it
    assert trial.id in survey.refresh().trials


def test_many_refreshes_end_where_one_look_does(tmp_path, survey_of):
    study = made_up.big_study(24)
    store = made_up.fill(tmp_path, study, count=0)
    survey = survey_of(tmp_path)
    for count, trial in enumerate(study.trials, start=1):
        store.write(made_up.record(trial))
        survey.refresh()
        assert survey.studies["big"].done == count
    assert states(survey) == states(survey_of(tmp_path))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"who": "here"}, State.RUNNING),
        ({"who": "here", "age_seconds": 1e6}, State.LEFT),  # it hangs, and who wants the trial takes it over
        ({"who": "gone"}, State.LEFT),
        ({"who": "elsewhere"}, State.RUNNING),
        ({"who": "elsewhere", "age_seconds": 90}, State.RUNNING),
        ({"who": "elsewhere", "age_seconds": 130}, State.LEFT),
        ({"who": "elsewhere", "age_seconds": -90}, State.RUNNING),  # clocks differ a little
        ({"who": "elsewhere", "age_seconds": -1e6}, State.LEFT),
        ({"who": "elsewhere", "end": {"ending": "timeout"}}, State.LEFT),
        ({"who": "here", "end": {"ending": "from a later version"}}, State.LEFT),
    ],
)
def test_who_works_on_a_trial(copied, study, survey_of, attempt, options, expected):
    trial = study.trials[-1]
    attempt(copied, trial, **options)
    view = survey_of(copied).studies["big"]
    item = view.standings[-1]
    assert (item.trial.id, item.state) == (trial.id, expected)
    attempts = Attempts(RecordStore(copied).attempts_folder(trial), trial=trial.id)
    if expected is State.RUNNING:  # one that wants the trial gives the same answer
        with pytest.raises(Claimed):
            attempts.claim()
    else:
        attempts.claim().end(Ending.STOPPED)
    assert view.workers == (expected is State.RUNNING)
    if expected is State.RUNNING:
        assert item.attempt.share_done == 0.25
        assert view.seconds_left() > 0


def test_the_machines_clock_may_be_wrong(copied, study, survey_of, attempt, monkeypatch):
    attempt(copied, study.trials[-1], who="elsewhere")
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert states(survey_of(copied))[study.trials[-1].id] is State.RUNNING


def test_a_folder_that_takes_no_files_is_told(copied, study, attempt, monkeypatch):
    attempt(copied, study.trials[-1], who="elsewhere")
    monkeypatch.setattr(
        "tiebreak.watching.attempting.secrets.token_hex", lambda count: "x/y"
    )  # cannot be made
    survey = Survey(copied, ask=lambda jobs: None)
    survey.refresh()
    assert states(survey)[study.trials[-1].id] is State.RUNNING
    assert "takes no files" in " ".join(survey.notices)


def test_the_last_attempt_counts_and_says_why_it_ended(copied, study, survey_of, attempt):
    trial = study.trials[-1]
    attempt(copied, trial, number=2, end={"reason": "ValueError: no\nsecond line"})
    attempt(copied, trial, number=1)
    item = survey_of(copied).standing(trial.id)
    assert (item.state, item.attempt.number, item.reason) == (State.LEFT, 2, "ValueError: no\nsecond line")


def test_a_stopped_attempt_is_no_failure(copied, study, survey_of, attempt):
    attempt(copied, study.trials[-1], end={"ending": "stopped", "reason": "asked to"})
    assert survey_of(copied).standing(study.trials[-1].id).reason == ""


@pytest.mark.parametrize("name", ["holder.json", "end.json", "heartbeat"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\x00", b'{"pid": "x", "machine": 3}'])
def test_whatever_an_attempt_holds_is_survived(copied, study, survey_of, attempt, name, content):
    folder = attempt(copied, study.trials[-1], who="elsewhere")
    (folder / name).write_bytes(content)
    assert survey_of(copied).standing(study.trials[-1].id).state in (State.LEFT, State.RUNNING)


def test_what_was_handed_to_somebody_is_queued(copied, study, survey_of, attempt):
    new_launch(copied, study="big", trials=study.trials[-6:], launcher="local")
    attempt(copied, study.trials[-1], who="here")
    view = survey_of(copied).studies["big"]
    assert (view.counts[State.QUEUED], view.counts[State.RUNNING], view.counts[State.LEFT]) == (5, 1, 4)
    assert view.live == (1,)


def test_nobody_waits_when_the_launcher_has_gone(copied, study, survey_of):
    launch = new_launch(copied, study="big", trials=study.trials[-6:], launcher="local")
    tree = json.loads((launch.folder / "launch.json").read_text())
    tree["holder"]["started"] = "1"
    (launch.folder / "launch.json").write_text(json.dumps(tree))
    view = survey_of(copied).studies["big"]
    assert (view.counts[State.QUEUED], view.counts[State.LEFT], view.live) == (0, 10, ())


@pytest.mark.parametrize(
    ("answer", "queued"), [(frozenset({"17"}), 6), (frozenset(), 0), (frozenset({"9"}), 0), (None, 0)]
)
def test_a_scheduler_is_asked_about_its_jobs(copied, study, answer, queued):
    new_launch(copied, study="big", trials=study.trials[-6:], launcher="slurm").changed(jobs=("17",))
    asked = []
    survey = Survey(copied, ask=lambda jobs: asked.append(list(jobs)) or answer)
    survey.refresh()
    survey.refresh()
    assert survey.studies["big"].counts[State.QUEUED] == queued
    assert asked == [["17"]]  # not at every look


def test_without_a_scheduler_a_launch_lives_while_a_trial_of_it_runs(copied, study, survey_of, attempt):
    new_launch(copied, study="big", trials=study.trials[-6:], launcher="slurm").changed(jobs=("17",))
    attempt(copied, study.trials[-1], who="elsewhere")
    assert survey_of(copied).studies["big"].counts[State.QUEUED] == 5


def test_launches_are_found_without_looking_through_logs(copied, study):
    launch = new_launch(copied, study="paper/deep", trials=study.trials[:2], launcher="local")
    (launch.logs / "7").mkdir()
    (launch.logs / "7" / "launch.json").write_text("{}")
    (copied / "launches" / "paper" / "0001").mkdir()
    launches = Launches(copied, ask=lambda jobs: None)
    assert [found.study for found in launches.found()] == ["paper/deep"]
    assert launches.trials(launch) == tuple(trial.id for trial in study.trials[:2])


def test_cells_that_were_edited_away_are_counted_apart(copied, study, survey_of):
    new_launch(copied, study="big", trials=study.trials, launcher="local")
    part = study.parts[-1]
    edited = Study(
        name="big",
        question=study.question,
        parts=(*study.parts[:-1], Part(name=part.name, cells=part.cells[:-2], num_replicates=4)),
    )
    survey = survey_of(copied)
    RecordStore(copied).write_study(edited)
    assert survey.refresh().studies == {"big"}
    view = survey.studies["big"]
    lost = [trial for trial in study.trials if trial.cell in part.cells[-2:]]
    recorded = sum(RecordStore(copied).is_done(trial) for trial in lost)
    assert (view.former, view.former_recorded) == (len(lost), recorded)
    assert len(view.standings) == len(edited.trials)
    assert f"{recorded} records belong to no study" in " ".join(survey.notices)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-2],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\n\n\n",
        lambda content: b"x" * 9000,
        lambda content: content + b"more\n",
        lambda content: content.replace(b'"completed"', b'"perplexed"'),
    ],
)
def test_a_damaged_record_counts_as_left_and_stays(copied, study, survey_of, damage):
    trial = study.trials[0]
    path = RecordStore(copied).path(trial)
    content = damage(path.read_bytes())
    path.write_bytes(content)
    survey = survey_of(copied)
    item = survey.standing(trial.id)
    assert item.state is State.LEFT
    assert "damaged" in item.reason
    assert "cannot be read" in " ".join(survey.notices)
    assert path.read_bytes() == content


def test_a_record_of_a_later_version_is_told(copied, study, survey_of):
    trial = study.trials[0]
    path = RecordStore(copied).path(trial)
    path.write_bytes(path.read_bytes().replace(b'"schema":%d' % SCHEMA, b'"schema":%d' % (SCHEMA + 1)))
    survey = survey_of(copied)
    assert survey.standing(trial.id).state is State.LEFT
    assert "Update tiebreak" in " ".join(survey.notices)


def test_records_of_an_older_version_are_found(tmp_path, survey_of):
    study = made_up.big_study(24)
    store = made_up.fill(tmp_path, study, durable=False)
    moved = 0
    for trial in study.trials[::3]:
        former = next(iter(former_ids(trial.cell)), None)
        if former is None:
            continue
        path, tree = store.path(trial), trial.cell.to_dict()
        old = MIGRATIONS[SCHEMA - 1].backward(tree)
        assert identity(old, schema=SCHEMA - 1) == former
        header, _, rest = path.read_text().partition("\n")
        stated = json.loads(header) | {"schema": SCHEMA - 1, "cell": old, "cell_id": former}
        place = tmp_path / "records" / former / path.name
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(stated, separators=(",", ":")) + "\n" + rest)
        path.unlink()
        moved += 1
    assert moved > 3
    survey = survey_of(tmp_path)
    assert survey.studies["big"].done == 24
    assert survey.notices == ()


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 99, "name": "x"}', "[1", "\x00"])
def test_a_study_that_cannot_be_read_is_told_and_the_others_stand(copied, survey_of, content):
    (copied / "studies" / "broken.json").write_text(content)
    survey = survey_of(copied)
    assert set(survey.studies) == {"big"}
    assert any("broken" in notice or "schema 99" in notice for notice in survey.notices)


def test_a_study_that_cannot_be_read_is_told_also_where_nothing_else_is(tmp_path, survey_of):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "broken.json").write_text("{")
    assert survey_of(tmp_path).notices


@pytest.mark.parametrize("place", ["records", "studies", "launches"])
def test_a_file_in_the_place_of_a_folder_is_survived(tmp_path, survey_of, place):
    (tmp_path / place).write_text("")
    assert survey_of(tmp_path).studies == {}


def test_strange_files_are_passed_over(copied, study, survey_of):
    before = states(survey_of(copied))
    home = RecordStore(copied).path(study.trials[0]).parent
    for name in (".tmp-0000.jsonl-1-abc", "0000.jsonl.corrupt-1", "notes.txt", "٣.jsonl", "<b>.jsonl"):
        (home / name).write_text("x")
    (home / "0009.jsonl").mkdir()
    (copied / "records" / "stray").write_text("")
    (copied / "records" / "loop").symlink_to(copied / "records")
    assert states(survey_of(copied)) == before


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_trials(tmp_path, survey_of, count):
    study = made_up.big_study(1)
    made_up.fill(tmp_path, study, count=count)
    view = survey_of(tmp_path).studies["big"]
    assert (len(view.standings), view.done) == (1, count)
    assert view.seconds_left(workers=2) == (0.0 if count else None)


def test_ten_thousand_trials(tmp_path, survey_of):
    study = made_up.big_study(10_000)
    made_up.fill(tmp_path, study, count=400, durable=False)
    survey = survey_of(tmp_path)
    counts = Counter(states(survey).values())
    assert sum(counts.values()) == 10_000
    assert counts[State.LEFT] == 9_600
    assert not survey.refresh()


def test_the_time_left_is_that_of_an_estimator_filled_by_hand(filled, study, survey_of):
    from tiebreak.runner.eta import Eta

    store, eta = RecordStore(filled, only_looks=True), Eta()
    left = []
    for trial in study.trials:
        record = store.read(trial)
        if record is None:
            left.append(trial)
        elif record.outcome.kind is not OutcomeKind.FAILED:
            eta.add(trial.cell, elapsed_seconds=record.elapsed_seconds)
    found = survey_of(filled).studies["big"].seconds_left(workers=3)
    assert found == pytest.approx(eta.seconds_left(left, workers=3))


def test_a_cell_is_the_same_after_being_read_from_a_manifest(study):
    cell = study.trials[0].cell
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))).id == cell.id
