"""`tiebreak certify` and `tiebreak check`, as people type them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiebreak.cli import main
from tiebreak.design.cell import Network
from tiebreak.exact.files import sum_of
from tiebreak.models import build
from tiebreak.protocols import certificate_files

DIGITS = ["data=mnist5k", "data.batch_size=2", "device=cpu"]
MODULE = '''
import torch
from torch import nn

def net(activation=nn.ReLU):
    """A window of a conv's ones on 2 1 2 0 has two maxima that come from different patches."""
    net = nn.Sequential(nn.Conv2d(1, 1, 2), activation(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1), net[0].bias.zero_()
        net[4].weight.copy_(torch.tensor([[1.0], [-1.0]])), net[4].bias.zero_()
    return net

def tanh():
    return net(nn.Tanh)

def overflowing():
    made = net()
    with torch.no_grad():
        made[0].weight.fill_(3e38)
    return made

def unfit():
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 2))

def half_frozen():
    made = net()
    made[0].bias.requires_grad_(False)
    return made

def frozen():
    return net().requires_grad_(False)

def unshaped():
    return nn.Sequential(nn.LazyConv2d(1, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2))

def unmade():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(1, 1, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2))

class Leaving(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        raise SystemExit(3)

'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A certificate of LeNet-5 on two digits, one of a bifurcating network, and what they need."""
    here = tmp_path_factory.mktemp("certified")
    (here / "certified_nets.py").write_text(MODULE)
    images = torch.zeros(2, 1, 4, 4)
    images[0, 0, 0] = torch.tensor([2.0, 1, 2, 0])
    save_file({"images": images, "labels": torch.tensor([0, 1])}, here / "batch.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        rules = ["--jacobians", "minimal,beta100,last"]
        assert main(["certify", *DIGITS, "draw=1", *rules, "--seed", "5", "--output", "lenet.json"]) == 0
        mine = ["--model", "certified_nets:net", "--batch", "batch.safetensors"]
        assert main(["certify", *mine, "--mode", "proof", "--output", "mine.json"]) == 0
    return here


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    for path in folder.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cell_is_certified_and_checked_with_fresh_primes(here, capsys):
    assert main(["check", "lenet.json", "--seed", "6"]) == 0
    said = capsys.readouterr().out
    assert "replicate 0, batch 1" in said
    assert "WRONG" not in said
    assert "ok    answer.verdicts.beta100.different: no (fresh primes of the seed 6)" in said
    assert "verified: minimal: D = 0 (wrong with probability below 2^-4" in said
    assert main(["check", "lenet.json", "--mode", "proof", "--images", "1"]) == 0
    assert "verified: minimal: D = 0 (proved). beta100: D = 0 (proved)." in capsys.readouterr().out
    body = json.loads((here / "lenet.json").read_text())
    assert body["evidence"]["log2_error"] <= -40
    assert {tree["label"] for tree in body["floats"].values()} <= {"regular", "compensation"}
    assert not {"host", "user", "path"} & set(body["provenance"])
    assert str(here) not in (here / "lenet.json").read_text()


def test_a_module_of_ones_own_is_certified_and_checked_in_rationals(here, capsys):
    assert main(["check", "mine.json", "--slow"]) == 0
    assert "verified: minimal: D != 0 in 2 entries (proved)" in capsys.readouterr().out
    assert json.loads((here / "mine.json").read_text())["floats"]["minimal"]["label"] == "bifurcation"


def test_a_frozen_parameter_has_no_entry(here, capsys):
    mine = ["--model", "certified_nets:half_frozen", "--batch", "batch.safetensors"]
    assert main(["certify", *mine, "--output", "half.json"]) == 0
    said = json.loads((here / "half.json").read_text())["answer"]["verdicts"]["minimal"]
    assert said == {"different": True, "num_nonzero": {"0.weight": 2}}
    assert main(["check", "half.json", "--slow"]) == 0


def test_batch_norm_in_evaluation_mode_is_folded_and_checked_in_rationals(here, capsys):
    module = "def normed():\n    made = net()\n    made.insert(1, nn.BatchNorm2d(1))\n    return made\n"
    (here / "normed_nets.py").write_text(MODULE + module)
    mine = ["--model", "normed_nets:normed", "--batch", "batch.safetensors", "--eval"]
    assert main(["certify", *mine, "--output", "normed.json"]) == 0
    assert "normed_nets:normed on batch.safetensors, in evaluation mode" in capsys.readouterr().out
    operations = [
        node["operation"] for node in json.loads((here / "normed.json").read_text())["graph"]["nodes"]
    ]
    assert "Affine" in operations
    assert main(["check", "normed.json", "--slow"]) == 0


def test_a_certificate_says_when_it_was_begun_and_when_it_was_ended(here, monkeypatch):
    clock = iter(["begun", "while it ran", "ended"])
    seen = []
    monkeypatch.setattr("tiebreak.records.provenance.utc_now", lambda: next(clock))
    certify_point = certificate_files.certify_point
    monkeypatch.setattr(
        certificate_files,
        "certify_point",
        lambda *a, **k: (seen.append(next(clock)), certify_point(*a, **k))[1],
    )
    mine = ["--model", "certified_nets:net", "--batch", "batch.safetensors"]
    assert main(["certify", *mine, "--output", "timed.json"]) == 0
    provenance = json.loads((here / "timed.json").read_text())["provenance"]
    assert (provenance["started"], seen, provenance["ended"]) == ("begun", ["while it ran"], "ended")


def test_the_checker_needs_neither_the_module_nor_the_data(here):
    (here / "certified_nets.py").unlink()
    (here / "batch.safetensors").unlink()
    assert main(["check", "mine.json"]) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "e4m3"])
