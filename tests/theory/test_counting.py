"""The protocol `enumeration`: the specification's numbers from recorded rows, two ways, draws, resumption."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from memory_session import MemorySession, run_interrupted

from tiebreak.design.axes import Device, UserError
from tiebreak.design.cell import Trial
from tiebreak.design.correctness import CorrectnessCell
from tiebreak.design.enumeration import _TAKES, Enumeration, Family, Function, TieRule
from tiebreak.records.session import OutcomeKind
from tiebreak.theory import counting
from tiebreak.theory.measuring import measure_correctness
from tiebreak.theory.posing import posed

BATCHES = {"hardtanh": "1,-1", "relu6": "0,6", "hardsigmoid": "3,-3"}


def trial(family, machine, *, replicate=0, **settings):
    measure = Enumeration(family=family, machine=machine, **settings)
    return Trial(cell=CorrectnessCell(measure=measure), replicate=replicate)


@pytest.fixture
def rows(tmp_path):
    def measured(family, machine, **settings):
        session = MemorySession(data_root=tmp_path)
        outcome = measure_correctness(trial(family, machine, **settings), session)
        assert outcome.kind is OutcomeKind.COMPLETED
        return session.rows

    return measured


@pytest.fixture
def counted(rows):
    """The row of counts of a cell."""

    def row(family, machine, **settings):
        first, *rest = rows(family, machine, **settings)
        assert first["row"] == "count"
        assert all(other["row"] == "map_line" for other in rest)
        return first

    return row


@pytest.mark.parametrize(
    ("family", "machine", "settings", "expected"),
    [  # touched, singular, and the bounds in points
        ("sum_of_neurons", "e2m1", {"num_neurons": 3}, (631, 631, 675, 631)),
        ("sum_of_neurons", "e2m1", {"num_neurons": 3, "function": "hardtanh"}, (1178, 1178, 1350, 1178)),
        ("sum_of_neurons", "e2m1", {"num_neurons": 3, "function": "relu6"}, (1178, 1178, 1350, 1178)),
        ("sum_of_neurons", "e2m1", {"num_neurons": 3, "function": "hardsigmoid"}, (1178, 1178, 1350, 1178)),
        ("hidden_layer", "e2m1", {}, (225, 210, 225, 225)),
        ("hidden_layer", "m5", {"num_neurons": 2}, (5625, 4600, 6250, 5625)),
        ("hidden_layer", "m5", {"num_neurons": 2, "function": "hardtanh"}, (8400, 6976, 12500, 10000)),
        ("two_layers", "m5", {}, (1035, 588, 1250, 1125)),
        ("two_layers", "-6,-1,0,1,6", {"function": "relu6"}, (1565, 880, 2500, 2000)),
    ],
)
def test_with_biases(counted, family, machine, settings, expected):
    row = counted(family, machine, proxy="0", **settings)
    bounds = (row["bound_kinks"] * row["points"], row["bound_product"] * row["points"])
    assert (row["touched"], row["singular"], *map(round, bounds)) == expected
    assert row["incorrect"] == 0
    assert row["live"] == row["singular"]
    assert row["witness"] == ""
    assert row["bound_failing"] is None
    assert row["closed_form"] in (None, row["singular"])


@pytest.mark.parametrize(
    ("family", "machine", "proxy", "singular", "incorrect", "bound"),
    [
        ("plus_minus", "e2m1", "0", 0, 1, 2),
        ("plus_minus", "e2m1", "1/2", 0, 0, 2),
        ("plus_minus", "e2m1", "1", 0, 1, 2),
        ("stairs", "e2m1", "left", 0, 15, 30),
        ("product_plus_minus", "e2m1", "0", 0, 28, 45),
        ("product_plus_minus", "e2m1", "1/2", 0, 0, 45),
        ("product_neuron", "e2m1", "2", 28, 0, 30),
        ("id_relu_linear", "m5", "0", 1232, 24, 1875),
        ("id_relu_linear", "m5", "1/2", 1232, 0, 1875),
        ("id_relu_linear", "m5", "1", 1232, 24, 1875),
        ("relu_relu", "e2m1", "0", 14, 0, 30),
        ("relu_relu", "e2m1", "1/2", 14, 7, 30),
        ("relu_relu", "e2m1", "2", 14, 7, 30),
    ],
)
def test_without_biases(counted, family, machine, proxy, singular, incorrect, bound):
    row = counted(family, machine, proxy=proxy)
    assert (row["singular"], row["incorrect"]) == (singular, incorrect)
    assert round(row["bound_failing"] * row["points"]) == bound
    assert bool(row["witness"]) == bool(incorrect)
    assert row["bound_kinks"] is None


@pytest.mark.parametrize(
    ("family", "machine", "settings", "points", "singular", "incorrect"),
    [  # incorrect with first, last, split
        ("two_windows", "e2m1", {}, 225, 0, (15, 15, 0)),
        ("two_windows_with_biases", "m5", {}, 3125, 875, (0, 0, 0)),
        ("convolution_and_pool", "m7", {"inputs": "0,1,0,1"}, 343, 0, (49, 49, 0)),
        ("repeated_entries", "e2m1", {}, 225, 0, (0, 0, 15)),
        ("maximum", "e2m1", {}, 225, 15, (0, 0, 0)),
        ("maximum", "e2m1", {"num_neurons": 3}, 3375, 330, (0, 0, 0)),
        ("maximum", "m7", {"num_neurons": 4}, 2401, 637, (0, 0, 0)),
    ],
)
def test_windows(counted, family, machine, settings, points, singular, incorrect):
    for ties, wrong in zip(("first", "last", "split"), incorrect, strict=True):
        row = counted(family, machine, ties=ties, **settings)
        assert (row["points"], row["singular"], row["incorrect"]) == (points, singular, wrong)
        assert [row[name] for name in ("bound_kinks", "bound_product", "bound_failing")] == [None] * 3


@pytest.mark.parametrize("function", BATCHES)
@pytest.mark.parametrize(("proxy", "incorrect"), [("0", 1), ("left", 0), ("right", 0)])
def test_a_batch_that_meets_both_kinks(counted, function, proxy, incorrect):
    row = counted("minibatch", "e2m1", function=function, inputs=BATCHES[function], proxy=proxy)
    assert (row["singular"], row["incorrect"]) == (2, incorrect)
    slope = "1/6" if function == "hardsigmoid" else "1"
    assert row["witness"] == (f"at w = 0 AD gives (0), the derivative is ({slope})" if incorrect else "")


def test_a_judge_says_what_is_outside(counted):
    # 64 points of the specification, 40 of them singular; with 2 at kinks and biases, all that are singular
    row = counted("id_relu_linear", "m5", proxy="1", judge=True)
    assert row["points"] - row["in_hull"] == 64
    assert row["disagreements"] == 0
    outside = counted("two_layers", "m5", proxy="2", judge=True)
    assert outside["points"] - outside["in_hull"] == outside["singular"] == 588
    middle = counted("two_layers", "m5", proxy="1/2", judge=True)
    assert (middle["in_hull"], middle["points"] - middle["limits"]) == (3125, 588)
    assert counted("two_layers", "m5")["in_hull"] is None


def test_where_float64_would_round_the_oracle_counts_the_same(counted, monkeypatch):
    known = counted("two_windows", "m5", judge=True)
    monkeypatch.setattr(counting, "_fits_float64", lambda question: False)
    oracle = counted("two_windows", "m5", judge=True)
    assert (known["way"], oracle["way"]) == ("enumeration", "oracle")
    same = ("points", "touched", "live", "singular", "incorrect", "limits", "in_hull", "witness")
    assert [known[name] for name in same] == [oracle[name] for name in same]
    assert oracle["disagreements"] is None


def test_a_map_has_a_letter_a_point(rows):
    first, *lines = rows("relu_relu", "m5", proxy="1")
    text = "".join(line["points"] for line in lines)
    assert (text.count("i"), text.count("s")) == (first["incorrect"], first["singular"])
    assert [line["number"] for line in lines] == [-2, -1, 0, 1, 2]
    # relu(w2 relu(w1)): bent along w2 = 0 where w1 > 0, and along w1 = 0 where w2 > 0; wrong where w2 < 0
    assert [line["points"] for line in lines] == ["ccicc", "ccicc", "cccss", "ccscc", "ccscc"]
    assert (lines[0]["across"], lines[0]["up"]) == ("w1_11", "w2_11")
    assert len(rows("two_layers", "m3")) == 1


def test_draws_are_the_replicates_and_estimate_the_whole(counted, rows):
    whole = counted("two_layers", "m5")
    drawn = counted("two_layers", "m5", num_points=20000)
    assert drawn["points"] == 20000
    assert drawn["closed_form"] is None
    for name in ("touched", "singular"):
        share = whole[name] / whole["points"]
        assert abs(drawn[name] / 20000 - share) < 5 * (share * (1 - share) / 20000) ** 0.5
    assert rows("two_windows", "e2m1", num_points=50)[1:] == []
    again, other = (counted("two_layers", "m5", num_points=20000, replicate=k) for k in (0, 1))
    assert again["touched"] == drawn["touched"] != other["touched"]


@pytest.mark.parametrize("settings", [{}, {"num_points": 1000}, {"judge": True}], ids=str)
def test_a_trial_that_is_stopped_at_each_chunk_goes_on(rows, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(counting, "CHUNK", 100)
    asked = trial("id_relu_linear", "m3", **settings)
    session, attempts = run_interrupted(measure_correctness, asked, tmp_path)
    assert attempts == -(-session.rows[0]["points"] // 100)
    (whole,) = rows("id_relu_linear", "m3", **settings)
    assert session.rows == [whole | {"seconds": session.rows[0]["seconds"]}]


def test_too_much_is_refused_in_words(counted, monkeypatch):
    with pytest.raises(UserError, match="253\\^6 points, and at most 1e\\+10 can be looked at"):
        counted("hidden_layer", "e4m3", num_neurons=2)
    with pytest.raises(UserError, match="more than can be numbered in 64 bits"):
        counted("sum_of_neurons", "fp16", num_neurons=4, num_points=10)
    with pytest.raises(UserError, match="at most 1e\\+07 points can be drawn"):
        counted("two_windows", "m5", num_points=10**8)
    monkeypatch.setattr(counting, "MOST_JUDGED", 100)
    with pytest.raises(UserError, match="more than 100 touched points, and the oracle"):
        counted("two_layers", "m5", judge=True)
    with pytest.raises(UserError, match="has 225 points, and the oracle"):
        counted("repeated_entries", "e2m1", ties="split")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_that_is_said(tmp_path):
    asked = trial("two_windows", "m5")
    with pytest.raises(UserError, match="device=cuda needs a CUDA device"):
        counting.measure_counts(
            asked.cell.measure, MemorySession(data_root=tmp_path), seed=0, device=Device.CUDA
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_the_same(tmp_path, counted):
    session = MemorySession(data_root=tmp_path)
    asked = trial("two_layers", "m5")
    counting.measure_counts(asked.cell.measure, session, seed=0, device=Device.CUDA)
    assert session.rows[0] | {"seconds": 0} == counted("two_layers", "m5") | {"seconds": 0}


@pytest.mark.parametrize("family", Family, ids=str)
def test_every_family_is_built_as_the_design_says(family):
    takes = _TAKES[family]
    inputs = "1,-1,2" if takes.inputs else ""
    question = posed(Enumeration(family=family, machine="m3", inputs=inputs))
    assert question.network.has_maxima == takes.windows
    assert bool(question.at_kinks()) == (takes.proxy != "none")
    with_abs = (
        Enumeration(family=family, machine="m3", inputs=inputs, function=Function.ABS)
        if takes.function
        else None
    )
    assert with_abs is None or "abs" in posed(with_abs).network.name
    if takes.least:
        more = Enumeration(family=family, machine="m3", num_neurons=takes.least + 1)
        assert len(posed(more).network.parameters) > len(question.network.parameters)


def test_closed_forms_hold_on_drawn_sets(counted):
    draw = random.Random(0)
    for _ in range(5):
        numbers = {Fraction(draw.randint(-4, 4), 2) for _ in range(5)}
        machine = ",".join(map(str, sorted(numbers)))
        for family, function in (
            ("sum_of_neurons", "hardtanh"),
            ("hidden_layer", "abs"),
            ("maximum", "auto"),
        ):
            size = {} if family == "hidden_layer" else {"num_neurons": 3}
            row = counted(family, machine, function=function, **size)
            assert row["closed_form"] in (None, row["singular"])
            assert row["closed_form"] is not None or family == "hidden_layer"


def test_rules_are_those_that_are_named():
    kinks = posed(
        Enumeration(family=Family.TWO_LAYERS, machine="m3", function=Function.HARDTANH, proxy="right")
    )
    assert kinks.at_kinks() == "hardtanh 1 0"
    ties = posed(Enumeration(family=Family.REPEATED_ENTRIES, machine="m3", ties=TieRule.SPLIT))
    assert str(ties.rules.ties) == "split"
    assert posed(Enumeration(family=Family.TWO_LAYERS, machine="m3")).at_kinks() == "relu 0"
