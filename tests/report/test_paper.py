"""The paper's tables, figures and page from made-up records: what is there, what is named as missing."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tiebreak.cli import main
from tiebreak.design.axes import DataName, Precision, UserError
from tiebreak.design.cell import Data
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.records.table import PoolingError
from tiebreak.report.findings import Standing
from tiebreak.report.paper import studies_of, write_paper_tables
from tiebreak.report.paper_figures import PAPER_FIGURES, draw_paper
from tiebreak.report.paper_page import paper_page
from tiebreak.report.published import COLUMNS, compared, read_published
from tiebreak.report.table_files import TableError, read_tables
from tiebreak.report.verdicts import Verdict

MNIST = Data(name=DataName.MNIST, batch_size=128)
JPEG = Data(name=DataName.IMAGE_FOLDER, folder="cifar10-jpeg", batch_size=128, augment=True)


def published_row(name, quantity, value, **fields):
    row = dict.fromkeys(COLUMNS, "") | {"id": name, "origin": "R-csv", "quantity": quantity, "value": value}
    return row | {"unit": "share"} | fields


SHARE = "share of mini-batches with a gap above the threshold"
MEAN = "final test accuracy, mean over runs"
LENET = {"arch": "lenet5", "data": "mnist", "optimizer": "sgd", "batch_norm": "false", "n": "10"}
ROWS = (
    published_row("accuracy.a", MEAN, "0.98", **LENET, precision="fp32", beta="1"),
    published_row(
        "accuracy.a.sd", "final test accuracy, sample standard deviation over runs", "0.00051", **LENET,
        precision="fp32", beta="1",
    ),
    published_row("accuracy.b", MEAN, "0.5", **LENET, precision="fp32", beta="0"),
    published_row(
        "accuracy.c.nan_runs", "runs that ended in NaN", "10", **LENET, precision="fp16", beta="10000",
        unit="runs",
    ),
    published_row(
        "zones.a", SHARE, "0.4", arch="lenet5", data="mnist", precision="fp32", batch_norm="false", n="391"
    ),
    published_row("lr.a", "best learning rate of the search", "0.02", **LENET, precision="fp32", beta="0"),
    published_row(
        "normpool.a", "smallest gap that is not 0", "1e-7", precision="fp16", note="artefact: a quantum",
        unit="gradient"
    ),
    published_row("other.a", "weight of the moon", "1", origin="T"),
    published_row(
        "jacobian_norm.k2.beta100", "norm of the Jacobian at a window with 2 maxima", "70.0", beta="100",
        origin="I",
    ),
    published_row("parameters.a", "number of parameters", "44426", unit="parameters"),
)  # fmt: skip


@pytest.fixture(scope="module")
def results(conftest_module, tmp_path_factory):
    made = conftest_module
    root = tmp_path_factory.mktemp("paper_results")

    def on(data, cells):
        return tuple(replace(cell, data=data) for cell in cells)

    train = on(MNIST, made.train_cells(num_epochs=2, betas=(0.0, 1.0, 1e4)))
    zones = on(MNIST, made.zone_cells(num_batches=4))
    folder = on(JPEG, made.zone_cells((Precision.FP32,), num_batches=2))
    other = on(Data(name=DataName.CIFAR10, batch_size=128), made.zone_cells((Precision.FP32,)))
    studies = (
        Study(
            name="paper/accuracy_by_beta",
            question="?",
            parts=(Part(name="lenet5_mnist", cells=train, num_replicates=3),),
        ),
        Study(
            name="beyond/forward_arm",
            question="?",
            parts=(Part(name="arms", cells=train, num_replicates=3),),
        ),
        Study(
            name="paper/zones_by_precision",
            question="?",
            parts=(
                Part(name="lenet5_mnist", cells=zones, num_replicates=10),
                Part(name="jpeg", cells=folder, num_replicates=2),
                Part(name="waits", cells=other, num_replicates=4),
            ),
        ),
        Study(name="demo", question="?", parts=(Part(name="z", cells=other, num_replicates=1),)),
    )
    store = RecordStore(root)
    for study in studies:
        store.write_study(study)
        for part in study.parts:
            for trial in part.trials if part.name != "waits" and study.name != "demo" else ():
                if not store.path(trial).exists():
                    store.write(made.record(trial))
    (root / "paper").mkdir()
    pd.DataFrame(ROWS).to_csv(root / "paper" / "published.csv", index=False)
    tables = write_paper_tables(
        store, studies_of(store), root / "tables" / "paper", published=root / "paper" / "published.csv"
    )
    _, missing = draw_paper(root / "tables" / "paper", root / "figures" / "paper")
    return root, store, tables, missing


def test_every_study_of_the_paper_is_read_once(results):
    _, _, tables, _ = results
    assert set(tables["members"]["study"]) == {
        "paper/accuracy_by_beta", "beyond/forward_arm", "paper/zones_by_precision",
    }  # fmt: skip
    assert not tables["runs"].duplicated(["cell", "replicate"]).any()
    waiting = tables["plan"].set_index("part").loc["waits"]
    assert waiting["num_done"] == 0
    assert "tiebreak study paper/zones_by_precision --part waits" in waiting["command"]


def test_figures_without_records_are_named_with_cells_and_command(results):
    root, _, tables, missing = results
    drawn = {path.stem for path in (root / "figures" / "paper").glob("*.pdf")}
    assert {
        "zones_by_precision",
        "accuracy_lenet5_mnist",
        "pairs_lenet5_mnist",
        "forward_arm",
        "ties",
    } == drawn
    named = {sentence.split(":")[0] for sentence in missing}
    assert named == {kind.name for kind in PAPER_FIGURES} - drawn
    resnet = next(kind for kind in PAPER_FIGURES if kind.name == "zones_by_precision")
    said = resnet.missing(tables["plan"])
    assert "zones.lenet5.cifar10.fp32" in said
    assert "4 trials" in said
    assert f"--part waits results={root}" in said
    plan = tables["plan"].assign(
        num_done=tables["plan"]["num_trials"].where(tables["plan"]["part"] != "waits", 0)
    )
    assert resnet.missing(plan).count("--part ") == 1
    assert "has all its records" in resnet.missing(plan.assign(num_done=plan["num_trials"]))


def test_a_figure_of_a_difference_needs_both_sides(results):
    tables = results[2]
    kind = next(kind for kind in PAPER_FIGURES if kind.name == "zones_by_precision")
    assert kind.chosen(tables)
    one = tables["zones"][tables["zones"]["precision"] == "fp32"]
    assert not kind.chosen({**tables, "zones": one})


def test_the_same_tables_give_the_same_bytes_in_a_fresh_process_without_torch(results, tmp_path):
    root, *_ = results
    program = (
        "import sys; from pathlib import Path; from tiebreak.report.paper_figures import draw_paper; "
        f"draw_paper(Path({str(root / 'tables' / 'paper')!r}), Path({str(tmp_path)!r})); "
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1000000000", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    paths = sorted((root / "figures" / "paper").iterdir())
    assert [path.name for path in paths] == sorted(path.name for path in tmp_path.iterdir())
    for path in paths:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_verdicts_follow_their_rule(results):
    verdicts = results[2]["verdicts"].set_index("id")
    words = verdicts["verdict"].to_dict()
    assert words["accuracy.b"] == "differs"
    assert words["accuracy.c.nan_runs"] == "agrees"
    assert words["zones.a"] in ("agrees", "undecided", "differs")
    assert words["lr.a"] == "not run here"
    assert words["normpool.a"] == "published value is an artefact"
    assert words["other.a"] == "not compared"
    assert words["jacobian_norm.k2.beta100"] == "agrees"
    assert verdicts.loc["other.a", "reason"] == "no rule compares it"
    assert "fp16_rounded for fp16" in verdicts.loc["accuracy.c.nan_runs", "reason"]
    assert "3 of 3 diverged" in verdicts.loc["accuracy.c.nan_runs", "reason"]


def test_a_published_number_is_compared_with_the_blended_forward(results):
    _, _, tables, _ = results
    forward = tables["accuracy"].set_index("cell")["forward"]
    cells = [cell for cell in tables["verdicts"]["cell"] if cell in forward.index]
    assert cells
    assert {forward[cell] for cell in cells} == {"blended"}
    shown = tables["accuracy"].dropna(subset=["published_percent"])
    assert sorted(shown["published_percent"]) == pytest.approx([50.0, 98.0])


def test_reproduced_numbers_are_those_of_the_runs(results):
    _, _, tables, _ = results
    row = tables["verdicts"].set_index("id").loc["accuracy.a"]
    runs = tables["runs"]
    final = runs.loc[runs["cell"] == row["cell"], "final_test_accuracy"]
    assert row["reproduced"] == pytest.approx(final.mean())
    assert row["reproduced_n"] == len(final) == 3


def test_claims_have_a_rule_and_a_verdict_each(results):
    claims = results[2]["claims"]
    assert claims["rule"].str.len().gt(20).all()
    assert set(claims["verdict"]) <= {*map(str, Standing), *map(str, Verdict)}
    by_claim = claims.groupby("claim")["verdict"].agg(set)
    assert by_claim["ae_derivative"] == {"not run here"}
    high = claims[claims["claim"] == "high_norm"]
    assert high["numbers"].str.contains("lost").all()
    # With the blended forward the made-up runs diverge at beta = 10^4 in 16 bits, all of them.
    lost = high[high["where"] == "fp16_rounded, blended forward"]["numbers"].item()
    assert "beta = 10000: 6 of 6 lost" in lost


def test_the_page_stands_alone_and_says_what_it_rests_on(results):
    root, _, tables, missing = results
    text = paper_page(
        root / "tables" / "paper", root / "figures" / "paper", missing=missing, results_root=root
    )
    soup = BeautifulSoup(text, "html.parser")
    assert not soup.find_all("link", href=lambda href: href and not href.startswith("data:"))
    assert not soup.find_all(["img", "script"], src=lambda src: src and not src.startswith("data:"))
    rows = soup.select("#numbers .sortable tbody tr")
    assert len(rows) == len(ROWS)
    assert "JPEG re-compressions" in soup.select_one("#figures").text
    assert "Holm" in soup.select_one("#rule").text
    assert all(sentence.split(":")[0] in soup.select_one("#missing").text for sentence in missing)
    for row in rows:
        assert row.select_one("code.id").text in tables["verdicts"]["id"].to_numpy()


@pytest.fixture(scope="module")
def soup(results):
    root, *_, missing = results
    folders = [root / kind / "paper" for kind in ("tables", "figures")]
    return BeautifulSoup(paper_page(*folders, missing=missing, results_root=root), "html.parser")


def cells_of(soup, name):
    """Cells of a published number's row by the heading of their column."""
    row = next(row for row in soup.select("#numbers .sortable tbody tr") if row.code.text == name)
    headings = [item.text for item in row.find_parent("table").select("thead th")]
    return dict(zip(headings, row.find_all("td"), strict=True))


