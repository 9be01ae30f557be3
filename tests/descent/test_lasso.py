"""Batched L1 runs against torch.optim one at a time; the solution against scikit-learn; closed forms."""

import pytest
import torch
from sklearn.linear_model import Lasso

from tiebreak.descent import closed_forms
from tiebreak.descent.lasso import Descent, Problems, draw_problems, solve, violation
from tiebreak.descent.steps import Rule, soft_threshold
from tiebreak.design.axes import UserError
from tiebreak.design.descent_axes import Columns, Decay, Method

RELATIVE = torch.tensor([0.0, 0.1, 0.5, 1.0, 10.0], dtype=torch.float64)
RATES = torch.tensor([0.1, 0.01], dtype=torch.float64)
OPTIMIZERS = {
    Method.GD: lambda p, lr: torch.optim.SGD(p, lr=lr),
    Method.MOMENTUM: lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    Method.RMSPROP: lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    Method.ADAM: lambda p, lr: torch.optim.Adam(p, lr=lr),
}


def grid(problems):
    """Penalties and rates of all pairs, (S, R)."""
    relative, rates = torch.meshgrid(RELATIVE, RATES, indexing="ij")
    penalty = problems.largest_penalty[:, None] * relative.reshape(1, -1)
    return penalty, rates.reshape(1, -1).expand_as(penalty)


def loop(x, y, *, penalty, lr, rule, steps):
    """One run as anybody would write it: torch.optim and autograd."""
    b = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[rule.method]([b], float(lr))
    path = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = float(lr) * rule.decay.factor(step)
        optimizer.zero_grad()
        (((y - x @ b) ** 2).mean() / 2 + penalty * b.abs().sum()).backward()
        optimizer.step()
        path.append(b.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("decay", [Decay.NONE, Decay.INVERSE])
@pytest.mark.parametrize("method", list(OPTIMIZERS))
def test_a_batch_takes_the_path_of_torch_optim(method, decay):
    problems = draw_problems(seeds=(0, 3))
    penalty, lr = grid(problems)
    rule = Rule(method=method, decay=decay)
    runs = Descent(problems, rule=rule, penalty=penalty, lr=lr)
    batched = []
    for _ in range(100):
        runs.step()
        batched.append(runs.points.clone())
    batched = torch.stack(batched)
    for seed, run in ((0, 0), (0, 5), (1, 3), (1, 8), (1, 9)):
        alone = loop(
            problems.x[seed], problems.y[seed], penalty=penalty[seed, run], lr=lr[seed, run], rule=rule,
            steps=100,
        )  # fmt: skip
        scale = alone.abs().max().clamp_min(1.0)
        assert float((batched[:, seed, run] - alone).abs().max() / scale) < 1e-12


@pytest.mark.parametrize("columns", list(Columns))
def test_the_solution_is_certified_and_is_that_of_scikit_learn(columns):
    problems = draw_problems(seeds=(0, 1), columns=columns)
    penalty = problems.largest_penalty[:, None] * torch.tensor([[0.01, 0.1, 0.3, 0.7, 0.99, 1.01, 5.0]])
    solution = solve(problems, penalty=penalty)
    assert float(solution.certificate.max()) < 1e-12
    for seed in range(2):
        for run in range(penalty.shape[1]):
            model = Lasso(alpha=float(penalty[seed, run]), fit_intercept=False, tol=1e-14, max_iter=100_000)
            model.fit(problems.x[seed].numpy(), problems.y[seed].numpy())
            theirs = torch.from_numpy(model.coef_)
            assert float((solution.points[seed, run] - theirs).abs().max()) < 1e-10
            assert torch.equal(solution.points[seed, run] == 0, theirs == 0)
    assert bool((solution.points[:, -2:] == 0).all())


def test_no_penalty_is_least_squares_and_the_certificate_sees_a_wrong_point():
    problems = draw_problems(seeds=(4,))
    penalty = torch.zeros(1, 1, dtype=torch.float64)
    solution = solve(problems, penalty=penalty)
    assert torch.allclose(solution.points[:, 0], problems.unpenalised, rtol=0, atol=1e-11)
    moved = solution.points.clone()
    moved[0, 0, 7] += 1e-3
    assert 2e-4 < float(violation(problems, moved, penalty=penalty)) < 5e-3
    with pytest.raises(UserError, match="0 or more"):
        solve(problems, penalty=penalty - 1)


def test_proximal_descent_finds_the_solution_with_its_zeros():
    problems = draw_problems(seeds=(0, 1))
    penalty = problems.largest_penalty[:, None] * torch.tensor([[0.1, 0.5, 2.0]])
    exact = solve(problems, penalty=penalty)
    best = problems.objective(exact.points, penalty=penalty)
    runs = Descent(
        problems, rule=Rule(method=Method.PROXIMAL), penalty=penalty, lr=torch.full_like(penalty, 0.1)
    ).run(steps=2000, window=10, best=best)
    assert float((runs.last - exact.points).abs().max()) < 1e-12
    assert torch.equal(runs.mean_zeros, (exact.points == 0).sum(-1).double())
    assert float(runs.mean_gap.abs().max()) < 1e-12


@pytest.mark.parametrize(("lr", "relative"), [(0.1, 100.0), (0.01, 1000.0)])
def test_far_above_the_largest_penalty_the_norm_grows_with_it(lr, relative):
    problems = draw_problems(seeds=(0,), columns=Columns.ORTHONORMAL)
    penalty = problems.largest_penalty[:, None] * torch.tensor([[10.0, relative]])
    runs = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=torch.full_like(penalty, lr))
    norm = runs.run(steps=int(400 / lr), window=200).mean_norm[0]
    theory = closed_forms.lasso_norm(problems.moment, lr=lr, penalty=penalty[0])
    assert bool(theory[0].isnan())  # the largest coordinate has a longer cycle there
    assert float(norm[0] / (20 * lr * penalty[0, 0])) == pytest.approx(1 / (2 - lr), abs=2e-3)
    assert float(norm[1] / theory[1]) == pytest.approx(1, abs=1e-9)
    assert float(theory[1]) == pytest.approx(20 * lr * float(penalty[0, 1]) / (2 - lr))


