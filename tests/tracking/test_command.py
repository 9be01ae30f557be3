"""The verbs: a trial and its mirror, the mirror made again, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
from wandb_files import measured_bytes, read_runs

from tiebreak.cli import main
from tiebreak.design.cell import Trial
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.runner.session import run_trial

TINY = ["protocol=noise", "data=mnist5k", "data.batch_size=4", "protocol.num_batches=2", "device=cpu"]


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def study(tmp_path, bench, trials):
    """A study of three trials, two of them recorded."""
    cells = tuple(dict.fromkeys(trial.cell for trial in trials))
    study = Study(name="toys/first", question="?", parts=(Part(name="a", cells=cells, num_replicates=2),))
    store = RecordStore(tmp_path / "results")
    store.write_study(study)
    for trial in study.trials[:3]:
        run_trial(trial, bench=bench())
    return study


def test_a_trial_with_a_mirror_is_the_trial_without(tmp_path, capfd):
    assert main(["run", *TINY, "results=plain"]) == 0
    assert main(["run", *TINY, "results=seen", "tracking=wandb", "mode=offline", "project=mine"]) == 0
    plain, seen = RecordStore(tmp_path / "plain"), RecordStore(tmp_path / "seen")
    (record,) = seen.records()
    assert measured_bytes(seen, record.trial) == measured_bytes(plain, record.trial)
    (run,) = read_runs(tmp_path / ".tiebreak" / "wandb")
    assert run.about["project"] == "mine"
    assert run.about["group"] == ""
    assert len(run.history) == len(record.rows)
    assert not [path for path in (tmp_path / "seen").rglob("*") if "wandb" in path.name]
    assert "mirror" not in capfd.readouterr().err


def test_an_export_has_every_record_once_however_often_it_is_made(tmp_path, study, capsys):
    for _ in range(2):
        assert main(["wandb-export", "toys/first", "mode=offline"]) == 0
        said = capsys.readouterr().out
        assert "3 of 4 trials are runs in .tiebreak/wandb/export/toys/first/wandb" in said
        assert "wandb sync" in said
        runs = [run.id for run in read_runs(tmp_path / ".tiebreak")]
        expected = [trial.id.replace("/", "-") for trial in study.trials[:3]]
        assert sorted(run for run in runs if not run.startswith("study-")) == sorted(expected)
        assert len(runs) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["wandb-export", "none", "mode=offline"], "There is no study 'none'"),
        (["wandb-export", "toys/first", "mode=offline", "arch=vgg11"], "wandb-export takes results=DIR"),
        (["wandb-export", "toys/first", "mode=disabled"], "nothing to do with mode=disabled"),
        (["wandb-export", "toys/first"], "needs a key for W&B"),
        (["wandb-export", "toys/first", "mode=sideways"], "mode must be one of online, offline, disabled"),
        (["run", *TINY, "mode=offline"], "mode belongs to tracking=wandb"),
        (["run", *TINY, "tracking=wandb", "results=never"], "needs a key for W&B"),
        (["study", "smoke", "tracking=wandb", "results=never"], "needs a key for W&B"),
        (["run", *TINY, "launcher=slurm"], "launcher=slurm is for `tiebreak study`"),
        (["run", *TINY, "tracking=wandbb"], "tracking must be one of none, wandb"),
    ],
)
def test_what_is_refused_is_a_sentence_before_anything_runs(tmp_path, study, capsys, words, sentence):
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("never/records"))


def test_an_export_without_records_says_so(tmp_path, capsys, trials):
    cells = (trials[0].cell,)
    empty = Study(name="empty", question="?", parts=(Part(name="a", cells=cells, num_replicates=1),))
    RecordStore(tmp_path / "results").write_study(empty)
    assert main(["wandb-export", "empty", "mode=offline"]) == 2
    assert "empty has no records in results" in capsys.readouterr().err


def test_no_verb_pays_for_wandb():
    program = (
        "import sys; from tiebreak.cli import main; main(['study']); from tiebreak.tracking import mirror; "
        "assert 'wandb' not in sys.modules and 'torch' not in sys.modules, 'heavy'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=dict(os.environ))


def test_the_row_events_of_a_worker_are_lines(bench, trials, study):
    from tiebreak.runner.events import TrialRow, from_line, to_line

    seen = []
    fresh = Trial(cell=trials[0].cell, replicate=7)
    run_trial(fresh, bench=bench(on_event=seen.append))
    rows = [event for event in seen if isinstance(event, TrialRow)]
    assert len(rows) == 10
    for event in rows:
        assert json.loads(to_line(event))["event"] == "row"
        assert repr(from_line(to_line(event))) == repr(event)
