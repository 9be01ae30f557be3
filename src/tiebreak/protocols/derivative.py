"""Whether what AD gives is certain to be the derivative over the reals, along training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice

from torch import nn

from tiebreak.design.cell import Trial
from tiebreak.exact.graph import NotCertifiableError
from tiebreak.exact.record import record
from tiebreak.exact.sufficient import sufficient
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.protocols.setting import Setting
from tiebreak.protocols.trajectory import along_training
from tiebreak.records.session import Outcome, Row, Session


def measure_derivative(trial: Trial, session: Session) -> Outcome:
    """Emit a row `derivative` a draw: at how many images, and whether for the batch, AD is certified."""
    return along_training(trial, session, stop=_stop)


def _stop(
    setting: Setting, model: nn.Module, switch: JacobianSwitch, epoch: int, num_batches: int
) -> Iterator[Row]:
    for draw, batch in enumerate(islice(setting.train_batches(epoch=epoch), num_batches)):
        row: Row = {"row": "derivative", "epoch": epoch, "draw": draw, "reason": ""}
        forward = partial(setting.forward, model, batch)
        try:
            graph, _ = record(model, batch.images, forward=lambda forward=forward: forward()[0])
            found = sufficient(graph, seed=setting.trial.seed(f"derivative {epoch} {draw}"))
        except NotCertifiableError as error:
            nothing = dict.fromkeys(
                ("derivative", "limit", "independent", "whole_derivative", "whole_limit"), 0
            )
            yield row | {"reason": str(error), "images": len(batch.images)} | nothing
        else:
            yield row | asdict(found)
