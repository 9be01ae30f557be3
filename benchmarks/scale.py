"""Ten thousand trials: seconds and memory of the commands that look at all of them, whole processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ratios

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "watching"))

import made_up

from tiebreak.config import config_folder
from tiebreak.config.composition import CONFIGS_VARIABLE

_MEASURE = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
sys.exit(code)
"""
"""Run by a small process: a child's peak memory is never below that of the process that made it."""


_PLANNED = """
question: Can ten thousand trials be planned?
parts:
  - name: train
    replicates: {replicates}
    overrides: [protocol=train, data=cifar10]
    sweep:
      arch: [lenet5, vgg11, vgg16, resnet18]
      precision: [fp16_rounded, bf16, fp32, fp64]
      batch_norm: [false, true]
      pool: [exact, blended]
      pool.beta: [0, 1, 10, 100, 1000, 10000]
      optimizer.lr: {rates}
"""
"""384 cells a learning rate: with 26 of them 9,984 trials."""


def run(words: list[str], **environment: str) -> list[float]:
    """Wall seconds, CPU seconds and megabytes of one process."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


def plans(folder: Path, *, trials: int) -> dict[str, str]:
    """Configurations with two studies of so many trials; the variable that names them."""
    configs = folder / "configs"
    shutil.copytree(config_folder(), configs)
    for name, replicates in (("planned_fours", 4), ("planned_ones", 1)):
        count = max(1, round(trials / 384 / replicates))
        rates = [round(0.001 * number, 3) for number in range(1, count + 1)]
        (configs / "study" / f"{name}.yaml").write_text(_PLANNED.format(replicates=replicates, rates=rates))
    return {CONFIGS_VARIABLE: str(configs)}


def main() -> None:
    parser = ratios.arguments(__doc__)
    parser.set_defaults(repeats=5)
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, replicates in (("fours", 4), ("ones", 1)):
            study = made_up.big_study(options.trials, name="big", num_replicates=replicates)
            made_up.fill(root / name, study, count=math.ceil(0.9 * options.trials), durable=False)
        environment = plans(root, trials=options.trials)
        tiebreak = [sys.executable, "-m", "tiebreak"]
        dry_run = ["--dry-run", "device=cpu", f"results={root / 'nothing'}"]
        works = (
            ("plan, 4 replicates a cell", [*tiebreak, "study", "planned_fours", *dry_run], 2.0, 300.0),
            (
                "plan, every trial a cell of its own",
                [*tiebreak, "study", "planned_ones", *dry_run],
                2.0,
                300.0,
            ),
            ("status, 4 replicates a cell", [*tiebreak, "status", f"results={root / 'fours'}"], 2.0, 300.0),
            (
                "status --json, 4 replicates a cell",
                [*tiebreak, "status", "--json", f"results={root / 'fours'}"],
                2.0,
                300.0,
            ),
            (
                "status, every trial a cell of its own",
                [*tiebreak, "status", f"results={root / 'ones'}"],
                2.0,
                300.0,
            ),
            (
                "tabulate, 4 replicates a cell",
                [*tiebreak, "tabulate", "big", f"results={root / 'fours'}"],
                15.0,
                None,
            ),
        )
        print(
            f"\n## Scale\n\n{options.trials} trials, 9 of 10 recorded, {options.repeats} repeats, medians\n"
        )
        print("| work | wall seconds | CPU seconds | target | MB | target | |\n|---|---|---|---|---|---|---|")
        for name, words, most_seconds, most_megabytes in works:
            found = [run(words, **environment) for _ in range(options.repeats)]
            seconds, cpu, megabytes = (
                sorted(values)[len(values) // 2] for values in zip(*found, strict=True)
            )
            is_met = seconds <= most_seconds and (most_megabytes is None or megabytes <= most_megabytes)
            print(
                f"| {name} | {seconds:.2f} | {cpu:.2f} | <= {most_seconds:g} | {megabytes:.0f} | "
                f"{f'<= {most_megabytes:g}' if most_megabytes else ''} | {'met' if is_met else 'NOT met'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
