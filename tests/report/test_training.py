import math

import pandas as pd
import pytest

from tiebreak.design.axes import Forward, PoolJacobian, Precision, Selection
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.report.training import accuracy_table, forward_table, pair_table, run_table

CHANCE = 0.1


@pytest.fixture
def made(request):
    """Frames of training cells from `{(beta, forward): [accuracies, None for diverged]}`."""

    def make(cells_of):
        cells, trials, epochs, bad = [], [], [], []
        for (rule, forward), accuracies in cells_of.items():
            name = f"{rule}-{forward}"
            is_beta = not isinstance(rule, str)
            label = PoolJacobian(beta=rule, forward=forward).label if is_beta else rule
            axes = {
                "cell": name, "precision": "fp16", "jacobian": label, "beta": float(rule) if is_beta else 0.0,
                "selection": "beta" if is_beta else rule, "forward": str(forward), "data": "mnist5k",
                "test_size": 0, "held_out": 0, "folder": "",
            }  # fmt: skip
            cells.append(axes)
            for replicate, accuracy in enumerate(accuracies):
                key = {"cell": name, "replicate": replicate}
                outcome = (
                    "diverged" if accuracy is None else "missing" if accuracy == "missing" else "completed"
                )
                trial = axes | key | {"trial": f"{name}/{replicate}", "outcome": outcome, "step": None}
                trials.append(trial | ({"step": 7} if outcome == "diverged" else {}))
                if outcome == "diverged":
                    bad.append(key | {"step": 7, "epoch": 2, "where": "loss", "tensor": None})
                if outcome == "missing":
                    continue
                finals = [0.5] if outcome == "diverged" else [0.5, accuracy]
                for epoch, value in enumerate(finals, start=1):
                    row = {"epoch": epoch, "train_loss": 1 / epoch, "test_accuracy": value}
                    epochs.append(key | row | {"chance": CHANCE, "test_images": 100})
        frames = [pd.DataFrame(rows) for rows in (cells, trials, epochs)]
        bad_frame = pd.DataFrame(bad, columns=["cell", "replicate", "step", "epoch", "where", "tensor"])
        return frames[0], run_table(frames[1], frames[2], bad_frame)

    return make


def test_a_diverged_run_is_counted_and_not_averaged(made):
    _, runs = made({(100, Forward.EXACT): [0.9, None, 0.8]})
    row = accuracy_table(runs).iloc[0]
    assert (row["num_planned"], row["num_completed"], row["num_diverged"], row["num_ended"]) == (3, 2, 1, 2)
    assert row["accuracy_mean"] == pytest.approx(0.85)
    assert row["accuracy_all_num"] == 3
    assert row["accuracy_all_mean"] == pytest.approx((0.9 + 0.8 + CHANCE) / 3)
    assert row["diverged_step_median"] == 7
    diverged = runs[runs["outcome"] == "diverged"].iloc[0]
    assert math.isnan(diverged["final_test_accuracy"])
    assert diverged["last_test_accuracy"] == 0.5
    assert diverged["num_epochs_run"] == 1
    assert diverged["nonfinite_where"] == "loss"


def test_all_diverged_leaves_no_accuracy_and_no_error(made):
    _, runs = made({(1e4, Forward.BLENDED): [None, None]})
    row = accuracy_table(runs).iloc[0]
    assert math.isnan(row["accuracy_mean"])
    assert row["num_ended"] == 0
    assert row["accuracy_all_mean"] == CHANCE


def test_best_epoch_is_the_first_of_equals(made):
    _, runs = made({(0, Forward.EXACT): [0.5]})
    assert (runs["best_test_accuracy"].iloc[0], runs["best_epoch"].iloc[0]) == (0.5, 1)


def test_pairs_are_matched_by_replicate_and_forward(made):
    cells, runs = made(
        {
            (0, Forward.EXACT): [0.90, 0.92, 0.94],
            (100, Forward.EXACT): [0.91, None, 0.96],
            (0, Forward.BLENDED): [0.90, 0.92, "missing"],
            (100, Forward.BLENDED): [0.80, 0.80, 0.80],
            ("last", Forward.EXACT): [0.90, 0.92, 0.97],
        }
    )
    pairs = pair_table(runs, cells).set_index("cell")
    assert set(pairs.index) == {"100-exact", "100-blended", "last-exact"}
    exact = pairs.loc["100-exact"]
    assert exact["reference_cell"] == "0-exact"
    assert (exact["num_replicates"], exact["num_pairs"], exact["num_diverged"]) == (3, 2, 1)
    assert exact["difference_mean"] == pytest.approx((0.01 + 0.02) / 2)
    blended = pairs.loc["100-blended"]
    assert (blended["reference_cell"], blended["num_replicates"]) == ("0-blended", 2)
    assert pairs.loc["last-exact", "reference_cell"] == "0-exact"


def test_forward_arms_are_matched_by_beta(made):
    cells, runs = made(
        {
            (100, Forward.EXACT): [0.9, 0.8],
            (100, Forward.BLENDED): [0.7, None],
            (1, Forward.EXACT): [0.9, 0.9],
        }
    )
    table = forward_table(runs, cells)
    assert table["cell"].tolist() == ["100-exact"]
    row = table.iloc[0]
    assert row["difference_mean"] == pytest.approx(0.2)
    assert (row["num_pairs"], row["num_reference_diverged"]) == (1, 1)
    assert math.isnan(row["difference_low"])


def test_other_axes_keep_cells_apart(made):
    cells, runs = made({(0, Forward.EXACT): [0.9], (1, Forward.EXACT): [0.8]})
    cells.loc[1, "precision"] = str(Precision.FP32)
    assert not len(pair_table(runs, cells))
    assert Selection.BETA in cells["selection"].to_numpy()


def test_every_outcome_has_its_column():
    assert {str(kind) for kind in OutcomeKind} == {"completed", "diverged", "not_learned", "failed"}
    assert Outcome(kind=OutcomeKind.DIVERGED, step=3).step == 3


def test_intervals_of_accuracies_end_where_accuracies_do(made):
    cells, runs = made({(0, Forward.EXACT): [0.9, 0.2], (100, Forward.EXACT): [0.1, 0.9]})
    row = accuracy_table(runs).iloc[0]
    assert (row["accuracy_low"], row["accuracy_high"]) == (0.0, 1.0)
    pair = pair_table(runs, cells).iloc[0]
    assert (pair["difference_low"], pair["difference_high"]) == (-1.0, 1.0)
