"""A tiny measurement with checkpoints, and a worker that makes it; run as a program by the tests.

What it does is set by environment variables, so that a test can make one process slow, faulty or deadly.
"""

import json
import os
import random
import signal
import sys
import time
import traceback

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


def nursery():
    """Workers without the seconds of importing torch: forked on request, one request a line."""
    import torch  # noqa: F401

    import tiebreak.runner.worker  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        else:
            answer = os.fork() or child(request)
        print(answer, flush=True)


def child(request):
    for stream, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.environ.update(request["environment"])
    code = 1
    try:
        code = main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(nursery() if sys.argv[1:] == ["--nursery"] else main(sys.argv[1:]))
