"""The table of counts, its figures, whose marks are the table's numbers, and its sentences."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from tiebreak.design.enumeration import LETTERS
from tiebreak.report.counts import count_sentences, count_table
from tiebreak.report.counts_figures import bounds_figure, maps_figure
from tiebreak.report.rules_figures import (
    hierarchy,
    hierarchy_figure,
    proxies_figure,
    proxy_sweep,
    ties_figure,
)

CELLS = (
    # cell, family, proxy, ties, points, singular, incorrect, limits, in_hull
    ("a", "sum_of_neurons", "torch", "none", 100, 20, 0, 90, 100),
    ("b", "relu_relu", "0", "none", 100, 5, 10, 85, 85),
    ("c", "relu_relu", "1/2", "none", 100, 5, 0, 70, 100),
    ("d", "relu_relu", "2", "none", 100, 5, 10, 60, 60),
    ("e", "relu_relu", "-1", "none", 100, 5, 30, 50, 60),
    ("f", "two_windows", "none", "first", 100, 0, 7, 93, 93),
    ("g", "two_windows", "none", "split", 100, 0, 0, 100, 100),
    ("h", "maximum", "none", "first", 100, 10, 0, None, None),
)


def rows():
    """One replicate of each cell and two of the first; numbers made up."""
    found = []
    for cell, family, _, _, points, singular, incorrect, limits, hull in (CELLS[0], *CELLS):
        is_biased, is_windowed = family == "sum_of_neurons", family in ("two_windows", "maximum")
        found.append(
            {
                "cell": cell,
                "replicate": sum(row["cell"] == cell for row in found),
                "network": f"a {family}",
                "num_numbers": 10,
                "num_parameters": 2,
                "num_kinks": 2,
                "at_kinks": "",
                "way": "enumeration",
                "points": points,
                "touched": 50,
                "live": 45,
                "singular": singular,
                "incorrect": incorrect,
                "limits": limits,
                "in_hull": hull,
                "disagreements": None if limits is None else 0,
                "bound_kinks": 0.2 if is_biased else None,
                "bound_product": 0.19 if is_biased else None,
                "bound_failing": None if is_biased or is_windowed else 0.3,
                "closed_form": {"sum_of_neurons": 20, "maximum": 11}.get(family),
                "witness": "at w = 0" if incorrect else "",
                "seconds": 0.1,
            }
        )
    return pd.DataFrame(found)


def with_axes(table):
    axes = pd.DataFrame([row[:4] for row in CELLS], columns=["cell", "family", "proxy", "ties"])
    return axes.assign(machine="e2m1", num_neurons=2).merge(table, on="cell")


@pytest.fixture
def counts():
    return with_axes(count_table(rows()))


@pytest.fixture
def lines():
    text = {"b": ("cii", "ccs"), "e": ("iii", "ccs"), "g": ("ccc", "ccc")}
    return pd.DataFrame(
        [
            {
                "cell": cell, "across": "w1_11", "up": "w2", "line": line, "number": line - 0.5,
                "points": points,
            }
            for cell, both in text.items()
            for line, points in reversed(list(enumerate(both)))
        ]
    )  # fmt: skip


def test_replicates_are_added_up_and_what_is_broken_is_counted(counts):
    table = counts.set_index("cell")
    assert table.loc["a", ["points", "singular", "closed_form", "limits"]].tolist() == [200, 40, 40, 180]
    assert table.loc["a", "share_singular"] == 0.2
    assert math.isnan(table.loc["h", "share_limit"])
    assert math.isnan(table.loc["b", "closed_form"])
    # a exceeds T2' (0.19 of the points), e T7 (35 of 30 points), h is not as its formula says
    assert table["num_broken"].to_dict() == dict.fromkeys("bcdfg", 0) | dict.fromkeys("aeh", 1)
    assert table.loc["e", "witness"] == "at w = 0"


def test_the_sentences_count_what_the_table_has(counts):
    biased, without, windows, judged, broken = count_sentences({"counts": counts})
    assert "AD is incorrect at none of 200 points of 1 cell. In 1 of 1 cell as many" in biased
    assert "AD is incorrect in 3 of 4 cells, a relu_relu with -1 at kinks the most, at 30.0 %" in without
    assert "incorrect in 1 of 3 cells, a two_windows with ties first the most, at 7.0 %" in windows
    assert "In 0 of 1 cell as many points" in windows
    assert "Of 7 cells" in judged
    assert "at every point of 3, and such a limit at every point of 1. Enumeration and oracle agree" in judged
    assert "each of 400 touched points" in judged
    assert "3 bounds or closed forms are broken, which cannot be" in broken


def marks(axes):
    return {str(line.get_gid()): line.get_xydata().tolist() for line in axes.lines if line.get_gid()}


def test_the_marks_beside_bounds_are_the_tables_numbers(counts):
    left, right = map(marks, bounds_figure(counts).axes)
    assert left["tight"] == [[0.2, 0.2]]
    assert left["bound_product"] == [[0.2, 0.19]]
    assert right["others"] == [[0.35, 0]]  # of relu_relu the cell that fails most
    assert right["bound_failing"] == [[0.3, 0]]


def test_a_map_has_a_square_a_point_and_shows_what_is_wrong_most(counts, lines):
    figure = maps_figure(lines, counts)
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]  # e instead of b; nothing to see in g
    (image,) = axes.images
    assert image.get_gid() == "map:e"
    assert image.get_array().tolist() == [
        [LETTERS.index(letter) for letter in text] for text in ("iii", "ccs")
    ]
    assert image.origin == "lower"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("w1", "w2")
    assert axes.get_title(loc="left") == "a relu_relu\n-1 at kinks"


def test_proxies_are_in_the_order_of_numbers(counts):
    assert proxy_sweep(counts)["cell"].tolist() == ["e", "b", "c", "d"]
    wrong, outside = (marks(proxies_figure(counts).axes[index]) for index in (1, 3))
    assert wrong["incorrect:a relu_relu"] == [[-1, 30], [0, 10], [0.5, 0], [2, 10]]
    (found,) = [points for name, points in outside.items() if name.startswith("outside")]
    assert [round(y) for _, y in found] == [40, 15, 0, 40]
    read_back = counts.assign(proxy=counts["proxy"].replace({"1/2": "0.5"}))
    assert proxy_sweep(read_back)["at"].tolist() == [-1, 0, 0.5, 2]
    assert not len(proxy_sweep(counts[counts["cell"] != "e"]))


def test_ties_and_maxima(counts):
    left, right = (marks(axes) for axes in ties_figure(counts).axes)
    assert [x for x, _ in left["ties:first"]] == pytest.approx([7.0])
    assert [x for x, _ in left["ties:split"]] == [0]
    assert right["formula"] == [[0, 11]]
    assert right["singular"] == [[0, 10]]


def test_the_steps_of_the_hierarchy_add_up(counts):
    side, middle = hierarchy(counts).values()
    assert side["cell"].tolist() == ["a", "b", "f"]
    assert middle["cell"].tolist() == ["c", "g"]
    steps = ["the derivative", "a limit of derivatives", "in their hull", "outside"]
    assert side.set_index("cell").loc["a", steps].round(9).tolist() == [0.8, 0.1, 0.1, 0]
    assert side.set_index("cell").loc["b", steps].tolist() == pytest.approx([0.85, 0, 0, 0.15])
    assert (side[steps].sum(axis=1) - 1).abs().max() < 1e-12
    figure = hierarchy_figure(counts)
    widths = {bar.get_gid(): bar.get_width() for axes in figure.axes for bar in axes.patches}
    assert widths["outside:f"] == pytest.approx(7)
    assert widths["in their hull:c"] == pytest.approx(30)
