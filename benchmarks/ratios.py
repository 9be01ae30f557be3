"""Interleaved ratios of CPU times in one process, with a median and its 95 % interval, beside a target."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scipy.stats import binom

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a work, its ratio to the baseline, and the target if there is one.

    `target` is an upper bound if `at_most`, else a lower one. It is met when the median reaches it, and
    within noise when only the interval does.
    """

    work: str
    baseline: str
    median: float
    low: float
    high: float
    num_ratios: int
    target: float | None = None
    at_most: bool = True

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.median <= self.target if self.at_most else self.median >= self.target:
            return "met"
        reached = self.low <= self.target if self.at_most else self.high >= self.target
        return "within noise" if reached else "NOT met"


def ratio(
    work: str,
    ours: Work,
    theirs: Work,
    *,
    baseline: str,
    repeats: int = 15,
    inverse: bool = False,
    target: float | None = None,
    at_most: bool = True,
    clock: Callable[[], float] = time.process_time,
    warmup: int = 2,
) -> Row:
    """Time two works in turn, A B A B ..., and form a ratio from each pair.

    Args:
        work: name of the line.
        ours: the numerator.
        theirs: the denominator.
        baseline: name of the denominator.
        repeats: pairs, 15 or more for an interval.
        inverse: theirs over ours, a speed-up.
        target: see `Row`.
        at_most: see `Row`.
        clock: CPU time by default; `time.perf_counter` where other processes work.
        warmup: runs of both that do not count.
    """
    for _ in range(warmup):
        ours()
        theirs()
    ratios = []
    for _ in range(repeats):
        seconds = []
        for run in (ours, theirs):
            begin = clock()
            run()
            seconds.append(clock() - begin)
        ratios.append(seconds[1] / seconds[0] if inverse else seconds[0] / seconds[1])
    return row(work, ratios, baseline=baseline, target=target, at_most=at_most)


class Apart:
    """A work that waits in a process of its own, whose environment is chosen when it starts.

    Args:
        words: the command; the process calls `serve`.
        environment: of the process.
    """

    def __init__(self, words: Sequence[str], *, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            list(words), env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self) -> float:
        """Do the work once; the time that the process took for it by its own clock."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(work: Work, *, clock: Callable[[], float]) -> None:
    """Do the work once for each line of standard input and answer with the seconds it took."""
    for _ in sys.stdin:
        begin = clock()
        work()
        print(clock() - begin, flush=True)


def in_turn(sides: Sequence[Apart], *, repeats: int, warmup: int = 1) -> list[tuple[float, ...]]:
    """The seconds of several works timed in turn, A B C A B C ..., a tuple a round."""
    for _ in range(warmup):
        for side in sides:
            side.seconds()
    return [tuple(side.seconds() for side in sides) for _ in range(repeats)]


def row(
    work: str,
    ratios: Sequence[float],
    *,
    baseline: str,
    target: float | None = None,
    at_most: bool = True,
) -> Row:
    """A line from ratios: the median, with the distribution-free interval between two of them."""
    ordered = sorted(ratios)
    count = len(ordered)
    below = int(binom.ppf(0.025, count, 0.5))  # below six ratios no two of them hold 95 %: all are shown
    low, high = ordered[max(0, below - 1)], ordered[min(count - 1, count - below)]
    middle = count // 2
    median = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Row(
        work=work,
        baseline=baseline,
        median=median,
        low=low,
        high=high,
        num_ratios=count,
        target=target,
        at_most=at_most,
    )


def table(rows: Sequence[Row]) -> str:
    """The lines as a Markdown table."""
    lines = ["| work | baseline | ratio (95 % interval) | n | target | |", "|---|---|---|---|---|---|"]
    for item in rows:
        sign = "<=" if item.at_most else ">="
        target = f"{sign} {item.target:g}" if item.target is not None else ""
        lines.append(
            f"| {item.work} | {item.baseline} | {item.median:.3g} ({item.low:.3g} to {item.high:.3g}) "
            f"| {item.num_ratios} | {target} | {item.verdict} |"
        )
    return "\n".join(lines)


def clock_of(device: str) -> Callable[[], float]:
    """CPU seconds, which neighbours hardly move; on a GPU wall seconds after a synchronise."""
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=15, help="interleaved ratios a line")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the work is done")
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operation")
    parser.add_argument("--json", type=Path, default=None, help="also write the lines here")
    return parser


def report(title: str, rows: Sequence[Row], *, note: str = "", path: Path | None = None) -> None:
    """Print a table under a heading with the machine it was made on; write it as JSON too if asked.

    Args:
        title: the heading.
        rows: the lines.
        note: what the lines do not say by themselves, printed above them.
        path: where the JSON goes.
    """
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    said = f"{note.strip()}\n\n" if note else ""
    print(f"\n## {title}\n\n{machine}\n\n{said}{table(rows)}")
    if path is not None:
        lines = [asdict(item) | {"verdict": item.verdict} for item in rows]
        path.write_text(json.dumps({"title": title, "machine": machine, "rows": lines}, indent=2) + "\n")
