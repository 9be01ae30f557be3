"""Every benchmark in turn; `--json-folder DIR` keeps the lines, `--repeats N` shortens or lengthens each."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tiebreak.runner.local import worker_environment

HERE = Path(__file__).parent
NAMES = ("pool", "step", "zones", "data", "packing", "start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json-folder", type=Path, default=None)
    options = parser.parse_args()
    for name in NAMES:
        words = [sys.executable, str(HERE / f"{name}.py"), "--repeats", str(options.repeats)]
        if options.json_folder is not None:
            options.json_folder.mkdir(parents=True, exist_ok=True)
            words += ["--json", str(options.json_folder / f"{name}.json")]
        subprocess.run(words, check=True, env=worker_environment(1))


if __name__ == "__main__":
    main()
