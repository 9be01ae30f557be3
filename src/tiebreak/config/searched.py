"""The learning rate of a cell, from the search among a study's parts that is about the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tiebreak.config.composition import ConfigError
from tiebreak.design.axes import NATIVE
from tiebreak.design.cell import AnyCell, AnyTrial, Cell, Drift, LrSearch, Train
from tiebreak.design.study import Part

BestLr = Callable[[Sequence[AnyTrial]], float | None]
"""The rate that a search found, from its trials; None while one of them has no record."""


def not_searched(trials: Sequence[AnyTrial]) -> None:
    """No search has been recorded."""
    return


def with_searched_lr(cells: Sequence[AnyCell], *, part: Part, best_lr: BestLr) -> tuple[Cell, ...] | None:
    """The cells with the learning rates that the searches of `part` found.

    The search of a cell is the one with its network, data set, precision, optimizer and device. Of several it
    is the one with the cell's own Jacobian, else with PyTorch's: a comparison of Jacobians at one rate, which
    is what the published study made.

    Args:
        cells: of protocol train or drift.
        part: of protocol lr_search.
        best_lr: what is recorded of a search.

    Returns:
        The cells; None while a search is not finished.

    Raises:
        ConfigError: a cell has no search, or several.
    """
    found: list[Cell] = []
    for cell in cells:
        if not isinstance(cell, Cell):
            raise ConfigError(f"lr_from is for protocol=train and drift, got protocol={cell.protocol}.")
        search = _search_of(cell, part)
        rates = best_lr([trial for trial in part.trials if trial.cell == search])
        if rates is None:
            return None
        assert isinstance(cell.measure, Train | Drift)
        optimizer = replace(cell.measure.optimizer, lr=rates)
        found.append(replace(cell, measure=replace(cell.measure, optimizer=optimizer)))
    return tuple(found)


def _search_of(cell: Cell, part: Part) -> Cell:
    if not isinstance(cell.measure, Train | Drift):
        raise ConfigError(f"lr_from is for protocol=train and drift, got protocol={cell.measure.protocol}.")
    searches = [search for search in part.cells if isinstance(search, Cell)]
    if len(searches) < len(part.cells):
        raise ConfigError(f"lr_from: part {part.name} must be of protocol=lr_search, and is not.")
    alike = [search for search in searches if _about(search, part=part) == _about(cell, part=part)]
    same = [search for search in alike if search.reference == cell.reference]
    native = [search for search in alike if search.reference == NATIVE]
    for chosen in (same, native):
        if len(chosen) == 1:
            return chosen[0]
    trouble = "no search" if not alike else f"{len(alike)} searches"
    raise ConfigError(
        f"lr_from: part {part.name} has {trouble} for {cell.name}. It must have one of the same network, "
        "data set, precision, optimizer and device, with the same Jacobian or with PyTorch's."
    )


def _about(cell: Cell, *, part: Part) -> tuple[object, ...]:
    measure = cell.measure
    if not isinstance(measure, Train | Drift | LrSearch):
        raise ConfigError(
            f"lr_from: part {part.name} must be of protocol=lr_search, got {cell.measure.protocol}."
        )
    data, optimizer = cell.data, measure.optimizer
    return cell.network, data.name, data.folder, cell.precision, optimizer.name, cell.execution.device