def test_a_checkpoint_is_rounded_to_the_format_of_its_cell(here, capsys, precision):
    weights = build(Network(arch="lenet5"), num_classes=10, in_channels=1, seed=11).state_dict()
    save_file(weights, here / "w.safetensors")
    words = ["certify", *DIGITS, f"precision={precision}", "--jacobians", "minimal", "--eval"]
    assert main([*words, "--checkpoint", "w.safetensors", "--output", "w.json"]) == 0
    assert ", weights of w.safetensors, in evaluation mode" in capsys.readouterr().out
    assert all(torch.equal(x, weights[name]) for name, x in load_file(here / "w.safetensors").items())
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}
    stored = load_file(here / "w.json.safetensors")
    nodes = json.loads((here / "w.json").read_text())["graph"]["nodes"]
    kept = [node["options"]["weight"] for node in nodes if "weight" in node["options"]]
    assert len(kept) == 5
    for item in kept:
        rounded = weights[item["parameter"]].to(formats[precision]).double()
        assert torch.equal(stored[item["tensor"]].double(), rounded)
    assert main(["check", "w.json"]) == 0


def edit(path, field, value):
    """Change a field and every sum, as someone would who means it."""
    body = json.loads(path.read_text())
    *way, last = field
    tree = body
    for key in way:
        tree = tree[key]
    tree[last] = value
    body["sums"] = {name: sum_of(section) for name, section in body.items() if name != "sums"}
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("name", "field", "value", "words", "sentence"),
    [
        ("mine", ("answer", "verdicts", "minimal", "different"), False, [], "minimal.different"),
        ("mine", ("answer", "verdicts", "minimal", "num_nonzero", "0.weight"), 1, [], "num_nonzero.0.weight"),
        ("mine", ("answer", "pools", 0, "tied"), 9, ["--slow"], "answer.pools.0.tied"),
        ("lenet", ("evidence", "primes", 0), 1048583, [], "evidence.primes"),
        ("lenet", ("evidence", "log2_error"), -99.0, [], "evidence.log2_error"),
        ("lenet", ("floats", "last", "label"), "bifurcation", [], "floats.last.label"),
        ("lenet", ("format",), 9, [], "the field format must be 1, got 9"),
        ("lenet", ("tensors", "file"), "gone.safetensors", [], "there is no file gone.safetensors"),
    ],
)
def test_an_edited_certificate_fails_and_the_field_is_named(
    here, capsys, name, field, value, words, sentence
):
    edit(here / f"{name}.json", field, value)
    assert main(["check", f"{name}.json", *words]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "verified" not in said.out
    assert "Traceback" not in said.err


def test_an_edit_without_new_sums_is_named_as_well(here, capsys):
    text = (here / "lenet.json").read_text()
    (here / "lenet.json").write_text(text.replace("batch 1", "batch 2"))
    assert main(["check", "lenet.json"]) == 2
    assert "do not give about" in capsys.readouterr().err


def test_a_byte_of_the_tensors_and_a_cut_are_told(here, capsys):
    block = (here / "mine.json.safetensors").read_bytes()
    (here / "mine.json.safetensors").write_bytes(block[:-1] + bytes([block[-1] ^ 1]))
    assert main(["check", "mine.json"]) == 2
    assert "is not the one that was certified" in capsys.readouterr().err
    (here / "mine.json.safetensors").write_bytes(block[:-3])
    assert main(["check", "mine.json"]) == 2
    assert "no whole safetensors file" in capsys.readouterr().err


def test_a_network_that_overflows_gets_no_verdict(here, capsys):
    mine = ["--model", "certified_nets:overflowing", "--batch", "batch.safetensors"]
    assert main(["certify", *mine, "--output", "inf.json"]) == 0
    assert "nonfinite: minimal: no verdict, because of an infinity or a NaN at" in capsys.readouterr().out
    assert main(["check", "inf.json", "--slow"]) == 0
    assert "verified: minimal: no verdict" in capsys.readouterr().out


MISTAKES = {
    "no certificate": (["check", "nowhere.json"], "there is no file nowhere.json"),
    "a folder": (["check", "."], "could not be"),
    "tensors as a certificate": (["check", "mine.json.safetensors"], "is not a certificate"),
    "recorded seed": (["check", "lenet.json", "--seed", "5"], "the seed 5 is the one of the certificate"),
    "slow with primes": (["check", "mine.json", "--slow", "--seed", "1"], "--slow is a proof without primes"),
    "no images": (["check", "lenet.json", "--images", "0"], "--images must be 1 or more, got 0"),
    "unknown operation": (
        ["certify", "--model", "certified_nets:tanh", "--batch", "batch.safetensors"],
        "tanh",
    ),
    "other shapes": (
        ["certify", "--model", "certified_nets:unfit", "--batch", "batch.safetensors"],
        "cannot be run",
    ),
    **{
        name: (["certify", "--model", f"certified_nets:{name}", "--batch", "batch.safetensors"], sentence)
        for name, sentence in {
            "frozen": "no parameter of the network asks for a derivative",
            "unshaped": "0.weight of the network has no shape yet",
            "unmade": "0.weight of the network has no numbers",
            "Leaving": "cannot be run on images of the shape (2, 1, 4, 4) in torch.float32: SystemExit: 3",
        }.items()
    },
    "no such factory": (
        ["certify", "--model", "certified_nets:nets", "--batch", "batch.safetensors"],
        "nets",
    ),
    "model alone": (["certify", "--model", "certified_nets:net"], "--model and --batch go together"),
    "model and cell": (
        ["certify", "arch=lenet5", "--model", "certified_nets:net", "--batch", "batch.safetensors"],
        "arch=lenet5 belongs to a cell",
    ),
    "weights of another": (
        ["certify", *DIGITS, "--checkpoint", "mine.json.safetensors"],
        "mine.json.safetensors has no",
    ),
    "another protocol": (["certify", *DIGITS, "protocol=train"], "protocol=zones, got train"),
    "no such batch": (["certify", *DIGITS, "draw=9999"], "draw must be a batch of the epoch, 0 to"),
    "draw of text": (["certify", *DIGITS, "draw=x"], "draw must be the number of a batch"),
    "random rule": (["certify", *DIGITS, "pool.selections=[random]"], "selection=random"),
    "another reference": (["certify", *DIGITS, "pool.betas=[1,0]"], "Put 0 first"),
    "no rule": (["certify", *DIGITS, "--jacobians", "native"], "--jacobians must be of minimal"),
    "rule twice": (["certify", *DIGITS, "--jacobians", "minimal,beta1"], "minimal is given twice"),
    "error of 1": (["certify", *DIGITS, "--error", "1"], "--error must be from"),
    "no name": (["certify", *DIGITS, "--output", "c.txt"], "a certificate is a .json file, got c.txt"),
    "output a folder": (["certify", *DIGITS, "--output", "f.json"], "f.json is a folder. Name a file in it"),
    "no place for files": (["certify", *DIGITS, "--output", "/proc/c.json"], "No file can be made in /proc"),
    "unknown key": (["certify", "bach_norm=true"], "Did you mean batch_norm"),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_a_mistake_is_a_sentence_and_writes_nothing(here, capsys, case):
    words, sentence = MISTAKES[case]
    if case == "output a folder":
        (here / "f.json").mkdir()
    before = sorted(path.name for path in here.iterdir())
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert sorted(path.name for path in here.iterdir()) == before


def test_what_does_not_fit_into_memory_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr("tiebreak.exact.memory.available_bytes", lambda device: 1e5)
    assert main(["check", "lenet.json"]) == 2
    assert "1 image at a time needs about" in capsys.readouterr().err
