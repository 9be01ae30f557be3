"""How long a person waits for the dashboard with ten thousand trials: in headless Chromium, wall time.

Each line is one thing that a person does, from the key or click until the page has painted the answer;
repeated, with the 95th percentile beside the target. The results folder is made up.
"""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ratios

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "watching"))

import made_up
from playwright.sync_api import sync_playwright

from tiebreak.watching.finding import Index
from tiebreak.watching.pages import Dashboard

TARGET_SECONDS = 0.3
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
          "--disable-sync"]  # fmt: skip
_PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of the dashboard, in a process of its own as people use it."""
    words = [sys.executable, "-m", "tiebreak", "dashboard", "--no-open", "--port", "0", f"results={root}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1].rstrip("/")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        process.stdout.close()


def measured(page: Any, act: Callable[[int], None], *, repeats: int) -> list[float]:
    """Seconds from the act to the painted answer, after one that does not count."""
    seconds = []
    for number in range(repeats + 1):
        begin = time.perf_counter()
        act(number)
        page.evaluate(_PAINTED)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def lines(page: Any, index: Index, *, repeats: int) -> Iterator[tuple[str, list[float]]]:
    """Each thing that is done, by name, with its seconds."""
    rng = random.Random(0)
    trials = [
        entry.standing.trial.id
        for entry in index.entries
        if entry.standing.record is not None
        and entry.standing.trial.cell.protocol == "train"
        and entry.standing.record.num_rows
    ]

    def open_nothing(number: int) -> None:
        page.goto("/version")

    def open_page(number: int) -> None:
        page.goto("/trials/big")

    def filter_by_typing(number: int) -> None:
        words = ["precision=fp32", f"lr=0.0{1 + number % 5}", "forward=exact", "batch_norm=true"]
        query = " ".join(words[: 1 + number % 4])
        page.locator("#q").fill(query)
        page.get_by_text(f"{len(index.found(query))} of {len(index.entries)} trials").wait_for()

    def sort(number: int) -> None:
        name = ("accuracy", "beta", "time", "ended", "precision")[number % 5]
        page.get_by_role("link", name=name, exact=True).click()
        page.locator("th[aria-sort]").get_by_text(name, exact=True).wait_for()

    def overlay(number: int) -> None:
        query = "&".join(f"t={trial}" for trial in rng.sample(trials, 20))
        page.goto(f"/curves/big?{query}")
        page.wait_for_selector("#chart[data-drawn='20']")

    def show_map(number: int) -> None:
        page.goto(f"/map/big?show={('done', 'result', 'diverged')[number % 3]}&rows=precision&columns=beta")

    yield "open an empty page (what the browser takes)", measured(page, open_nothing, repeats=repeats)
    yield "open the table of 10,000 trials", measured(page, open_page, repeats=repeats)
    yield (
        "filter (with the 60 ms that typing is waited for)",
        measured(page, filter_by_typing, repeats=repeats),
    )
    page.goto("/trials/big")
    yield "sort", measured(page, sort, repeats=repeats)
    yield "overlay 20 curves of records not read before", measured(page, overlay, repeats=repeats)
    yield "open a heat map", measured(page, show_map, repeats=repeats)


def main() -> None:
    parser = ratios.arguments(__doc__)
    parser.set_defaults(repeats=50)
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("Chromium is not installed: the dashboard is not measured.")
        return
    with tempfile.TemporaryDirectory() as folder:
        study = made_up.big_study(options.trials)
        made_up.fill(Path(folder), study, count=math.ceil(0.95 * options.trials), durable=False)
        with served(Path(folder)) as address, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=_FLAGS)
            page = browser.new_page(base_url=address)
            index = Dashboard(Path(folder)).index("big")
            print(f"\n## Dashboard\n\n{options.trials} trials, {options.repeats} repeats, wall seconds\n")
            print("| work | median | 95th percentile | target | |\n|---|---|---|---|---|")
            for name, seconds in lines(page, index, repeats=options.repeats):
                ordered = sorted(seconds)
                p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
                verdict = "met" if p95 <= TARGET_SECONDS else "NOT met"
                print(
                    f"| {name} | {ordered[len(ordered) // 2]:.3f} | {p95:.3f} "
                    f"| <= {TARGET_SECONDS} | {verdict} |",
                    flush=True,
                )
            browser.close()


if __name__ == "__main__":
    main()
