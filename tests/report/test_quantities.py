"""Published numbers in print: units, digits, and what n counts."""

import math
import re
from pathlib import Path

import pytest

from tiebreak.report.published import read_published
from tiebreak.report.quantities import PERCENT, POINTS, Unit, counted, unit_of

PUBLISHED = Path(__file__).parents[2] / "results" / "paper" / "published.csv"
RATIO = Unit(words="1")


def parsed(text: str) -> float:
    return float(re.match(r"\S+", text)[0])


@pytest.mark.parametrize("name", ["value", "low", "high"])
def test_no_published_number_is_printed_as_zero_or_as_another(name):
    table = read_published(PUBLISHED).dropna(subset=[name])
    assert len(table)
    for row in table.to_dict("records"):
        unit = unit_of(row["quantity"], row["unit"])
        text = unit.text(row[name])
        scale = 100.0 if unit.is_share else 1.0
        assert (parsed(text) == 0) == (row[name] == 0), (row["id"], text)
        value = scale * row[name]
        if unit.is_share:  # half of the second decimal or, of small ones, of the second digit
            within = 5.001e-3 if abs(value) >= 0.1 else 0.05 * abs(value)
        else:
            within = 5.001e-4 * abs(value)
        assert parsed(text) == pytest.approx(value, abs=within, rel=0), (row["id"], text)


def test_two_accuracies_half_a_point_apart_are_printed_apart():
    assert PERCENT.text(0.9915) == "99.15 %"
    assert PERCENT.text(0.9883, low=0.98, high=0.99) == "98.83 % (98.00 to 99.00 %)"


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (RATIO, 0.0018959, "0.001896"),
        (RATIO, 1e-3, "0.001"),
        (RATIO, 5.960464477539063e-08, "5.96e-08"),
        (RATIO, 25557032.0, "25557032"),
        (RATIO, -2.0, "-2"),
        (RATIO, 0.0, "0"),
        (RATIO, math.inf, "inf"),
        (RATIO, math.nan, "none"),
        (PERCENT, 0.0, "0 %"),
        (PERCENT, 1.0, "100 %"),
        (PERCENT, 0.001, "0.10 %"),
        (PERCENT, 0.00051, "0.051 %"),
        (PERCENT, 3e-9, "3e-07 %"),
        (POINTS, -0.0167, "-1.67 points"),
    ],
)
def test_digits(unit, value, text):
    assert unit.text(value) == text


@pytest.mark.parametrize(
    ("quantity", "unit", "words"),
    [
        ("final test accuracy, mean over runs", "share", "%"),
        ("share of mini-batches with a gap above the threshold", "share", "%"),
        ("final test accuracy, sample standard deviation over runs", "share", "points"),
        ("mean accuracy minus that of beta=0", "share", "points"),
        ("top-1 accuracy at epoch 0, range over runs", "share", "%"),
        ("largest relative error of the blended forward pass", "share", "1"),
        ("runs that ended in NaN", "runs", "runs"),
    ],
)
def test_units(quantity, unit, words):
    assert unit_of(quantity, unit).words == words


def test_what_n_counts_is_said():
    assert counted("share of gaps in [1e-4, 1e-3)", math.nan, 100) == ("–", "100 inits")
    assert counted("best learning rate of the search", 1.0, 3) == ("1 search", "3 searches")
    assert counted("runs that ended in NaN", 10.0, 1) == ("10 runs", "1 run")
