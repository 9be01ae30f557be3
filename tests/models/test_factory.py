"""Networks and weights of the user's own: read as they are, or refused in a sentence."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tiebreak.design.axes import UserError
from tiebreak.models.factory import load_model, load_tensors, load_weights

MODULE = """
from torch import nn
def net():
    return nn.Linear(2, 3)
def broken():
    raise RuntimeError("two\\nlines")
def other():
    return 3
number = 3
def leaves():
    raise SystemExit(3)
made = net()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_raises.py").write_text("1 / 0")
    return name


def test_the_module_of_a_factory_in_the_current_folder(mine):
    assert isinstance(load_model(f"{mine}:net"), nn.Linear)


def test_a_module_that_is_there_need_not_be_made(mine):
    assert load_model(f"{mine}:made") is load_model(f"{mine}:made")
    assert isinstance(load_model(f"{mine}:made"), nn.Linear)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("net", "a model is named package.module:name, got 'net'"),
        ("{mine}:", "a model is named package.module:name"),
        ("nowhere_at_all:net", "the module nowhere_at_all cannot be imported: ModuleNotFoundError"),
        ("{mine}_raises:net", "cannot be imported: ZeroDivisionError: division by zero"),
        ("{mine}:missing", "there is no missing in the module"),
        ("{mine}:number", "must be a function without arguments, got int"),
        ("{mine}:broken", "raised RuntimeError: two lines ({mine}.py:6). Mend it"),
        ("{mine}:leaves", "raised SystemExit: 3 ({mine}.py:11)"),
        ("{mine}:other", "must return a torch.nn.Module, got int"),
    ],
)
def test_a_factory_that_is_none_is_a_sentence(mine, name, sentence):
    with pytest.raises(UserError, match=re.escape(sentence.format(mine=mine))):
        load_model(name.format(mine=mine))


def test_a_file_that_is_missing_or_cut_short_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load_tensors(tmp_path / "b")
    save_file({"images": torch.ones(2, 3)}, tmp_path / "b")
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:-4])
    with pytest.raises(UserError, match="no whole safetensors file"):
        load_tensors(tmp_path / "b")


def test_weights_are_rounded_once_to_the_format_of_the_network(tmp_path):
    model, source = nn.Linear(2, 3).bfloat16(), nn.Linear(2, 3)
    save_file(source.state_dict(), tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert torch.equal(model.weight, source.weight.bfloat16())


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(2, 3), "has no bias"),
        (nn.Sequential(), "has a tensor that the network does not have: weight"),
        (nn.Linear(3, 3, bias=False), "must have the shape (3, 3), got (3, 2)"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, model, sentence):
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "w")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_weights(model, tmp_path / "w")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
