"""Train one network with one pool Jacobian and keep its curve, or where it diverged."""

from __future__ import annotations

import math

from tiebreak.data import num_batches
from tiebreak.design.cell import Train, Trial
from tiebreak.protocols.ranks import ALONE, Ranks
from tiebreak.protocols.rows import nonfinite_row
from tiebreak.protocols.setting import prepare
from tiebreak.protocols.training import Score, Training
from tiebreak.records.session import Outcome, OutcomeKind, Session


def measure_train(trial: Trial, session: Session) -> Outcome:
    """Emit an `epoch` row after each epoch, and a `nonfinite` row if the run diverges, which ends it.

    With `num_ranks` above 1 every rank runs this function, and each finds the same numbers; see `joined`.
    """
    if trial.cell.execution.num_ranks == 1:
        return _train(trial, session, ranks=ALONE)
    from tiebreak.protocols.joining import joined  # loads torch.distributed's process groups

    with joined(trial, session) as (ranks, shared):
        return _train(trial, shared, ranks=ranks)


def _train(trial: Trial, session: Session, *, ranks: Ranks) -> Outcome:
    measure = trial.cell.measure
    assert isinstance(measure, Train)
    with prepare(trial, session, ranks=ranks) as setting:
        training = Training(
            setting,
            jacobian=trial.cell.reference,
            optimizer=measure.optimizer,
            num_epochs=measure.num_epochs,
        )
        steps = num_batches(setting.dataset, trial.cell.data)
        first, position = 0, 0
        if (checkpoint := session.restore()) is not None:
            first, position = checkpoint.state["epoch"], checkpoint.state["position"]
            training.restore(checkpoint, checkpoint.state["training"])
        training.require_same_on_all_ranks("at the start")
        score: Score | None = None
        for epoch in range(first, measure.num_epochs):
            lr = training.start_epoch(epoch, continued=position > 0)
            for batch in setting.train_batches(epoch=epoch, start=position):
                nonfinite = training.step(batch)
                position += 1
                if nonfinite is not None:
                    step = training.step_count
                    session.emit(nonfinite_row(nonfinite, step=step, epoch=epoch + 1))
                    return Outcome(kind=OutcomeKind.DIVERGED, step=step)
                session.progress(training.step_count, steps * measure.num_epochs)
                if position < steps and session.wants_checkpoint():
                    _save(session, training, epoch=epoch, position=position)
            training.require_same_on_all_ranks(f"after epoch {epoch + 1}")
            score = training.evaluate()
            session.emit(
                {
                    "row": "epoch",
                    "epoch": epoch + 1,
                    "step": training.step_count,
                    "lr": lr,
                    "train_loss": training.epoch_loss,
                    "train_accuracy": training.epoch_accuracy,
                    "split": score.split,
                    "test_loss": score.loss,
                    "test_accuracy": score.accuracy,
                    "test_images": score.num_images,
                    "chance": score.chance,
                }
            )
            position = 0
            if epoch + 1 < measure.num_epochs and session.wants_checkpoint():
                _save(session, training, epoch=epoch + 1, position=0)
    assert score is not None
    return Outcome(kind=OutcomeKind.COMPLETED if _has_learned(score) else OutcomeKind.NOT_LEARNED)


def _save(session: Session, training: Training, *, epoch: int, position: int) -> None:
    session.save(training.tensors(), {"epoch": epoch, "position": position, "training": training.state()})


def _has_learned(score: Score) -> bool:
    """Whether the accuracy is more than three binomial standard errors above the commonest class's share."""
    error = math.sqrt(score.chance * (1.0 - score.chance) / score.num_images)
    return score.accuracy > score.chance + 3.0 * error
