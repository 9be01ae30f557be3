"""Small cells on real digits, and a session in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_session import MemorySession

from tiebreak.design.axes import PoolJacobian, Precision
from tiebreak.design.cell import Cell, Data, Network, Train


@pytest.fixture
def session(tmp_path: Path) -> MemorySession:
    return MemorySession(data_root=tmp_path)


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    def make(measure: Any = None, *, betas: tuple[float, ...] = (0.0,), **changes: Any) -> Cell:
        data = {"name": "mnist5k", "batch_size": 32, "train_size": 96, "test_size": 64} | changes.pop(
            "data", {}
        )
        network = {"arch": "lenet5"} | changes.pop("network", {})
        settings: dict[str, Any] = {
            "network": Network(**network),
            "data": Data(**data),
            "precision": Precision.FP32,
            "jacobians": tuple(PoolJacobian(beta=beta) for beta in betas),
            "measure": measure or Train(num_epochs=2),
        }
        return Cell(**settings | changes)

    return make
