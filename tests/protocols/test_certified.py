"""Draws with certified labels, at initialisation and along training."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from memory_session import run_interrupted
from torch.nn import functional

from tiebreak import certify
from tiebreak.data import load, train_batches
from tiebreak.design.axes import NATIVE, PoolJacobian
from tiebreak.design.cell import Cell, Data, Network, Trajectory, Trial, Zones
from tiebreak.exact.certificate import Label
from tiebreak.models import build
from tiebreak.protocols import measure
from tiebreak.protocols.setting import prepare
from tiebreak.records.session import OutcomeKind

LABELS = {str(label) for label in Label}
RULES = (PoolJacobian(), PoolJacobian(beta=1), PoolJacobian(beta=100))


class Notes:
    """A session that keeps rows and nothing else."""

    data_root = Path("data")

    def __init__(self):
        self.rows = []

    def emit(self, row):
        self.rows.append(json.loads(json.dumps(row)))

    def restore(self):
        return None

    def progress(self, *_):
        pass

    def wants_checkpoint(self):
        return False

    def of(self, kind):
        return [row for row in self.rows if row["row"] == kind]


def cell(**settings):
    made = {
        "network": Network(arch="lenet5"),
        "data": Data(name="mnist5k", batch_size=16),
        "precision": "fp32",
        "jacobians": RULES,
        "measure": Zones(num_batches=2, certify=True, margins=False),
    }
    return Cell(**(made | settings))


def rows_of(cell, *, replicate=0):
    notes = Notes()
    outcome = measure(Trial(cell=cell, replicate=replicate), notes)
    assert outcome.kind is OutcomeKind.COMPLETED
    return notes


def test_every_draw_and_rule_has_a_label_beside_its_gap():
    notes = rows_of(cell())
    gaps = {(row["draw"], row["jacobian"]): row for row in notes.of("gap")}
    found = {(row["draw"], row["jacobian"]): row for row in notes.of("certificate")}
    assert set(found) == set(gaps) == {(draw, rule) for draw in (0, 1) for rule in ("minimal", "beta100")}
    for key, row in found.items():
        assert row["label"] == ("compensation" if gaps[key]["gap_sup_sum"] else "regular")
        assert row["different"] is False
        assert row["num_nonzero"] == 0
        assert row["log2_error"] == "-inf" or row["log2_error"] <= -40
    truths, pools = notes.of("pool_truth"), notes.of("pool")
    assert [row["tied_in_floats"] for row in truths] == [row["tied"] for row in pools]


def test_labels_change_no_gap():
    plain = rows_of(cell(measure=Zones(num_batches=2, margins=False)))
    assert not plain.of("certificate")
    assert plain.of("gap") == rows_of(cell()).of("gap")


def test_eight_bit_parameters_bifurcate():
    notes = rows_of(cell(precision="e4m3", data=Data(name="mnist5k", batch_size=64)))
    for row in notes.of("certificate"):
        assert row["label"] == "bifurcation"
        assert row["tensors_nonzero"].startswith("features.0.weight:")
    assert len(notes.of("bifurcation")) == 2
    for row in notes.of("bifurcation"):
        assert row["tensor"] == "features.0.weight"
        assert row["tied"] > 1
        assert row["difference"] != 0
        assert row["patches"].startswith("differ in")


def test_batch_statistics_are_not_certified_and_say_so():
    notes = rows_of(cell(network=Network(arch="lenet5", batch_norm=True)))
    for row in notes.of("certificate"):
        assert row["label"] in ("undecided", "regular", "compensation")
        assert row["label"] != "undecided" or "batch" in row["reason"]


def test_ties_of_a_first_convolution_bifurcate_behind_batch_norm_as_float64_sees_them():
    """Sums of eight-bit numbers are exact in float64, so its ties are the true ones and its gap is near D."""
    chosen = cell(
        precision="e4m3",
        network=Network(arch="lenet5", batch_norm=True),
        data=Data(name="mnist5k", batch_size=32),
        measure=Zones(num_batches=1, certify=True, margins=False),
    )
    notes = rows_of(chosen)
    assert not notes.of("bifurcation")  # there are no residues to take apart
    assert len(notes.of("certificate")) == 2
    trial = Trial(cell=chosen, replicate=0)
    with prepare(trial, Notes()) as setting:
        (batch,) = islice(setting.train_batches(), 1)
        for rule, row in zip(RULES[1:], notes.of("certificate"), strict=True):
            assert row["label"] == "bifurcation"
            name, _, index = row["separation"].removesuffix("]").partition("[")
            entry = []
            for jacobian in (rule, NATIVE):
                model = setting.network(jacobian).double()
                functional.cross_entropy(model(batch.images.double()), batch.labels).backward()
                entry.append(model.get_parameter(name).grad[tuple(map(int, index.split(",")))].item())
            near = entry[0] - entry[1]
            low, high = row["separation_low"], row["separation_high"]
            assert low > 0 or high < 0
            # The cotangent of the certificate is that of logits in fp32.
            assert near == pytest.approx((low + high) / 2, rel=1e-4)


def test_a_trajectory_is_one_run_seen_through_every_precision():
    measured = Trajectory(num_epochs=1, num_batches=1)
    data = Data(name="mnist5k", batch_size=64, train_size=256)
    plain = rows_of(cell(measure=measured, data=data))
    assert {row["epoch"] for row in plain.rows} == {0, 1}
    untrained = rows_of(cell(data=data, measure=Zones(num_batches=1, certify=True, margins=False)))
    first = [row for row in plain.of("gap") if row["epoch"] == 0]
    assert [row["gap_sup_sum"] for row in first] == [row["gap_sup_sum"] for row in untrained.of("gap")]
    narrow = rows_of(cell(measure=measured, data=data, precision="e5m2"))
    assert {row["label"] for row in narrow.of("certificate")} <= LABELS
    assert len(narrow.of("certificate")) == len(plain.of("certificate")) == 4


def test_a_trajectory_is_a_function_of_cell_and_replicate():
    chosen = cell(measure=Trajectory(num_epochs=1, num_batches=1), data=Data(name="mnist5k", train_size=256))
    torch.manual_seed(1)
    once = rows_of(chosen)
    torch.manual_seed(2)
    assert rows_of(chosen).rows == once.rows
    assert rows_of(chosen, replicate=1).rows != once.rows


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_trajectory_stops_when_asked_and_goes_on_to_the_same_record(momentum):
    """Stopped after each step of training; momenta and weights are carried on bit for bit."""
    measured = Trajectory(num_epochs=2, num_batches=1, momentum=momentum)
    chosen = cell(measure=measured, data=Data(name="mnist5k", batch_size=64, train_size=256))
    resumed, attempts = run_interrupted(measure, Trial(cell=chosen, replicate=0), Path("data"))
    assert attempts == 7  # four steps an epoch, and none is left to do after the last
    assert [json.loads(json.dumps(row)) for row in resumed.rows] == rows_of(chosen).rows


def test_a_trajectory_that_diverges_says_at_which_step_and_keeps_the_stops_before():
    """The step is found independently, by training with torch's own optimizer until the loss is none."""
    measured = Trajectory(num_epochs=3, num_batches=1, lr=1e7, momentum=0.9)
    chosen = cell(measure=measured, data=Data(name="mnist5k", batch_size=64, train_size=128))
    notes = Notes()
    outcome = measure(Trial(cell=chosen, replicate=0), notes)
    assert outcome.kind is OutcomeKind.DIVERGED
    step = 0
    with prepare(Trial(cell=chosen, replicate=0), Notes()) as setting:
        model = setting.network(NATIVE)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e7, momentum=0.9)
        for epoch in range(3):
            for batch in setting.train_batches(epoch=epoch):
                if all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
                    step += 1
                    optimizer.zero_grad()
                    setting.loss(model, batch).backward()
                    optimizer.step()
    assert outcome.step == step
    stops = (step - 1) // 2
    assert stops >= 1
    assert {row["epoch"] for row in notes.of("gap")} == set(range(stops + 1))
    assert all(row["label"] in LABELS for row in notes.of("certificate"))
    (last,) = notes.of("nonfinite")
    assert notes.rows[-1] == last
    assert (last["step"], last["epoch"]) == (step, stops + 1)
    resumed, _ = run_interrupted(measure, Trial(cell=chosen, replicate=0), Path("data"))
    assert resumed.outcome == outcome
    assert [json.loads(json.dumps(row)) for row in resumed.rows] == notes.rows


