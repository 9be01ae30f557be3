"""How long the rest will take, from what trials like the remaining ones took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tiebreak.design.cell import AnyCell, AnyTrial, Cell


class Eta:
    """Mean seconds of measured trials, looked up from the most alike to the least.

    A trial is estimated by the mean over its own cell, else over cells that agree in protocol, network, data,
    precision and settings, else in protocol, architecture and data, else in protocol, else over everything.
    A cell without network and data has its own mean, that of its protocol, and that of everything.

    Example:
        >>> eta = Eta()
        >>> eta.seconds_left([], workers=2)
        0.0
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[object, ...], tuple[float, int]] = {}

    def add(self, cell: AnyCell, *, elapsed_seconds: float) -> None:
        """Take in a measured trial."""
        for key in _keys(cell):
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + elapsed_seconds, count + 1)

    def trial_seconds(self, cell: AnyCell) -> float | None:
        """What a trial of this cell will take; None while nothing was measured."""
        for key in _keys(cell):
            if key in self._sums:
                total, count = self._sums[key]
                return total / count
        return None

    def seconds_left(
        self, trials: Iterable[AnyTrial], *, workers: int, shares_done: Mapping[str, float] | None = None
    ) -> float | None:
        """Wall time until these trials are done.

        Args:
            trials: those without a record.
            workers: how many run at once.
            shares_done: by trial id, the share in [0, 1] that is done of those that run now.

        Returns:
            Seconds; None while nothing was measured.
        """
        shares_done = shares_done or {}
        left = []
        of_cell: dict[str, float | None] = {}  # replicates of a cell share an answer
        for trial in trials:
            if trial.cell.id not in of_cell:
                of_cell[trial.cell.id] = self.trial_seconds(trial.cell)
            seconds = of_cell[trial.cell.id]
            if seconds is None:
                return None
            left.append(seconds * (1.0 - shares_done.get(trial.id, 0.0)))
        # No schedule is shorter than an even split, nor than the longest trial.
        return max(sum(left) / max(1, min(workers, len(left))), max(left)) if left else 0.0


def _keys(cell: AnyCell) -> list[tuple[object, ...]]:
    if not isinstance(cell, Cell):
        return [("cell", cell.id), (cell.protocol,), ()]
    network, data, protocol = cell.network, cell.data, cell.protocol
    alike = (protocol, network, data, cell.precision, cell.measure, len(cell.jacobians), cell.execution)
    return [("cell", cell.id), alike, (protocol, network.arch, data.name), (protocol,), ()]
