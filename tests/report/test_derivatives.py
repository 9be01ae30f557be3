"""The table, figure and sentence about where AD's gradient is certain to be the derivative."""

from __future__ import annotations

import pandas as pd

from tiebreak.report.derivatives import derivative_sentence, derivative_table, derivatives_figure


def rows():
    def draw(cell, epoch, derivative, limit, reason=""):
        names = ("neurons", "touched", "windows", "tied", "equal", "dead")
        counts = dict.fromkeys(names, None if reason else 2)
        known = {"images": 10, "derivative": derivative, "limit": limit, "independent": 0}
        known |= {"whole_derivative": int(derivative == 10), "whole_limit": int(derivative == 2)}
        return {"cell": cell, "replicate": 0, "epoch": epoch, "reason": reason, **known, **counts}

    return pd.DataFrame(
        [draw("a", 0, 4, 1), draw("a", 0, 2, 0), draw("a", 1, 10, 0), draw("b", 0, 0, 0, "not certifiable")]
    )


def test_draws_are_added_up_and_refused_ones_count_as_not_certain():
    table = derivative_table(rows())
    assert table["images"].tolist() == [20, 10, 10]
    assert table["share_derivative"].tolist() == [0.3, 1.0, 0.0]
    assert table["share_certain"].tolist() == [0.35, 1.0, 0.0]
    assert table["num_batches"].tolist() == [2, 1, 1]
    assert table["num_refused"].tolist() == [0, 0, 1]


def test_the_marks_and_the_sentence_are_the_tables_numbers():
    axes = pd.DataFrame({"cell": ["a", "b"], "precision": ["e4m3", "fp32"]})
    table = axes.merge(derivative_table(rows()), on="cell")
    figure = derivatives_figure(table)
    lines = {str(line.get_gid()): list(line.get_ydata()) for axes in figure.axes for line in axes.lines}
    assert lines["images:derivative:e4m3"] == [30.0, 100.0]
    assert lines["images:certain:e4m3"] == [35.0, 100.0]
    assert lines["images:derivative:fp32"] == [0.0]
    assert lines["batches:derivative:e4m3"] == [0.0, 100.0]
    assert lines["batches:certain:e4m3"] == [50.0, 100.0]
    sentence = derivative_sentence(table)
    assert "at 53.3 % in e4m3 (and a limit at 3.3 %) and 0 % in fp32, of 40 images" in sentence
    assert "the derivative for 1 of 4, and a limit for 1 more." in sentence
