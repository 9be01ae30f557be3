import hashlib

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tiebreak.records.store import RecordStore
from tiebreak.report.descent_figures import DESCENT_FIGURES
from tiebreak.report.figures import FIGURES, draw_figures
from tiebreak.report.gap_figures import gaps_figure, ties_figure, zones_figure
from tiebreak.report.panels import rule
from tiebreak.report.style import paper_style, save
from tiebreak.report.table_files import read_tables, write_tables
from tiebreak.report.theory_figures import THEORY_FIGURES
from tiebreak.report.training_figures import accuracy_figure, curves_figure, difference_figure


@pytest.fixture(scope="module")
def tables(tables_folder):
    return read_tables(tables_folder)


def artists(figure, prefix):
    """Lines and bar containers whose id starts with `prefix`."""
    return [
        line for axes in figure.axes for line in axes.lines if str(line.get_gid() or "").startswith(prefix)
    ]


def heights(figure, prefix):
    """Vertical data of the marks with an id, finite ones, sorted."""
    values = [
        value for line in artists(figure, prefix) for value in np.asarray(line.get_ydata(), dtype=float)
    ]
    return sorted(value for value in values if np.isfinite(value))


def counts(figure, kind):
    """Texts above the panels that count something."""
    return [
        text
        for axes in figure.axes
        for text in axes.texts
        if str(text.get_gid() or "").startswith("count:") and str(text.get_gid()).endswith(kind)
    ]


def boxes(figure, texts):
    """Places of texts on the page, in pixels."""
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts]


def apart(places):
    """Whether no two boxes overlap."""
    return not any(one.overlaps(other) for index, one in enumerate(places) for other in places[index + 1 :])


def containers(figure, label=None):
    return [item for axes in figure.axes for item in axes.containers]


def test_zones_show_the_shares_and_intervals_of_the_table(tables):
    zones = tables["zones"]
    figure = zones_figure(zones)
    points, arms = [], []
    for container in containers(figure):
        line, _, bars = container.lines
        points += [value for value in line.get_ydata() if np.isfinite(value)]
        arms += [end[1] for bar in bars for segment in bar.get_segments() for end in segment]
    shown = zones.dropna(subset=["share_above_threshold"])
    assert sorted(points) == sorted(100 * shown["share_above_threshold"])
    ends = shown[["share_above_threshold_low", "share_above_threshold_high"]].to_numpy()
    np.testing.assert_allclose(np.sort(arms), np.sort(100 * ends.ravel()), rtol=0, atol=2**8 * 100 * 2**-53)
    assert any("8 inits" in tick.get_text() for tick in figure.axes[0].get_xticklabels())


def test_bars_of_gaps_have_the_heights_of_the_table(tables):
    figure = gaps_figure(tables["gaps"])
    bars = [patch.get_height() for container in containers(figure) for patch in container.patches]
    assert sorted(bars) == sorted(100 * tables["gaps"]["share_draws"])
    words = {tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()}
    assert {"exactly\n0", "NaN\nor inf"} <= words


def test_without_nonfinite_gaps_there_is_no_bin_for_them(tables):
    clean = tables["gaps"][tables["gaps"]["bin"] != "nonfinite"]
    words = {tick.get_text() for axes in gaps_figure(clean).axes for tick in axes.get_xticklabels()}
    assert "NaN\nor inf" not in words


def test_ties_have_the_shares_of_the_table(tables):
    figure = ties_figure(tables["ties"])
    shown = sorted(value for container in containers(figure) for value in container.lines[0].get_ydata())
    expected = 100 * np.concatenate([tables["ties"]["share_at_zero"], tables["ties"]["share_above_zero"]])
    assert shown == sorted(expected)


def test_every_run_is_a_point_or_a_word(tables):
    runs, accuracy = tables["runs"], tables["accuracy"]
    figure = accuracy_figure(accuracy, runs)
    assert heights(figure, "points:") == sorted(100 * runs["final_test_accuracy"].dropna())
    means = sorted(
        value
        for container in containers(figure)
        for value in container.lines[0].get_ydata()
        if np.isfinite(value)
    )
    assert means == sorted(100 * accuracy["accuracy_mean"].dropna())
    counted = sum(int(text.get_text().split("/")[0]) for text in counts(figure, "diverged"))
    assert counted == (runs["outcome"] == "diverged").sum() > 0
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= 0
        assert high >= 100


