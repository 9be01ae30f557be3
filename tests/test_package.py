"""A wheel holds everything; the package works without the checkout; scripts call the same verbs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_configurations_kernel_and_page(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"tiebreak/_configs/{name}" for name in configs} <= names
    source = ROOT / "src"
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in (".pyc",) and "__pycache__" not in path.parts:
            assert path.relative_to(source).as_posix() in names, f"{path.name} is not in the wheel"


def test_installed_package_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked alone in front of the path, away from the checkout, it finds its own configurations."""
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import tiebreak.config, sys\n"
        f"assert tiebreak.__file__.startswith({str(target)!r}), tiebreak.__file__\n"
        f"assert str(tiebreak.config.config_folder()).startswith({str(target)!r})\n"
        "from tiebreak.cli import main\n"
        "sys.exit(main(['run', 'data=mnist5k', 'data.train_size=64', 'data.test_size=50',"
        " 'data.batch_size=32', 'protocol.num_epochs=1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("results/records/*/0000.jsonl"))


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_scripts_are_the_verbs(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: tiebreak {script.removesuffix('.py')}" in done.stdout


def test_public_names_are_importable_and_documented() -> None:
    import tiebreak

    for name in tiebreak.__all__:
        thing = getattr(tiebreak, name)
        assert thing.__doc__ or name in ("MINIMAL", "NATIVE"), name
    assert set(tiebreak.__all__) <= set(dir(tiebreak))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tiebreak.nothing  # noqa: B018
