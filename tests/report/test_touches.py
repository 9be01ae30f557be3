"""The table of kinks and ties, its figure, whose marks are the table's numbers, and its sentences."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tiebreak.report.touches import touch_sentences, touch_table, touches_figure


def rows():
    """Two replicates of one cell and one of each other; |M| made up."""
    found = []
    for cell, replicate, size, exact, computed in (
        ("a", 0, 100, 1, 4),
        ("a", 1, 100, 3, 2),
        ("b", 0, 1000, 2, 9),
        ("c", 0, 100, 20, 50),
    ):
        found.append(
            {
                "cell": cell,
                "replicate": replicate,
                "num_numbers": size,
                "num_kinks": 2,
                "bound": 2 / size,
                "points": 400,
                "exact": exact,
                "computed": computed,
                "only_by_rounding": computed - 1,
                "missed": exact - 1,
                "seconds": 0.1,
            }
        )
    return pd.DataFrame(found)


@pytest.fixture
def touches():
    axes = pd.DataFrame(
        {
            "cell": ["a", "b", "c"],
            "place": ["hardtanh", "hardtanh", "window"],
            "format": ["e4m3", "fp16", "e4m3"],
            "factor": [1.5, 1.5, 1.5],
        }
    )
    return axes.merge(touch_table(rows()), on="cell")


@pytest.fixture
def windows():
    return pd.DataFrame(
        {
            "precision": ["fp64", "e4m3", "fp16_rounded", "e4m3"],
            "arch": "lenet5",
            "data": "mnist",
            "windows": [1000, 600, 1000, 400],
            "tied": [500, 300, 500, 200],
            "tied_in_floats": [500, 300, 560, 200],
            "tied_only_by_rounding": [0, 0, 60, 0],
        }
    )


def test_replicates_are_added_up(touches):
    table = touches.set_index("cell")
    assert table.loc["a", ["points", "exact", "computed", "only_by_rounding", "missed"]].tolist() == [
        800,
        4,
        6,
        4,
        2,
    ]
    assert table.loc["a", "share_computed"] == 6 / 800
    assert table["keeps_bound"].tolist() == [True, False, False]


def series(figure: Figure, index: int):
    """Marks of a panel: kind to places and heights."""
    return {
        str(line.get_gid()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[index].lines
    }


def test_the_marks_are_the_tables_numbers(touches, windows):
    figure = touches_figure({"touches": touches, "windows": windows})
    hardtanh, window, network = (series(figure, index) for index in range(3))
    assert hardtanh["bound"] == ([0, 1], [0.02, 0.002])
    assert hardtanh["exact"] == ([0, 1], [4 / 800, 2 / 400])
    assert hardtanh["computed"] == ([0, 1], [6 / 800, 9 / 400])
    assert window["computed"] == ([0], [50 / 400])
    words = {str(text.get_gid()): text.get_text() for text in figure.axes[0].texts}
    assert words == {"excess:hardtanh:fp16": "11.2×"}
    # six pairs of entries; of fp64 no |M| is known here, so it has no bound
    assert network["bound"] == ([0, 1], [6 / 100, 6 / 1000])
    assert network["exact"] == ([0, 1, 2], [0.5, 0.5, 0.5])
    assert network["rounding"] == ([0, 1, 2], [0.0, 0.06, 0.0])
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == [
        "e4m3",
        "fp16\nrounded",
        "fp64",
    ]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "bound, distinct biases over the reals",
        "over the reals",
        "in the program",
        "in the program only",
    }


def test_without_certified_windows_there_is_no_panel_of_them(touches):
    figure = touches_figure({"touches": touches})
    assert [axes.get_visible() for axes in figure.axes] == [True, True]


def test_the_sentences_count_what_the_table_has(touches, windows):
    exact, network = touch_sentences({"touches": touches, "windows": windows})
    assert "2 of 3 settings exceed the bound, which cannot be" in exact  # the numbers are made up
    assert "hardtanh in fp16 the most, 11.2 times" in exact
    assert "50.0 % to 50.0 % are tied over the reals" in network
    assert "e4m3 0 (0 times the bound) and fp16_rounded 0.06 (10 times the bound)" in network
    fine = touches[touches["cell"] == "a"]
    (only,) = touch_sentences({"touches": fine})
    assert "at most the bound in all of 1 setting. None exceeds it in the program either." in only