def test_stops_are_every_so_many_epochs_and_at_the_end():
    measured = Trajectory(num_epochs=3, every=2, num_batches=1)
    notes = rows_of(cell(measure=measured, data=Data(name="mnist5k", train_size=128)))
    assert sorted({row["epoch"] for row in notes.rows}) == [0, 2, 3]


@pytest.mark.parametrize("forward", ["exact", "blended"])
def test_both_forward_arms_are_labelled(forward):
    rules = tuple(replace(rule, forward=forward) for rule in RULES)
    for row in rows_of(cell(jacobians=rules)).of("certificate"):
        assert row["label"] in ("compensation", "regular")


def entry_of(cell, row):
    """PyTorch's derivative at the entry that a row dissects, from a network that knows no other rule."""
    trial = Trial(cell=cell, replicate=0)
    with prepare(trial, Notes()) as setting:
        model = setting.network(NATIVE)
        (batch,) = islice(setting.train_batches(start=row["draw"]), 1)
        setting.loss(model, batch).backward()
        entry = model.get_parameter(row["tensor"]).grad[tuple(map(int, row["index"].split(",")))]
    return entry.item()


@pytest.mark.parametrize("forward", ["exact", "blended"])
def test_a_dissected_entry_stands_beside_pytorchs_derivative_whatever_was_compared_last(forward):
    rules = tuple(PoolJacobian(beta=beta, forward=forward) for beta in (0, 1, 10_000))
    chosen = cell(precision="e4m3", data=Data(name="mnist5k", batch_size=32), jacobians=rules)
    found = rows_of(chosen).of("bifurcation")
    assert found
    for row in found:
        entry = entry_of(chosen, row)
        assert row["gradient"] == entry
        assert row["share"] == abs(row["difference"] / entry)


