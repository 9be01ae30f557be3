"""Every benchmark in turn; `--write FILE` keeps the tables as Markdown."""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

from tiebreak.records.provenance import cpu_model
from tiebreak.runner.crew import worker_environment

HERE = Path(__file__).parent
NAMES = ("pool", "step", "zones", "data", "packing", "start", "certify", "scale", "dashboard", "descent")
HEAD = """# Benchmarks

Ratios of two works timed in turn, A B A B ..., on {device}: CPU seconds of one process, or wall seconds where
processes are started or a GPU works. Medians with a distribution-free 95 % interval; below six ratios the
interval is their range. A target is met when the median reaches it, within noise when only the interval does.
Made by `make bench` on {cpu}, {date}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date()
    texts = [HEAD.format(cpu=cpu_model(), date=today, device=options.device)]
    for name in options.only:
        words = [sys.executable, str(HERE / f"{name}.py"), "--repeats", str(options.repeats)]
        words += ["--device", options.device]
        done = subprocess.run(words, check=True, env=worker_environment(1), stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        texts.append(done.stdout.strip() + "\n")
    if options.write is not None:
        options.write.write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
