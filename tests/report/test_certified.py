"""Certified labels beside thresholds: tables, figures and sentences against counts made by hand."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from tiebreak.design.axes import MINIMAL, NATIVE, PoolJacobian, Precision
from tiebreak.design.cell import Trajectory, Zones
from tiebreak.design.study import Part, Study
from tiebreak.records.store import RecordStore
from tiebreak.report.answers import answers
from tiebreak.report.certified import Truth, Verdict, certified_table, confusion_table, verdict, window_table
from tiebreak.report.certified_figures import confusion_figure, truth_figure, windows_figure
from tiebreak.report.figures import FIGURES, draw_figures
from tiebreak.report.html import page
from tiebreak.report.panels import context, precisions, setting
from tiebreak.report.style import OKABE_ITO
from tiebreak.report.table_files import read_tables, write_tables
from tiebreak.report.tables import read_frames
from tiebreak.report.zones import Zone

NAN = math.nan
RESULTS = Path(__file__).parents[2] / "results"

# (label, gap_sup_sum, gap_relative) by (protocol, precision), replicate and, in a list, draw. Above 1e-7 the
# published threshold says bifurcation in fp32, above 64 * 2**-24 = 3.8e-6 the relative one in all three.
DRAWS = {
    ("zones", "fp32"): (
        [("compensation", 1e-8, 1e-7), ("compensation", 2e-7, 1e-6), ("masked_bifurcation", 0.0, 0.0)],
        [("bifurcation", 1e-3, 1e-3), ("bifurcation", 1e-9, 1e-8), ("undecided", 1e-3, 1e-3)],
    ),
    ("zones", "e4m3"): (
        [("bifurcation", 1e-3, 1e-3), ("nonfinite", NAN, NAN), ("regular", 0.0, 0.0)],
        [("bifurcation", 1e-3, 1e-7), ("bifurcation", 1e-3, 1e-7), ("bifurcation", 1e-3, 1e-7)],
    ),
    ("trajectory", "fp32"): (
        [
            ("regular", 0.0, 0.0), ("compensation", 1e-8, 1e-7),  # untrained
            ("bifurcation", 1.0, 1.0), ("compensation", 1e-6, 5e-7),  # after one epoch
        ],
    ),
}  # fmt: skip
BY_HAND = {
    # (protocol, precision, recipe): right, false alarms, misses, nothing said or not known
    ("zones", "fp32", "published"): (2, 1, 2, 1),
    ("zones", "fp32", "relative"): (3, 0, 2, 1),
    ("zones", "e4m3", "published"): (1, 0, 0, 5),
    ("zones", "e4m3", "relative"): (2, 0, 3, 1),
    ("trajectory", "fp32", "published"): (3, 1, 0, 0),
    ("trajectory", "fp32", "relative"): (4, 0, 0, 0),
}


def draw_rows(draw, label, size, relative, **more):
    """The rows that a protocol leaves for one draw, and one pool of 1,000 windows."""
    same = {"draw": draw, "jacobian": "minimal", "beta": 1.0} | more
    nonfinite = label == "nonfinite"
    yield {
        "row": "gap", "gap_l1": size, "gap_l2": size, "gap_sup_sum": size, "gap_sup": size,
        "gap_relative": relative, "nonfinite": nonfinite, "live_ties": 3,
    } | same  # fmt: skip
    evidence = {
        "num_nonzero": 7 if "bifurcation" in label else 0, "primes": "1009 1013", "log2_error": -50.0 + draw,
        "num_escalated": 2, "digits": 4, "vacuous": label == "regular",
    }  # fmt: skip
    is_known = label not in ("nonfinite", "undecided")
    different = "bifurcation" in label if is_known else None
    yield {"row": "certificate", "label": label, "different": different} | (
        same | evidence if is_known else same
    )
    yield {
        "row": "pool_truth", "draw": draw, "pool": 0, "windows": 1000, "tied": 400 + draw,
        "tied_at_dead_zero": 300, "tied_in_floats": 405, "tied_only_by_rounding": 5 if draw else 0,
        "missed_by_rounding": 0, "other_maxima": 6,
    } | more  # fmt: skip
    yield {
        "row": "pool", "draw": draw, "pool": 0, "windows": 1000, "tied": 405, "tied_at_zero": 300,
        "tied_above_zero": 105, "tied_below_zero": 0, "mean_multiplicity": 2.0, "max_multiplicity": 4,
        "margin_median_ulps": None, "margin_min_ulps": None,
    } | more  # fmt: skip


def rows_of(trial):
    protocol = trial.cell.protocol
    draws = DRAWS[(protocol, str(trial.cell.precision))][trial.replicate]
    for place, (label, size, relative) in enumerate(draws):
        epoch, draw = divmod(place, 2) if protocol == "trajectory" else (None, place)
        more = {} if epoch is None else {"epoch": epoch}
        yield from draw_rows(draw, label, size, relative, **more)


@pytest.fixture(scope="module")
def made(conftest_module, tmp_path_factory):
    """Store and study of the draws above."""
    cell, rules = conftest_module.cell, (NATIVE, MINIMAL)
    certify = Zones(num_batches=3, certify=True)
    study = Study(
        name="labels",
        question="Does a threshold know?",
        parts=(
            Part(
                name="init",
                cells=tuple(cell(certify, *rules, precision=Precision(item)) for item in ("fp32", "e4m3")),
                num_replicates=2,
            ),
            Part(
                name="along",
                cells=(cell(Trajectory(num_epochs=1, num_batches=2), *rules),),
                num_replicates=1,
            ),
        ),
    )
    store = RecordStore(tmp_path_factory.mktemp("labels"))
    store.write_study(study)
    for trial in study.trials:
        store.write(conftest_module.record(trial, rows=list(rows_of(trial))))
    return store, study


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    where = tmp_path_factory.mktemp("tables")
    write_tables(*made, where)
    return where


@pytest.fixture(scope="module")
def tables(folder):
    return read_tables(folder)


def test_labels_are_counted_as_by_hand(tables):
    table = tables["certified"].assign(epoch=tables["certified"]["epoch"].fillna(-1).astype(int))
    shown = table.set_index(["protocol", "precision", "epoch"]).sort_index()
    row = shown.loc[("zones", "fp32", -1)]
    assert [row[f"num_{name}"] for name in ("regular", "compensation", "bifurcation")] == [0, 2, 2]
    assert (row["num_masked_bifurcation"], row["num_undecided"], row["num_nonfinite"]) == (1, 1, 0)
    assert (row["num_draws"], row["num_inits"], row["gap_relative_max_equal"]) == (6, 2, 1e-6)
    assert (row["num_nonzero_max"], row["num_primes_max"], row["log2_error_max"]) == (7, 2, -48.0)
    assert (row["num_escalated"], row["digits_max"], row["num_vacuous"]) == (10, 4, 0)
    row = shown.loc[("zones", "e4m3", -1)]
    assert (row["num_bifurcation"], row["num_nonfinite"], row["num_vacuous"]) == (4, 1, 1)
    assert shown.loc[("trajectory", "fp32", 0), "num_regular"] == 1
    assert shown.loc[("trajectory", "fp32", 1), "num_bifurcation"] == 1


def verdicts(table):
    return pd.Series(
        [str(verdict(*pair)) for pair in zip(table["zone"], table["truth"], strict=True)], index=table.index
    )


def test_confusion_is_that_of_a_count_by_hand(tables):
    table = tables["confusion"].assign(verdict=verdicts(tables["confusion"]))
    for (protocol, precision, recipe), expected in BY_HAND.items():
        part = table[
            (table["protocol"] == protocol) & (table["precision"] == precision) & (table["recipe"] == recipe)
        ]
        found = part.groupby("verdict")["num_draws"].sum()
        assert tuple(int(found.get(str(kind), 0)) for kind in Verdict) == expected
    unknown = table[table["truth"].isin([Truth.UNDECIDED, Truth.NONFINITE])]
    assert set(unknown["truth"]) == {"undecided", "nonfinite"}


@pytest.mark.parametrize("zone", [*Zone])
@pytest.mark.parametrize("truth", [*Truth])
def test_a_verdict_needs_a_word_and_a_truth(zone, truth):
    says = {"bifurcation": True, "compensation": False, "regular": False}.get(zone)
    known = {"different": True, "equal": False}.get(truth)
    if says is None or known is None:
        assert verdict(zone, truth) is Verdict.NONE
    else:
        names = {(1, 1): "right", (0, 0): "right", (1, 0): "false_alarm", (0, 1): "miss"}
        assert verdict(zone, truth) == names[(int(says), int(known))]


def test_windows_of_untrained_networks_are_counted_beside_those_along_training(tables):
    windows = tables["windows"]
    assert windows["windows"].sum() == 1000 * sum(len(draws) for per in DRAWS.values() for draws in per)
    untrained = windows[windows["epoch"].isna() & (windows["precision"] == "fp32")].iloc[0]
    assert untrained["windows"] == 6000
    assert untrained["tied"] == 2 * (400 + 401 + 402)
    assert untrained["tied_only_by_rounding"] == 4 * 5


def test_eight_bits_come_before_the_others(tables):
    assert precisions(tables["certified"]) == ["e4m3", "fp32"]
    zones = tables["certified"][tables["certified"]["protocol"] == "zones"]
    assert zones["precision"].tolist() == ["e4m3", "fp32"]


def tiles(figure):
    """Counts that a figure prints, by the id of the tile."""
    return [
        (axes, text.get_gid().removeprefix("count:"), text.get_text())
        for axes in figure.axes
        for text in axes.texts
        if str(text.get_gid() or "").startswith("count:")
    ]


def test_every_draw_stands_in_a_tile_of_the_confusion(tables):
    confusion = tables["confusion"]
    figure = confusion_figure(confusion)
    shown = sorted(int(text) for _, _, text in tiles(figure) if text != "0")
    per_tile = confusion.assign(epoch=0).groupby(["cell", "recipe", "zone", "truth"])["num_draws"].sum()
    assert shown == sorted(per_tile)
    marks = {str(kind): 0 for kind in Verdict}
    names = {0: "right", 1: "false_alarm", 3: "miss"}
    palette = {to_rgb(OKABE_ITO[place]): name for place, name in names.items()}
    for axes in figure.axes:
        numbers = {text.get_gid(): text.get_text() for text in axes.texts}
        for patch in axes.patches:
            assert isinstance(patch, Rectangle)
            number = int(numbers[f"count:{patch.get_gid()}"])
            red, green, blue, strength = patch.get_facecolor()
            assert (strength == 0) == (number == 0)
            marks[palette.get((red, green, blue), "none")] += number
    by_hand = [sum(column) for column in zip(*BY_HAND.values(), strict=True)]
    assert list(marks.values()) == by_hand


def test_a_count_of_one_in_a_thousand_can_be_seen(tables):
    many = tables["confusion"].assign(num_draws=lambda table: 999 * table["num_draws"] + 1)
    for axes in confusion_figure(many).axes:
        for patch in axes.patches:
            assert patch.get_facecolor()[3] == 0 or patch.get_facecolor()[3] >= 0.25


def test_truth_along_training_prints_the_table(tables):
    figure = truth_figure(tables["certified"])
    assert {(name, text) for _, name, text in tiles(figure)} == {("fp32:0", "0 of 2"), ("fp32:1", "1 of 2")}
    lost = tables["certified"].assign(num_undecided=1, num_masked_bifurcation=1)
    assert {text for _, _, text in tiles(truth_figure(lost))} == {
        "1 of 2, 1 undecided",
        "2 of 2, 1 undecided",
    }


def test_windows_are_the_shares_of_the_table_and_zero_is_on_the_page(tables):
    windows = tables["windows"]
    figure = windows_figure(windows)
    figure.draw_without_rendering()
    marks = [line for axes in figure.axes for item in axes.containers for line in [item.lines[0]]]
    found = sorted(value for line in marks for value in np.asarray(line.get_ydata(), dtype=float))
    expected = []
    for _, part in windows.groupby("cell"):
        total = part["windows"].sum()
        live = part["tied"].sum() - part["tied_at_dead_zero"].sum()
        for number in (part["tied"].sum(), live, part["tied_only_by_rounding"].sum(), 0):
            expected.append(100 * number / total)
    assert found == pytest.approx(sorted(expected), rel=4 * 2**-53)
    dead = [line for axes in figure.axes for line in axes.lines if str(line.get_gid()).startswith("dead:")]
    assert [line.get_ydata().tolist() for line in dead] == [[30.0]] * 3
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low < 0
        assert high >= 100


def test_figures_of_labels_are_written_where_there_are_labels(folder, tmp_path):
    written = {path.stem for path in draw_figures(folder, tmp_path)}
    assert {"confusion", "truth_along_training", "windows", "zones", "gaps", "ties"} == written


def test_without_epochs_there_is_no_figure_along_training(tables):
    kind = next(kind for kind in FIGURES if kind.name == "truth_along_training")
    untrained = tables["certified"][tables["certified"]["epoch"].isna()].drop(columns="epoch")
    assert kind.can_draw(tables)
    assert not kind.can_draw({**tables, "certified": untrained})
    confusion = tables["confusion"][tables["confusion"]["epoch"].isna()].drop(columns="epoch")
    assert tiles(confusion_figure(confusion))
    windows = tables["windows"][tables["windows"]["epoch"].isna()].drop(columns="epoch")
    windows_figure(windows).draw_without_rendering()


def test_captions_say_that_a_label_is_about_g_and_which_draws_are_left_out(tables, tables_folder):
    for kind in FIGURES:
        if kind.table in ("confusion", "certified", "windows"):
            assert "cotangent g" in kind.caption
            assert "fixed" in kind.caption
        is_of_zones = kind.name in ("zones", "gaps", "ties")
        assert ("along training" in kind.words(tables).removeprefix(kind.caption)) == is_of_zones
        assert kind.words(read_tables(tables_folder)) == kind.caption


def test_the_first_sentences_are_those_of_the_tables(tables):
    sentences = answers(tables, ["zones", "trajectory"])
    # Different: 2 + 1 masked of 6 in fp32, 4 of 6 in e4m3, 1 of 2 along training but its start.
    assert sentences[0].startswith("Truth: over the reals the rule at ties changes the gradient in 8 of 14 ")
    assert "e4m3 4 of 6, fp32 4 of 8" in sentences[0]
    # Alarms: 2e-7, 1e-3, 1e-3 undecided; 1.0, 1e-6. Relative: 2 in fp32, 1 in e4m3, 1 along training.
    assert "published threshold gives 5 alarms, 2 of them false, and misses 2 bifurcations" in sentences[0]
    assert "has no number for 4 of them" in sentences[0]
    assert "relative threshold gives 4 alarms, 0 of them false, and misses 5 bifurcations" in sentences[0]
    untrained, along = sentences[1:3]
    assert untrained.startswith("Setting untrained: bifurcations e4m3 4 of 6, fp32 3 of 6 (1 of them with no")
    published = "Published threshold: false alarms fp32 1 of 3; missed fp32 2 of 3 (no threshold for e4m3). "
    assert published in untrained
    relative = "Relative threshold: false alarms e4m3 0 of 1, fp32 0 of 2; missed e4m3 3 of 4, fp32 2 of 3."
    assert untrained.endswith(relative)
    assert along.startswith("Setting along training: bifurcations fp32 1 of 4. ")
    assert "Published threshold: false alarms fp32 1 of 2; missed fp32 0 of 1." in along
    assert "e4m3 0 (untrained); fp32 1e-06 (untrained)." in sentences[3]
    assert "1 undecided, 1 not finite, 1 vacuous" in sentences[4]
    assert "at most 2 primes a draw" in sentences[4]
    assert "at most 2^-48.0" in sentences[4]
    assert not any("taken apart" in sentence for sentence in sentences)


def test_a_training_that_diverged_is_named(tables):
    trials = tables["trials"].copy()
    along = trials["protocol"] == "trajectory"
    trials.loc[trials.index[along][0], ["outcome", "step"]] = "diverged", 33
    name = trials.loc[trials.index[along][0], "trial"]
    sentences = answers(dict(tables) | {"trials": trials}, ["zones", "trajectory"])
    said = [sentence for sentence in sentences if "diverged" in sentence]
    assert len(said) == 1
    assert f"1 of {along.sum()} training" in said[0]
    assert f"{name} at step 33" in said[0]
    assert not any("diverged" in sentence for sentence in answers(tables, ["zones", "trajectory"]))


def test_what_is_proved_has_no_probability(tables):
    proved = tables["certified"].assign(log2_error_max=-math.inf)
    text = " ".join(answers({**tables, "certified": proved}, []))
    assert "every statement is proved" in text
    assert "inf" not in re.sub("infin", "", text)


def apart(cell, precision, **more):
    return {
        "cell": cell, "protocol": "zones", "precision": precision, "replicate": 3, "draw": 1, "beta": 1.0,
        "jacobian": "minimal", "pool": 0, "image": 33, "channel": 4, "window_row": 3, "window_column": 5,
        "tied": 2, "value": 0.5, "entries": "(6,6) (7,6)", "patches": "differ in 2 of 25 entries, at x",
        "tensor": "features.0.weight", "index": "4,0,1,4", "difference": 1.5e-3, "gradient": -3e-3,
        "share": 0.5, "data": "mnist", "folder": None, "epoch": NAN,
    } | more  # fmt: skip


def test_one_bifurcation_is_taken_apart_in_the_finest_precision(tables):
    names = ("e4m3", "bf16", "fp16_rounded")
    rows = [*(apart(name, name) for name in names), apart("later", "fp16_rounded", image=9)]
    *_, text = (
        item for item in answers({**tables, "bifurcations": pd.DataFrame(rows)}, []) if "taken apart" in item
    )
    assert text.startswith(
        "One bifurcation taken apart (fp16_rounded, untrained, init 3, draw 1): in pool 1 "
    )
    assert "row 3, column 5 of channel 4 of image 33 " in text
    assert "has 2 maxima over the reals, at (6,6) (7,6) of the pool's input" in text
    assert "differ in 2 of 25 entries, at x." in text
    assert text.endswith(
        "in entry [4,0,1,4] of features.0.weight: PyTorch's rule gives -0.003 there, and beta = 1 changes it "
        "by 0.0015, 0.5 times that."
    )
    rows = [apart("a", "fp32", share=NAN, gradient=0.0, epoch=2, index=7)]
    *_, text = answers({**tables, "bifurcations": pd.DataFrame(rows)}, [])[:6]
    assert "along training, epoch 2, init 3" in text
    assert "entry [7] of features.0.weight: PyTorch's rule gives 0 there, " in text
    assert text.endswith("beta = 1 changes it by 0.0015.")


def test_the_page_shows_labels_with_their_tables(made, folder, tmp_path):
    _, study = made
    draw_figures(folder, tmp_path)
    text = page(study, folder, tmp_path, records_link="results")
    for name in ("confusion", "truth_along_training", "windows"):
        assert f'id="figure-{name}"' in text
    assert "Label over the reals" in text
    assert "Truth: over the reals" in text
    assert text.count("draws along training are in the figures of the truth only") == 2 * 3


def test_rules_are_told_apart_in_a_setting():
    frame = pd.DataFrame(
        {"cell": ["a", "a"], "precision": "fp32", "jacobian": ["minimal", "beta100"], "epoch": [NAN, NAN]}
    )
    assert setting(frame).tolist() == ["untrained, beta = 1", "untrained, beta = 100"]
    assert setting(frame, names_rule=False).tolist() == ["untrained"] * 2


def test_an_axis_that_follows_from_others_goes_without_saying():
    frame = pd.DataFrame(
        {
            "cell": ["a", "b", "c", "d"],
            "data": ["mnist", "mnist", "image_folder", "image_folder"],
            "arch": ["lenet5", "lenet5", "vgg11", "vgg11"],
            "init": ["pytorch", "kaiming_uniform"] * 2,
            "batch_size": [128, 128, 8, 8],
        }
    )
    assert context(frame).iloc[1] == "mnist, lenet5, init kaiming_uniform"
    free = frame.assign(batch_size=[128, 64, 128, 8], init="pytorch")
    assert context(free).tolist() == [
        "mnist, lenet5, batch size 128", "mnist, lenet5, batch size 64",
        "image_folder, vgg11, batch size 128", "image_folder, vgg11, batch size 8",
    ]  # fmt: skip


def test_an_axis_that_each_precision_has_one_value_of_goes_without_saying():
    frame = pd.DataFrame(
        {
            "cell": list("abcdef"),
            "precision": ["fp16_rounded", "fp32"] * 3,
            "optimizer": ["adam"] * 2 + ["sgd"] * 4,
            "batch_norm": [False] * 4 + [True] * 2,
            "eps": [1e-4, 1e-8, 1e-8, 1e-8, 1e-8, 1e-8],
        }
    )
    assert context(frame).tolist() == [
        *["no batch norm, adam"] * 2, *["no batch norm, sgd"] * 2, *["batch norm, sgd"] * 2,
    ]  # fmt: skip
    frame.loc[1, "precision"] = "fp16_rounded"
    assert context(frame).tolist()[:2] == [
        "no batch norm, adam, eps 0.0001",
        "no batch norm, adam, eps 1e-08",
    ]


def test_tables_do_not_pool_rules_of_one_draw(made):
    frames = read_frames(*made)
    certificates, gaps = (
        frames.of("certificate"),
        frames.of("gap").merge(frames.cells[["cell", "precision"]], on="cell"),
    )
    other = PoolJacobian(beta=100.0).label
    twice = [pd.concat([frame, frame.assign(jacobian=other, beta=100.0)]) for frame in (certificates, gaps)]
    once, both = certified_table(certificates, gaps), certified_table(*twice)
    assert len(both) == 2 * len(once)
    assert both["num_draws"].sum() == 2 * once["num_draws"].sum()
    assert confusion_table(*twice)["num_draws"].sum() == 2 * 2 * len(certificates)
    assert window_table(frames.of("pool_truth"))["windows"].sum() == 16_000


def test_studies_without_labels_are_as_they_were(tables_folder, tmp_path):
    tables = read_tables(RESULTS / "tables" / "demo")
    for found in (tables, read_tables(tables_folder)):
        assert not {"certified", "confusion", "windows", "bifurcations"} & set(found)
        assert not any("over the reals" in sentence for sentence in answers(found, ["zones"]))
    written = draw_figures(RESULTS / "tables" / "demo", tmp_path)
    committed = RESULTS / "figures" / "demo"
    assert {path.name for path in written} == {path.name for path in committed.iterdir()}


def test_the_tables_of_the_demo_are_those_of_its_records(tmp_path):
    store = RecordStore(RESULTS)
    write_tables(store, store.read_study("demo"), tmp_path)
    for path in sorted((RESULTS / "tables" / "demo").glob("*.csv")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
