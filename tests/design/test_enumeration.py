"""Settings of the protocol `enumeration`: one spelling of each, and what a family does not take."""

from __future__ import annotations

import pytest

from tiebreak.design.axes import DesignError, Device
from tiebreak.design.cell import Execution
from tiebreak.design.correctness import Correctness, CorrectnessCell, Statement
from tiebreak.design.enumeration import Enumeration, Function, TieRule
from tiebreak.design.stored import read_cell


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("E2M1", "e2m1"),
        ("m5", "m5"),
        ("m05", "m5"),
        ("2,1,0,-1,-2", "m5"),
        ([-6, 0, 6, 6.0], "-6,0,6"),
        ("0.5, 1/2,0", "0,1/2"),
        ([0.25, "1/3"], "1/4,1/3"),
        (7, "7"),
        ("-1, 0 ,1", "m3"),
    ],
)
def test_a_set_has_one_spelling(given, kept):
    measure = Enumeration(family="two_windows", machine=given)
    assert measure.machine == kept
    assert measure == Enumeration(family="two_windows", machine=kept)


@pytest.mark.parametrize(
    "machine",
    ["", "fp32", "m4", "m1", "e2m9", "1,,2", "1/0", "nan", "inf", "1e999999", True, [], None, [True]],
)
def test_what_is_no_set_is_answered_with_sets(machine):
    with pytest.raises(DesignError, match=r"protocol.machine must be one of e2m1, .* or m5 for the integers"):
        Enumeration(family="two_windows", machine=machine)


def test_auto_is_what_the_family_has():
    layer = Enumeration(family="hidden_layer", machine="m3")
    assert (layer.function, layer.num_neurons, layer.proxy, layer.ties) == ("relu", 1, "torch", "none")
    windows = Enumeration(family="maximum", machine="m3")
    assert (windows.function, windows.num_neurons, windows.proxy, windows.ties) == (
        "none",
        2,
        "none",
        "first",
    )
    assert Enumeration(family="stairs", machine="m3").proxy == "left"
    said = Enumeration(
        family="hidden_layer", machine="m3", function=Function.RELU, num_neurons=1, proxy="torch",
        ties=TieRule.NONE,
    )  # fmt: skip
    assert said == layer
    cell = CorrectnessCell(measure=layer)
    assert read_cell(cell.to_dict()) == cell


@pytest.mark.parametrize(
    ("given", "kept"), [(0, "0"), (0.5, "1/2"), ("2/4", "1/2"), (-1, "-1"), ("left", "left")]
)
def test_a_number_at_kinks_has_one_spelling(given, kept):
    assert Enumeration(family="two_layers", machine="m3", proxy=given).proxy == kept


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("two_windows", {"inputs": [1]}, "takes no inputs, got protocol.inputs=1. .* minibatch, convolution"),
        ("two_windows", {"proxy": 0}, "has no choice of protocol.proxy, got 0. .* sum_of_neurons"),
        (
            "two_windows",
            {"num_neurons": 2},
            "has one size, got protocol.num_neurons=2. .* hidden_layer, maximum",
        ),
        ("product_neuron", {"function": "relu"}, "has no choice of protocol.function, got relu"),
        ("two_layers", {"ties": "first"}, "has no choice of protocol.ties, got first. .* pooled_neurons"),
        ("two_layers", {"function": "none"}, "protocol.function of two_layers cannot be none"),
        ("two_layers", {"function": "tanh"}, "protocol.function must be one of .*relu"),
        ("two_layers", {"proxy": "middle"}, "protocol.proxy must be torch, left, right or a number"),
        ("two_layers", {"proxy": [0, 1]}, "protocol.proxy must be torch, left, right or a number"),
        ("stairs", {"proxy": "torch"}, "torch has no stair"),
        ("minibatch", {}, "needs 1 or more numbers as protocol.inputs, such as .* got none"),
        ("convolution_and_pool", {"inputs": "1,2"}, "needs 3 or more numbers"),
        ("minibatch", {"inputs": "a"}, "protocol.inputs must be numbers"),
        ("maximum", {"num_neurons": 1}, "protocol.num_neurons must be a whole number, 2 or more"),
        ("hidden_layer", {"num_neurons": 65}, "protocol.num_neurons must be 64 or less"),
        ("two_layers", {"num_points": -1}, "protocol.num_points must be a whole number, 0 or more"),
        ("two_window", {}, "protocol.family must be one of .*two_windows"),
    ],
)
def test_what_a_family_does_not_take_is_refused_in_words(family, settings, words):
    with pytest.raises(DesignError, match=words):
        Enumeration(family=family, machine="m3", **settings)


def test_only_the_enumeration_runs_on_a_gpu():
    cuda = Execution(device=Device.CUDA)
    counted = CorrectnessCell(measure=Enumeration(family="two_windows", machine="m3"), execution=cuda)
    assert counted.words == ("enumeration", "two_windows", "m3")
    with pytest.raises(DesignError, match="counts on the CPU"):
        CorrectnessCell(measure=Correctness(statement=Statement.T1), execution=cuda)
