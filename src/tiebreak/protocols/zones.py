"""Gaps between the gradients of several pool Jacobians at one initialisation, batch after batch.

No threshold is applied here: raw gaps and tie counts are kept, and zones are read off the table later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, NATIVE, DesignError, Forward, PoolJacobian
from tiebreak.design.cell import Trial, Zones
from tiebreak.models import rewrite_pools
from tiebreak.numerics.gap import Gap, GapMeter, TensorGap
from tiebreak.numerics.pooling import JacobianSwitch, PoolEvent
from tiebreak.numerics.ties import margins_in_ulps, tie_counts
from tiebreak.protocols.backprop import Backprop, backprop, gradient, observe
from tiebreak.protocols.certified import certificate_rows
from tiebreak.protocols.rows import gap_fields
from tiebreak.protocols.setting import prepare
from tiebreak.records.session import Outcome, OutcomeKind, Row, Session


@dataclass(frozen=True)
class Draw:
    """One batch at one parameter: a gap for each Jacobian after the first, and the pools' ties.

    Attributes:
        gaps: to the reference, one a further Jacobian.
        live_ties: ties, over all pools, whose choice may reach a parameter; an upper bound.
        events: the pools in forward order, each with its input, output and mask.
    """

    gaps: tuple[Gap, ...]
    live_ties: int
    events: tuple[PoolEvent, ...]


def draw_gaps(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    switch: JacobianSwitch,
    jacobians: Sequence[PoolJacobian],
    prune: bool = True,
) -> Draw:
    """Gaps of one batch: one forward pass with exact forwards, one a Jacobian with the other arms.

    Args:
        model: a network whose pools all read `switch`.
        loss: runs the model's forward pass on the batch and returns a scalar.
        switch: the pools' switch; left at the reference.
        jacobians: the first is the reference; all with the same forward arm.
        prune: share what must be equal in the backward pass; the bits are the same without.
    """
    parameters = tuple(tensor for tensor in model.parameters() if tensor.requires_grad)
    if jacobians[0].forward is not Forward.EXACT:
        result = _separately(loss, parameters, switch=switch, jacobians=jacobians)
    else:
        result = backprop(loss, parameters, switch=switch, jacobians=jacobians, prune=prune)
    switch.jacobian = jacobians[0]  # what runs next on this network is about the reference
    meter = GapMeter(result.gradients[0])
    gaps = tuple(meter.to(gradients) for gradients in result.gradients[1:])
    return Draw(gaps=gaps, live_ties=sum(result.live), events=result.events)


def zones(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    jacobians: Sequence[PoolJacobian] = (NATIVE, MINIMAL),
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> Draw:
    """How far the gradients of any network's loss are apart for several pool Jacobians, on one batch.

    The network is not touched: a copy with its pools replaced is run in the model's own mode, so dropout
    and batch norm behave as they would.

    Args:
        model: any module with max pools, as modules or functional calls.
        images: a batch in the model's dtype and on its device.
        labels: what `loss` takes as its second argument.
        jacobians: two or more with the same forward arm; the first is the reference.
        loss: scalar from the model's output and the labels.

    Returns:
        Gaps to the reference and the ties of every pool.

    Raises:
        DesignError: fewer than two Jacobians, or both forward arms.

    Example:
        >>> import torch
        >>> head = (nn.Flatten(), nn.Linear(36, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
        >>> images = torch.zeros(5, 1, 8, 8)  # flat: every window ties
        >>> result = zones(net, images, torch.zeros(5, dtype=torch.long))
        >>> result.gaps[0].relative < 1e-6  # equal over the reals, so at most a rounding residue
        True
    """
    if len(jacobians) < 2 or len({jacobian.forward for jacobian in jacobians}) > 1:
        raise DesignError(
            "zones compares two or more Jacobians with the same forward arm, got "
            f"{', '.join(jacobian.label for jacobian in jacobians) or 'none'}."
        )
    switch = JacobianSwitch(jacobians[0])
    network = rewrite_pools(model, jacobian=switch)
    return draw_gaps(network, lambda: loss(network(images), labels), switch=switch, jacobians=jacobians)


def _separately(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    *,
    switch: JacobianSwitch,
    jacobians: Sequence[PoolJacobian],
) -> Backprop:
    """A forward pass for each Jacobian, whose values differ; ties are those of the reference's pass.

    Each pass draws the same random numbers (dropout), or they would be part of the gap.
    """
    gradients = []
    first = None
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    for index, jacobian in enumerate(jacobians):
        switch.jacobian = jacobian
        with torch.random.fork_rng(devices, enabled=index < len(jacobians) - 1):
            observed = observe(loss, switch=switch)
        gradients.append(gradient(observed.loss, parameters))
        first = first or observed
    assert first is not None
    return Backprop(
        loss=first.loss.detach(), gradients=tuple(gradients), events=first.events, live=first.live
    )


def measure_zones(trial: Trial, session: Session) -> Outcome:
    """Emit `gap` and `pool` rows for each batch, at the end a `tensor` row a (Jacobian, parameter)."""
    cell = trial.cell
    measure = cell.measure
    assert isinstance(measure, Zones)
    switch = JacobianSwitch(cell.reference)
    compared = cell.jacobians[1:]
    with prepare(trial, session, once=True) as setting:
        model = setting.network(switch)
        names = [name for name, _ in model.named_parameters()]
        total = setting.num_batches(measure.num_batches)
        start, summaries = _resume(session, compared, names)
        batches = islice(setting.train_batches(start=start), total - start)
        for draw, batch in enumerate(batches, start=start):
            result = draw_gaps(
                model, partial(setting.loss, model, batch), switch=switch, jacobians=cell.jacobians
            )
            for jacobian, gap, summary in zip(compared, result.gaps, summaries, strict=True):
                session.emit(
                    {
                        "row": "gap",
                        "draw": draw,
                        "jacobian": jacobian.label,
                        "beta": jacobian.beta,
                        **gap_fields(gap),
                        "live_ties": result.live_ties,
                    }
                )
                for tensor, part in zip(summary, gap.tensors, strict=True):
                    tensor.add(part)
            for row in pool_rows(result.events, margins=measure.margins and draw == 0):
                session.emit({"row": "pool", "draw": draw, **row})
            if measure.certify:
                for row in certificate_rows(
                    setting,
                    model,
                    batch,
                    compared=compared,
                    gaps=result.gaps,
                    seed=trial.seed(f"certify {draw}"),
                ):
                    session.emit(row | {"draw": draw})
            session.progress(draw + 1, total)
            if session.wants_checkpoint():
                session.save({}, {"draws": draw + 1, "summaries": _dump(summaries)})
        for jacobian, summary in zip(compared, summaries, strict=True):
            for name, tensor in zip(names, summary, strict=True):
                session.emit({"row": "tensor", "jacobian": jacobian.label, "tensor": name, **tensor.fields()})
    return Outcome(kind=OutcomeKind.COMPLETED)


def pool_rows(events: Sequence[PoolEvent], *, margins: bool) -> Iterator[Row]:
    """One row a pool: its ties and, if asked for, its margins to the runner-up."""
    for index, event in enumerate(events):
        counts = tie_counts(event)
        row: Row = {"row": "pool", "pool": index}
        row |= {item.name: getattr(counts, item.name) for item in fields(counts)}
        row |= {"margin_median_ulps": None, "margin_min_ulps": None}
        if margins:
            values = margins_in_ulps(event)
            if values.numel():
                row["margin_median_ulps"] = values.median().item()
                row["margin_min_ulps"] = values.min().item()
        yield row


@dataclass
class _Summary:
    """One parameter tensor's gaps over all draws; non-finite draws are counted, and kept out of the norms."""

    num_draws: int = 0
    num_nonzero: int = 0
    num_nonfinite: int = 0
    l1_sum: float = 0.0
    l1_max: float = 0.0
    l2_max: float = 0.0
    sup_max: float = 0.0
    relative_max: float = 0.0

    def add(self, gap: TensorGap) -> None:
        self.num_draws += 1
        if not (math.isfinite(gap.l1) and math.isfinite(gap.reference_l2)):
            self.num_nonfinite += 1
            return
        self.num_nonzero += gap.l1 != 0.0
        self.l1_sum += gap.l1
        self.l1_max = max(self.l1_max, gap.l1)
        self.l2_max = max(self.l2_max, gap.l2)
        self.sup_max = max(self.sup_max, gap.sup)
        self.relative_max = max(self.relative_max, gap.relative)

    def fields(self) -> Row:
        finite = self.num_draws - self.num_nonfinite
        return {
            "num_draws": self.num_draws,
            "num_nonzero": self.num_nonzero,
            "num_nonfinite": self.num_nonfinite,
            "l1_mean": self.l1_sum / finite if finite else None,
            "l1_max": self.l1_max,
            "l2_max": self.l2_max,
            "sup_max": self.sup_max,
            "relative_max": self.relative_max,
        }


def _dump(summaries: Sequence[Sequence[_Summary]]) -> list[list[dict[str, float]]]:
    return [[vars(tensor) for tensor in summary] for summary in summaries]


def _resume(
    session: Session, compared: Sequence[PoolJacobian], names: Sequence[str]
) -> tuple[int, list[list[_Summary]]]:
    checkpoint = session.restore()
    if checkpoint is None:
        return 0, [[_Summary() for _ in names] for _ in compared]
    state = checkpoint.state
    return state["draws"], [[_Summary(**tensor) for tensor in summary] for summary in state["summaries"]]
