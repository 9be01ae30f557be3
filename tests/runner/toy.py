"""A tiny measurement with checkpoints, and a worker that makes it; run as a program by the tests.

What it does is set by environment variables, so that a test can make one process slow, faulty or deadly.
"""

import os
import random
import signal
import sys
import time

from tiebreak.records.session import Outcome, OutcomeKind


def measure(trial, session):
    """A random walk of 3 numbers: every step depends on all steps before it and on the generator."""
    import torch

    generator = torch.Generator().manual_seed(trial.seed("draws"))
    position, first = torch.zeros(3, dtype=torch.float64), 0
    if (saved := session.restore()) is not None:
        position, first = saved.tensors["position"].clone(), saved.state["step"]
        generator.set_state(saved.tensors["generator"])
    total = int(os.environ.get("TOY_STEPS", "12"))
    for step in range(first, total):
        position = torch.sin(position * 3 + torch.randn(3, generator=generator, dtype=torch.float64))
        session.emit({"row": "walk", "step": step, "sum": float(position.sum()), "nan": float("nan")})
        session.progress(step + 1, total)
        misbehave(trial, step, session)
        if session.wants_checkpoint():
            session.save({"position": position, "generator": generator.get_state()}, {"step": step + 1})
    return Outcome(kind=OutcomeKind.COMPLETED)


def light(trial, session):
    """The same without tensors: a process that never checkpoints has no need of torch."""
    generator, position, first = random.Random(trial.replicate), 0.0, 0
    if (saved := session.restore()) is not None:
        position, first = saved.state["position"], saved.state["step"]
        generator.setstate((3, tuple(saved.state["generator"]), None))
    total = int(os.environ.get("TOY_STEPS", "12"))
    for step in range(first, total):
        position = position * 3 % 1 + generator.random()
        session.emit({"row": "walk", "step": step, "position": position})
        session.progress(step + 1, total)
        misbehave(trial, step, session)
        if session.wants_checkpoint():
            state = {"step": step + 1, "position": position, "generator": generator.getstate()[1]}
            session.save({}, state)
    return Outcome(kind=OutcomeKind.COMPLETED)


def misbehave(trial, step, session):
    time.sleep(float(os.environ.get("TOY_STEP_SECONDS", "0")))
    if step == 5 and os.environ.get("TOY_RAISE") in (str(trial.replicate), "all"):
        raise RuntimeError(f"no luck in {session.data_root}/images")
    if step == 5 and os.environ.get("TOY_DIE") == str(trial.replicate):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 5 and os.environ.get("TOY_REFUSE"):
        raise LookupError("There is no data set here. Fetch it with `tiebreak fetch`.")


def main(arguments):
    from tiebreak.runner.worker import Job, main_loop

    if os.environ.get("TOY_BROKEN"):
        raise SystemExit("toy: cannot even start")
    chosen = light if os.environ.get("TOY_LIGHT") else measure
    return main_loop(Job.from_arguments(arguments), measure=chosen, refusals=(LookupError,))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
