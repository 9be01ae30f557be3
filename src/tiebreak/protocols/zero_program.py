"""Programs that compute 0 for every t, and the derivative that automatic differentiation gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian
from tiebreak.design.cell import Trial
from tiebreak.numerics.pooling import max_pool2d
from tiebreak.numerics.precision import as_fed
from tiebreak.numerics.zero_program import zero_program, zero_program_of_relus
from tiebreak.protocols.setting import computing
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session

TIMES = (0.0, 0.1, 1.0, -1e-4, -6.0)
"""Where the programs are run, as published."""

ENTRIES = {"equal": (1.14, 1.14, 1.14, 1.14), "distinct": (1.0, 2.0, 3.0, 4.0)}
"""What t is multiplied with: four numbers that are tied at every t, and four that are tied at t = 0 only."""


def measure_zero_program(trial: Trial, session: Session) -> Outcome:
    """Emit a `zero` row for each program, choice of entries and t.

    The programs are `max` and `relu`, as published, and `pool`: the window t * x pooled with one Jacobian of
    the cell minus the same with the reference.
    """
    cell = trial.cell
    programs: list[tuple[str, str, Callable[[Tensor, Tensor], Tensor]]] = [
        ("max", "", zero_program),
        ("relu", "", zero_program_of_relus),
        *(("pool", other.label, _pools(other, cell.reference)) for other in cell.jacobians[1:]),
    ]
    with computing(trial) as device:
        exact: dict[str, Any] = {"dtype": torch.float64, "device": device}  # rounded once, to the precision
        for name, label, program in programs:
            for entries, numbers in ENTRIES.items():
                x = as_fed(torch.tensor(numbers, **exact), cell.precision)
                for time in TIMES:
                    t = as_fed(torch.tensor(time, **exact), cell.precision).requires_grad_()
                    value = program(x, t)
                    (derivative,) = torch.autograd.grad(value, t)
                    row: Row = {
                        "row": "zero",
                        "program": name,
                        "jacobian": label,
                        "entries": entries,
                        "t": time,
                    }
                    session.emit(row | {"value": value.item(), "derivative": derivative.item()})
    return Outcome(kind=OutcomeKind.COMPLETED)


def _pools(one: PoolJacobian, other: PoolJacobian) -> Callable[[Tensor, Tensor], Tensor]:
    def program(x: Tensor, t: Tensor) -> Tensor:
        window = (t * x).view(1, 2, 2)
        first, second = (max_pool2d(window, kernel=2, jacobian=jacobian) for jacobian in (one, other))
        return (first - second).sum()

    return program
