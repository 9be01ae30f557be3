"""The tables of training, made from arrays, against the same made from one frame a run."""

import math

import numpy as np
import pandas as pd
import pytest

from tiebreak.records.store import RecordStore
from tiebreak.records.table import ReadOnce, rows_frame, trials_frame
from tiebreak.report.training import run_table


def test_runs_are_those_of_a_frame_a_run(store, study):
    trials = trials_frame(store, study)
    epochs = rows_frame(store, study, row="epoch", axes=()).sample(frac=1.0, random_state=1)
    nonfinite = rows_frame(store, study, row="nonfinite", axes=())
    training = trials[trials["protocol"] == "train"]
    found = run_table(training, epochs, nonfinite).set_index("trial")
    assert len(found) == len(training)
    for trial in training.to_dict("records"):
        mine = epochs["trial"] == trial["trial"]
        run = epochs[mine].sort_values("epoch")
        row = found.loc[trial["trial"]]
        assert row["num_epochs_run"] == len(run)
        ended = trial["outcome"] in ("completed", "not_learned")
        last = run["test_accuracy"].iloc[-1] if len(run) else math.nan
        assert row["last_test_accuracy"] == pytest.approx(last, abs=0, nan_ok=True)
        assert row["final_test_accuracy"] == pytest.approx(last if ended else math.nan, abs=0, nan_ok=True)
        if len(run):
            assert row["best_epoch"] == run.loc[run["test_accuracy"].idxmax(), "epoch"]
        bad = nonfinite[nonfinite["trial"] == trial["trial"]]
        if len(bad):
            assert row["nonfinite_tensor"] == bad["tensor"].iloc[0]


def test_an_accuracy_that_is_none_is_no_best():
    trials = pd.DataFrame(
        [{"trial": "a/0000", "cell": "a", "replicate": 0, "outcome": "completed", "step": None, "data": "d",
          "test_size": 0, "held_out": 0, "folder": ""}]
    )  # fmt: skip
    epochs = pd.DataFrame(
        {"cell": "a", "replicate": 0, "epoch": [1, 2, 3, 4], "test_accuracy": [np.nan, 0.5, 0.7, 0.7],
         "train_loss": 1.0, "chance": 0.1, "test_images": 10}
    )  # fmt: skip
    [row] = run_table(trials, epochs, pd.DataFrame(columns=["cell", "replicate"])).to_dict("records")
    assert (row["best_test_accuracy"], row["best_epoch"], row["final_test_accuracy"]) == (0.7, 3.0, 0.7)


def test_a_record_is_read_once(store, study, monkeypatch):
    asked = []
    once = ReadOnce(store)
    read = RecordStore.read
    monkeypatch.setattr(RecordStore, "read", lambda self, trial: asked.append(trial.id) or read(self, trial))
    frames = [rows_frame(once, study, row=row, axes=()) for row in ("epoch", "gap", "pool")]
    assert len(asked) == len(set(asked)) == len(study.trials)
    for row, frame in zip(("epoch", "gap", "pool"), frames, strict=True):
        pd.testing.assert_frame_equal(frame, rows_frame(store, study, row=row, axes=()))