@pytest.mark.parametrize("name", ["pairs", "forward_arm"])
def test_differences_are_those_of_pairs_and_none_is_cropped(tables, name):
    table, runs = tables[name], tables["runs"].set_index(["cell", "replicate"])["final_test_accuracy"]
    figure = difference_figure(table, tables["runs"], label="x", treated="a", reference="b")
    expected = [
        100 * (runs.loc[row["cell"]] - runs.loc[row["reference_cell"]]).dropna().to_numpy()
        for row in table.to_dict("records")
    ]
    shown = heights(figure, "points:")
    assert shown == sorted(np.concatenate(expected))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= min(shown)
        assert max(shown) <= high


def test_curves_are_the_epochs_and_crosses_the_diverged_runs(tables):
    runs, epochs = tables["runs"], tables["epochs"]
    figure = curves_figure(epochs, runs)
    for (cell, replicate), group in epochs.groupby(["cell", "replicate"]):
        accuracy, loss = artists(figure, f"{cell}/{replicate:04d}")
        assert accuracy.get_xdata().tolist() == group["epoch"].tolist()
        assert accuracy.get_ydata().tolist() == (100 * group["test_accuracy"]).tolist()
        assert loss.get_ydata().tolist() == group["train_loss"].tolist()
    diverged = runs[runs["outcome"] == "diverged"]
    crosses = artists(figure, "diverged:")
    assert len(crosses) == 2 * len(diverged)
    assert sorted(cross.get_xdata()[0] for cross in crosses) == sorted([*diverged["nonfinite_epoch"]] * 2)


def test_rules_are_in_the_order_of_beta(tables):
    figure = accuracy_figure(tables["accuracy"], tables["runs"])
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "1", "100", "$10^{4}$"]
    assert not rule(tables["accuracy"]).str.contains("blended").any()


def test_drawing_leaves_the_callers_settings_alone(tables, tmp_path):
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 31.0}):
        with paper_style():
            assert mpl.rcParams["font.size"] != 31.0
        save(ties_figure(tables["ties"]), tmp_path / "a")
        assert mpl.rcParams["font.size"] == 31.0
    assert dict(mpl.rcParams) == before


def test_the_callers_settings_do_not_change_a_file(tables, tmp_path):
    sums = []
    for size in (7.0, 31.0):
        with mpl.rc_context({"font.size": size, "axes.grid": False}):
            written = save(accuracy_figure(tables["accuracy"], tables["runs"]), tmp_path / str(size))
        sums.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in written])
    assert sums[0] == sums[1]


def test_every_figure_of_a_full_study_is_written(figures_folder):
    names = {path.name for path in figures_folder.iterdir()}
    certified = {"confusion", "truth_along_training", "windows"}
    siblings = {kind.name for kind in (*DESCENT_FIGURES, *THEORY_FIGURES)}
    shown = {kind.name for kind in FIGURES} - certified - siblings
    assert names == {f"{name}.{suffix}" for name in shown for suffix in ("pdf", "png")}
    for path in figures_folder.iterdir():
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


def test_a_study_of_diverged_runs_is_drawn_and_stale_figures_go(diverged, tmp_path):
    store, study = diverged
    tables = write_tables(store, study, tmp_path / "tables")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "zones.png").write_text("of an earlier run")
    draw_figures(tmp_path / "tables", tmp_path / "figures")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"accuracy", "curves"}
    figure = accuracy_figure(tables["accuracy"], tables["runs"])
    assert [text.get_text() for text in counts(figure, "diverged")] == ["3/3", "3/3"]
    assert heights(figure, "points:") == []


def test_a_partial_study_is_drawn(partial_store, study, tmp_path):
    tables = write_tables(partial_store, study, tmp_path)
    assert not tables["zones"]["share_above_threshold_low"].notna().any()
    drawable = [kind for kind in FIGURES if kind.can_draw(tables)]
    assert {"zones", "gaps", "ties", "curves"} <= {kind.name for kind in drawable}
    for kind in drawable:
        kind.draw(read_tables(tmp_path)).draw_without_rendering()


