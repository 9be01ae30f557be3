"""Every published number, the study that would answer it, and what is called an artefact."""

import math
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tiebreak.config import compose_studies, list_studies
from tiebreak.design.axes import Device, UserError
from tiebreak.design.cell import Cell
from tiebreak.records.store import RecordStore
from tiebreak.report.paper import paper_tables, studies_of
from tiebreak.report.published import COLUMNS, compared, read_published
from tiebreak.report.verdicts import Verdict

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "paper" / "published.csv"


@pytest.fixture(scope="module")
def studies():
    names = [name for name in list_studies() if name.startswith(("paper/", "beyond/"))]
    return [run.study for run in compose_studies(names, device=lambda: Device.CPU)]


@pytest.fixture(scope="module")
def unanswered(studies, tmp_path_factory):
    """Every published number beside no record at all, so that each names what is to be run."""
    store = RecordStore(tmp_path_factory.mktemp("none"))
    planned = studies_of(store, studies)
    tables, _ = paper_tables(store, planned)
    found = compared(read_published(PUBLISHED), tables, planned)
    command = found["command"].str.replace(f" results={store.root}", "", regex=False)
    return found.assign(command=command).set_index("id", drop=False)


def asks_the_same(row, cell: Cell) -> bool:
    """Whether a cell has the setting of a published number, column by column."""
    named = row["arch"] or ("lenet5" if row["id"].startswith("gaps.") else "")
    source = cell.data.folder or str(cell.data.name)
    optimizer = getattr(cell.measure, "optimizer", None)
    size = re.search(r"batch(\d+)", row["id"])
    betas = [jacobian.beta for jacobian in cell.jacobians]
    return (
        named in ("", cell.network.arch)
        and row["data"] in ("", source, source.removesuffix("-jpeg"))
        and row["precision"] in ("", cell.precision, cell.precision.removesuffix("_rounded"))
        and (not row["optimizer"] or (optimizer is not None and row["optimizer"] == optimizer.name))
        and row["batch_norm"] in (None, cell.network.batch_norm)
        and cell.data.batch_size == (int(size[1]) if size else 128)
        and (row["beta"] != row["beta"] or row["beta"] in betas)
    )


def test_the_study_that_a_number_names_has_a_cell_of_its_setting(unanswered, studies):
    parts = {(study.name, part.name): part for study in studies for part in study.parts}
    rows = unanswered[unanswered["command"] != ""].to_dict("records")
    assert len(rows) > 500
    for row in rows:
        words = shlex.split(row["command"])
        assert words[:2] == ["tiebreak", "study"], row["id"]
        part = parts[words[2], words[4]]
        assert any(asks_the_same(row, cell) for cell in part.cells), (row["id"], row["command"])


def test_a_number_that_waits_for_records_names_a_study_and_another_says_why(unanswered):
    waiting = unanswered["verdict"] == Verdict.NOT_RUN
    assert unanswered.loc[waiting & (unanswered["command"] == ""), "id"].tolist() == []
    assert unanswered.loc[waiting & (unanswered["reason"] != ""), "id"].tolist() == []
    alone = unanswered["verdict"] == Verdict.NOT_COMPARED
    assert unanswered.loc[alone & (unanswered["reason"] == ""), "id"].tolist() == []
    assert unanswered.loc[alone & (unanswered["command"] != ""), "id"].tolist() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("drift.fp32.beta1.epoch199", "paper/weight_drift --part vgg11_cifar10"),
        ("drift.fp64.beta1.epoch5", "paper/weight_drift --part vgg11_cifar10_short"),
        ("zones.vgg11.batch1024.fp32.share", "paper/zones_by_batch_size --part vgg11_cifar10"),
        (
            "accuracy.vgg11.cifar10.fp32.adam.bn.beta1",
            "paper/accuracy_by_beta --part vgg11_cifar10_published_adam",
        ),
        (
            "gaps.gpu_threshold.fp32.decade-6",
            "paper/threshold_nondeterministic --part lenet5_mnist device=cuda",
        ),
        ("gaps.deterministic_threshold.fp16.decade-2", "paper/threshold_deterministic --part lenet5_mnist"),
        ("lr.lenet5.mnist.fp16.sgd.bn.beta1", "paper/lr_search --part lenet5_mnist"),
    ],
)
def test_a_number_names_the_study_of_its_precision_optimizer_batch_and_device(unanswered, name, words):
    assert unanswered.loc[name, "command"] == f"tiebreak study {words}"


