"""Search of a learning rate on held-out training images, with Optuna; the test set is never looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna

from tiebreak.design.cell import LrSearch, Trial
from tiebreak.protocols.setting import Setting, prepare
from tiebreak.protocols.training import Training
from tiebreak.records.session import Checkpoint, Outcome, OutcomeKind, Row, Session

_NAME = "lr"
_NUM_UNIFORM = 5


def measure_lr_search(trial: Trial, session: Session) -> Outcome:
    """Emit a `candidate` row a learning rate and a `best` row at the end.

    The first five candidates are drawn log-uniformly, the others are proposed by the tree-structured Parzen
    estimator; the median rule prunes after each epoch. The sampler is seeded anew for each candidate from
    (replicate, candidate), so a resumed search proposes what an uninterrupted one would have.
    """
    measure = trial.cell.measure
    assert isinstance(measure, LrSearch)
    with _quiet():
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    checkpoint = session.restore()
    done = list(checkpoint.state["candidates"]) if checkpoint is not None else []
    for candidate in done:
        study.add_trial(_frozen(candidate, measure))

    with prepare(trial, session) as setting:
        for index in range(len(done), measure.num_candidates):
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=_NUM_UNIFORM, seed=_seed(trial, index)
            )
            candidate = study.ask({_NAME: _range(measure)})
            lr = candidate.params[_NAME]
            curve: list[float] = []
            pruned = nonfinite = False
            for accuracy in _curve(setting, session, lr=lr, done=done, checkpoint=checkpoint):
                if accuracy is None:
                    nonfinite = True
                    break
                curve.append(accuracy)
                candidate.report(accuracy, len(curve))
                if len(curve) < measure.num_epochs and candidate.should_prune():
                    pruned = True
                    break
            value = 0.0 if nonfinite else curve[-1]
            state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
            study.tell(candidate, None if pruned else value, state=state)
            row: Row = {
                "row": "candidate",
                "candidate": index,
                "lr": lr,
                "validation_accuracy": None if nonfinite else value,
                "pruned": pruned,
                "nonfinite": nonfinite,
            }
            session.emit(row)
            done.append({"row": row, "curve": curve, "value": value})
            checkpoint = None
            session.progress(index + 1, measure.num_candidates)
            if session.wants_checkpoint():
                session.save({}, {"candidates": done})
    rows = [candidate["row"] for candidate in done]
    finished = [row for row in rows if not row["pruned"] and not row["nonfinite"]]
    if not finished:
        return Outcome(kind=OutcomeKind.DIVERGED, reason="every learning rate went non-finite")
    best = max(finished, key=lambda row: float(row["validation_accuracy"] or 0.0))
    session.emit({"row": "best", "lr": best["lr"], "validation_accuracy": best["validation_accuracy"]})
    return Outcome(kind=OutcomeKind.COMPLETED)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces each study; nobody asked."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _curve(
    setting: Setting,
    session: Session,
    *,
    lr: float,
    done: list[dict[str, Any]],
    checkpoint: Checkpoint | None,
) -> Iterator[float | None]:
    """Held-out accuracy after each epoch; None once a number went non-finite.

    Checkpoints hold the candidates `done` and the training of this one; `checkpoint` may be such a one.
    """
    measure = setting.cell.measure
    assert isinstance(measure, LrSearch)
    training = Training(
        setting,
        jacobian=setting.cell.reference,
        optimizer=replace(measure.optimizer, lr=lr),
        num_epochs=measure.num_epochs,
    )
    curve: list[float] = []
    position = 0
    if checkpoint is not None and (current := checkpoint.state.get("current")):
        training.restore(checkpoint, current["training"])
        curve, position = list(current["curve"]), current["position"]
        yield from curve
    steps = setting.num_batches(0)
    for epoch in range(len(curve), measure.num_epochs):
        training.start_epoch(epoch, continued=position > 0)
        for batch in setting.train_batches(epoch=epoch, start=position):
            if training.step(batch) is not None:
                yield None
                return
            position += 1
            if position < steps and session.wants_checkpoint():
                current = {"training": training.state(), "curve": curve, "position": position}
                session.save(training.tensors(), {"candidates": done, "current": current})
        position = 0
        curve.append(training.evaluate().accuracy)
        yield curve[-1]


def _range(measure: LrSearch) -> optuna.distributions.FloatDistribution:
    return optuna.distributions.FloatDistribution(measure.lr_low, measure.lr_high, log=True)


def _frozen(kept: dict, measure: LrSearch) -> optuna.trial.FrozenTrial:
    row = kept["row"]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if row["pruned"] else optuna.trial.TrialState.COMPLETE,
        value=kept["value"],  # of a pruned candidate its last accuracy, as Optuna keeps it
        params={_NAME: row["lr"]},
        distributions={_NAME: _range(measure)},
        intermediate_values={epoch + 1: accuracy for epoch, accuracy in enumerate(kept["curve"])},
    )


def _seed(trial: Trial, candidate: int) -> int:
    digest = hashlib.sha256(f"{trial.seed('search')}:{candidate}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
