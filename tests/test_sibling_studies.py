"""Cells of a study beside that of max pooling, through every verb that plans, runs, keeps and shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tiebreak.cli import FAULT, MISTAKE, main
from tiebreak.config import compose_run, compose_study, config_folder
from tiebreak.config.composition import Composer, composed, hydra_open, plain, root_of
from tiebreak.design.axes import DesignError, Device
from tiebreak.design.cell import Cell
from tiebreak.design.correctness import Correctness, CorrectnessCell, Statement
from tiebreak.records.record import Record
from tiebreak.records.session import Outcome, OutcomeKind
from tiebreak.records.store import RecordStore

STUDY = """\
question: Does a study of two kinds of cells work?
parts:
  - name: theorems
    replicates: 1
    overrides: [protocol=correctness]
    sweep:
      protocol.statement: [t3, p2, p1_split]
  - name: programs
    replicates: 1
    overrides: [protocol=zero_program, data=mnist5k, precision=fp32]
"""


def cpu():
    return Device.CPU


def tiebreak(*words, cwd):
    command = [sys.executable, "-m", "tiebreak", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment)


def record_files(folder):
    return sorted(folder.glob("results/records/*/*.jsonl"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copytree(config_folder(), tmp_path / "configs")
    (tmp_path / "configs" / "study" / "mixed.yaml").write_text(STUDY)
    monkeypatch.setenv("TIEBREAK_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_root_file_is_that_of_the_chosen_protocol():
    assert root_of([]) == root_of(["arch=vgg11"]) == root_of(["protocol=zones"]) == "config"
    assert root_of(["protocol=zones", "protocol=correctness"]) == "correctness"
    assert root_of(["protocol='correctness'"]) == "correctness"
    assert root_of(["protocol=nothing"]) == "config"


def test_a_cell_is_composed_without_the_axes_of_max_pooling():
    run = compose_run(["protocol=correctness", "protocol.statement=t2_product"], device=cpu)
    expected = CorrectnessCell(measure=Correctness(statement=Statement.T2_PRODUCT))
    assert run.trial.cell == expected
    assert set(run.trial.cell.to_dict()) == {"measure", "execution"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["arch=vgg11"], "arch is no axis of the study of this protocol"),
        (["pool.beta=3"], "pool.beta is no axis"),
        (["batch_norm=true"], "batch_norm is no axis"),
        (["num_ranks=2"], "num_ranks is no axis"),
        (["+arch=vgg11"], "unknown key arch"),
        (["protocol.num_epochs=3"], "protocol.num_epochs is no axis"),
        (["protocol.statement=t99"], "protocol.statement must be one of t1, .* got 't99'"),
        (["device=cuda"], "Use device=cpu"),
    ],
)
def test_axes_of_max_pooling_are_refused(overrides, words):
    with pytest.raises(DesignError, match=words):
        compose_run(["protocol=correctness", "protocol.statement=t1", *overrides], device=cpu)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["protocol.famly=maximum"], r"no key protocol.famly. Did you mean protocol.family\?"),
        (["pool.beta=3"], r"pool.beta is no axis .*; keys: .*protocol.family, (?!.*protocol.statement)"),
    ],
)
def test_the_keys_named_are_those_of_the_chosen_protocol(overrides, words):
    with pytest.raises(DesignError, match=words):
        compose_run(["protocol=enumeration", *overrides], device=cpu)


def test_a_statement_has_to_be_named():
    with pytest.raises(DesignError, match=r"protocol.statement has no value"):
        compose_run(["protocol=correctness"], device=cpu)


def test_a_study_is_composed_as_hydra_alone_would(here):
    study = compose_study("mixed", device=cpu).study
    assert [type(cell) for cell in study.parts[0].cells] == [CorrectnessCell] * 3
    assert isinstance(study.parts[1].cells[0], Cell)
    with hydra_open():
        words = ("protocol=correctness", "protocol.statement=p2", "num_threads=2")
        assert Composer()(words) == plain(composed(words))


def test_learning_rates_are_no_matter_of_such_a_part(here):
    path = here / "configs" / "study" / "mixed.yaml"
    search = (
        "  - name: search\n    replicates: 1\n"
        "    overrides: [protocol=lr_search, data=mnist5k, data.held_out=100]\n"
    )
    path.write_text(
        STUDY.replace("parts:\n", f"parts:\n{search}").replace("sweep:", "lr_from: search\n    sweep:")
    )
    with pytest.raises(
        DesignError, match="lr_from is for protocol=train and drift, got protocol=correctness"
    ):
        compose_study("mixed", device=cpu)
    path.write_text(
        f"{STUDY}  - name: late\n    replicates: 1\n    lr_from: theorems\n    overrides: [data=mnist5k]\n"
    )
    with pytest.raises(DesignError, match="part theorems must be of protocol=lr_search"):
        compose_study("mixed", device=cpu)


def test_every_verb_takes_such_a_study(here, capsys):
    assert main(["study", "mixed", "--dry-run"]) == 0
    assert "0/1 correctness.p1_split" in capsys.readouterr().out
    first = tiebreak("run", "protocol=correctness", "protocol.statement=p2", cwd=here)
    assert first.returncode == 0, first.stderr
    done = tiebreak("study", "mixed", "--workers", "1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "4 trials: 1 were done, 3 ran now" in done.stdout
    assert "3 of 3 statements are as they must be." in done.stdout
    assert len(record_files(here)) == 4

    store = RecordStore(here / "results")
    study = store.read_study("mixed")
    assert study == compose_study("mixed", device=cpu).study
    assert {record.trial for record in store.records()} == set(study.trials)
    assert store.migrate() == 0

    assert main(["tabulate", "mixed"]) == main(["draw", "mixed"]) == main(["report", "mixed"]) == 0
    tables = here / "results" / "tables" / "mixed"
    assert (tables / "zero_programs.csv").exists()
    assert len((tables / "statements.csv").read_text().splitlines()) == 4
    page = (here / "results" / "report.html").read_text()
    assert "2 of 2 theorems hold" in page
    assert "correctness, p1_split" in page

    capsys.readouterr()
    assert main(["status", "mixed"]) == main(["status", "mixed", "--json"]) == 0
    assert "4 trials: 4 done" in capsys.readouterr().out
    assert main(["study", "mixed", "--dry-run"]) == 0
    assert "4 trials, 4 done, 0 left" in capsys.readouterr().out


def test_the_scoreboard_is_read_from_records(here, capsys):
    assert main(["theory", "scoreboard"]) == MISTAKE
    assert "Run `tiebreak study theory/scoreboard`" in capsys.readouterr().err
    (here / "configs" / "study" / "theory" / "scoreboard.yaml").write_text(STUDY)
    assert tiebreak("study", "theory/scoreboard", "--no-report", "--workers", "1", cwd=here).returncode == 0
    assert main(["theory", "scoreboard"]) == 0
    assert "3 of 3 statements are as they must be." in capsys.readouterr().out
    assert main(["theory", "scoreboard", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["theorem"] for row in rows] == ["T3", "P1 control", "P2"]


def test_a_violated_theorem_ends_the_study_with_1(here, capsys):
    store = RecordStore(here / "results")
    for trial in compose_study("mixed", device=cpu).study.trials:
        if isinstance(trial.cell, CorrectnessCell):
            store.write(made_up(trial, violations=1))
    assert main(["study", "mixed", "--no-report", "--part", "theorems"]) == FAULT
    out = capsys.readouterr().out
    assert "NOT as it must be" in out
    assert "1 of 3 statements are as they must be." in out


def made_up(trial, *, violations):
    row = {
        "row": "statement",
        "theorem": str(trial.cell.measure.statement),
        "words": "made up",
        "is_control": trial.cell.measure.statement is Statement.P1_SPLIT,
        "network": "f",
        "machine": "e2m1",
        "points": 3,
        "violations": violations,
        "witness": "f at 0",
        "seconds": 0.0,
    }
    return Record(
        trial=trial,
        provenance={"device": "cpu"},
        rows=(row,),
        outcome=Outcome(kind=OutcomeKind.COMPLETED),
        elapsed_seconds=0.0,
    )


@pytest.mark.parametrize(
    "words",
    [["certify", "protocol=correctness", "protocol.statement=t1"]],
)
def test_verbs_about_networks_refuse_such_a_cell(here, capsys, words):
    assert main(words) == MISTAKE
    assert "got protocol=correctness, which is another study's" in capsys.readouterr().err


NET = "nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))"


def test_a_network_of_the_users_is_certified_at_its_checkpoints(here, capsys):
    (here / "mine.py").write_text(f"from torch import nn\n\n\ndef net():\n    return {NET}\n")
    save_file({"images": torch.rand(3, 1, 6, 6)}, here / "batch.safetensors")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    for name in ("first", "last"):
        save_file(model.state_dict(), here / f"{name}.safetensors")
    words = ["theory", "certify", "--model", "mine:net", "--batch", "batch.safetensors"]
    files = ["--checkpoint", "first.safetensors", "--checkpoint", "last.safetensors"]
    assert main([*words, *files]) == 0
    out = capsys.readouterr().out
    assert out.count("3 of 3 images: AD gives the derivative") == 2
    assert "mine:net, weights of last.safetensors, on batch.safetensors" in out
    assert main([*words, "--checkpoint", "none.safetensors"]) == MISTAKE
    assert main([*words, "--seed", "-1"]) == MISTAKE
    assert main(["theory", "certify", "--model", "mine:nothing", "--batch", "batch.safetensors"]) == MISTAKE


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("half()", "the network cannot be run on images of the shape (3, 1, 6, 6) in torch.float32"),
        ("requires_grad_(False)", "no parameter of the network asks for a derivative"),
    ],
)
def test_a_network_that_cannot_be_certified_is_a_sentence(here, capsys, changed, said):
    (here / "theirs.py").write_text(f"from torch import nn\n\n\ndef net():\n    return {NET}.{changed}\n")
    save_file({"images": torch.rand(3, 1, 6, 6)}, here / "batch.safetensors")
    sys.modules.pop("theirs", None)
    words = ["theory", "certify", "--model", "theirs:net", "--batch", "batch.safetensors"]
    assert main(words) == MISTAKE
    assert said in capsys.readouterr().err
