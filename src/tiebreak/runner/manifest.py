"""The list of trials that workers share: one line of JSON each, in the order of the study."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tiebreak.design.axes import DesignError
from tiebreak.design.cell import AnyCell, AnyTrial, Trial
from tiebreak.design.stored import read_cell
from tiebreak.records.durable import RecordError, explained, replace


def write_manifest(path: Path, trials: Iterable[AnyTrial]) -> None:
    """Write the trials down, every cell resolved: what is edited later changes nothing.

    Raises:
        StoreError: the file cannot be written.
    """
    lines = [
        json.dumps({"trial": trial.id, "cell": trial.cell.to_dict(), "replicate": trial.replicate})
        for trial in trials
    ]
    replace(path, "".join(f"{line}\n" for line in lines).encode())


def read_manifest(path: Path) -> list[AnyTrial]:
    """The trials of a manifest.

    Raises:
        RecordError: there is no such file, or a line is not a trial of this version's.
    """
    try:
        with explained(path):
            lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise RecordError(f"There is no manifest {path}. Plan the study again to write one.") from None
    cells: dict[str, AnyCell] = {}  # replicates of a cell share one object
    trials: list[AnyTrial] = []
    for number, line in enumerate(lines, start=1):
        try:
            tree = json.loads(line)
            stated = tree["trial"].partition("/")[0]
            cell = cells.get(stated) or cells.setdefault(stated, read_cell(tree["cell"]))
            trial = Trial(cell=cell, replicate=tree["replicate"])
            if trial.id != tree["trial"]:
                raise DesignError(f"it states {tree['trial']} and is {trial.id}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{path}, line {number}: not a trial that this version can run ({error}). "
                "Plan the study again."
            ) from error
        trials.append(trial)
    return trials


def listed_trials(path: Path) -> tuple[str, ...]:
    """Ids in a manifest that another may be writing, or another version has written.

    A line that lists none is passed over, and so is a file that cannot be read.
    """
    found = []
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                found.append(str(json.loads(line)["trial"]))
    return tuple(found)
