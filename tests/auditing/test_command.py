"""`tiebreak audit` as people type it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import LABELS, images
from safetensors.torch import load_file, save_file
from torch import nn

from tiebreak.cli import main

MODULE = (
    (Path(__file__).parent / "nets.py").read_text(encoding="utf-8")
    + """

def planted():
    return bifurcating(2)

def raises():
    raise KeyError("no such width")

def number():
    return 3

made = Net()

def talking():
    print("building")
    class Talking(Net):
        def forward(self, x):
            print("running")
            return super().forward(x)
    return Talking()

def drawn():
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(25, 3))

def total(output):
    return output.square().sum()

def pool_free():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 3))

class Leaving(Net):
    def forward(self, x):
        raise SystemExit(3)

def spoilt():
    net = Net()
    with torch.no_grad():
        net.conv1.bias[0] = float("nan")
    return net
"""
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    save_file({"images": images(), "labels": LABELS}, tmp_path / "batch.safetensors")
    save_file({"x": images(), "y": LABELS.int()}, tmp_path / "xy.safetensors")
    save_file({"images": images()}, tmp_path / "unlabelled.safetensors")
    save_file({"pixels": images()}, tmp_path / "pixels.safetensors")
    save_file({"images": images().log(), "labels": LABELS}, tmp_path / "nan.safetensors")
    save_file({"images": images().byte(), "labels": LABELS}, tmp_path / "bytes.safetensors")
    save_file({"images": images()[:, :, 0].clone(), "labels": LABELS}, tmp_path / "rows.safetensors")
    (tmp_path / "text.safetensors").write_text("not at all", encoding="utf-8")
    return name


def test_a_whole_audit_from_a_terminal(mine, tmp_path):
    words = ["audit", f"{mine}:planted", "--batch", "batch.safetensors", "--precision", "fp32,bf16"]
    done = subprocess.run(
        [sys.executable, "-m", "tiebreak", *words, "--html", "audit.html", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.count("The gradient depends on the rule at ties, over the reals") == 2
    assert f"{mine}.py:" in done.stdout
    assert "page: audit.html" in done.stderr
    assert (tmp_path / "audit.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.suffix for path in tmp_path.glob("audit*")) == [".html"]


def run(mine, *words, capsys):
    names = [word.format(mine=mine) for word in words]
    code = main(["audit", *names, "--device", "cpu"])
    return code, capsys.readouterr()


def test_json_stands_alone_on_the_output(mine, capsys):
    words = ("{mine}:made", "--batch", "xy.safetensors", "--json", "--no-certify")
    code, said = run(mine, *words, capsys=capsys)
    assert code == 0
    assert json.loads(said.out)["sections"][0]["layers"][0]["windows"] == 576
    assert json.loads(said.out)["mode"] == "training"


def test_a_loss_of_ones_own_and_evaluation_mode(mine, capsys):
    words = ("{mine}:made", "--batch", "unlabelled.safetensors", "--loss", "{mine}:total", "--eval", "--json")
    code, said = run(mine, *words, capsys=capsys)
    found = json.loads(said.out)
    assert (code, found["loss"], found["mode"]) == (0, "total", "evaluation")
    assert found["sections"][0]["label"] is not None


def test_what_a_network_prints_is_no_part_of_the_json(mine, capsys):
    words = ("{mine}:talking", "--batch", "batch.safetensors", "--json", "--no-certify")
    code, said = run(mine, *words, capsys=capsys)
    assert (code, json.loads(said.out)["network"]) == (0, "Talking")
    assert said.err.startswith("building\nrunning\n")


def test_a_page_is_replaced_whole_or_not_at_all(mine, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("the last one", encoding="utf-8")
    monkeypatch.setattr("tiebreak.records.durable.os.fsync", full_disk)
    words = ("{mine}:made", "--batch", "batch.safetensors", "--no-certify", "--html", "page.html")
    code, said = run(mine, *words, capsys=capsys)
    assert (code, "no space left to write page.html" in said.err) == (2, True)
    assert page.read_text(encoding="utf-8") == "the last one"
    assert not list(tmp_path.glob(".tmp-*"))


def full_disk(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_images_in_eight_bits_are_audited(mine, tmp_path, capsys):
    """A format that PyTorch stores and has no `isfinite` for."""
    narrow = images().to(torch.float8_e4m3fn)
    save_file({"images": narrow, "labels": LABELS}, tmp_path / "narrow.safetensors")
    code, said = run(mine, "{mine}:made", "--batch", "narrow.safetensors", "--json", capsys=capsys)
    assert (code, said.err.count("fault")) == (0, 0)
    narrow.view(torch.uint8)[0, 0, 0, 0] = 0x7F  # NaN
    save_file({"images": narrow, "labels": LABELS}, tmp_path / "narrow.safetensors")
    code, said = run(mine, "{mine}:made", "--batch", "narrow.safetensors", capsys=capsys)
    assert (code, "images must be finite, got 1 infinities or NaNs" in said.err) == (2, True)


def test_the_same_seed_gives_the_same_network(mine, capsys):
    losses = []
    for seed in ("0", "0", "1"):
        words = ("{mine}:drawn", "--batch", "batch.safetensors", "--no-certify", "--json", "--seed", seed)
        _, said = run(mine, *words, capsys=capsys)
        losses.append(json.loads(said.out)["sections"][0]["loss"])
    assert losses[0] == losses[1] != losses[2]


BATCH = ("--batch", "batch.safetensors")
MISTAKES = {
    "no colon": (("mine", *BATCH), "a model is named package.module:name, got 'mine'"),
    "no module": (("nowhere_at_all:net", *BATCH), "nowhere_at_all cannot be imported"),
    "no factory": (("{mine}:nothing", *BATCH), "there is no nothing in the module"),
    "raises": (("{mine}:raises", *BATCH), "raised KeyError: 'no such width' ({mine}.py:"),
    "no network": (("{mine}:number", *BATCH), "must return a torch.nn.Module, got int"),
    "no pool": (("{mine}:pool_free", *BATCH), "nothing to audit"),
    "nan weight": (("{mine}:spoilt", *BATCH), "the parameter conv1.bias holds an infinity or a NaN"),
    "leaves": (("{mine}:Leaving", *BATCH), "cannot take images of shape (4, 1, 12, 12) in fp32"),
    "no file": (("{mine}:made", "--batch", "nothing"), "there is no file nothing"),
    "text": (("{mine}:made", "--batch", "text.safetensors"), "no whole safetensors file"),
    "folder": (("{mine}:made", "--batch", "."), "Is a directory"),
    "pixels": (("{mine}:made", "--batch", "pixels.safetensors"), "`images` (or `x`), and at most one"),
    "nan image": (("{mine}:made", "--batch", "nan.safetensors"), "images must be finite, got"),
    "bytes": (("{mine}:made", "--batch", "bytes.safetensors"), "got torch.uint8"),
    "shape": (("{mine}:made", "--batch", "rows.safetensors"), "cannot take images of shape (4, 1, 12)"),
    "no labels": (("{mine}:made", "--batch", "unlabelled.safetensors"), "--loss package.module:function"),
    "no loss": (("{mine}:made", *BATCH, "--loss", "{mine}:SIZE"), "must be callable, got int"),
    "precision": (("{mine}:made", *BATCH, "--precision", "fp32,fp17"), "--precision must be one of fp16"),
    "seed": (("{mine}:made", *BATCH, "--seed", "-1"), "--seed must be 0 or more"),
    "no time": (
        ("{mine}:made", *BATCH, "--certify-seconds", "0"),
        "--certify-seconds must be above 0, got 0",
    ),
    "no images": (("{mine}:made", *BATCH, "--images", "0"), "--images must be 1 or more, got 0"),
    "no folder": (("{mine}:made", *BATCH, "--html", "gone/audit.html"), "there is no folder gone"),
    "a folder": (("{mine}:made", *BATCH, "--html", "."), "--html . is a folder"),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_a_mistake_is_one_sentence_and_exit_code_2(case, mine, capsys):
    words, sentence = MISTAKES[case]
    before = torch.get_rng_state()
    code, said = run(mine, *words, capsys=capsys)
    torch.set_rng_state(before)
    assert code == 2
    assert sentence.format(mine=mine) in said.err
    assert "Traceback" not in said.err
    assert said.err.count("tiebreak: ") == 1
    assert said.out == ""


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom tiebreak.cli import main\ntry:\n    main(['audit', '--help'])\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--precision" in done.stdout


@pytest.mark.parametrize("seed", [0, 7])
def test_audit_and_certify_are_about_the_same_network(mine, capsys, seed):
    """A factory that draws: each verb is held against the network that torch draws from that seed."""
    torch.manual_seed(seed)
    drawn = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(25, 3))
    seeds = (
        {"audit": [], "certify": []}
        if seed == 0
        else {"audit": ["--seed", "7"], "certify": ["--model-seed", "7"]}
    )
    torch.manual_seed(99)  # whatever was drawn before
    code, said = run(
        mine, "{mine}:drawn", "--batch", "batch.safetensors", "--json", *seeds["audit"], capsys=capsys
    )
    loss = nn.functional.cross_entropy(drawn(images()), LABELS)
    assert (code, json.loads(said.out)["sections"][0]["loss"]) == (0, pytest.approx(loss.item(), rel=1e-6))
    torch.manual_seed(98)
    words = ["certify", "--model", f"{mine}:drawn", "--batch", "batch.safetensors", "--output", "d.json"]
    assert main([*words, *seeds["certify"]]) == 0
    assert torch.equal(load_file("d.json.safetensors")["1.weight"].float(), drawn[0].weight)
    capsys.readouterr()


def test_a_certificate_is_given_up_from_the_terminal(mine, capsys):
    words = ("{mine}:made", "--batch", "batch.safetensors", "--certify-seconds", "1e-9")
    code, said = run(mine, *words, capsys=capsys)
    assert code == 0
    assert "Not certified, because the 1e-09 seconds that it may take were over" in " ".join(said.out.split())
