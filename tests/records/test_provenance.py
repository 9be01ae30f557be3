import getpass
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tiebreak.records.provenance import SETTLED, Origin, Provenance, collect, utc_now


def git(folder, *arguments):
    names = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    answer = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**clean, **names},
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return package


def test_the_commit_of_the_package_and_whether_its_files_differ(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert Origin(checkout).checkout == (commit, False)
    (checkout.parents[1] / "results.json").write_text("{}")  # results are not the package's files
    assert Origin(checkout).checkout == (commit, False)
    (checkout / "new.py").write_text("")
    assert Origin(checkout).checkout == (commit, True)


def test_a_hook_does_not_lead_astray(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert Origin(checkout).checkout == (git(checkout, "rev-parse", "HEAD"), False)


def test_an_installation_inside_another_checkout_has_no_commit(checkout):
    installed = checkout.parents[1] / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert Origin(installed).checkout == (None, None)


def test_no_checkout_and_no_git(tmp_path, monkeypatch):
    assert Origin(tmp_path).checkout == (None, None)
    monkeypatch.setenv("PATH", "")
    assert Origin(tmp_path).checkout == (None, None)


def test_every_field_is_there_and_nothing_personal():
    found = collect("cpu", num_threads=2, deterministic=True, kernel="there")
    assert set(Provenance.__annotations__) - set(found) == {"started", "ended"}
    assert set(SETTLED) <= set(found)
    assert found["versions"]["python"] == platform.python_version()
    assert {"tiebreak", "torch", "numpy"} <= set(found["versions"])
    assert (found["num_threads"], found["deterministic"], found["kernel"]) == (2, True, "there")
    assert found["device_name"] == found["cpu"]
    text = json.dumps(found)
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text
    assert getpass.getuser() not in text.replace("linux", "")


def test_torch_is_not_loaded_for_it():
    program = (
        "import sys; from tiebreak.records.provenance import collect; "
        "found = collect('cpu', num_threads=1); assert 'torch' in found['versions']; "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_torch_is_asked_where_it_is_loaded():
    import torch

    found = collect("cpu")
    assert found["num_threads"] == torch.get_num_threads()
    assert found["deterministic"] == torch.are_deterministic_algorithms_enabled()


def test_times_are_utc():
    assert datetime.fromisoformat(utc_now()).utcoffset() == timedelta(0)
