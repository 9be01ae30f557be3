"""A study handed to workers: what they are to run, how, and where they write what they say.

A launch is a folder under the results, `launches/<study>/<number>/`. It is written once, when a study is
composed; what is edited later changes nothing in it. Records do not refer to it: when all trials have theirs
it can be deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tiebreak.design.cell import AnyTrial
from tiebreak.records.durable import RecordError, create, explained, make_folder
from tiebreak.records.durable import replace as write_in_place
from tiebreak.records.provenance import utc_now
from tiebreak.runner.attempt import Holder
from tiebreak.runner.manifest import read_manifest, write_manifest

FOLDER = "launches"
_DESCRIPTION = "launch.json"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a study.

    Args:
        folder: where it is kept.
        results: the results folder.
        study: name of the study.
        launcher: `local` or `slurm`.
        created: when, UTC.
        num_trials: trials to be run when it was made.
        settings: of the launcher, as they were resolved.
        jobs: numbers of the scheduler's jobs, in the order of submission.
        holder: the process that watches a local launch.
        waiting: names of the parts that are composed later, when what they wait for is recorded.
    """

    folder: Path
    results: Path
    study: str
    launcher: str
    created: str
    num_trials: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    holder: Holder | None = None
    waiting: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """1 for the first launch of a study."""
        return int(self.folder.name)

    @property
    def logs(self) -> Path:
        """The folder of what workers and jobs write."""
        return self.folder / "logs"

    def manifest(self, stage: int = 1) -> Path:
        """The file of the trials of a stage; later stages have theirs once they are composed."""
        return self.folder / ("manifest.jsonl" if stage == 1 else f"manifest-{stage}.jsonl")

    def manifests(self) -> list[Path]:
        """The files of the trials of all stages composed so far, in their order."""
        return sorted(self.folder.glob("manifest*.jsonl"), key=lambda path: (len(path.name), path.name))

    def trials(self) -> list[AnyTrial]:
        """The trials of all stages composed so far.

        Raises:
            RecordError: a manifest is damaged, or of another version.
        """
        return [trial for path in self.manifests() for trial in read_manifest(path)]

    def log(self, name: str) -> str:
        """Name of a log relative to the results folder, as an attempt's holder states it."""
        return (self.logs / f"{name}.log").relative_to(self.results).as_posix()

    def changed(self, **changes: Any) -> Launch:
        """The launch with some fields changed, and written so.

        Raises:
            StoreError: it cannot be written.
        """
        launch = replace(self, **changes)
        write_in_place(self.folder / _DESCRIPTION, launch._to_text().encode())
        return launch

    def _to_text(self) -> str:
        tree = {
            "study": self.study,
            "launcher": self.launcher,
            "created": self.created,
            "num_trials": self.num_trials,
            "settings": dict(self.settings),
            "jobs": list(self.jobs),
            "holder": asdict(self.holder) if self.holder else None,
            "waiting": list(self.waiting),
        }
        return json.dumps(tree, indent=1) + "\n"


def new_launch(
    results: Path,
    *,
    study: str,
    trials: Sequence[AnyTrial],
    launcher: str,
    settings: Mapping[str, Any] | None = None,
    waiting: Sequence[str] = (),
) -> Launch:
    """Make the next launch of a study; of two made at the same moment each gets a number of its own.

    Args:
        results: the results folder.
        study: name of the study.
        trials: what is to be run first.
        launcher: `local` or `slurm`.
        settings: of the launcher.
        waiting: names of the parts to be composed later.

    Raises:
        StoreError: the results folder cannot be written.
    """
    home = results.absolute() / FOLDER / study
    with explained(home):
        make_folder(home)
        number = max((int(entry.name) for entry in os.scandir(home) if entry.name.isdecimal()), default=0)
        while True:
            number += 1
            folder = home / f"{number:04d}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
        make_folder(folder / "logs")
    launch = Launch(
        folder=folder,
        results=results.absolute(),
        study=study,
        launcher=launcher,
        created=utc_now(),
        num_trials=len(trials),
        settings=settings or {},
        holder=Holder.this_process() if launcher == "local" else None,
        waiting=tuple(waiting),
    )
    try:
        write_manifest(launch.manifest(), trials)
        create(folder / _DESCRIPTION, launch._to_text().encode())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return launch


def read_launch(folder: Path) -> Launch:
    """A launch from its folder.

    Raises:
        RecordError: there is none, or it cannot be read by this version.
    """
    path = folder / _DESCRIPTION
    try:
        with explained(path):
            tree = json.loads(path.read_text(encoding="utf-8"))
        holder, study = tree["holder"], tree["study"]
        if not all(isinstance(text, str) for text in (tree["created"], *tree["jobs"], *tree["waiting"])):
            raise ValueError("created, jobs and waiting must be texts")
        return Launch(
            folder=folder.absolute(),
            results=folder.absolute().parents[len(Path(study).parts) + 1],
            study=study,
            launcher=tree["launcher"],
            created=tree["created"],
            num_trials=tree["num_trials"],
            settings=tree["settings"],
            jobs=tuple(tree["jobs"]),
            holder=Holder.from_tree(holder) if holder else None,
            waiting=tuple(tree["waiting"]),
        )
    except FileNotFoundError:
        raise RecordError(f"There is no launch in {folder}. Launch the study again.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RecordError(f"{path} is not a launch ({error}). Launch the study again.") from None


def launches(results: Path) -> tuple[Launch, ...]:
    """Every launch under a results folder, by study and number; one that cannot be read is left out."""
    found = []
    for folder, _ in launch_folders(results):
        with suppress(RecordError):
            found.append(read_launch(folder))
    return tuple(found)


def launch_folders(results: Path) -> list[tuple[Path, int]]:
    """The folders of the launches under a results folder, sorted, each with the time of its description.

    Logs, of which there may be many, are not looked through.
    """
    return sorted(_folders_below(results / FOLDER))


def _folders_below(home: Path) -> Iterator[tuple[Path, int]]:
    try:
        entries = [entry for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for entry in entries:
        folder, stamp = Path(entry.path), 0
        if entry.name.isdecimal():
            with suppress(OSError):
                stamp = (folder / _DESCRIPTION).stat().st_mtime_ns
        if stamp:
            yield folder, stamp
        elif not entry.name.isdecimal() or not (folder / "logs").is_dir():
            yield from _folders_below(folder)
