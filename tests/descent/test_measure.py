"""Rows of each protocol against runs made one at a time, by torch.optim, scikit-learn and by hand."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Lasso as TheirLasso

from tiebreak.descent import closed_forms
from tiebreak.descent.activations import RELU, Activation, c1relu
from tiebreak.descent.lasso import draw_problems
from tiebreak.descent.measure_kinks import _Hits, kinks
from tiebreak.descent.measure_penalty import lasso, pruning
from tiebreak.descent.measure_rates import floors, training
from tiebreak.descent.measure_stability import regression, scalar, sharpness
from tiebreak.descent.mlp import Examples, Layout, Networks, draw_examples
from tiebreak.descent.place import Place, spread_steps
from tiebreak.descent.pruning import prune_below, prune_share, weights_of
from tiebreak.descent.rates import draw_responses, smoothness_bound
from tiebreak.descent.steps import Rule
from tiebreak.design.axes import DesignError, UserError
from tiebreak.design.descent import Floors, Kinks, Lasso, Pruning, Regression, Scalar, Sharpness, Training
from tiebreak.design.descent_axes import Kink, Loss, Method, PenaltyUnit, Shape, Source, StepUnit

SMALL = {"data": Source.SYNTHETIC, "num_examples": 40, "num_test": 30, "side": 3, "width": 8}


def place(*, dtype=torch.float64, replicate=0):
    return Place(
        dtype=dtype,
        device=torch.device("cpu"),
        data_root=Path("nowhere"),
        replicate=replicate,
        progress=lambda done, total: None,
    )


def of(rows, kind):
    return [row for row in rows if row["row"] == kind]


def test_floors_are_those_of_a_loop():
    setting = Floors(lrs=(0.1, 0.3), num_problems=2, num_points=40, num_features=4, steps=400, window=100)
    rows = list(floors(setting, place()))
    problem = draw_responses(seeds=(0, 1), num_points=40, num_features=4)
    for row in of(rows, "floor"):
        b = problem.start[row["problem"]].clone()
        x, y = problem.x[row["problem"]], problem.y[row["problem"]]
        gaps = []
        for _ in range(400):
            z = x @ b
            gaps.append(float(((torch.relu(z) - y) ** 2).mean() / 2 - (y**2).mean() / 2))
            b = b - row["lr"] * ((torch.relu(z) - y) * (z > 0)) @ x / 40
        assert row["floor"] == pytest.approx(sorted(gaps[-100:])[49], abs=1e-12)
        assert row["first_below"] is row["largest_gradient"] is None
    curve = [row for row in of(rows, "floor_curve") if row["asked"] == 0.3]
    assert [row["step"] for row in curve] == list(spread_steps(400))
    assert all(row["gap_min"] <= row["gap_median"] <= row["gap_max"] for row in curve)


def test_steps_at_the_edge_and_for_a_target_are_what_they_say():
    edge = Floors(
        lrs=(0.5,),
        lr_unit=StepUnit.EDGE,
        activation=Shape.C1RELU,
        delta=0.5,
        num_problems=2,
        steps=50,
        window=2,
    )
    bound = smoothness_bound(draw_responses(seeds=(0, 1)), delta=0.5)
    for row in of(floors(edge, place()), "floor"):
        assert row["lr"] * float(bound[row["problem"]]) / 2 == pytest.approx(0.5)
    target = Floors(lrs=(0.1, 0.03), lr_unit=StepUnit.TARGET, num_problems=2, steps=2000, window=2)
    for row in of(floors(target, place()), "floor"):
        assert 0 < row["first_below"] <= row["promised"]
        # f is convex and its slope falls on the way: the largest gradient is the first
        assert row["lr"] == pytest.approx(row["asked"] / row["largest_gradient"] ** 2)
    with pytest.raises(DesignError, match="edge needs a bound"):
        Floors(lr_unit=StepUnit.EDGE)


def test_a_replicate_has_its_own_problems():
    setting = Floors(num_problems=2, steps=20, window=2)
    first, second = (
        [row["floor"] for row in of(floors(setting, place(replicate=index)), "floor")] for index in (0, 1)
    )
    assert not set(first) & set(second)
    third = of(floors(Floors(num_problems=4, steps=20, window=2), place()), "floor")
    assert [row["floor"] for row in third] == first + second


def test_a_lasso_row_says_what_scikit_learn_says_of_its_solution():
    setting = Lasso(
        lrs=(0.05,), penalties=(0.2, 0.5, 3.0), method=Method.PROXIMAL, num_problems=2, steps=4000, window=5
    )
    problems = draw_problems(seeds=(0, 1))
    for row in lasso(setting, place()):
        model = TheirLasso(alpha=row["penalty"], fit_intercept=False, tol=1e-14, max_iter=100_000)
        model.fit(problems.x[row["problem"]].numpy(), problems.y[row["problem"]].numpy())
        assert row["norm_exact"] == pytest.approx(abs(model.coef_).sum(), abs=1e-9)
        assert row["zeros_exact"] == (model.coef_ == 0).sum()
        assert row["zeros"] == row["zeros_exact"]
        assert row["norm"] == pytest.approx(row["norm_exact"], abs=1e-9)
        assert row["violation"] < 1e-9
        assert abs(row["gap"]) < 1e-12
        assert row["norm_closed_form"] is None


def test_closed_forms_stand_beside_what_was_measured():
    setting = Lasso(lrs=(0.1,), penalties=(100.0,), columns="orthonormal", num_problems=1, num_traced=4)
    rows = list(lasso(setting, place()))
    (row,) = of(rows, "lasso")
    assert row["norm"] == pytest.approx(row["norm_closed_form"], rel=1e-9)
    assert row["norm_closed_form"] == pytest.approx(20 * 0.1 * row["penalty"] / 1.9)
    trace = [item["value"] for item in of(rows, "trace") if item["coordinate"] == 19]
    assert trace[0] == pytest.approx(trace[2], rel=1e-9)  # the 2-cycle of T-L1
    assert trace[0] * trace[1] < 0
    crossing = Lasso(
        lrs=(0.1, 0.01),
        penalties=(1.0,),
        penalty_unit=PenaltyUnit.CROSSING,
        num_problems=2,
        steps=5,
        window=1,
    )
    for row in lasso(crossing, place()):
        expected = closed_forms.crossing_penalty(
            torch.tensor(row["norm_unpenalised"]), lr=row["lr"], num_features=20
        )
        assert row["penalty"] == pytest.approx(float(expected))


def network(*, dtype=torch.float64, seeds=(0, 0)):
    data, test = draw_examples(num=40, num_test=30, side=3)
    data, test = data.to(dtype), test.to(dtype)
    return Networks(Layout(widths=(9, 8, 10), activation=RELU), seeds=seeds, data=data), data, test


@pytest.mark.parametrize("method", [Method.GD, Method.ADAM, Method.RMSPROP, Method.PROXIMAL])
def test_a_penalised_network_takes_the_path_of_torch_optim(method):
    networks, data, _ = network()
    weights = [point[1].clone().requires_grad_() for point in networks.points]
    kinds = {
        Method.ADAM: lambda p: torch.optim.Adam(p, lr=0.05),
        Method.RMSPROP: lambda p: torch.optim.RMSprop(p, lr=0.05),
    }
    optimizer = kinds.get(method, lambda p: torch.optim.SGD(p, lr=0.05))(weights)
    penalty = torch.tensor([0.0, 0.03], dtype=torch.float64)
    steps = networks.train(
        lr=torch.tensor([0.1, 0.05], dtype=torch.float64), rule=Rule(method=method), steps=60, penalty=penalty
    )
    for _ in steps:
        optimizer.zero_grad()
        hidden = torch.relu(data.inputs @ weights[0] + weights[1])
        loss = torch.nn.functional.cross_entropy(hidden @ weights[2] + weights[3], data.labels)
        if method is not Method.PROXIMAL:
            loss = loss + 0.03 * (weights[0].abs().sum() + weights[2].abs().sum())
        loss.backward()
        optimizer.step()
        if method is Method.PROXIMAL:
            with torch.no_grad():
                for weight in (weights[0], weights[2]):
                    weight.copy_(weight.sign() * (weight.abs() - 0.05 * 0.03).clamp_min(0))
    for ours, theirs in zip(networks.points, weights, strict=True):
        assert float((ours[1] - theirs.detach()).abs().max()) < 1e-11
    zeros = (weights_of(networks.points)[1] == 0).sum()
    assert (int(zeros) > 0) == (method is Method.PROXIMAL)


def test_pruning_removes_the_smallest_weights_and_no_others():
    networks, _, test = network(seeds=(0, 1, 2))
    sizes = weights_of(networks.points).abs()
    before = [point.clone() for point in networks.points]
    left = prune_share(networks, 0.75, data=test)
    assert left.share_removed.tolist() == [0.75] * 3
    for run in range(3):
        threshold = float(sizes[run].kthvalue(int(0.75 * sizes.shape[1])).values)
        parts = [
            torch.where(point[run].abs() <= threshold, 0, point[run]) if layer % 2 == 0 else point[run]
            for layer, point in enumerate(networks.points)
        ]
        logits = torch.relu(test.inputs @ parts[0] + parts[1]) @ parts[2] + parts[3]
        assert float(left.accuracy[run]) == float((logits.argmax(1) == test.labels).double().mean())
    assert prune_share(networks, 1.0, data=test).share_removed.tolist() == [1.0] * 3
    nothing = prune_below(networks, 0.0, data=test)
    assert nothing.share_removed.tolist() == [0.0] * 3
    assert torch.equal(nothing.accuracy, networks.accuracy(test))
    some = prune_below(networks, 0.1, data=test)
    assert torch.equal(some.share_removed, (sizes < 0.1).double().mean(1))
    assert all(torch.equal(one, other) for one, other in zip(before, networks.points, strict=True))


def test_pruned_networks_have_a_row_a_rule():
    setting = Pruning(
        lrs=(0.1,),
        penalties=(0.0, 1.0),
        num_seeds=2,
        steps=40,
        window=10,
        thresholds=(0.0, 0.01),
        shares=(0.5,),
        **SMALL,
    )
    rows = list(pruning(setting, place()))
    assert len(of(rows, "penalised")) == 4
    assert len(of(rows, "pruned")) == 4 * 3
    for row in of(rows, "penalised"):
        assert row["num_weights"] == 9 * 8 + 8 * 10
        assert row["norm_of_cycles"] == pytest.approx(152 * 0.1 * row["penalty"] / 1.9)
        assert row["share_zero"] == 0
    big = [row for row in of(rows, "penalised") if row["penalty"] == 1.0]
    assert all(row["norm"] == pytest.approx(row["norm_of_cycles"], rel=0.5) for row in big)
    untouched = {(row["seed"], row["penalty"]): row["test_accuracy"] for row in of(rows, "penalised")}
    for row in of(rows, "pruned"):
        if (row["rule"], row["value"]) == ("threshold", 0.0):
            assert row["test_accuracy"] == untouched[row["seed"], row["penalty"]]
            assert row["share_removed"] == row["share_small"] == 0


def test_training_says_when_a_level_is_reached_and_keeps_what_diverged():
    setting = Training(lrs=(0.5, 1e6), levels=(1.0, 1e-9), num_seeds=2, steps=60, **SMALL)
    rows = list(training(setting, place(dtype=torch.float32)))
    for row in of(rows, "fit"):
        assert row["diverged"] == (row["lr"] > 1)
        assert math.isfinite(row["train_loss"]) == (row["lr"] < 1)
    levels = {(row["seed"], row["lr"], row["level"]): row["epoch"] for row in of(rows, "fit_level")}
    assert levels[0, 0.5, 1.0] > 0
    assert levels[0, 0.5, 1e-9] is None
    first, last = (row for row in of(rows, "fit_curve") if row["lr"] == 0.5 and row["step"] in (0, 60))
    assert last["loss_max"] < first["loss_min"]


def test_limits_of_a_loss_stand_beside_their_closed_forms():
    huber = Scalar(loss=Loss.HUBER, lrs=(1.0, 3.0), num_starts=100, steps=2000, num_kept=7)
    rows = list(scalar(huber, place()))
    below, above = of(rows, "limit")
    assert below["share_unsettled"] == 0
    assert below["cycle_low"] is None
    assert 1.5 - 1e-9 <= above["amplitude_min"] < above["amplitude_max"] <= 2 + 1e-9
    assert (above["cycle_low"], above["cycle_high"]) == (1.5, 2.0)
    assert above["curvature_max"] == 0
    assert above["num_amplitudes"] > 10
    assert len(of(rows, "orbit")) == 14
    (smooth,) = scalar(Scalar(loss=Loss.SQRT1, lrs=(2.5,), num_starts=50), place())
    assert smooth["amplitude_max"] == pytest.approx(0.75)
    assert smooth["secant_off_max"] < 1e-9
    assert smooth["num_amplitudes"] == 1
    (corner,) = scalar(Scalar(lrs=(0.5,), num_starts=50, steps=500), place())
    assert corner["worst_over_floor_min"] >= 1 - 1e-9
    assert corner["best_over_bound_max"] <= 1
    (lost,) = scalar(Scalar(loss=Loss.QUADRATIC, lrs=(4.0,), num_starts=5, steps=1200), place())
    assert lost["share_nonfinite"] == 1
    assert not math.isfinite(lost["amplitude_max"])


def test_sixteen_bits_are_absorbed_and_more_are_not():
    setting = Scalar(lrs=(2.0**-4,), num_starts=300, steps=400, window=1)
    shares = {
        dtype: next(scalar(setting, place(dtype=dtype)))["share_at_zero"]
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    assert shares[torch.float64] == shares[torch.float32] == 0
    assert shares[torch.bfloat16] > 0.05


def test_regression_and_sharpness_have_a_row_a_run():
    rows = list(regression(Regression(loss=Loss.QUADRATIC, lrs=(0.5, 1.05), num_problems=2), place()))
    assert [row["diverged"] for row in rows] == [False, True] * 2
    assert rows[0]["sharpness"] == pytest.approx(0.5)
    setting = Sharpness(lrs=(0.1, 0.2), num_seeds=2, steps=25, every=10, num_products=30, **SMALL)
    rows = list(sharpness(setting, place()))
    assert sorted({row["step"] for row in rows}) == [0, 10, 20, 25]
    assert len(rows) == 16
    assert all(row["edges"] == pytest.approx(row["sharpness"] * row["lr"] / 2) for row in rows)
    first, last = rows[0], rows[-4]
    assert (first["seed"], first["lr"]) == (last["seed"], last["lr"])
    assert last["train_loss"] < first["train_loss"]


def test_hits_are_counted_where_they_are_and_the_derivative_there_matters():
    inputs = torch.zeros(6, 9, dtype=torch.float64)
    inputs[:2] = 1.0  # four of six rows are 0, and so is what every unit is given there, its bias being 0
    data = Examples(inputs=inputs, labels=torch.tensor([0, 1, 0, 0, 0, 1]), num_classes=2)
    layout = Layout(widths=(9, 8, 2), activation=RELU)
    networks = Networks(layout, seeds=(0,), data=data)
    hits = _Hits(networks, data)
    hits.count()
    assert (hits.relu.tolist(), hits.num_relu) == ([4 * 8], 6 * 8)
    assert (hits.weight.tolist(), hits.num_weight) == ([0], 9 * 8 + 8 * 2)
    ends = []
    for derivative in (0.0, 1.0):
        chosen = Layout(
            widths=(9, 8, 2), activation=Activation(shape=Shape.RELU, derivative_at_zero=derivative)
        )
        trained = Networks(chosen, seeds=(0,), data=data)
        list(trained.train(lr=torch.tensor([0.1]), rule=Rule(method=Method.GD), steps=1))
        ends.append(trained.points[1])
    assert not torch.equal(*ends)


def test_without_hits_the_derivative_changes_no_bit():
    # of one hidden layer: behind a layer whose units are all dead a ReLU is given its bias, 0 at the start
    setting = Kinks(lrs=(0.1,), num_seeds=2, steps=20, every=10, depth=2, **SMALL)
    rows = list(kinks(setting, place()))
    assert len(rows) == 3 * 2 * 2
    assert all(row["relu_hits"] == 0 and row["relu_seen"] > 0 for row in rows)
    assert all(row["distance"] == 0 for row in rows)


def test_weights_meet_the_kink_of_a_penalty_in_sixteen_bits():
    setting = Kinks(
        kink=Kink.PENALTY,
        weight_penalty=0.5,
        derivatives=(0.0, 1.0),
        lrs=(2.0**-5,),
        num_seeds=1,
        steps=60,
        every=60,
        **SMALL,
    )
    found = {}
    for dtype in (torch.float64, torch.bfloat16):
        reference, other = kinks(setting, place(dtype=dtype))
        assert reference["distance"] == 0
        found[dtype] = (reference["weight_hits"], other["distance"])
    assert found[torch.float64] == (0, 0.0)
    assert found[torch.bfloat16][0] > 0
    assert found[torch.bfloat16][1] > 0


def test_drawn_examples_can_be_learned():
    data, test = draw_examples(num=200, num_test=100, side=7)
    assert data.labels.bincount().tolist() == [20] * 10
    networks = Networks(Layout(widths=(49, 10), activation=RELU), seeds=(0,), data=data)
    for _ in networks.train(lr=torch.tensor([0.3]), rule=Rule(method=Method.GD), steps=100):
        pass
    assert float(networks.accuracy(test)) > 0.5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Lasso(penalties=(-1.0,)), r"protocol\.penalties must be 0 or more"),
        (lambda: Lasso(lrs=(0.0,)), r"protocol\.lrs must be above 0"),
        (lambda: Lasso(lrs=()), r"protocol\.lrs must be a list of one value or more"),
        (lambda: Lasso(lrs=0.1), r"protocol\.lrs must be a list"),
        (lambda: Lasso(window=0), r"protocol\.window must be 1 to"),
        (lambda: Lasso(num_features=4), r"protocol\.num_features must be a whole number, 5 or more"),
        (lambda: Lasso(method="proximal", derivative_at_zero=1.0), "proximal takes no derivative"),
        (lambda: Training(method="proximal"), "proximal takes no derivative"),
        (lambda: Floors(delta=0.1), "width of the corner"),
        (lambda: Scalar(loss="huber", derivative_at_zero=0.5), "belongs to loss=abs"),
        (lambda: Scalar(num_starts=3, num_kept=4), "0 to num_starts=3"),
        (lambda: Kinks(derivatives=(0.0, 0.0)), "no two alike"),
        (lambda: Kinks(activation="tanh"), "needs activation=relu"),
        (lambda: Kinks(weight_penalty=0.1), "above 0 with kink=penalty"),
        (lambda: Pruning(shares=(1.5,)), r"lie in \[0, 1\]"),
        (lambda: Scalar(loss="cubic"), r"protocol\.loss must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(DesignError, match=sentence):
        make()


def test_a_side_that_does_not_divide_is_said():
    setting = Training(data=Source.MNIST5K, side=5)
    with pytest.raises(UserError, match="divided"):
        next(training(setting, place()))


def test_a_corner_is_needed_where_one_is_named():
    assert c1relu(0.1).delta == 0.1
    with pytest.raises(DesignError, match="width of the corner"):
        Training(activation=Shape.C1RELU)
