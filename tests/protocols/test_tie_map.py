"""Tied windows of a digit against a count by hand, and of the pools against those that zones counts."""

from __future__ import annotations

import pytest

from tiebreak.data import load
from tiebreak.design.axes import DesignError
from tiebreak.design.cell import TieMap, Trial
from tiebreak.protocols import measure


def run(make_cell, session, **changes):
    cell = make_cell(TieMap(num_images=changes.pop("num_images", 2)), **changes)
    measure(Trial(cell=cell, replicate=0), session)
    return cell, session.rows


def test_the_image_and_its_tied_windows_are_those_of_the_data(make_cell, session, tmp_path) -> None:
    cell, rows = run(make_cell, session)
    dataset = load(cell.data, root=tmp_path)
    for index in range(2):
        (row,) = (row for row in rows if row["row"] == "image" and row["image"] == index)
        pixels = dataset.train.pixels[index]
        assert bytes.fromhex(row["pixels"]) == bytes(pixels.flatten().tolist())
        assert (row["label"], row["height"], row["width"]) == (int(dataset.train.labels[index]), 28, 28)
        by_hand = {}
        for top in range(0, 28, 2):
            for left in range(0, 28, 2):
                window = pixels[0, top : top + 2, left : left + 2].flatten().tolist()
                if window.count(max(window)) > 1:
                    by_hand[top // 2, left // 2] = int(max(window) > 0)
        found = {
            (row["window_row"], row["window_column"]): row["tied_above_zero"]
            for row in rows
            if row["row"] == "tie_window" and row["image"] == index and row["pool"] == -1
        }
        assert found == by_hand


def test_every_pool_of_the_network_is_there(make_cell, session) -> None:
    _, rows = run(make_cell, session, network={"batch_norm": True}, num_images=1)
    windows = [row for row in rows if row["row"] == "tie_window"]
    assert {row["pool"] for row in windows} == {-1, 0, 1}
    assert {row["channels"] for row in windows if row["pool"] == 1} == {16}
    assert all(0 <= row["tied_above_zero"] <= row["tied"] <= row["channels"] for row in windows)
    assert any(row["tied_above_zero"] for row in windows if row["pool"] == 0)  # flat background


def test_more_images_than_there_are(make_cell, session) -> None:
    with pytest.raises(DesignError, match="num_images=97 is more than the 96"):
        run(make_cell, session, num_images=97)
