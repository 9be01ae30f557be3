"""Gaps of zones trials, counted once and kept: for heat maps and zone plots of thousands of records."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.design.cell import Cell
from tiebreak.records.durable import RecordError
from tiebreak.records.store import RecordStore
from tiebreak.report.order import COARSE_TO_FINE
from tiebreak.report.stats import Estimate, bootstrap_mean
from tiebreak.watching.glance import Glance
from tiebreak.watching.standing import Standing

AT_ONCE_SECONDS = 0.1
"""How long a page waits for records that were not read yet; the rest follow in the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Draws of one trial with one Jacobian: all, with a gap other than 0, with a gap that is no number."""

    beta: float | None
    draws: int
    nonzero: int
    nonfinite: int

    @property
    def share_nonzero(self) -> float:
        """Share of all draws whose gap is a number other than 0."""
        return self.nonzero / self.draws


Counts = dict[str, Count]


@dataclass(frozen=True, kw_only=True)
class ZonePoint:
    """Inits of one precision with one Jacobian: mean of their shares of draws with a gap other than 0.

    The interval is the report's: a bootstrap over inits, from five inits on.
    """

    precision: str
    jacobian: str
    beta: float | None
    estimate: Estimate
    draws: int
    nonfinite: int
    trials: tuple[str, ...]


class GapCounts:
    """What the gap rows of records come to, by Jacobian; each record is read once.

    Args:
        results: the results folder.
    """

    def __init__(self, results: Path) -> None:
        self._store = RecordStore(results, only_looks=True, notice=lambda text: None)
        self._known: dict[str, tuple[Glance, Counts]] = {}
        self._wanted: dict[str, Standing] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.version = 0

    def of(self, standings: Iterable[Standing]) -> tuple[dict[str, Counts], int]:
        """Counts by trial id of those zones trials that were read, and how many are still to be read."""
        begin, found = time.monotonic(), {}
        unread: list[Standing] = []
        for standing in standings:
            if standing.record is None or standing.trial.cell.protocol != "zones":
                continue
            key = standing.trial.id
            known = self._known.get(key)
            if known is None or known[0] is not standing.record:
                if time.monotonic() - begin > AT_ONCE_SECONDS:
                    unread.append(standing)
                    continue
                known = self._read(standing)
            found[key] = known[1]
        if unread:
            self._read_later(unread)
        return found, len(unread)

    def _read(self, standing: Standing) -> tuple[Glance, Counts]:
        assert standing.record is not None
        try:
            record = self._store.read(standing.trial)
        except RecordError:
            record = None
        tally: dict[str, list[float | int | None]] = defaultdict(lambda: [None, 0, 0, 0])
        for row in record.rows if record else ():
            if row["row"] != "gap":
                continue
            count = tally[str(row["jacobian"])]
            size = row.get("gap_sup_sum")
            is_number = not row.get("nonfinite") and isinstance(size, int | float) and size - size == 0
            beta = row.get("beta")
            count[0] = float(beta) if isinstance(beta, int | float) else None
            count[1] = (count[1] or 0) + 1
            count[2] = (count[2] or 0) + (is_number and size != 0)
            count[3] = (count[3] or 0) + (not is_number)
        known = (
            standing.record,
            {
                name: Count(
                    beta=beta, draws=int(draws or 0), nonzero=int(nonzero or 0), nonfinite=int(bad or 0)
                )
                for name, (beta, draws, nonzero, bad) in tally.items()
            },
        )
        self._known[standing.trial.id] = known
        return known

    def _read_later(self, standings: Sequence[Standing]) -> None:
        with self._lock:
            self._wanted |= {standing.trial.id: standing for standing in standings}
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="gap-counts", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        told = time.monotonic()
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    self.version += 1
                    return
                _, standing = self._wanted.popitem()
            self._read(standing)
            time.sleep(0.0005)  # pages come first
            if time.monotonic() - told > 2:
                self.version, told = self.version + 1, time.monotonic()


def share_nonzero(counts: Counts) -> float | None:
    """Share of all gaps of a trial that are numbers other than 0; None without gaps."""
    draws = sum(count.draws for count in counts.values())
    return sum(count.nonzero for count in counts.values()) / draws if draws else None


def zone_points(standings: Iterable[Standing], counts: dict[str, Counts]) -> list[ZonePoint]:
    """One point for each precision and Jacobian, precisions from coarse to fine, Jacobians by beta."""
    groups: dict[tuple[str, str], list[tuple[str, Count]]] = defaultdict(list)
    for standing in standings:
        for name, count in counts.get(standing.trial.id, {}).items():
            cell = standing.trial.cell
            assert isinstance(cell, Cell)  # only those leave gaps
            groups[str(cell.precision), name].append((standing.trial.id, count))
    points = [
        ZonePoint(
            precision=precision,
            jacobian=jacobian,
            beta=members[0][1].beta,
            estimate=bootstrap_mean([count.share_nonzero for _, count in members]),
            draws=sum(count.draws for _, count in members),
            nonfinite=sum(count.nonfinite for _, count in members),
            trials=tuple(trial for trial, _ in members),
        )
        for (precision, jacobian), members in groups.items()
    ]
    infinity = float("inf")
    return sorted(
        points,
        key=lambda point: (
            COARSE_TO_FINE.index(point.precision),
            infinity if point.beta is None else point.beta,
            point.jacobian,
        ),
    )
