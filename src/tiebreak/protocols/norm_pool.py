"""Gaps between two derivatives of norm pooling at windows of zeros: the second nonsmooth operation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

from tiebreak.design.axes import NATIVE, DesignError
from tiebreak.design.cell import NormPool, Trial
from tiebreak.numerics.gap import GapMeter
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.normpool import norm_pool2d
from tiebreak.numerics.pooling import MaxPool2d
from tiebreak.protocols.backprop import gradient
from tiebreak.protocols.rows import gap_fields
from tiebreak.protocols.setting import prepare
from tiebreak.records.session import Outcome, OutcomeKind, Session


@dataclass(eq=False)
class _AtZero:
    """The derivative at 0 that all norm pools of a network read, and how many windows they have seen."""

    gradient: float = 0.0
    windows: int = 0
    zero_windows: int = 0


class _NormPool2d(nn.Module):
    """A norm pool in the place of a max pool."""

    def __init__(self, geometry: PoolGeometry, at_zero: _AtZero, *, plain_squares: bool) -> None:
        super().__init__()
        self._geometry, self._at_zero, self._plain_squares = geometry, at_zero, plain_squares

    def forward(self, x: Tensor) -> Tensor:
        geometry, at_zero = self._geometry, self._at_zero
        norms = norm_pool2d(
            x,
            kernel=geometry.kernel,
            stride=geometry.stride,
            gradient_at_zero=at_zero.gradient,
            plain_squares=self._plain_squares,
        )
        at_zero.windows += norms.numel()
        at_zero.zero_windows += int((norms == 0).sum())
        return norms


def measure_norm_pool(trial: Trial, session: Session) -> Outcome:
    """Emit a `norm_gap` row for each batch: the gap between derivative 0 at windows of zeros and another one.

    The network is that of the replicate with every max pool replaced by a norm pool of the same windows.
    """
    measure = trial.cell.measure
    assert isinstance(measure, NormPool)
    at_zero = _AtZero()
    with prepare(trial, session, once=True) as setting:
        model = _with_norm_pools(setting.network(NATIVE), at_zero, measure)
        parameters = tuple(model.parameters())
        total = setting.num_batches(measure.num_batches)
        checkpoint = session.restore()
        start = checkpoint.state["draws"] if checkpoint is not None else 0
        batches = islice(setting.train_batches(start=start), total - start)
        for draw, batch in enumerate(batches, start=start):
            at_zero.gradient = measure.gradient_at_zero
            other = gradient(setting.loss(model, batch), parameters)
            at_zero.gradient, at_zero.windows, at_zero.zero_windows = 0.0, 0, 0
            meter = GapMeter(gradient(setting.loss(model, batch), parameters))
            session.emit(
                {
                    "row": "norm_gap",
                    "draw": draw,
                    "gradient_at_zero": measure.gradient_at_zero,
                    **gap_fields(meter.to(other)),
                    "windows": at_zero.windows,
                    "zero_windows": at_zero.zero_windows,
                }
            )
            session.progress(draw + 1, total)
            if draw + 1 < total and session.wants_checkpoint():
                session.save({}, {"draws": draw + 1})
    return Outcome(kind=OutcomeKind.COMPLETED)


def _with_norm_pools(model: nn.Module, at_zero: _AtZero, measure: NormPool) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, MaxPool2d):
                continue
            if child.geometry.padding != (0, 0):
                raise DesignError(
                    "protocol=norm_pool takes pools without padding, got one of "
                    f"{child.geometry.padding}. Use arch.stem_pool=2x2."
                )
            pool = _NormPool2d(child.geometry, at_zero, plain_squares=measure.plain_squares)
            setattr(parent, name, pool)
    return model