RUNS = "runs that ended in NaN"
MEAN = "final test accuracy, mean over runs"
TIED = "share of windows of pool 1 tied at 0"
NORM = "norm of the Jacobian at a window with 2 maxima"
EFFECT = "mean accuracy minus that of beta=0"
DISTANCE = "distance of weights to the beta=0 run after epoch 1"
RATE = "best learning rate of the search"


def written(folder, quantity, **fields):
    """A file of one published number."""
    row = dict.fromkeys(COLUMNS, "") | {"id": "a.b", "quantity": quantity, "value": "0.5", "unit": "share"}
    path = folder / "published.csv"
    pd.DataFrame([row | fields]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("quantity", "fields", "said"),
    [
        (RUNS, {"n": "0", "value": "0"}, "n of a.b must be a whole number of 1 or more, got '0'"),
        (RUNS, {"n": "", "value": "0"}, "n of a.b must be a whole number of 1 or more, got ''"),
        (MEAN, {"n": ""}, "n of a.b must be a whole number of 1 or more, got ''"),
        (MEAN, {"n": "2.7"}, "n of a.b must be a whole number of 1 or more, got '2.7'"),
        (MEAN, {"n": "inf"}, "n of a.b must be a whole number of 1 or more, got 'inf'"),
        (TIED, {"n": "-3"}, "n of a.b must be a whole number of 1 or more, or empty, got '-3'"),
        (TIED, {"n": "nan"}, "n of a.b must be a whole number of 1 or more, or empty, got 'nan'"),
        (RUNS, {"n": "3", "value": "4"}, "value of a.b must be a whole number from 0 to the 3 of n, got '4'"),
        (RUNS, {"n": "3", "value": "0.5"}, "value of a.b must be a whole number from 0 to the 3 of n"),
        (TIED, {"value": "inf"}, "value of a.b must be a share from 0 to 1, got 'inf'"),
        (TIED, {"value": "nan"}, "value of a.b must be a share from 0 to 1, got 'nan'"),
        (TIED, {"value": ""}, "value of a.b must be a share from 0 to 1, got ''"),
        (TIED, {"value": "-0.1"}, "value of a.b must be a share from 0 to 1, got '-0.1'"),
        (TIED, {"value": "-0.1", "unit": "1"}, "value of a.b must be a share from 0 to 1, got '-0.1'"),
        (TIED, {"low": "0.4", "high": "60"}, "high of a.b must be a share from 0 to 1, or empty, got '60'"),
        (EFFECT, {"value": "-1.2"}, "value of a.b must be a difference of shares, from -1 to 1, got '-1.2'"),
        (RATE, {"value": "0", "unit": "rate"}, "value of a.b must be a finite number above 0, got '0'"),
        (DISTANCE, {"value": "-1"}, "value of a.b must be a finite number of 0 or more, got '-1'"),
        ("weight of the moon", {"value": "1e400", "unit": "1"}, "value of a.b must be a finite number, got"),
        (NORM, {"unit": "1", "value": "70"}, "beta of a.b must be a finite number, got ''"),
        (MEAN, {"n": "3", "beta": "inf"}, "beta of a.b must be a finite number, or empty, got 'inf'"),
        (TIED, {"batch_norm": "yes"}, "batch_norm of a.b must be true, false or empty, got 'yes'"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_is_allowed(quantity, fields, said, tmp_path):
    path = written(tmp_path, quantity, **fields)
    with pytest.raises(UserError, match=re.escape(f"{path}: {said}")):
        read_published(path)


@pytest.mark.parametrize(
    ("quantity", "fields", "value"),
    [
        (EFFECT, {"value": "-0.0167"}, -0.0167),
        ("largest relative error of the blended forward pass", {"value": "8.7"}, 8.7),
        (DISTANCE, {"value": "nan", "unit": "weight (l1)"}, math.nan),
        (RUNS, {"n": "3", "value": "3", "unit": "runs"}, 3.0),
        (TIED, {"value": "0"}, 0.0),
    ],
)
def test_a_field_within_the_range_of_its_quantity_is_read(quantity, fields, value, tmp_path):
    (found,) = read_published(written(tmp_path, quantity, **fields))["value"]
    assert found == pytest.approx(value, abs=0, nan_ok=True)


def shares_of(cell, *, parts, precision, batch_norm, share):
    """Tables of one cell of zones with 20 initialisations of one share, which is in several parts."""
    zones = {
        "cell": cell, "recipe": "published", "arch": "vgg11", "data": "image_folder",
        "folder": "cifar10-jpeg", "precision": precision, "device": "cpu", "selection": "beta",
        "jacobian": "minimal", "beta": 1.0, "batch_norm": batch_norm, "batch_size": 128, "dither": 0.0,
        "num_inits": 20, "num_draws": 80, "share_above_threshold_low": share,
        "share_above_threshold_high": share,
    }  # fmt: skip
    one = {"cell": cell, "recipe": "published", "share_above_threshold": share}
    plan = [
        {"study": study, "part": "p", "num_replicates": number, "command": f"tiebreak study {study}"}
        for study, number in parts.items()
    ]
    return {
        "plan": pd.DataFrame(plan),
        "members": pd.DataFrame([{"study": study, "part": "p", "cell": cell} for study in parts]),
        "zones": pd.DataFrame([zones]),
        "shares": pd.DataFrame([one | {"replicate": number} for number in range(20)]),
    }


def test_a_cell_of_two_parts_is_said_to_be_of_the_one_with_more_replicates():
    parts = {"paper/zones_by_batch_norm": 10, "paper/zones_by_precision": 20, "paper/zones_by_size": 20}
    tables = shares_of("c", parts=parts, precision="fp16_rounded", batch_norm=False, share=1.0)
    published = read_published(PUBLISHED)
    row = compared(published[published["id"] == "zones.vgg11.fp16.share"], tables).iloc[0]
    assert (row["cell"], row["study"]) == ("c", "paper/zones_by_precision")
    assert row["command"] == "tiebreak study paper/zones_by_precision"


ARTEFACTS = {
    "every run NaN": "the accuracy of NaN, which argmax calls class 0",
    "never learned": "a constant: the searched rate is too small to learn anything",
    "every candidate NaN": "eps of Adam is 0 in fp16: 0 / 0 in the first step",
    "defect: alpha and beta are swapped": "another derivative than the one named",
    "defect: two identical networks": "the same, or nothing compared with itself",
    "defect: ranks began with different weights": "gradients of different networks were averaged",
    "defect: printed with stale definitions": "the definitions had changed when the cell was run",
    "artefact: 2^-23 is two subnormal quanta": "the smallest number of a format, not of a gradient",
    "hard-coded": "a number of the program text",
}
"""Defects of the published code or data that stand whatever is reproduced."""


def test_an_artefact_is_a_property_of_the_published_code_or_data(unanswered):
    made = unanswered[unanswered["verdict"] == Verdict.ARTEFACT]
    for row in made.to_dict("records"):
        assert any(word in row["note"] for word in ARTEFACTS), (row["id"], row["note"])
    for word in ARTEFACTS:
        assert made["note"].str.contains(word, regex=False).any(), word


@pytest.mark.parametrize("name", ["share", "share_june"])
def test_what_may_have_made_a_number_is_a_remark_beside_the_comparison(name):
    published = read_published(PUBLISHED)
    row = published[published["id"] == f"zones.vgg11.batch_norm_true.fp32.{name}"]
    tables = shares_of("c", parts={"s": 20}, precision="fp32", batch_norm=True, share=0.2)
    found = compared(row, tables).iloc[0]
    assert found["verdict"] == Verdict.DIFFERS
    assert "initialisations from 20.0" in found["reason"]
    assert found["reason"].endswith("perhaps made by the absolute threshold (section 4.5), as claim 4.5 asks")