def test_published_and_reproduced_numbers_are_in_one_unit_and_sort_by_value(results, soup):
    verdict = results[2]["verdicts"].set_index("id").loc["accuracy.a"]
    cells = cells_of(soup, "accuracy.a")
    mean, low, high = (100 * verdict[f"reproduced{name}"] for name in ("", "_low", "_high"))
    assert cells["published"].text == "98.00 %"
    assert cells["reproduced (95 %)"].text == f"{mean:.2f} % ({low:.2f} to {high:.2f} %)"
    assert float(cells["published"]["data-sort"]) == 0.98
    assert float(cells["reproduced (95 %)"]["data-sort"]) == verdict["reproduced"]
    assert cells_of(soup, "accuracy.a.sd")["published"].text == "0.051 points"
    assert cells_of(soup, "normpool.a")["published"].text == "1e-07"
    waiting = cells_of(soup, "lr.a")["reproduced (95 %)"]
    assert (waiting.text, waiting["data-sort"]) == ("–", "nan")


def test_what_n_counts_is_said_on_either_side(soup):
    zone, accuracy = cells_of(soup, "zones.a"), cells_of(soup, "accuracy.a")
    assert (zone["n, published"].text, zone["n, ours"].text) == ("391 mini-batches", "10 inits")
    assert (accuracy["n, published"].text, accuracy["n, ours"].text) == ("10 runs", "3 runs")
    assert (zone["n, published"]["data-sort"], zone["n, ours"]["data-sort"]) == ("391.0", "10")


