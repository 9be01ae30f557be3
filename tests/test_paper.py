"""Published numbers as a table, the map of them, and what a re-implementation has to get right."""

from __future__ import annotations

import csv
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from tiebreak import max_pool2d
from tiebreak.config import compose_studies, compose_study, list_studies
from tiebreak.design.axes import Arch, DataName, Device, Forward, OptimizerName, PoolJacobian, Precision
from tiebreak.design.cell import Network
from tiebreak.models import build
from tiebreak.records.store import RecordStore

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = [
    "id", "origin", "where", "quantity", "arch", "data", "precision", "optimizer", "batch_norm", "beta", "n",
    "value", "low", "high", "unit", "note",
]  # fmt: skip
BETAS = (0, 1, 10, 100, 1000, 10000)


@pytest.fixture(scope="module")
def published():
    with (ROOT / "results" / "paper" / "published.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert reader.fieldnames == COLUMNS
    return {row["id"]: row for row in rows} if len({row["id"] for row in rows}) == len(rows) else None


def test_every_row_says_where_it_comes_from_and_in_which_unit(published):
    assert published is not None, "an id stands twice"
    for row in published.values():
        assert row["origin"] in {"P", "R-code", "R-out", "R-csv", "R-pkl", "R-fig", "T", "I", "M"}, row
        assert row["where"], row
        assert row["quantity"], row
        assert row["unit"], row
        value = float(row["value"])
        if row["low"] or row["high"]:
            assert float(row["low"]) <= value <= float(row["high"]), row
        if row["unit"] == "share" and not row["id"].startswith("forward_error"):
            assert abs(value) <= 1, row  # percent stand on axes only


def test_the_words_of_the_axes_are_ours(published):
    spelled = {
        "precision": set(Precision),
        "arch": set(Arch),
        "data": {*DataName, "digits"},
        "optimizer": set(OptimizerName),
        "batch_norm": {"true", "false"},
    }
    for row in published.values():
        for column, known in spelled.items():
            assert row[column] in known | {""}, row
        assert row["beta"] in {"", *map(str, BETAS)}, row


def test_accuracies_are_complete(published):
    """143 cells of training, as they were committed: 138 of small networks and 5 of ImageNet."""
    means = [
        key for key in published if key.startswith("accuracy.") and key.split(".")[-1].startswith("beta")
    ]
    assert len(means) == 138 + 1  # and one that was broken off
    runs = sum(int(published[key]["n"]) for key in means)
    assert runs == 372 + 300 + 240 + 72 + 60 + 1
    assert published["accuracy.vgg11.cifar10.fp32.sgd.nobn.beta10000"]["value"] == "0.2619"
    assert published["accuracy.vgg11.cifar10.fp32.sgd.nobn.beta10000.nan_runs"]["value"] == "2"


def test_the_single_runs_of_a_cell_give_its_published_mean_and_spread(published):
    key = "accuracy.vgg11.cifar10.fp32.sgd.nobn.beta10000"
    finals = [float(published[f"{key}.run{number}.final"]["value"]) for number in range(1, 6)]
    assert statistics.mean(finals) == pytest.approx(float(published[key]["value"]), abs=5e-5)
    assert statistics.stdev(finals) == pytest.approx(float(published[f"{key}.sd"]["value"]), abs=5e-5)
    lost = [name for name in published if name.startswith(f"{key}.") and name.endswith("nan_epoch")]
    assert len(lost) == int(published[f"{key}.nan_runs"]["value"])


def test_counts_of_cells_and_runs_are_those_of_the_published_means(published):
    """Every cell of training that is counted has its mean, and they sum to what is said of all."""
    means = {
        key: row
        for key, row in published.items()
        if row["quantity"].startswith(("final test accuracy, mean", "top-1 accuracy at the last epoch, mean"))
        and key.partition("vgg11.cifar10.")[2] != "amp16.sgd.bn.beta0"  # broken off and not counted
    }
    counts = {"cells": 0, "runs": 0}
    for key, row in published.items():
        if not (named := re.fullmatch(r"matrix\.(\w+\.\w+)\.(cells|runs)", key)) or not row["arch"]:
            continue
        mine = [mean for mean in means.values() if (mean["arch"], mean["data"]) == (row["arch"], row["data"])]
        found = len(mine) if named[2] == "cells" else sum(int(mean["n"]) for mean in mine)
        assert found == int(row["value"]), key
        counts[named[2]] += found
    assert counts == {name: int(published[f"matrix.total.{name}"]["value"]) for name in counts}
    core = {"lenet5", "vgg11", "resnet18"}
    pure = [row for row in means.values() if row["arch"] in core and row["precision"] in ("fp16", "fp32")]
    assert int(published["matrix.factorial"]["value"]) == 4 * 2 * 2 * 2 * len(BETAS)
    assert len(pure) == int(published["matrix.factorial.published"]["value"])


def test_examples_of_the_blended_forward_in_fp16_are_what_it_computes(published):
    examples = [row for row in published.values() if row["quantity"].startswith("value of the blended")]
    assert len(examples) == 5
    for row in examples:
        value = float(row["quantity"].partition("x=")[2])
        window = torch.full((1, 1, 2, 2), value, dtype=torch.float16)
        jacobian = PoolJacobian(beta=float(row["beta"]), forward=Forward.BLENDED)
        pooled = max_pool2d(window, kernel=2, jacobian=jacobian)
        torch.testing.assert_close(
            pooled.flatten(),
            torch.tensor([float(row["value"])], dtype=torch.float16),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


def test_published_shares_are_multiples_of_one_mini_batch(published):
    for key, row in published.items():
        if key.startswith("zones.") and row["n"] and (counts := re.match(r"(\d+) of (\d+)", row["note"])):
            assert row["n"] == counts[2], key
            assert float(row["value"]) == pytest.approx(int(counts[1]) / int(counts[2]), abs=6e-5), key


def test_norms_of_the_jacobians_are_the_stated_ones_in_every_digit(published):
    for beta in BETAS:
        for num_tied in (2, 3, 4):
            row = published[f"jacobian_norm.k{num_tied}.beta{beta}"]
            assert row["origin"] == "I", "nothing published states a norm"
            digits = len(row["value"].partition(".")[2])
            assert f"{PoolJacobian(beta=beta).norm(num_tied):.{digits}f}" == row["value"], row["id"]
            squared = 1 - (1 - 1 / num_tied) * beta * (2 - beta)
            assert PoolJacobian(beta=beta).norm(num_tied) == pytest.approx(math.sqrt(squared), rel=1e-12)


def test_networks_have_as_many_parameters_as_the_published_ones(published):
    for key, row in published.items():
        if not key.startswith("parameters."):
            continue
        network = Network(arch=Arch(row["arch"]), batch_norm=row["batch_norm"] == "true")
        in_channels = 1 if row["arch"] == "lenet5" else 3
        num_classes = 1000 if row["arch"] == "resnet50" else 10
        model = build(network, num_classes=num_classes, in_channels=in_channels, seed=0)
        assert sum(parameter.numel() for parameter in model.parameters()) == int(row["value"]), key


def test_the_map_names_every_study_of_the_paper_and_no_other():
    text = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
    named = set(re.findall(r"`((?:paper|beyond)/\w+)`", text))
    assert named == {name for name in list_studies() if name.startswith(("paper/", "beyond/"))}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the map that has trials, and what it is about."""

    number: int
    text: str
    study: str
    parts: tuple[str, ...]
    num_trials: int
    status: str


@pytest.fixture(scope="module")
def studies():
    names = [name for name in list_studies() if name.startswith(("paper/", "beyond/"))]
    return {run.study.name: run.study for run in compose_studies(names, device=lambda: Device.CPU)}


@pytest.fixture(scope="module")
def lines(studies):
    found, study = [], ""
    for number, text in enumerate((ROOT / "docs" / "paper_map.md").read_text("utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if len(cells) not in (4, 5) or not cells[2].replace(",", "").isdigit():
            continue
        # What stands in brackets are parts of another study that share the records.
        words = re.findall(r"`([^`]+)`", re.sub(r"\(.*?\)", "", cells[1]))
        study = next((word for word in words if word in studies), study)
        parts = [word for word in words if word not in studies]
        every = tuple(part.name for part in studies[study].parts)
        found.append(
            Line(
                number=number,
                text=text,
                study=study,
                parts=tuple(parts) or every,
                num_trials=int(cells[2].replace(",", "")),
                status=cells[-1],
            )
        )
    return found


def test_the_map_has_the_parts_and_trials_of_the_studies(lines, studies):
    for line in lines:
        counts = {part.name: len(part.trials) for part in studies[line.study].parts}
        assert sum(counts[part] for part in line.parts) == line.num_trials, line.text
    named = [(line.study, part) for line in lines for part in line.parts]
    assert sorted(named) == sorted((name, part.name) for name in studies for part in studies[name].parts)


def test_the_map_says_of_each_part_what_its_records_say(lines, studies):
    """Parts are read as they were run: of an image folder they name the images, which composing does not."""
    store = RecordStore(ROOT / "results")
    ran = {name: store.read_study(name) for name in store.studies() if name in studies}
    wrong = []
    for line in lines:
        parts = {part.name: part for part in studies[line.study].parts}
        if line.study in ran:
            parts |= {part.name: part for part in ran[line.study].parts}
        trials = [trial for name in line.parts for trial in parts[name].trials]
        num_done = sum(store.path(trial).exists() for trial in trials)
        word = "not run" if not num_done else f"partly ({num_done:,} of {len(trials):,})"
        word = "run" if num_done == len(trials) else word
        said, _, where = line.status.partition(", ")
        assert where.startswith(("CPU", "GPU")), f"line {line.number} must say CPU or GPU: {line.text}"
        if said != word:
            wrong.append(f"line {line.number}: {line.study} {', '.join(line.parts)}: '{word}, {where}'")
    assert not wrong, "docs/paper_map.md: write as status\n" + "\n".join(wrong)


def test_each_study_opens_with_its_question_and_command_and_has_a_hypothesis():
    for name in list_studies():
        if not name.startswith(("paper/", "beyond/")):
            continue
        text = (ROOT / "configs" / "study" / f"{name}.yaml").read_text("utf-8")
        first, second, *_ = text.splitlines()
        assert re.fullmatch(r"# .*\?", first), name
        assert second.startswith(f"# tiebreak study {name}"), name
        assert yaml.safe_load(text)["hypothesis"].endswith("."), name


def test_the_arms_of_forward_arm_are_the_records_of_accuracy_by_beta():
    def part(study, name):
        found = compose_study(study, device=lambda: Device.CPU).study.parts
        return next(part for part in found if part.name == name)

    for suffix in ("", "_fp64"):
        arms = part("beyond/forward_arm", f"arms{suffix}")
        assert {trial.id for trial in arms.trials} == {
            trial.id for trial in part("paper/accuracy_by_beta", f"lenet5_mnist{suffix}").trials
        }
