"""Cells of the study through measuring, records, tables, figures and the verbs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from memory_session import MemorySession

from tiebreak.cli import MISTAKE, main
from tiebreak.cli.measuring import measure
from tiebreak.config import compose_run, compose_study
from tiebreak.design.axes import DesignError, Device
from tiebreak.design.cell import Trial
from tiebreak.design.descent import DescentCell, Floors, Lasso, Pruning, Scalar, Sharpness, Training
from tiebreak.design.descent_axes import Kink, Source
from tiebreak.design.stored import read_cell
from tiebreak.design.study import Part, Study
from tiebreak.records.record import Record
from tiebreak.records.session import OutcomeKind, Stopped
from tiebreak.records.store import RecordStore
from tiebreak.report.descent_evidence import kinked_bowl
from tiebreak.report.figures import FIGURES, draw_figures
from tiebreak.report.html import write_report
from tiebreak.report.table_files import read_tables, write_tables

NETWORKS = {
    "data": Source.SYNTHETIC,
    "num_examples": 40,
    "num_test": 30,
    "side": 3,
    "width": 8,
    "num_seeds": 2,
}
BOWL = Scalar(loss="kinked_bowl", lrs=(0.1, 0.5, 0.9), steps=1000)


def cpu():
    return Device.CPU


def cell(measure):
    return DescentCell(measure=measure)


def kept(tmp_path, name, *measures):
    """A results folder with the records of one study."""
    store = RecordStore(tmp_path / "results")
    part = Part(name="all", cells=tuple(cell(item) for item in measures), num_replicates=1)
    study = Study(name=name, question="Does it work?", parts=(part,))
    for trial in study.trials:
        session = MemorySession(data_root=tmp_path)
        outcome = measure(trial, session)
        store.write(
            Record(
                trial=trial,
                provenance={"device": "cpu"},
                rows=tuple(session.rows),
                outcome=outcome,
                elapsed_seconds=0.0,
            )
        )
    store.write_study(study)
    return store, study


@pytest.mark.parametrize("protocol", sorted(DescentCell.PROTOCOLS))
def test_a_protocol_composes_to_the_defaults_of_its_class_and_is_read_back(protocol):
    composed = compose_run([f"protocol={protocol}"], device=cpu).trial.cell
    assert composed == cell(DescentCell.PROTOCOLS[protocol]())
    again = read_cell(json.loads(json.dumps(composed.to_dict())))
    assert again == composed
    assert again.id == composed.id
    assert composed.words[0] == protocol
    assert all(not isinstance(value, list | tuple) for value in composed.axes().values())


def test_a_number_that_moves_nothing_gives_no_other_cell():
    one = compose_run(["protocol=descent_lasso", "protocol.lrs=[1,0.1]"], device=cpu).trial.cell
    other = compose_run(["protocol=descent_lasso", "protocol.lrs=[1.0,1e-1]"], device=cpu).trial.cell
    assert one.id == other.id
    assert one.axes()["lrs"] == "1 0.1"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["protocol=descent_lasso", "arch=vgg11"], "arch is no axis of the study of this protocol"),
        (["protocol=descent_lasso", "precision=fp16"], "precision is no axis"),
        (["protocol=descent_lasso", "protocol.precision=tf32"], "descent_lasso must be one of fp64, fp32"),
        (["protocol=descent_floors", "protocol.precision=fp32"], "descent_floors must be one of fp64, got"),
        (["protocol=descent_lasso", "protocol.penalties=0.1"], "protocol.penalties must be a list"),
        (["protocol=descent_lasso", "protocol.lrs=[0.1,a]"], "protocol.lrs must be a"),
        (["protocol=descent_kinks", "protocol.data=cifar10"], "protocol.data must be one of mnist5k"),
    ],
)
def test_what_cannot_be_is_a_sentence(overrides, words):
    with pytest.raises(DesignError, match=words):
        compose_run(overrides, device=cpu)


def test_claims_are_about_cells_of_the_parts_of_the_study_too():
    claims = {trial.cell.id for trial in compose_study("descent/claims", device=cpu).study.trials}
    rest = {
        trial.cell.id
        for name in ("rates", "l1", "eos")
        for trial in compose_study(f"descent/{name}", device=cpu).study.trials
    }
    assert claims <= rest
    for name in ("claims", "rates", "l1", "eos"):
        study = compose_study(f"descent/{name}", device=cpu).study
        assert study.question
        assert study.hypothesis


def test_a_trial_that_is_stopped_begins_anew_and_ends_with_the_same_rows(tmp_path):
    trial = Trial(cell=cell(Training(lrs=(0.1,), steps=30, **NETWORKS)), replicate=1)
    whole = MemorySession(data_root=tmp_path)
    assert measure(trial, whole).kind is OutcomeKind.COMPLETED

    class Impatient(MemorySession):
        def wants_checkpoint(self):
            return True

        def save(self, tensors, state):
            raise Stopped("asked to")

    with pytest.raises(Stopped):
        measure(trial, Impatient(data_root=tmp_path))
    again = MemorySession(data_root=tmp_path)
    measure(trial, again)
    assert again.rows == whole.rows
    other = MemorySession(data_root=tmp_path)
    measure(Trial(cell=trial.cell, replicate=0), other)
    assert other.rows != whole.rows


def test_the_verb_reads_what_the_study_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["descent", "claims"]) == MISTAKE
    assert "Run `tiebreak study descent/claims`" in capsys.readouterr().err
    kept(tmp_path, "descent/claims", BOWL)
    assert main(["descent", "claims", "C9"]) == 0
    assert "C9   FAILS (0 of 6 checks)" in capsys.readouterr().out
    assert main(["descent", "claims", "c9", "results=results", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["verdict"]) == ("C9", "fails")
    file = tmp_path / "claims.txt"
    assert main(["descent", "claims", "C9", "--output", str(file)]) == 0
    assert "C9   FAILS" in file.read_text("utf-8")
    capsys.readouterr()
    for words, sentence in (
        (["C99"], "no claim C99"),
        (["C9", "C1"], "C1 cannot be judged: trials are missing"),
        (["C9", "--output", "missing/file"], "--output missing/file is no file"),
        (["C9", "data_root=x"], "takes results=DIR"),
    ):
        assert main(["descent", "claims", *words]) == MISTAKE
        assert sentence in capsys.readouterr().err


def test_tables_read_back_give_the_same_verdicts_and_the_page_has_them(tmp_path):
    store, study = kept(tmp_path, "bowls", BOWL)
    folder = store.root / "tables" / "bowls"
    written = write_tables(store, study, folder)
    again = read_tables(folder)
    assert set(written) == {"trials", "outcomes", "limits", "descent_claims", "descent_checks"}
    assert kinked_bowl(again) == kinked_bowl(written)
    assert again["descent_checks"]["passed"].tolist() == [False] * 6
    page = write_report(store.root, study, tmp_path / "page.html").read_text("utf-8")
    assert "C9 fails (0 of 6 checks)" in page
    assert "descent_scalar, kinked_bowl" in page


def test_every_figure_of_the_study_is_drawn_from_its_tables(tmp_path):
    penalties = tuple(np.geomspace(0.1, 10, 10))
    grid = tuple(np.linspace(0.5, 4, 12))
    store, study = kept(
        tmp_path,
        "small",
        *(
            Floors(activation=shape, delta=delta, lrs=(0.03, 0.3), num_problems=2, steps=60, window=9)
            for shape, delta in (("relu", 0.0), ("c1relu", 0.1))
        ),
        Floors(lr_unit="target", lrs=(0.1, 1e-9), num_problems=2, steps=60, window=9),
        *(
            Training(activation=shape, delta=delta, lrs=(0.1, 1e9), steps=9, **NETWORKS)
            for shape, delta in (("relu", 0.0), ("c1relu", 1.0))
        ),
        Lasso(penalties=penalties, num_problems=2, steps=50, window=9),
        Lasso(penalties=(2.0,), num_problems=1, steps=50, window=9, num_traced=5),
        Pruning(lrs=(0.1,), penalties=(0.0, 0.1), steps=9, window=5, **NETWORKS),
        *(
            Scalar(loss=loss, lrs=grid, num_starts=20, steps=60, window=9, num_kept=5)
            for loss in ("huber", "sqrt1", "quadratic")
        ),
        *(
            Scalar(precision=name, lrs=(0.5, 2.0**-7), num_starts=20, steps=60, window=9)
            for name in ("fp64", "bf16")
        ),
        DescentCell.PROTOCOLS["descent_regression"](
            loss="quadratic", lrs=(0.5, 1.5), num_problems=2, steps=900
        ),
        Sharpness(lrs=(0.1, 1e9), steps=9, every=5, num_products=5, **NETWORKS),
        *(
            DescentCell.PROTOCOLS["descent_kinks"](
                precision=name,
                kink=kink,
                weight_penalty=0.1 if kink is Kink.PENALTY else 0.0,
                steps=9,
                **NETWORKS,
            )
            for name in ("fp64", "bf16")
            for kink in Kink
        ),
    )
    folder = store.root / "tables" / "small"
    tables = write_tables(store, study, folder)
    written = draw_figures(folder, store.root / "figures" / "small")
    names = {path.stem for path in written}
    assert names == {
        "rates", "network_losses", "l1_norms", "pruning", "stability", "sharpness", "kinks"
    }  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in written)

    drawn = {kind.name: kind.draw(tables) for kind in FIGURES if kind.name in names}

    def line(name, gid):
        return next(artist for axes in drawn[name].axes for artist in axes.lines if artist.get_gid() == gid)

    floors = tables["floors"]
    relu = floors[(floors["activation"] == "relu") & (floors["lr_unit"] == "one")]
    assert list(line("rates", "floor:relu").get_ydata()) == list(relu.groupby("asked")["floor"].median())
    norms = tables["lasso"][tables["lasso"]["penalties"].str.count(" ") == 9]
    ratio = (norms["norm"] / norms["norm_unpenalised"]).groupby(norms["relative"].round(6)).median()
    assert list(line("l1_norms", "norm:gd 0.1").get_ydata()) == list(ratio)
    limits = tables["limits"]
    huber = limits[limits["loss"] == "huber"].sort_values("lr")
    assert list(line("stability", "amplitude:huber").get_ydata()) == list(huber["amplitude_median"])
    words = [
        text.get_text()
        for name in ("stability", "sharpness")
        for axes in drawn[name].axes
        for text in axes.texts
    ]
    assert "quadratic diverged from 1.5 on" in words
    assert "diverged: 2 at lr 1e+09" in words
    kinks = tables["kinks"]
    last = kinks[(kinks["kink"] == "penalty") & (kinks["step"] == 9)]
    shares = (last["weight_hits"] / last["weight_seen"]).groupby(last["precision"]).mean()
    assert list(line("kinks", "hits:weights at 0 (L1 penalty)").get_ydata()) == [
        shares["bf16"],
        shares["fp64"],
    ]