def test_where_no_coordinate_cycles_the_closed_form_is_the_soft_threshold():
    moment = torch.tensor([2.0, -3.0], dtype=torch.float64)
    norm = closed_forms.lasso_norm(moment, lr=0.01, penalty=torch.tensor(0.5).double())
    assert float(norm) == pytest.approx(1.5 + 2.5)
    with pytest.raises(UserError, match="between 0 and 2"):
        closed_forms.lasso_norm(moment, lr=2.0, penalty=torch.tensor(0.5).double())


def test_rmsprop_has_a_plateau_that_no_penalty_moves():
    problems = draw_problems(seeds=(0,))
    penalty = problems.largest_penalty[:, None] * torch.tensor([[10.0, 1000.0]])
    runs = Descent(
        problems, rule=Rule(method=Method.RMSPROP), penalty=penalty, lr=torch.full_like(penalty, 0.01)
    )
    norm = runs.run(steps=5000, window=1000).mean_norm
    assert torch.allclose(
        norm, torch.full_like(norm, closed_forms.rmsprop_plateau(lr=0.01, num_features=20)), rtol=0.01
    )


def test_gradient_methods_leave_no_exact_zero_but_the_derivative_at_zero_is_an_argument():
    problems = draw_problems(seeds=(0,))
    penalty = problems.largest_penalty[:, None] * torch.tensor([[0.5, 2.0]])
    lr = torch.full_like(penalty, 0.01)
    runs = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=lr).run(steps=500, window=100)
    assert float(runs.mean_zeros.max()) == 0
    first = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=lr, derivative_at_zero=1.0)
    first.step()
    expected = 0.01 * (problems.moment.unsqueeze(1) - penalty.unsqueeze(-1))
    assert torch.allclose(first.points, expected, rtol=0, atol=1e-15)


def test_decay_and_averaging_come_closer_but_set_nothing_to_zero():
    problems = draw_problems(seeds=(0,))
    penalty = problems.largest_penalty[:, None] * torch.tensor([[2.0]])  # the solution is 0
    lr = torch.full_like(penalty, 0.1)
    norms = {}
    for decay in Decay:
        runs = Descent(problems, rule=Rule(method=Method.GD, decay=decay), penalty=penalty, lr=lr)
        found = runs.run(steps=2000, window=500)
        norms[decay] = float(found.mean_norm)
        assert float(found.mean_point.abs().sum()) < norms[decay]
        assert float(found.mean_zeros) == 0
    assert norms[Decay.INVERSE] < norms[Decay.SQRT] < norms[Decay.NONE]


def test_sixteen_bits_meet_the_kink_now_and_then():
    problems = draw_problems(seeds=(0,))
    penalty = problems.largest_penalty[:, None] * torch.tensor([[0.5, 2.0]])
    lr = torch.full_like(penalty, 2.0**-7)
    zeros = {
        dtype: float(
            Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=lr, dtype=dtype)
            .run(steps=800, window=400)
            .mean_zeros.sum()
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert zeros[torch.float32] == 0
    assert zeros[torch.bfloat16] > 0


def test_overflow_is_kept():
    problems = draw_problems(seeds=(0,))
    penalty = torch.ones(1, 2, dtype=torch.float64)
    lr = torch.tensor([[0.1, 50.0]], dtype=torch.float64)
    runs = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=lr).run(steps=500, window=10)
    assert bool(runs.mean_norm[0, 0].isfinite())
    assert not bool(runs.mean_norm[0, 1].isfinite())


def test_a_seed_has_its_problem_beside_any_others():
    both, alone = draw_problems(seeds=(5, 2)), draw_problems(seeds=(2,))
    assert torch.equal(both.x[1], alone.x[0])
    assert torch.equal(both.y[1], alone.y[0])
    gram = draw_problems(seeds=(0,), columns=Columns.ORTHONORMAL).gram[0]
    assert torch.allclose(gram, torch.eye(20, dtype=torch.float64), atol=1e-14)


def test_soft_threshold_is_exact_at_zero():
    x = torch.tensor([-2.0, -1.0, -0.0, 0.5, 1.0, 3.0])
    assert soft_threshold(x, torch.tensor(1.0)).tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0, 2.0]


def test_mistakes_are_sentences():
    problems = draw_problems(seeds=(0,))
    penalty = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(UserError, match="positive and finite, got"):
        Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=-penalty)
    with pytest.raises(UserError, match="leading dimensions"):
        Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=torch.ones(1, 3))
    run = Descent(problems, rule=Rule(method=Method.GD), penalty=penalty, lr=penalty)
    with pytest.raises(UserError, match="window"):
        run.run(steps=5, window=6)
    with pytest.raises(UserError, match="seed"):
        draw_problems(seeds=())
    assert isinstance(problems, Problems)
