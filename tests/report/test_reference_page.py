"""The published repository's own records beside ours: which of our cells, and what the page shows of both."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tiebreak.cli import main
from tiebreak.design.axes import DataName, UserError
from tiebreak.design.cell import Data
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.report.paper import studies_of, write_paper_tables
from tiebreak.report.paper_page import paper_page
from tiebreak.report.reference import Reference
from tiebreak.report.reference_page import beside, keep_reference, reference_section

KEY = {"arch": "lenet5", "data": "mnist", "precision": "fp16", "optimizer": "sgd", "batch_norm": False}
RUN = {
    "num_epochs": 100, "final_accuracy": 0.97, "best_accuracy": 0.98, "went_nan": False,
    "never_learned": False, "num_nan_accuracies": 0,
}  # fmt: skip


def reference(*rows):
    """The table of a reference with a run for each row of fields that differ from the usual ones."""
    runs = pd.DataFrame([KEY | {"beta": 0.0, "run": at} | RUN | row for at, row in enumerate(rows)])
    rates = pd.DataFrame(columns=["arch", "lr", "search_accuracy"])
    return Reference(runs=runs, rates=rates, of_files=()).table()


def ours(*rows):
    """Our table of accuracies with a cell for each row of fields that differ from the usual ones."""
    usual = KEY | {
        "beta": 0.0, "forward": "blended", "device": "cpu", "folder": "", "num_epochs": 6, "lr": 0.02,
        "num_planned": 3, "num_missing": 0, "num_ended": 3, "num_diverged": 0, "num_not_learned": 0,
        "num_failed": 0, "accuracy_mean": 0.98, "accuracy_sd": 0.001,
    }  # fmt: skip
    return pd.DataFrame([usual | {"cell": f"c{at}"} | row for at, row in enumerate(rows)])


@pytest.mark.parametrize(
    ("rows", "cell"),
    [
        ([{}, {"precision": "fp16_rounded"}], "c1"),  # a CPU's own fp16 is farther
        ([{}, {"precision": "fp16_rounded"}, {"device": "cuda"}], "c2"),
        ([{"forward": "exact"}], None),
        ([{"beta": 1.0}], None),
        ([{"optimizer": "adam"}], None),
        ([{"precision": "fp32"}], None),
        ([{"num_missing": 3}], None),
        ([{"num_epochs": 2}, {"num_epochs": 9}, {}], "c1"),
    ],
)
def test_ours_is_the_nearest_cell_that_ran(rows, cell):
    table = beside(reference({}), ours(*rows))
    assert len(table) == 1
    assert table["our_num_runs"].item() == (3 if cell else 0)
    assert table["our_cell"].item() == cell if cell else table["our_cell"].isna().all()


def test_images_that_stand_in_for_a_data_set_are_said():
    table = beside(
        reference({"data": "cifar10"}),
        ours({"data": "image_folder", "folder": "cifar10-jpeg", "device": "cuda"}),
    )
    assert "JPEG re-compressions" in table["our_differs"].item()


def test_without_records_of_ours_the_reference_stands_alone():
    table = beside(reference({}, {"beta": 10.0}), pd.DataFrame())
    assert table["beta"].tolist() == [0.0, 10.0]
    assert table["our_num_runs"].tolist() == [0, 0]
    assert table["our_accuracy_mean"].isna().all()


def test_rows_of_the_page_show_both_sides(tmp_path):
    lost = {"beta": 1e4, "went_nan": True, "final_accuracy": math.nan}
    table = reference({}, {"final_accuracy": 0.99}, lost, {"beta": 10.0})
    cells = ours(
        {"precision": "fp16_rounded"},
        {"beta": 1e4, "num_ended": 0, "num_diverged": 3, "accuracy_mean": math.nan, "accuracy_sd": math.nan},
    )
    keep_reference(tmp_path / "paper", beside(table, cells), ["a file <b> was passed over"])
    section = reference_section(tmp_path, cells)
    assert section is not None
    assert section["remarks"] == ["a file <b> was passed over"]
    first, second, third = section["rows"]
    assert first == {
        "configuration": "lenet5 on mnist, fp16, sgd, without batch norm, beta 0",
        "runs": "2 of 100 epochs", "nan": "0", "idle": "0", "mean": "98.00 ± 1.41", "lr": "none",
        "ours": "98.00 ± 0.10", "our_runs": "3 of 6 epochs",
        "differs": "fp16_rounded for fp16; CPU for GPU; lr 0.02, cell c0", "remarks": "",
    }  # fmt: skip
    assert (second["ours"], second["our_runs"], second["differs"]) == ("not run", "–", "")
    assert "a single run" in second["remarks"]
    assert (third["nan"], third["mean"], third["ours"]) == ("1", "none", "none")
    assert third["our_runs"] == "3 of 6 epochs, of which 3 diverged"
    assert reference_section(tmp_path, None)["rows"][0]["ours"] == "not run"


def test_a_rate_without_a_run_is_a_row(tmp_path):
    rates = pd.DataFrame([KEY | {"beta": 1.0, "lr": 0.1, "search_accuracy": 0.9}])
    runs = pd.DataFrame([KEY | {"beta": 0.0, "run": 0} | RUN])
    table = Reference(runs=runs, rates=rates, of_files=()).table()
    keep_reference(tmp_path / "paper", beside(table, pd.DataFrame()), [])
    row = reference_section(tmp_path, None)["rows"][1]
    assert (row["runs"], row["nan"], row["mean"], row["remarks"]) == ("none", "–", "none", "")
    assert row["lr"] == "0.1 (90.00)"


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b'arch,"data\n', b"earlier"])
def test_a_file_that_is_no_import_is_refused(content, tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "reference.csv").write_bytes(content)
    with pytest.raises(UserError, match="is not what `tiebreak import-reference` writes"):
        reference_section(tmp_path, None)


def test_a_number_that_is_none_is_refused(tmp_path):
    place = keep_reference(tmp_path / "paper", beside(reference({}), pd.DataFrame()), [])
    place.write_text(place.read_text().replace("0.97", "much"))
    with pytest.raises(UserError, match="is not what"):
        reference_section(tmp_path, None)


@pytest.fixture(scope="module")
def results(conftest_module, tmp_path_factory):
    """A results folder with a training of LeNet-5 on MNIST."""
    made = conftest_module
    root = tmp_path_factory.mktemp("reference_results")
    cells = made.train_cells(num_epochs=2, betas=(0.0, 1.0))
    mnist = Data(name=DataName.MNIST, batch_size=128)
    cells = tuple(replace(cell, data=mnist) for cell in cells)
    part = Part(name="lenet5_mnist", cells=cells, num_replicates=3)
    store = RecordStore(root)
    study = Study(name="paper/accuracy_by_beta", question="?", parts=(part,))
    store.write_study(study)
    for trial in part.trials:
        store.write(made.record(trial))
    return root


def test_the_page_shows_an_import_and_is_the_same_bytes_without(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tiebreak.report.paper_page.drawn", lambda tables: [])
    clone = tmp_path / "clone"
    shutil.copytree(Path(__file__).with_name("reference"), clone / "results")
    place = clone / "results/train/mnist/lenet/batch_norm_False/sgd/bits_32/results.csv"
    place.parent.mkdir(parents=True)
    place.write_text(
        "run_id,epoch,train_loss,train_accuracy,test_loss,test_accuracy,maxpool\n0,0,1,1,1,0.9876,0.0\n"
    )
    (clone / "results" / "<odd>.csv").touch()
    store = RecordStore(results)
    write_paper_tables(store, studies_of(store), results / "tables/paper")

    def page():
        return paper_page(results / "tables/paper", results / "figures", missing=[], results_root=results)

    before = page()
    assert 'id="reference"' not in before

    assert main(["import-reference", str(clone), f"results={results}"]) == 0
    assert "9 rows stand beside ours" in capsys.readouterr().out
    section = BeautifulSoup(page(), "html.parser").select_one("section#reference")
    assert section is not None
    assert section.h2.text == "The published repository's own records beside ours"
    shown = {row.td.text: [cell.text for cell in row.select("td")] for row in section.select("tbody tr")}
    row = shown["lenet5 on mnist, fp32, sgd, without batch norm, beta 0"]
    assert row[1:5] == ["1 of 1 epochs", "0", "0", "98.76"]
    assert row[7] == "3 of 2 epochs"
    assert "a single run" in row[9]
    assert "results/<odd>.csv is not a file that was expected" in section.ul.text

    for name in ("reference.csv", "reference_remarks.txt"):
        (results / "paper" / name).unlink()
    assert page() == before


def test_git_does_not_see_an_import():
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert {"results/paper/reference.csv", "results/paper/reference_remarks.txt"} <= set(ignored)