def test_our_own_earlier_tests_are_no_published_numbers(results, soup):
    verdicts = results[2]["verdicts"]
    columns = [item.text for item in soup.select("#table-summary thead th")][1:]
    rows = {
        row.th.text: dict(zip(columns, (int(item.text) for item in row.find_all("td")), strict=True))
        for row in soup.select("#table-summary tbody tr")
    }
    assert rows["all"] == {
        "measured": 7, "constants and counts": 1, "published, together": 8, "our own earlier tests": 2,
    }  # fmt: skip
    assert rows["agrees"]["constants and counts"] == 1
    assert rows["not compared"]["our own earlier tests"] == 1
    for name, row in rows.items():
        own = row["our own earlier tests"]
        number = len(verdicts) if name == "all" else int((verdicts["verdict"] == name).sum())
        assert row["published, together"] + own == number
        assert row["published, together"] == row["measured"] + row["constants and counts"]
    assert "8 published numbers: 7 that were measured" in soup.select_one("#numbers").text


def test_trials_that_studies_share_are_counted_once(results, soup):
    root, _, tables, _ = results
    distinct = len(list((root / "records").rglob("*.jsonl")))
    shared = int(tables["plan"]["num_done"].sum())
    assert distinct < shared
    said = soup.select_one("header .meta").text
    assert f"{distinct} trials have a record, each counted once" in said
    assert f"{shared} of {int(tables['plan']['num_trials'].sum())}" in said