def test_cells_without_a_record_take_no_room_beside_others(study, conftest_module, tmp_path):
    def is_kept(trial):
        return trial.cell.protocol == "train" and trial.cell.precision == "fp32"

    store = conftest_module.fill(tmp_path / "results", study, keep=is_kept)
    tables = write_tables(store, study, tmp_path / "tables")
    assert tables["accuracy"]["precision"].nunique() > 1
    draw_figures(tmp_path / "tables", tmp_path / "figures")
    accuracy, runs = (
        tables[name][tables[name]["precision"] == "fp32"].reset_index(drop=True)
        for name in ("accuracy", "runs")
    )
    save(accuracy_figure(accuracy, runs), tmp_path / "narrow")
    assert (tmp_path / "narrow.png").read_bytes() == (tmp_path / "figures" / "accuracy.png").read_bytes()


def test_a_study_without_a_record_is_drawn(study, tmp_path):
    tables = write_tables(RecordStore(tmp_path), study, tmp_path / "tables")
    drawable = [kind for kind in FIGURES if all(name in tables for name in kind.needs)]
    assert [kind.name for kind in drawable] == ["accuracy", "pairs", "forward_arm", "curves"]
    for kind in drawable:
        kind.draw(tables).draw_without_rendering()


def test_counts_stand_above_the_panels_and_not_on_each_other(tables):
    pairs = {"label": "x", "treated": "exact", "reference": "blended"}
    for figure in (
        accuracy_figure(tables["accuracy"], tables["runs"]),
        difference_figure(tables["pairs"], tables["runs"], **pairs | {"treated": "", "reference": "beta 0"}),
        difference_figure(tables["forward_arm"], tables["runs"], **pairs),
        curves_figure(tables["epochs"], tables["runs"]),
        zones_figure(tables["zones"]),
    ):
        texts = counts(figure, "")
        assert texts
        places = boxes(figure, texts)
        assert apart(places)
        for text, place in zip(texts, places, strict=True):
            assert place.y0 >= text.axes.bbox.y1
            assert place.x0 >= text.axes.bbox.x0 - 10
        titles = [axes.title for axes in figure.axes if axes.title.get_text()]
        assert apart([*places, *boxes(figure, titles)])


def test_many_betas_leave_their_counts_apart(tables):
    narrow = tables["accuracy"][tables["accuracy"]["precision"] == "fp16_rounded"]
    lost = narrow[narrow["jacobian"] == "beta10000-blended"]
    rows = [
        lost.assign(
            cell=lost["cell"] + name + precision, jacobian=f"{name}-blended", beta=beta, precision=precision,
            num_planned=12, num_diverged=12,
        )
        for precision in ("fp16_rounded", "bf16", "fp32")
        for beta in 10.0 ** np.arange(13)
        for name in [f"beta{beta:.0f}"]
    ]  # fmt: skip
    kept = narrow[narrow["beta"] == 0]
    figure = accuracy_figure(pd.concat([kept, *rows], ignore_index=True), tables["runs"])
    texts = counts(figure, "diverged")
    assert sum(text.get_text() == "12/12" for text in texts) == 2 * 3 * 13
    assert apart(boxes(figure, texts))


def test_ticks_of_many_decades_leave_room_and_n_lies_outside(tables):
    gaps = tables["gaps"].copy()
    decades = gaps.index[gaps["bin"] == "decade"]
    gaps.loc[decades, "decade"] = np.linspace(-18, 3, len(decades)).round()
    for shown in (gaps, gaps[gaps["bin"] != "nonfinite"], tables["gaps"]):
        figure = gaps_figure(shown)
        figure.draw_without_rendering()
        for axes in figure.axes:
            labels = [tick for tick in axes.get_xticklabels() if tick.get_text()]
            assert apart(boxes(figure, labels))
            (number,) = [text for text in axes.texts if text.get_gid() == "n"]
            assert number.get_window_extent().y0 >= axes.bbox.y1
        assert len([tick for tick in figure.axes[-1].get_xticklabels() if tick.get_text()]) >= 4


def test_arms_of_ties_stay_inside_their_panel(tables):
    ties = tables["ties"].assign(share_at_zero_high=0.9)
    for axes in ties_figure(ties).axes:
        if axes.get_title() == "tied at zero":
            assert axes.get_ylim()[1] >= 90


def test_the_last_digits_of_the_layout_solver_are_in_no_file(tmp_path):
    files = []
    for name, off in (("one", 0.0), ("other", 1e-12)):
        with paper_style():
            figure = Figure(figsize=(3, 2))
            figure.add_axes((0.2 + off, 0.2, 0.7 - off, 0.7)).plot([0, 1], [0, 1])
        files.append([path.read_bytes() for path in save(figure, tmp_path / name)])
    assert files[0] == files[1]
