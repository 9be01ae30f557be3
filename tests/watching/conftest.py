import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import made_up
import pytest

from tiebreak.runner.attempt import Holder
from tiebreak.watching.survey import Survey

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def study():
    return made_up.big_study(120)


@pytest.fixture(scope="session")
def filled(study, tmp_path_factory):
    """All but the last ten trials are recorded."""
    return made_up.fill(tmp_path_factory.mktemp("filled"), study, count=110, durable=False).root


@pytest.fixture
def copied(filled, tmp_path):
    """A copy to change."""
    root = tmp_path / "results"
    shutil.copytree(filled, root)
    return root


@pytest.fixture
def survey_of():
    """A survey of a folder, looked at once, without a scheduler."""

    def make(root, **options):
        survey = Survey(Path(root), ask=lambda jobs: None, **options)
        survey.refresh()
        return survey

    return make


@pytest.fixture
def attempt():
    """Writes an attempt at a trial, held by a process here, elsewhere or gone."""

    def write(root, trial, *, number=1, who="here", progress="3/12", end=None, age_seconds=0.0, **holder):
        folder = root / "records" / trial.cell.id / f"{trial.replicate:04d}.attempts" / str(number)
        folder.mkdir(parents=True)
        signed = asdict(Holder.this_process())
        if who == "elsewhere":
            signed |= {"machine": "another boot", "host": "node7", "pid": 1}
        if who == "gone":
            signed |= {"pid": dead_pid(), "started": "1"}
        (folder / "holder.json").write_text(json.dumps(signed | holder))
        beat = folder / "heartbeat"
        beat.write_text(progress.ljust(24))
        stamp = beat.stat().st_mtime - age_seconds
        os.utime(beat, (stamp, stamp))
        if end is not None:
            said = {"ending": "error", "at": "2026-01-02T03:04:05+00:00", "reason": "", "traceback": ""}
            (folder / "end.json").write_text(json.dumps(said | end))
        return folder

    return write


def dead_pid():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
