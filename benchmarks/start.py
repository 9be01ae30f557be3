"""How long a command takes before it does anything: whole processes, wall time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import ratios

_HELP = [sys.executable, "-m", "tiebreak", "--help"]
_DATA = """
import torch
from pathlib import Path
from tiebreak.data import load
from tiebreak.design.cell import Data
load(Data(name="mnist5k"), root=Path("data"))
"""
_LEAVE = "import os; os._exit(0)"
"""Ends a process at once: torch takes a while to unload, and a program at its first step has not ended."""

_FIRST_STEP = """
import os, sys
import tiebreak.protocols
from tiebreak.cli import main

whole = tiebreak.protocols.measure

def measure(trial, session):
    from tiebreak.protocols.training import Training
    step = Training.step

    def first(self, batch):
        step(self, batch)
        os._exit(0)

    Training.step = first
    return whole(trial, session)

tiebreak.protocols.measure = measure
sys.exit(main(sys.argv[1:]) or "no step was made")
"""
"""The program, ended when the first step of its trial is done."""


def run(words: list[str], folder: str) -> None:
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def main() -> None:
    options = ratios.arguments(__doc__).parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        run(_HELP, folder)
        for _ in range(options.repeats):
            begin = time.perf_counter()
            run(_HELP, folder)
            seconds.append(time.perf_counter() - begin)
        replicates = iter(range(10**6))

        def trial(*program: str) -> None:
            words = ["run", "data=mnist5k", "data.train_size=1", "data.test_size=1", "data.batch_size=1"]
            words += ["protocol.num_epochs=1", f"replicate={next(replicates)}"]
            run([sys.executable, *program, *words], folder)

        def measured(name: str, *program: str, baseline: str, target: float | None) -> ratios.Row:
            return ratios.ratio(
                name,
                lambda: trial(*program),
                lambda: run([sys.executable, "-c", baseline], folder),
                baseline="import torch and load the data",
                repeats=options.repeats,
                target=target,
                clock=time.perf_counter,
                warmup=1,
            )

        lines = [
            ratios.row("tiebreak --help", seconds, baseline="1 s", target=0.4),
            measured(
                "a trial, from the shell to the end of its first step",
                *("-c", _FIRST_STEP),
                baseline=_DATA + _LEAVE,
                target=1.3,
            ),
            measured(
                "a trial of one step, from the shell to the shell, recorded",
                *("-m", "tiebreak"),
                baseline=_DATA,
                target=None,
            ),
        ]
    ratios.report("Start", lines, path=options.json)


if __name__ == "__main__":
    main()
