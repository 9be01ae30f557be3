"""The ImageNet cell on two ranks from the command line: started by `tiebreak run`, and by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiebreak.cli import MISTAKE, main

CELL = [
    "run",
    "arch=resnet50",
    "data=imagenet",
    "batch_norm=true",
    "data.image_size=64",
    "data.batch_size=4",
    "protocol.num_epochs=1",
    "device=cpu",
    "num_ranks=2",
]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training and six validation images in ImageNet's layout, two classes."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for split, num in (("train", 5), ("val", 3)):
        for wnid in ("n01440764", "n01443537"):
            folder = root / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            for number in range(num):
                pixels = draw.integers(0, 256, (80, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{wnid}_{number}.JPEG")
    return root


def start(*command: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def record_of(folder: Path) -> tuple[list[dict], dict]:
    (path,) = folder.glob("results/records/*/0000.jsonl")
    header, *rows, closing = map(json.loads, path.read_text().splitlines())
    return rows, {"outcome": closing["outcome"], "cell": header["cell"]}


def children(process: subprocess.Popen[str]) -> list[int]:
    return [
        int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_for(condition, what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"{what} did not happen")


def test_imagenet_on_two_ranks_by_torchrun_and_by_itself_after_a_kill(data_root, tmp_path) -> None:
    by_torchrun, by_itself = tmp_path / "torchrun", tmp_path / "itself"
    for folder in (by_torchrun, by_itself):
        folder.mkdir()
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    cell = [*CELL, f"data_root={data_root}"]
    output = finish(start(*launcher, "tiebreak", *cell, cwd=by_torchrun))
    assert output.count("train.resnet50.imagenet") == 1  # one rank speaks
    rows, told = record_of(by_torchrun)
    assert told["cell"]["execution"]["num_ranks"] == 2
    assert [(row["row"], row["step"], row["test_images"]) for row in rows] == [("epoch", 3, 6)]

    killed = start("tiebreak", *cell, cwd=by_itself, TIEBREAK_CHECKPOINT_SECONDS="0")
    try:
        wait_for(lambda: any(by_itself.glob(".tiebreak/checkpoints/*/*/*/*.safetensors")), "a checkpoint")
        followers = children(killed)
        assert len(followers) == 1
    finally:
        killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_for(lambda: all(map(is_gone, followers)), "the end of the other rank")
    assert not any(by_itself.glob("results/records/*/*.jsonl"))
    finish(start("tiebreak", *cell, cwd=by_itself))
    assert record_of(by_itself) == (rows, told)

    again = finish(start(*launcher, "tiebreak", *cell, cwd=by_torchrun))
    assert "recorded before; nothing ran" in again


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "device=cpu"], "torchrun started 4 processes (WORLD_SIZE=4) and the cell has num_ranks=1"),
        (["run", "-m", "device=cpu"], "Leave torchrun out"),
        (["study", "smoke"], "torchrun starts the ranks of one trial"),
    ],
)
def test_what_torchrun_cannot_start_is_a_sentence(words, sentence, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(words) == MISTAKE
    assert sentence in capfd.readouterr().err
