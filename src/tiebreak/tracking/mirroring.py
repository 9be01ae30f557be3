"""The process of the mirror: events come in as lines of JSON, W&B's runs come out.

It answers on standard output with lines of JSON too: `ready`, `mirrored` for each trial that has ended and
`left` for each that has not, `note` with a sentence, `failed` with the reason why it gives up, `refusal` with
the user's mistake. It ends with its input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from tiebreak.design.axes import UserError
from tiebreak.design.cell import AnyTrial, Trial
from tiebreak.design.stored import read_cell
from tiebreak.records.store import RecordStore
from tiebreak.tracking.settings import Task
from tiebreak.tracking.wandb_runs import Runs

MIRRORED, GAVE_UP, REFUSED = 0, 1, 2


def main_loop(task: Task, *, lines: Iterable[str] | None = None, answers: TextIO | None = None) -> int:
    """Mirror what the lines tell until they end.

    Args:
        task: where to.
        lines: events, see `tiebreak.runner.events`, with a line `trial` before the first one of each trial;
            standard input if left out.
        answers: where answers go; standard output if left out.

    Returns:
        Exit code: 0 all is mirrored, 1 given up, 2 refused.
    """
    wire = answers or sys.stdout

    def say(event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=wire, flush=True)

    with redirect_stdout(sys.stderr):
        try:
            runs = Runs(task.tracking, study=task.study)
            say("ready")
            _follow(sys.stdin if lines is None else lines, runs=runs, task=task, say=say)
        except UserError as error:
            say("refusal", text=str(error))
            return REFUSED
        except BrokenPipeError:
            return GAVE_UP
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            say("failed", text=f"{type(error).__name__}: {words}" if words else type(error).__name__)
            return GAVE_UP
    return MIRRORED


def _follow(lines: Iterable[str], *, runs: Runs, task: Task, say: Any) -> None:
    store = RecordStore(task.results, notice=lambda text: None, only_looks=True)
    trials: dict[str, AnyTrial] = {}
    told = ""
    for line in lines:
        tree = json.loads(line)
        if tree["event"] == "trial":
            trials[tree["trial"]] = Trial(cell=read_cell(tree["cell"]), replicate=tree["replicate"])
            continue
        if tree["event"] == "report":
            runs.report(_files(task))
        else:
            _mirror(tree, trials[tree["trial"]], runs=runs, store=store)
        if runs.unreached != told:
            told = runs.unreached
            say(
                "note",
                text=f"W&B cannot be reached ({told}). From now on the runs are kept in "
                f"{task.tracking.folder}/wandb; `wandb sync` sends them later.",
            )
        if tree["event"] in ("ended", "left"):
            say("mirrored" if tree["event"] == "ended" else "left", trial=tree["trial"])
    for identity in runs.open_ids:
        runs.leave(trials[identity])
        say("left", trial=identity)


def _mirror(tree: Mapping[str, Any], trial: AnyTrial, *, runs: Runs, store: RecordStore) -> None:
    match tree["event"]:
        case "started":
            runs.open(trial)
        case "row":
            runs.open(trial)
            runs.log(trial, tree["row"], index=tree["index"])
        case "left":
            runs.leave(trial)
        case "ended":
            if (record := store.read(trial)) is not None:
                runs.end(record)
            else:
                runs.leave(trial)


def _files(task: Task) -> dict[str, list[Path]]:
    """What a study's report is made of, by type of artifact."""
    tables, figures = (task.results / kind / task.study for kind in ("tables", "figures"))
    return {
        "tables": sorted(tables.glob("*.csv")),
        "figures": sorted([*figures.glob("*.png"), *figures.glob("*.pdf")]),
        "report": [task.results / "report.html"],
    }