def test_a_blended_forward_is_certified_at_the_values_of_its_reference():
    data = Data(name="mnist5k", batch_size=16)
    rules = tuple(PoolJacobian(beta=beta, forward="blended") for beta in (0, 1, 10_000))
    blended = rows_of(cell(precision="fp16_rounded", data=data, jacobians=rules))
    exact = rows_of(
        cell(precision="fp16_rounded", data=data, jacobians=tuple(replace(r, forward="exact") for r in rules))
    )
    assert blended.of("pool_truth") == exact.of("pool_truth")


def test_a_filter_of_zeros_is_a_bifurcation_and_its_network_otherwise_none():
    """The positive control: one filter of the second convolution 0, its bias 1/2, so a whole map is flat."""
    data = Data(name="mnist5k", batch_size=128)
    dataset = load(data, root=Path("data"))
    batch = next(train_batches(dataset, data=data, epoch=0, order_seed=0, augment_seed=0))
    model = build(Network(arch="lenet5"), num_classes=10, in_channels=1, jacobian=PoolJacobian(), seed=0)
    assert certify(model, batch.images, batch.labels).verdicts[0].different is False
    second = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)][1]
    with torch.no_grad():
        second.weight[0], second.bias[0] = 0.0, 0.5
    verdict = certify(model, batch.images, batch.labels).verdicts[0]
    assert verdict.different
    assert set(verdict.num_nonzero) == {
        "features.4.weight"
    }  # the patches that the flat map's ties see differ
    assert verdict.num_nonzero["features.4.weight"] <= 150
