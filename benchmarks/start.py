"""How long a command takes before it does anything: whole processes, wall time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import ratios

_HELP = [sys.executable, "-m", "tiebreak", "--help"]
_DATA = [
    sys.executable,
    "-c",
    "import torch; from pathlib import Path; from tiebreak.data import load;"
    "from tiebreak.design.cell import Data;"
    "load(Data(name='mnist5k'), root=Path('data'))",
]


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

        def trial() -> None:
            words = ["run", "data=mnist5k", "data.train_size=1", "data.test_size=1", "data.batch_size=1"]
            words += ["protocol.num_epochs=1", f"replicate={next(replicates)}"]
            run([sys.executable, "-m", "tiebreak", *words], folder)

        lines = [
            ratios.row("tiebreak --help", seconds, baseline="1 s", target=0.4),
            ratios.ratio(
                "a trial of one step, from the shell to its record",
                trial,
                lambda: run(_DATA, folder),
                baseline="import torch and load the data",
                repeats=options.repeats,
                target=1.3,
                clock=time.perf_counter,
                warmup=1,
            ),
        ]
    ratios.report("Start", lines, path=options.json)


if __name__ == "__main__":
    main()
