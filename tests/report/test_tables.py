import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.cli import main
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.records.table import PoolingError
from tiebreak.report.table_files import (
    TableError,
    arguments,
    keep_tables,
    read_index,
    read_tables,
    write_tables,
)
from tiebreak.report.tables import tie_table


def test_every_table_is_written_with_its_index(tables_folder, study):
    index = json.loads((tables_folder / "index.json").read_text())
    expected = {
        "trials", "outcomes", "zones", "zone_inits", "gaps", "ties", "runs", "epochs", "accuracy", "pairs",
        "forward_arm", "noise", "drift", "lr_search",
    }  # fmt: skip
    assert set(index) == expected
    assert {path.stem for path in tables_folder.glob("*.csv")} == expected
    for name, entry in index.items():
        assert entry["study"] == study.name
        assert entry["command"].startswith("tiebreak tabulate")
        assert entry["commits"] == ["0123456789abcdef0123456789abcdef01234567"]
        assert entry["devices"] == ["Made-up CPU"]
        assert entry["dirty"] is False
        assert entry["first"] <= entry["last"], name
    assert index["trials"]["records"] == len(study.trials)
    assert index["zones"]["records"] == 4 * 8


def test_a_table_does_not_depend_on_the_order_of_records(store, study, tables_folder, tmp_path):
    """And what is read back from the files has the same bits as what was written."""
    written = write_tables(store, replace(study, parts=tuple(reversed(study.parts))), tmp_path)
    read = read_tables(tables_folder)
    for name, table in written.items():
        for column in table.columns:
            left, right = table[column], read[name][column]
            if pd.api.types.is_float_dtype(left):
                assert left.to_numpy().tobytes() == right.to_numpy(dtype=float).tobytes(), (name, column)
            else:
                present = left.notna() & (left.astype(str) != "")  # empty text is an empty field
                assert left[present].astype(str).tolist() == right[present].astype(str).tolist(), (
                    name,
                    column,
                )


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_floats_round_trip_through_text(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("floats")
    keep_tables({"a": pd.DataFrame({"value": values})}, {"a": {}}, folder)
    assert read_tables(folder)["a"]["value"].tolist() == values


@pytest.mark.parametrize("name", ["123456789012", "123e45678901", "000000000000", "nan0", "1e3"])
def test_a_name_that_looks_like_a_number_stays_a_name(tmp_path, name):
    keep_tables({"a": pd.DataFrame({"cell": [name], "beta": [1.0]})}, {"a": {}}, tmp_path)
    assert read_tables(tmp_path)["a"]["cell"].tolist() == [name]


def test_outcomes_count_what_is_missing(partial_store, study, tmp_path):
    table = write_tables(partial_store, study, tmp_path)["outcomes"]
    done = sum(1 for _ in partial_store.records())
    assert table["num_missing"].sum() == len(study.trials) - done
    assert table["num_planned"].sum() == len(study.trials)
    kinds = ["num_completed", "num_diverged", "num_not_learned", "num_failed", "num_missing"]
    assert (table[kinds].sum(axis=1) == table["num_planned"]).all()


def test_a_table_without_rows_now_is_removed(store, study, tmp_path):
    write_tables(store, study, tmp_path)
    only = replace(study, parts=study.parts[:1])
    write_tables(store, only, tmp_path)
    names = {path.stem for path in tmp_path.glob("*.csv")}
    assert names == {"trials", "outcomes", "zones", "zone_inits", "gaps", "ties"}


def test_a_row_about_a_jacobian_names_its_reference(tables_folder):
    tables = read_tables(tables_folder)
    for name in ("zones", "gaps", "zone_inits", "drift"):
        assert set(tables[name]["reference"]) == {"native"}
        assert "native minimal" not in set(tables[name]["jacobian"])


def test_precisions_go_from_coarse_to_fine(tables_folder):
    order = read_tables(tables_folder)["zones"]["precision"].drop_duplicates().tolist()
    assert order == ["fp16_rounded", "bf16", "fp32", "fp64"]


def test_devices_are_not_pooled_unasked(conftest_module, tmp_path):
    made = conftest_module
    only = made.Study(
        name="two", question="?", parts=(made.Part(name="z", cells=made.zone_cells()[:1], num_replicates=2),)
    )
    store = made.RecordStore(tmp_path)
    for trial, device in zip(only.trials, ("one", "another"), strict=True):
        store.write(made.record(trial, device_name=device))
    with pytest.raises(PoolingError, match="different devices"):
        write_tables(store, only, tmp_path / "tables")
    write_tables(store, only, tmp_path / "tables", pool_devices=True)
    index = json.loads((tmp_path / "tables" / "index.json").read_text())
    assert index["zones"]["devices"] == ["another", "one"]


def test_ties_against_a_slow_sum():
    random = np.random.default_rng(0)
    rows = []
    for replicate in range(6):
        for draw in range(3):
            zero, above = random.integers(0, 50, 2)
            rows.append(
                {
                    "cell": "c", "replicate": replicate, "draw": draw, "pool": 0, "windows": 200,
                    "tied": zero + above, "tied_at_zero": zero, "tied_above_zero": above,
                    "tied_below_zero": 0,
                    "mean_multiplicity": 2.0 + replicate, "max_multiplicity": 4,
                    "margin_median_ulps": 5.0 if draw == 0 else None,
                    "margin_min_ulps": 1.0 + replicate if draw == 0 else None,
                }
            )  # fmt: skip
    row = tie_table(pd.DataFrame(rows)).iloc[0]
    above = sum(item["tied_above_zero"] for item in rows)
    assert row["share_above_zero"] == pytest.approx(above / (200 * 18), rel=2**-48)
    tied = sum(item["tied"] for item in rows)
    expected = sum(item["tied"] * item["mean_multiplicity"] for item in rows) / tied
    assert row["mean_multiplicity"] == pytest.approx(expected, rel=2**-48)
    assert row["margin_min_ulps"] == 1.0
    assert row["share_above_zero_low"] < row["share_above_zero"] < row["share_above_zero_high"]


def test_untied_pools_have_no_multiplicity():
    row = {
        "cell": "c", "replicate": 0, "draw": 0, "pool": 0, "windows": 9, "tied": 0, "tied_at_zero": 0,
        "tied_above_zero": 0, "tied_below_zero": 0, "mean_multiplicity": None, "max_multiplicity": 1,
        "margin_median_ulps": None, "margin_min_ulps": None,
    }  # fmt: skip
    table = tie_table(pd.DataFrame([row]))
    assert table["share_tied"].tolist() == [0.0]
    assert math.isnan(table["mean_multiplicity"].iloc[0])


def test_nothing_shown_needs_torch():
    code = (
        "import sys, tiebreak.report.html, tiebreak.report.figures, tiebreak.report.answers\n"
        "bad = sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'hydra'})\n"
        "sys.exit('imported: ' + ', '.join(bad) if bad else 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_other_axes_go_upwards(conftest_module, tmp_path):
    made = conftest_module
    cells = tuple(
        made.cell(made.Zones(num_batches=2), made.NATIVE, made.MINIMAL, precision=precision, dither=dither)
        for precision in made.PRECISIONS
        for dither in (0.1, 0.0)
    )
    study = made.Study(name="d", question="?", parts=(made.Part(name="z", cells=cells, num_replicates=1),))
    tables = write_tables(made.fill(tmp_path, study), study, tmp_path / "tables")
    for name in ("zones", "gaps", "ties"):
        assert tables[name]["dither"].drop_duplicates().tolist() == [0.0, 0.1]
        assert tables[name]["precision"].drop_duplicates().tolist() == [*map(str, made.PRECISIONS)]


def test_a_command_names_the_folder_of_results(store, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arguments("demo", Path("results")) == "demo"
    assert arguments("demo", tmp_path / "results") == "demo"
    assert arguments("demo", Path("results/demo")) == "demo results=results/demo"
    assert arguments("demo", Path("my results")) == "demo 'results=my results'"
    assert arguments("demo", Path("/elsewhere")) == "demo results=/elsewhere"
    write_tables(store, study, tmp_path / "t", pool_devices=True)
    command = read_index(tmp_path / "t")["zones"]["command"]
    assert command == f"tiebreak tabulate {study.name} results={store.root} --pool-devices"


def test_a_table_edited_by_hand_is_not_read(store, study, tmp_path):
    write_tables(store, study, tmp_path)
    path = tmp_path / "zones.csv"
    before = path.read_text()
    path.write_text(before.replace("fp32", "fp64", 1))
    with pytest.raises(TableError, match=r"zones.csv is not what was made.*tiebreak tabulate made_up"):
        read_tables(tmp_path)
    path.write_text(before)
    assert "zones" in read_tables(tmp_path)
    path.unlink()
    with pytest.raises(TableError, match="is not there"):
        read_tables(tmp_path)


def test_a_table_without_a_checksum_is_not_read(store, study, tmp_path):
    write_tables(store, study, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    del index["zones"]["sha256"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(TableError, match=r"no checksum.*tiebreak tabulate"):
        read_tables(tmp_path)


def test_versions_of_torch_are_not_pooled_unless_told(conftest_module, tmp_path):
    only = Study(
        name="two_versions",
        question="?",
        parts=(Part(name="z", cells=conftest_module.zone_cells()[:1], num_replicates=2),),
    )
    store = RecordStore(tmp_path)
    for trial, version in zip(only.trials, ("2.14.1", "2.15.0"), strict=True):
        store.write(conftest_module.record(trial, versions={"torch": version}))
    with pytest.raises(PoolingError, match=r"1 from torch 2.14.1, 1 from torch 2.15.0.*--pool-versions"):
        write_tables(store, only, tmp_path / "t")
    write_tables(store, only, tmp_path / "t", pool_versions=True)
    made = read_index(tmp_path / "t")["zones"]
    assert made["torch"] == ["2.14.1", "2.15.0"]
    assert made["command"].endswith("--pool-versions")


@pytest.mark.parametrize("verb", ["tabulate", "draw", "report"])
def test_the_paper_without_any_record_is_a_sentence(verb, tmp_path, capsys):
    assert main([verb, "paper", f"results={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "no study of paper has a record" in said
    assert f"`tiebreak tabulate paper results={tmp_path}`" in said
    assert "`tiebreak study paper/zero_program`" in said
    assert not list(tmp_path.rglob("*.csv"))
