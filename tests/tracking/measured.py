"""A tiny measurement with rows as the protocols emit them, and without torch."""

import math
import os
import random
import time

from tiebreak.records.session import Outcome, OutcomeKind

NUM_STEPS = 10


def measure(trial, session):
    """Twenty numbers that depend on each other; goes on from a checkpoint bit for bit."""
    generator, position, first = random.Random(trial.replicate), 0.5, 0
    if (saved := session.restore()) is not None:
        position, first = saved.state["position"], saved.state["step"]
        generator.setstate((3, tuple(saved.state["generator"]), None))
    for step in range(first, NUM_STEPS):
        time.sleep(float(os.environ.get("MEASURED_STEP_SECONDS", "0")))
        position = (position * 3 + generator.random()) % 1
        for row in rows(trial, step, position):
            session.emit(row)
        session.progress(step + 1, NUM_STEPS)
        if session.wants_checkpoint():
            state = {"step": step + 1, "position": position, "generator": generator.getstate()[1]}
            session.save({}, state)
    if trial.replicate == 1:
        session.emit({"row": "nonfinite", "step": 7, "epoch": 1, "where": "loss", "tensor": None})
        return Outcome(kind=OutcomeKind.DIVERGED, step=7)
    return Outcome(kind=OutcomeKind.COMPLETED)


def rows(trial, step, position):
    """What a step emits."""
    if trial.cell.protocol == "train":
        yield {
            "row": "epoch",
            "epoch": step + 1,
            "step": 10 * step,
            "train_loss": math.nan if step == 6 else 1 / (1 + position),
            "split": "test",
            "test_accuracy": position,
        }
        return
    for jacobian in trial.cell.jacobians[1:]:
        nonfinite = step == 4
        yield {
            "row": "gap",
            "draw": step,
            "jacobian": jacobian.label,
            "gap_l2": math.inf if nonfinite else position * jacobian.beta,
            "gap_sup": math.nan if nonfinite else position if step % 3 else 0.0,
            "gap_relative": math.nan if nonfinite else position,
            "nonfinite": nonfinite,
        }
        yield {"row": "pool", "draw": step, "pool": 0, "tied": 3}
