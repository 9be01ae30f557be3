from __future__ import annotations

import ast

import pytest

from tiebreak.cli import main
from tiebreak.theory.activations import Rules, torch_rules
from tiebreak.theory.gallery import GALLERY, told
from tiebreak.theory.oracle import Kind, judge


@pytest.fixture(scope="module")
def measured():
    return torch_rules()


@pytest.mark.parametrize("example", GALLERY, ids=lambda example: example.name)
def test_the_program_prints_what_the_oracle_says_of_ad(example, measured, capsys):
    exec(compile(example.program, example.name, "exec"), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    printed = printed if isinstance(printed, list) else [printed]
    rules = Rules(proxy=measured.proxy, ties=example.ties or measured.ties)
    found = judge(example.network, example.point, rules=rules)
    assert found.kind is Kind.INCORRECT
    assert printed == pytest.approx([float(value) for value in found.by_ad.gradient], abs=1e-12)
    assert len(example.program.splitlines()) <= 7


def test_a_counterexample_is_told(measured):
    text = told(GALLERY[0], rules=measured)
    assert "AD says   (0)" in text
    assert "true is   (2)" not in text
    assert "true is   (1)" in text
    assert "AD is wrong here." in text


def test_the_verb(capsys):
    assert main(["theory", "counterexample"]) == 0
    listed = capsys.readouterr().out
    assert all(example.name in listed for example in GALLERY)
    assert main(["theory", "counterexample", "max-pool"]) == 0
    assert "true is   (1, 0)" in capsys.readouterr().out


def test_a_name_that_is_not_there_is_said(capsys):
    assert main(["theory", "counterexample", "nothing"]) == 2
    assert "counterexample must be one of tied-weights" in capsys.readouterr().err
