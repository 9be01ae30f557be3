"""Where the marks of a zone plot stand: shares of draws with a gap, with intervals, on a plane of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tiebreak.watching.gaps import ZonePoint

WIDTH, HEIGHT = 860, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 48
COLOURS = 8


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point of the plot in pixels; `low` and `high` are None where there is no interval."""

    x: float
    y: float
    low: float | None
    high: float | None
    colour: int
    point: ZonePoint
    title: str


@dataclass(frozen=True, kw_only=True)
class ZonePlot:
    """Marks with the ticks of both axes: (pixel, words)."""

    marks: Sequence[Mark]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    precisions: Sequence[tuple[int, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def zone_plot(points: Sequence[ZonePoint]) -> ZonePlot:
    """Lay points out: Jacobians from left to right by beta, precisions side by side."""
    jacobians = [
        name
        for _, name in sorted(
            {(float("inf") if point.beta is None else point.beta, point.jacobian) for point in points}
        )
    ]
    precisions = list(dict.fromkeys(point.precision for point in points))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(jacobians))

    def y(share: float) -> float:
        return round(TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM), 1)

    marks = []
    for point in points:
        number = precisions.index(point.precision)
        shift = (number - (len(precisions) - 1) / 2) * min(22.0, 0.7 * step / max(1, len(precisions)))
        estimate = point.estimate
        interval = (
            f", 95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
            if estimate.has_interval
            else ", too few inits for an interval"
        )
        bad = f", {point.nonfinite} gaps are no number" if point.nonfinite else ""
        marks.append(
            Mark(
                x=round(LEFT + (jacobians.index(point.jacobian) + 0.5) * step + shift, 1),
                y=y(estimate.mean),
                low=y(estimate.low) if estimate.has_interval else None,
                high=y(estimate.high) if estimate.has_interval else None,
                colour=number % COLOURS,
                point=point,
                title=(
                    f"{point.precision}, {point.jacobian}: {100 * estimate.mean:.1f} % of {point.draws} "
                    f"draws of {estimate.num} inits{interval}{bad}"
                ),
            )
        )
    return ZonePlot(
        marks=marks,
        x_ticks=[(round(LEFT + (index + 0.5) * step, 1), name) for index, name in enumerate(jacobians)],
        y_ticks=[(y(share / 4), f"{25 * share} %") for share in range(5)],
        precisions=[(number % COLOURS, name) for number, name in enumerate(precisions)],
    )
