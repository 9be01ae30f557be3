"""Every benchmark in turn; `--write FILE` keeps the tables as Markdown."""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

from tiebreak.records.provenance import cpu_model
from tiebreak.runner.local import worker_environment

HERE = Path(__file__).parent
NAMES = ("pool", "step", "zones", "data", "packing", "start")
HEAD = """# Benchmarks

Ratios of times in one process, A B A B ..., medians with a distribution-free 95 % interval. A target is met
when the interval reaches it. Made by `make bench` on {cpu}, {date}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args()
    texts = [HEAD.format(cpu=cpu_model(), date=datetime.datetime.now(datetime.UTC).date())]
    for name in options.only:
        words = [sys.executable, str(HERE / f"{name}.py"), "--repeats", str(options.repeats)]
        done = subprocess.run(words, check=True, env=worker_environment(1), stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        texts.append(done.stdout.strip() + "\n")
    if options.write is not None:
        options.write.write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
