"""L1 runs batched over penalty, learning rate and seed, against the loop of torch.optim that they replace."""

from __future__ import annotations

from functools import partial

import ratios
import torch

from tiebreak.descent.lasso import Descent, Problems, draw_problems
from tiebreak.descent.steps import Rule
from tiebreak.design.descent_axes import Method

SEEDS = (0, 1, 2)
PENALTIES = (0.1, 0.3, 0.5, 1.0, 2.0, 10.0, 100.0)
RATES = (0.1, 0.03, 0.01)
STEPS = 20
NAMES = {Method.GD: "SGD", Method.MOMENTUM: "SGD", Method.RMSPROP: "RMSprop", Method.ADAM: "Adam"}


def grid(problems: Problems) -> tuple[torch.Tensor, torch.Tensor]:
    """Penalty and rate of every run, (S, R)."""
    pairs = torch.cartesian_prod(torch.tensor(PENALTIES).double(), torch.tensor(RATES).double())
    penalty = problems.largest_penalty[:, None] * pairs[:, 0]
    return penalty, pairs[:, 1].expand_as(penalty)


def batched(problems: Problems, *, method: Method) -> torch.Tensor:
    penalty, lr = grid(problems)
    runs = Descent(problems, rule=Rule(method=method), penalty=penalty, lr=lr)
    for _ in range(STEPS):
        runs.step()
    return runs.points


def looped(problems: Problems, *, method: Method) -> torch.Tensor:
    penalty, lr = grid(problems)
    points = torch.zeros(*penalty.shape, problems.x.shape[-1], dtype=torch.float64)
    keywords = {"momentum": 0.9} if method is Method.MOMENTUM else {}
    for seed, run in ((s, r) for s in range(penalty.shape[0]) for r in range(penalty.shape[1])):
        b = torch.zeros(problems.x.shape[-1], dtype=torch.float64, requires_grad=True)
        optimizer = getattr(torch.optim, NAMES[method])([b], lr=float(lr[seed, run]), **keywords)
        x, y = problems.x[seed], problems.y[seed]
        for _ in range(STEPS):
            optimizer.zero_grad()
            (((y - x @ b) ** 2).mean() / 2 + penalty[seed, run] * b.abs().sum()).backward()
            optimizer.step()
        points[seed, run] = b.detach()
    return points


def main() -> None:
    options = ratios.arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    problems = draw_problems(seeds=SEEDS)
    rows = []
    for method in NAMES:
        assert float((batched(problems, method=method) - looped(problems, method=method)).abs().max()) < 1e-10
        rows.append(
            ratios.ratio(
                f"{method}: {len(SEEDS) * len(PENALTIES) * len(RATES)} runs of {STEPS} steps at once",
                partial(batched, problems, method=method),
                partial(looped, problems, method=method),
                baseline=f"a loop of torch.optim.{NAMES[method]}",
                repeats=options.repeats,
                inverse=True,
                target=10.0,
                at_most=False,
                warmup=1,
            )
        )
    ratios.report("Batched descent", rows, path=options.json)


if __name__ == "__main__":
    main()
