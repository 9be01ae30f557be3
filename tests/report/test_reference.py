"""A made-up clone of the published repository: its layout, its columns and everything odd that it has."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tiebreak.cli import main
from tiebreak.design.axes import UserError
from tiebreak.report.reference import read_reference
from tiebreak.report.reference_rows import MOST_BYTES

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
    assert (
        "lenet5 on mnist, fp16, sgd, without batch norm, beta 1000: runs of 1 to 2 epochs\n"
        "lenet5 on mnist, fp16, sgd, without batch norm, beta 1000: 2 of 2 runs went to NaN; the last "
        "accuracy of 2 of these is in the mean"
    ) in said
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
    assert "1 copy in folders .ipynb_checkpoints passed over" in reference.remarks


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
            "1 row for a maxpool and run_id and epoch that it has again, 1 of them with other values",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(clone, path, text, words):
    reference = read_reference(clone(path, text))
    (remark,) = (remark for remark in reference.remarks if words in remark)
    assert remark.startswith(f"results/{path} ")
    assert len(reference.runs) >= 2  # the others stand


LENET = "train/mnist/lenet/batch_norm_True/sgd/bits_16/results.csv"
RATES = "best_learning_rates/mnist/lenet/batch_norm_True/sgd/bits_16/best_lr.csv"
IMAGENET = "train/imagenet/bits_24/maxpool_10.0.csv"
RANKS = "experiment,epoch,accuracy,maxpool\n"


@pytest.mark.parametrize("path", [LENET, RATES, IMAGENET])
@pytest.mark.parametrize("ending", ["\n", "", "\r\n\r\n"])
def test_a_file_of_a_header_alone_is_named_and_the_others_stand(clone, path, ending, tmp_path, capsys):
    header = {LENET: EPOCHS, RATES: ",maxpool,lr,accuracy\n", IMAGENET: RANKS}[path].strip()
    root = clone(path, header + ending)
    assert main(["import-reference", str(root), f"results={tmp_path / 'out'}"]) == 0
    assert f"results/{path} has no row that counts; it was passed over" in capsys.readouterr().out
    assert len(read_reference(root).runs) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            ",1,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose run_id is empty, negative or no whole number (line 3)",
        ),
        (
            "0.5,1,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose run_id is empty, negative or no whole number (line 3)",
        ),
        (
            "-1,1,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose run_id is empty, negative or no whole number (line 3)",
        ),
        (
            "0,-1,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose epoch is empty, negative or no whole number (line 3)",
        ),
        (
            "inf,1,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose run_id is empty, negative or no whole number (line 3)",
        ),
        ("0,,0.5,0.5,0.5,0.9,0,True", "has 1 row whose epoch is empty, negative or no whole number (line 3)"),
        (
            "0,1e400,0.5,0.5,0.5,0.9,0,True",
            "has 1 row whose epoch is empty, negative or no whole number (line 3)",
        ),
        ("0,1,0.5,0.5,0.5,0.9,nan,True", "has 1 row whose maxpool is empty or no finite number (line 3)"),
        ("0,1,0.5", "has 1 row of another length than the header (line 3)"),
        ("0,1,0.5,0.5,0.5,0.9,0,True,7,7", "has 1 row of another length than the header (line 3)"),
        ("0,1,0.5,0.5,0.5,much,0,True", "test_accuracy on line 3 is 'much'"),
        ("0,1,0.5,0.5,0.5,1_0,0,True", "test_accuracy on line 3 is '1_0'"),
    ],
)
def test_a_row_that_does_not_count_is_named_and_the_others_do(clone, row, words):
    reference = read_reference(
        clone(LENET, f"{EPOCHS}0,0,0.5,0.5,0.5,0.8,0,True\n{row}\n0,2,1,1,1,0.9,0,True\n")
    )
    (remark,) = (it for it in reference.of_files if it.startswith(f"results/{LENET} "))
    assert words in remark
    assert "passed over" in remark
    run = reference.runs.set_index("precision").loc["fp16"]
    assert (run["num_epochs"], run["final_accuracy"]) == (2, 0.9)


def test_many_rows_without_a_run_are_counted(clone):
    rows = "0,0,0.5,0.5,0.5,0.8,0,True\n" + ",1,0.5,0.5,0.5,0.8,0,True\n" * 9
    said = "\n".join(read_reference(clone(LENET, EPOCHS + rows)).of_files)
    assert "has 9 rows whose run_id is empty, negative or no whole number (lines 3, 4, 5 and 6 more)" in said


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0,1,inf,0.5,0.5,0.9,0,True", "train_loss is negative or infinite (line 3); kept as it stands"),
        ("0,1,0.5,0.5,1e400,0.9,0,True", "test_loss is negative or infinite (line 3)"),
        ("0,1,0.5,0.5,0.5,inf,0,True", "test_accuracy is outside 0 to 1 (line 3)"),
        ("0,1,0.5,0.5,0.5,98.2,0,True", "test_accuracy is outside 0 to 1 (line 3)"),
    ],
)
def test_a_value_that_cannot_be_is_named_and_kept(clone, row, words):
    reference = read_reference(clone(LENET, f"{EPOCHS}0,0,0.5,0.5,0.5,0.8,0,True\n{row}\n"))
    assert words in "\n".join(reference.of_files)
    assert reference.runs.set_index("precision").loc["fp16", "num_epochs"] == 2


def test_an_accuracy_of_nan_beside_finite_losses_is_said_and_not_in_the_mean(clone):
    text = epochs((0, 0.0, [0.5, "nan"], False), (1, 0.0, [0.5, 0.9], False), (2, 0.0, ["", 0.7], False))
    reference = read_reference(clone(LENET, text))
    row = reference.table().set_index("precision").loc["fp16"]
    assert (row["num_runs"], row["num_accuracies"], row["num_nan"]) == (3, 2, 0)
    assert row["accuracy_mean"] == pytest.approx(0.8)
    assert row["remarks"] == (
        "2 of 3 runs have NaN as accuracy in 2 epochs, though no loss is NaN; "
        "1 of 3 runs end without an accuracy and are not in its mean"
    )
    assert any(row["remarks"].split("; ")[0] in remark for remark in reference.remarks)


def test_nan_on_one_rank_is_said_and_not_averaged_away(clone):
    rows = "0,0,75,10\n0,0,75,10\n0,1,76,10\n0,1,nan,10\n0,2,77,10\n0,2,77,10\n"
    reference = read_reference(clone(IMAGENET, RANKS + rows))
    said = "\n".join(reference.of_files)
    assert "NaN on some ranks and not on others in 1 epoch (first: run 0, epoch 1)" in said
    assert "they differ in 0 epochs" in said
    run = reference.runs.set_index("data").loc["imagenet"]
    assert (run["num_nan_accuracies"], run["went_nan"], run["final_accuracy"]) == (1, True, 0.77)


def test_nan_on_all_ranks_is_an_epoch_of_nan_and_no_difference(clone):
    reference = read_reference(clone(IMAGENET, RANKS + "0,0,75,10\n0,0,75,10\n0,1,nan,10\n0,1,nan,10\n"))
    said = "\n".join(reference.of_files)
    assert "they differ in 0 epochs" in said
    assert "some ranks" not in said
    row = reference.table().set_index("data").loc["imagenet"]
    assert (row["num_nan"], row["num_accuracies"]) == (1, 0)
    assert math.isnan(row["accuracy_mean"])
    assert "1 of 1 runs went to NaN; 1 of 1 runs end without an accuracy" in row["remarks"]


def test_ranks_that_are_missing_and_a_beta_that_is_not_the_name_are_said(clone):
    rows = "0,0,75,10\n0,0,75,10\n0,1,76,10\n0,2,77,100\n0,2,77,10\n"
    said = "\n".join(read_reference(clone(IMAGENET, RANKS + rows)).of_files)
    assert "has fewer than 2 rows, one a rank, in 1 epoch" in said
    assert "has 1 row whose maxpool is not the 10 of its name, which counts" in said


def test_rows_that_stand_twice_say_whether_they_differ(clone):
    same = "0,0,0.5,0.5,0.5,0.8,0,True\n"
    reference = read_reference(clone(LENET, EPOCHS + same * 3 + same.replace("0.8", "0.9")))
    said = "\n".join(reference.of_files)
    assert "has 3 rows for a maxpool and run_id and epoch that it has again, 1 of them with other" in said
    assert reference.runs.set_index("precision").loc["fp16", "final_accuracy"] == 0.9


def test_a_rate_of_nan_is_named_and_kept(clone):
    reference = read_reference(clone(RATES, ",maxpool,lr,accuracy\n0,0,0.1,0.9\n1,1,nan,\n"))
    assert f"results/{RATES} has 1 row with a NaN as lr or accuracy; kept as it stands" in reference.of_files
    assert len(reference.rates) == 2


def test_line_ends_a_byte_order_mark_and_further_columns_change_nothing(clone):
    text = epochs((0, 0.0, [0.5, 0.8], False))
    plain = read_reference(clone(LENET, text)).runs
    longer = "\n".join(f"{line},{'note' if not at else 'a b'}" for at, line in enumerate(text.splitlines()))
    for other in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), longer):
        for mark in (b"", b"\xef\xbb\xbf"):
            place = clone("a.txt", "") / "results" / LENET
            place.write_bytes(mark + other.encode())
            reference = read_reference(place.parents[7])
            pd.testing.assert_frame_equal(reference.runs, plain)
            assert not any(LENET in remark for remark in reference.remarks if "single run" not in remark)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (LENET, LENET.replace("/lenet/", "/lenet5/"), epochs((0, 0.0, [0.8], False))),
        (
            LENET.replace("lenet", "densenet121"),
            LENET.replace("lenet", "densenet121_published"),
            epochs((0, 0.0, [0.8], False)),
        ),
        (RATES, RATES.replace("/lenet/", "/lenet5/"), ",maxpool,lr,accuracy\n0,0,0.1,0.9\n"),
        (IMAGENET, IMAGENET.replace("10.0", "10"), RANKS + "0,0,75,10\n"),
    ],
)
def test_a_second_file_of_a_configuration_is_named_and_passed_over(clone, first, second, text):
    once = read_reference(clone(first, text))
    both = read_reference(clone(second, text))
    assert (
        f"results/{second} is of the same configuration as results/{first}, which is read; it was passed over"
    ) in both.of_files
    pd.testing.assert_frame_equal(both.table(), once.table())


def test_a_second_file_of_a_configuration_is_read_where_the_first_cannot_be(clone):
    second = LENET.replace("/lenet/", "/lenet5/")
    clone(LENET, EPOCHS)
    reference = read_reference(clone(second, epochs((0, 0.0, [0.8], False))))
    assert reference.runs["precision"].tolist() == ["fp32", "fp32", "fp16"]
    assert not any("same configuration" in words for words in reference.of_files)


def fifo(place):
    os.mkfifo(place)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place.write_bytes(b"\xff\xfea\x00"), "cannot be read as a table ('utf-8' codec"),
        (lambda place: place.write_bytes(b"\x00" * 40), "has no column run_id, epoch, maxpool"),
        (
            lambda place: place.write_text(EPOCHS + '0,"0'),
            "cannot be read as a table (unexpected end of data)",
        ),
        (lambda place: place.write_text(EPOCHS + "x" * 200_000), "cannot be read as a table (field larger"),
        (lambda place: place.write_text(EPOCHS.replace(",", ";")), "has no column run_id, epoch, maxpool"),
        (lambda place: place.write_text("epoch," + EPOCHS), "has more than one column epoch"),
        (lambda place: place.symlink_to("nowhere"), "is no file that can be read"),
        (lambda place: place.symlink_to(place), "is no file that can be read"),
        (fifo, "is no file that can be read"),
        (lambda place: place.mkdir(), "is a folder, not a file"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_others_stand(clone, make, words):
    root = clone("a.txt", "")
    place = root / "results" / LENET
    place.parent.mkdir(parents=True)
    make(place)
    reference = read_reference(root)
    (remark,) = (it for it in reference.of_files if it.startswith(f"results/{LENET} "))
    assert words in remark
    assert len(reference.runs) == 2


def test_a_file_that_may_not_be_read_or_is_huge_is_named(clone, monkeypatch):
    root = clone(LENET, EPOCHS)
    with (root / "results" / LENET).open("r+b") as file:
        file.truncate(MOST_BYTES + 1)
    assert any(f"results/{LENET} has 64 MiB, more than" in it for it in read_reference(root).of_files)

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    reference = read_reference(clone(LENET, EPOCHS))
    assert f"results/{LENET} cannot be read (Permission denied); it was passed over" in reference.of_files


def test_files_that_hold_no_results_are_counted_by_ending(clone):
    root = clone("a.txt", "")
    for at in range(40):
        clone(f"../.git/objects/{at}", "")
        clone(f"../weights/w{at}.bin", "")
    for name in (
        "../a.py",
        "../b.py",
        "../LICENSE",
        "../notes.odt",
        "../b.csv",
        "train/a.CSV",
        "../odd\nname",
    ):
        clone(name, "")
    (root / "again").symlink_to(root)
    said = read_reference(root).of_files
    assert not any(".git" in words for words in said)
    assert (
        "40 files ending .bin not expected in a clone and passed over: weights/w0.bin, weights/w1.bin, "
        "weights/w10.bin and 37 more"
    ) in said
    for name, ending in (("notes.odt", ".odt"), ("b.csv", ".csv"), ("results/train/a.CSV", ".CSV")):
        assert f"1 file ending {ending} not expected in a clone and passed over: {name}" in said
    assert "files that a clone has besides its results were not read: 2 .py, 1 .txt and 1 LICENSE" in said
    assert "again is a link to a folder; it was not followed" in said
    assert not any("\n" in words for words in said)


def test_a_folder_that_may_not_be_entered_is_named(clone, monkeypatch):
    root = clone("plots/a.csv", "")
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "plots":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    reference = read_reference(root)
    assert reference.of_files == ("results/plots cannot be entered (Permission denied)",)
    assert len(reference.runs) == 2


def test_a_clone_may_be_the_current_folder(clone, monkeypatch):
    monkeypatch.chdir(clone("train/mnist/odd.csv", ""))
    (said,) = read_reference(Path()).of_files
    assert said == "results/train/mnist/odd.csv is not a file that was expected; it was passed over"


def test_files_of_many_endings_are_one_sentence(clone):
    for at in range(30):
        root = clone(f"../a.x{at:02}", "")
    said = read_reference(root).of_files
    assert len(said) == 9
    assert (
        "22 files of other endings not expected in a clone and passed over: a.x08, a.x09, a.x10" in said[-1]
    )


def test_a_name_that_is_no_text_is_said(clone, tmp_path, capsys):
    root = clone("a.txt", "")
    (root / "results" / os.fsdecode(b"train/\xff.csv")).touch()
    assert main(["import-reference", str(root), f"results={tmp_path / 'out'}"]) == 0
    assert "results/train/\\udcff.csv is not a file that was expected" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["maxpool_1.2.3.csv", "maxpool_.csv", "maxpool_...csv", "maxpool_-1.csv"])
def test_a_name_without_a_beta_is_not_expected(clone, name):
    said = read_reference(clone(f"train/imagenet/bits_24/{name}", RANKS)).of_files
    assert said == (
        f"results/train/imagenet/bits_24/{name} is not a file that was expected; it was passed over",
    )


def test_a_clone_without_anything_that_counts_is_a_mistake_and_replaces_nothing(tmp_path, capsys):
    root, out = tmp_path / "clone", tmp_path / "out"
    (root / "results" / "train").mkdir(parents=True)
    (out / "paper").mkdir(parents=True)
    (out / "paper" / "reference.csv").write_text("earlier")
    for text in ("", EPOCHS):
        if text:
            place = root / "results" / LENET
            place.parent.mkdir(parents=True)
            place.write_text(text)
        assert main(["import-reference", str(root), f"results={out}"]) == 2
        said = capsys.readouterr()
        assert "holds no run and no learning rate that can be read; nothing was written" in said.err
        assert (f"results/{LENET} has no row" in said.out) == bool(text)
    assert (out / "paper" / "reference.csv").read_text() == "earlier"


def test_rates_alone_are_a_reference_too(tmp_path, clone):
    root = clone(RATES, ",maxpool,lr,accuracy\n0,0.0,0.1,0.9\n")
    shutil.rmtree(root / "results" / "train" / "mnist")
    assert main(["import-reference", str(root), f"results={tmp_path / 'out'}"]) == 0
    assert read_reference(root).table()["lr"].tolist() == [0.1]


def test_a_folder_that_is_no_clone(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no folder results/train"):
        read_reference(tmp_path)
    for name in ("nowhere", "file"):
        assert main(["import-reference", str(tmp_path / name)]) == 2
        assert "Give the root of a clone" in capsys.readouterr().err


def test_the_verb_writes_the_table_and_says_what_is_odd(clone, tmp_path, capsys):
    root = clone("train/mnist/odd.csv", "a\n")
    assert main(["import-reference", str(root), f"results={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "results/train/mnist/odd.csv is not a file that was expected" in said
    assert f"`tiebreak report paper results={tmp_path / 'out'}` shows them on its page." in said
    table = pd.read_csv(tmp_path / "out" / "paper" / "reference.csv")
    assert table["accuracy_mean"].tolist() == pytest.approx([0.97])
    kept = (tmp_path / "out" / "paper" / "reference_remarks.txt").read_text()
    assert kept.splitlines() == [said.splitlines()[0]]


def test_a_results_folder_that_cannot_be_made_is_a_sentence(clone, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["import-reference", str(clone("a.txt", "")), f"results={tmp_path / 'file'}"]) == 2
    assert "fault of ours" not in capsys.readouterr().err