@pytest.mark.parametrize("verb", ["draw", "report", "tabulate"])
def test_a_results_folder_that_is_not_there_is_named_and_not_made(verb, tmp_path, capsys):
    assert main([verb, "paper", f"results={tmp_path / 'none'}"]) == 2
    assert f"There is no results folder {tmp_path / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_table_of_the_paper_edited_by_hand_stops_the_drawing(results, capsys):
    root, *_ = results
    path = root / "tables" / "paper" / "claims.csv"
    before = path.read_text()
    path.write_text(before.replace("contradicted", "supported").replace("undecided", "supported"))
    try:
        with pytest.raises(TableError, match="tabulate paper"):
            read_tables(path.parent)
        assert main(["draw", "paper", f"results={root}"]) == 2
        assert "edited since" in capsys.readouterr().err
    finally:
        path.write_text(before)


def test_records_of_two_versions_are_refused_for_the_paper_too(results, conftest_module, tmp_path):
    study = results[1].read_study("paper/zones_by_precision")
    part = replace(study.parts[0], cells=study.parts[0].cells[:1], num_replicates=2)
    store = RecordStore(tmp_path)
    only = replace(study, parts=(part,))
    for trial, version in zip(only.trials, ("2.14.1", "2.15.0"), strict=True):
        store.write(conftest_module.record(trial, versions={"torch": version}))
    with pytest.raises(PoolingError, match="--pool-versions"):
        write_paper_tables(store, [only], tmp_path / "tables")
    assert "zones" in write_paper_tables(store, [only], tmp_path / "tables", pool_versions=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns=["beta"]), "lacks the columns beta"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "names accuracy.a twice"),
        (
            lambda table: table.assign(value="much"),
            "value of accuracy.a must be a share from 0 to 1, got 'much'",
        ),
    ],
)
def test_a_file_of_published_numbers_that_is_wrong_is_refused(change, said, tmp_path):
    change(pd.DataFrame(ROWS)).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=said):
        read_published(tmp_path / "p.csv")


def test_without_records_every_number_is_not_run(tmp_path):
    pd.DataFrame(ROWS).to_csv(tmp_path / "p.csv", index=False)
    table = compared(read_published(tmp_path / "p.csv"), {})
    verdicts = dict(zip(table["id"], table["verdict"], strict=True))
    assert verdicts.pop("normpool.a") == "published value is an artefact"
    assert verdicts.pop("jacobian_norm.k2.beta100") == verdicts.pop("parameters.a") == "agrees"
    assert verdicts.pop("other.a") == "not compared"
    assert set(verdicts.values()) == {"not run here"}
    assert all(math.isnan(value) for value in table.loc[table["verdict"] == "not run here", "reproduced"])
