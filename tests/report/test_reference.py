"""A made-up clone of the published repository: its layout, its columns and everything odd that it has."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tiebreak.cli import main
from tiebreak.design.axes import UserError
from tiebreak.report.reference import beside, read_reference

EPOCHS = "run_id,epoch,train_loss,train_accuracy,test_loss,test_accuracy,maxpool,batch_norm\n"


def epochs(*runs):
    """A results.csv from (run, beta, accuracies, whether the loss is NaN)."""
    lines = [EPOCHS.strip()]
    for run, beta, accuracies, lost in runs:
        for epoch, accuracy in enumerate(accuracies):
            loss = "nan" if lost else "0.5"
            lines.append(f"{run},{epoch},{loss},0.5,{loss},{accuracy},{beta},False")
    return "\n".join(lines) + "\n"


REAL = Path(__file__).with_name("reference")


def test_files_of_the_published_repository_give_the_published_numbers(tmp_path):
    shutil.copytree(REAL, tmp_path / "results")
    reference = read_reference(tmp_path)
    published = pd.read_csv(Path(__file__).parents[2] / "results" / "paper" / "published.csv").set_index("id")

    rates = reference.rates.set_index("beta")
    for beta in (0, 1, 10, 100, 1000, 10000):
        name = f"lr.lenet5.mnist.fp16.sgd.nobn.beta{beta}"
        assert rates.loc[beta, "lr"] == pytest.approx(published.loc[name, "value"], rel=5e-3)
        assert rates.loc[beta, "search_accuracy"] == published.loc[f"{name}.accuracy", "value"]

    runs = reference.runs.set_index("data")
    single = runs.loc["cifar10"]
    assert (single["precision"], single["num_epochs"]) == ("amp16", 9)
    assert single["final_accuracy"] == published.loc["accuracy.vgg11.cifar10.amp16.sgd.bn.beta0", "value"]

    lost = runs.loc["imagenet"]
    assert lost["num_epochs"].tolist() == [80, 36]
    np.testing.assert_allclose(lost["best_accuracy"], [0.02878, 0.001])
    assert lost["never_learned"].tolist() == [False, True]
    assert any("rows an epoch, one a rank; they differ in 0 epochs" in text for text in reference.remarks)


@pytest.fixture
def clone(tmp_path):
    """Writes a file of the clone; the clone has one configuration to begin with."""
    root = tmp_path / "clone"

    def write(path, text):
        place = root / "results" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return root

    good = epochs((0, 0.0, [0.9, 0.98], False), (1, 0.0, [0.95, 0.96], False))
    write("train/mnist/lenet/batch_norm_False/sgd/bits_32/results.csv", good)
    return write


def test_runs_are_read_and_summed_up(clone):
    path = "best_learning_rates/mnist/lenet/batch_norm_False/sgd/bits_32/best_lr.csv"
    reference = read_reference(clone(path, ",maxpool,lr,accuracy\n0,0.0,0.0353,0.9881\n1,1.0,0.05,0.98\n"))
    table = reference.table().set_index("beta")
    row = table.loc[0.0]
    assert (row["arch"], row["data"], row["precision"], row["batch_norm"]) == (
        "lenet5",
        "mnist",
        "fp32",
        False,
    )
    assert (row["num_runs"], row["num_epochs"]) == (2, 2)
    assert row["accuracy_mean"] == pytest.approx(0.97)
    assert row["accuracy_sd"] == pytest.approx(math.sqrt(2) * 0.01)
    assert row["best_accuracy_mean"] == pytest.approx(0.97)
    assert row["lr"] == 0.0353
    assert table.loc[1.0, "lr"] == 0.05
    assert math.isnan(table.loc[1.0, "accuracy_mean"])  # a rate without a run
    assert reference.remarks == ()


def test_what_became_of_runs_is_counted_and_said(clone):
    nan = epochs((0, 1000.0, [0.098], True), (1, 1000.0, [0.9, 0.098], True))
    clone("train/mnist/lenet/batch_norm_False/sgd/bits_16/results.csv", nan)
    idle = epochs(*((run, 0.0, [0.19587, 0.19587], False) for run in range(3)))
    clone("train/svhn/vgg11/batch_norm_False/sgd/bits_32/results.csv", idle)
    alone = epochs((0, 0.0, [0.8], False))
    reference = read_reference(clone("train/cifar10/vgg11/batch_norm_True/sgd/bits_24/results.csv", alone))
    table = reference.table().set_index(["data", "precision"])
    assert table.loc[("mnist", "fp16"), "num_nan"] == 2
    assert table.loc[("svhn", "fp32"), "num_never_learned"] == 3
    assert table.loc[("cifar10", "amp16"), "num_runs"] == 1
    said = "\n".join(reference.remarks)
    assert "lenet5 on mnist, fp16, sgd, without batch norm, beta 1000: 2 of 2 runs went to NaN" in said
    assert "beta 1000: runs of 1 to 2 epochs" in said
    assert "vgg11 on svhn, fp32, sgd, without batch norm, beta 0: 3 of 3 runs never did better" in said
    assert "vgg11 on cifar10, amp16, sgd, with batch norm, beta 0: a single run" in said


def test_one_row_a_rank_is_one_epoch(clone):
    rows = "".join(f"0,{epoch},{75 + epoch + 0.1 * rank},10.0\n" for epoch in range(2) for rank in range(3))
    text = "experiment,epoch,accuracy,maxpool\n" + rows
    reference = read_reference(clone("train/imagenet/bits_24/maxpool_10.0.csv", text))
    row = reference.table().set_index("data").loc["imagenet"]
    assert (row["arch"], row["precision"], row["beta"]) == ("resnet50", "amp16", 10.0)
    assert (row["num_runs"], row["num_epochs"]) == (1, 2)
    assert row["accuracy_mean"] == pytest.approx(0.761)
    assert any("up to 3 rows an epoch, one a rank; they differ in 2 epochs" in it for it in reference.remarks)


def test_copies_of_a_notebook_count_only_where_the_file_is_gone(clone):
    clone("train/mnist/lenet/batch_norm_False/sgd/bits_32/.ipynb_checkpoints/results-checkpoint.csv", "x\n")
    lost = "train/cifar10/resnet18/batch_norm_True/sgd/bits_16/.ipynb_checkpoints/results-checkpoint.csv"
    reference = read_reference(clone(lost, epochs((0, 0.0, [0.92], False))))
    assert set(reference.runs["arch"]) == {"lenet5", "resnet18"}
    assert any(f"{lost} is a notebook's copy of a file that is not there" in it for it in reference.remarks)
    assert "1 copies in folders .ipynb_checkpoints were passed over" in reference.remarks


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("train/mnist/extra.csv", EPOCHS, "is not a file that was expected"),
        ("plots/a.csv", "a\n1\n", "is not a file that was expected"),
        (
            "train/mnist/lenet/batch_norm_Maybe/sgd/bits_16/results.csv",
            EPOCHS,
            "is not a file that was expected",
        ),
        ("train/mnist/lenet/batch_norm_True/sgd/bits_16/results.csv", "run_id,epoch\n0,0\n", "has no column"),
        ("train/mnist/lenet/batch_norm_True/sgd/bits_16/results.csv", "", "cannot be read as a table"),
        (
            "train/mnist/lenet/batch_norm_True/sgd/bits_16/results.csv",
            EPOCHS + "0,0,oops,0,0,0,0,True\n",
            "holds what is no number",
        ),
        (
            "train/mnist/lenet/batch_norm_True/sgd/bits_16/results.csv",
            epochs((0, 0.0, [0.5], False), (0, 0.0, [0.6], False)),
            "1 rows for a maxpool and run_id and epoch that it had before",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(clone, path, text, words):
    reference = read_reference(clone(path, text))
    (remark,) = (remark for remark in reference.remarks if words in remark)
    assert remark.startswith(f"results/{path} ")
    assert len(reference.runs) >= 2  # the others stand


def test_a_folder_that_is_no_clone(tmp_path, capsys):
    with pytest.raises(UserError, match="no folder results/train"):
        read_reference(tmp_path)
    assert main(["import-reference", str(tmp_path / "nowhere")]) == 2
    assert "Give the root of a clone" in capsys.readouterr().err


def test_ours_stand_beside_it(clone):
    reference = read_reference(clone("train/mnist/lenet/batch_norm_False/sgd/bits_16/results.csv",
                                     epochs((0, 0.0, [0.97], False), (1, 0.0, [0.97], False))))  # fmt: skip
    key = {"arch": "lenet5", "data": "mnist", "optimizer": "sgd", "batch_norm": False, "beta": 0.0}
    measured = {"num_epochs": 10, "lr": 0.02, "num_planned": 3, "num_missing": 1, "num_diverged": 0}
    ours = [
        {**key, **measured, "precision": precision, "forward": forward, "accuracy_mean": mean}
        for precision, forward, mean in (
            ("fp16_rounded", "blended", 0.98), ("fp16", "blended", 0.97), ("fp16", "exact", 0.5),
        )
    ]  # fmt: skip
    table = beside(reference.table(), pd.DataFrame(ours))
    half = table[table["precision"] == "fp16"].set_index("our_precision")
    assert half["our_accuracy_mean"].to_dict() == {"fp16_rounded": 0.98, "fp16": 0.97}
    assert set(half["our_num_runs"]) == {2}
    assert table[table["precision"] == "fp32"]["our_accuracy_mean"].isna().all()
    assert len(beside(reference.table(), pd.DataFrame())) == 2


def test_the_verb_writes_the_table_and_says_what_is_odd(clone, tmp_path, capsys):
    root = clone("train/mnist/odd.csv", "a\n")
    assert main(["import-reference", str(root), f"results={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "results/train/mnist/odd.csv is not a file that was expected" in said
    table = pd.read_csv(tmp_path / "out" / "paper" / "reference.csv")
    assert table["accuracy_mean"].tolist() == pytest.approx([0.97])
