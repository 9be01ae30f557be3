"""The table of claims: how verdicts are counted, the cheap claims for real, and the verb."""

import json
import math

import pytest

from tiebreak.cli import main
from tiebreak.descent import evidence
from tiebreak.descent.claims import (
    CLAIMS,
    Finding,
    Origin,
    Verdict,
    chosen,
    examine,
    to_json,
    to_text,
    verdict_of,
)
from tiebreak.descent.evidence import Check
from tiebreak.design.axes import UserError

PASS = Check(name="in", value=1.0, low=0.0, high=1.0)
MISS = Check(name="out", value=1.5, low=0.0, high=1.0)


def test_a_verdict_is_counted():
    assert verdict_of([PASS, PASS]) is Verdict.HOLDS
    assert verdict_of([PASS, MISS]) is Verdict.MIXED
    assert verdict_of([MISS]) is Verdict.FAILS
    with pytest.raises(ValueError, match="needs a check"):
        verdict_of([])


def test_no_number_is_in_no_range():
    assert not Check(name="nan", value=math.nan).passed
    assert Check(name="inf", value=math.inf, low=1.0).passed


def test_claims_have_their_numbers_and_their_tests():
    assert [claim.name for claim in CLAIMS] == [f"C{number}" for number in range(1, 11)]
    assert len({claim.gather for claim in CLAIMS}) == 10
    assert not any("reproduc" in claim.statement for claim in CLAIMS)
    assert [claim.name for claim in chosen(["c9", "C2"])] == ["C2", "C9"]
    assert chosen([]) == CLAIMS
    with pytest.raises(UserError, match=r"no claim C11\. The claims are C1, C2"):
        chosen(["C11"])


def test_what_closed_forms_decide_is_decided_so():
    verdicts = {finding.name: finding.verdict for finding in examine(chosen(["C6", "C9"]))}
    assert verdicts == {"C6": Verdict.HOLDS, "C9": Verdict.FAILS}


def test_the_norm_grows_with_the_penalty_only_where_the_solution_is_zero():
    checks = {check.name: check for check in evidence.norm_against_penalty()}
    assert verdict_of(list(checks.values())) is Verdict.MIXED
    below = next(check for name, check in checks.items() if "below" in name)
    assert below.value == 0
    assert all(check.passed for check in checks.values() if check is not below)


def finding():
    return Finding(
        name="C0",
        statement="A statement.",
        origin=Origin.DERIVED,
        scope="one run",
        verdict=Verdict.MIXED,
        checks=(PASS, Check(name="lost", value=math.nan, high=1.0)),
        seconds=0.5,
    )


def test_json_is_strict_and_says_what_passed():
    (row,) = json.loads(to_json([finding()]), parse_constant=pytest.fail)
    assert row["verdict"] == "mixed"
    assert [check["passed"] for check in row["checks"]] == [True, False]
    assert row["checks"][1]["value"] == "nan"
    assert row["checks"][1]["low"] == "-inf"


def test_text_shows_every_check_with_its_range():
    text = to_text([finding()])
    assert "MIXED (1 of 2 checks)" in text
    assert "+ in    1 (wanted 0 to 1)" in text
    assert "- lost  nan (wanted <= 1)" in text


def test_the_verb(capsys, tmp_path):
    assert main(["descent", "claims", "C9", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["verdict"]) == ("C9", "fails")
    file = tmp_path / "claims.txt"
    assert main(["descent", "claims", "C9", "--output", str(file)]) == 0
    assert "C9   FAILS" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["C99"], "no claim C99"), (["C9", "--output", "missing/file"], "--output missing/file is no file")],
)
def test_mistakes_at_the_verb_are_one_sentence(words, sentence, capsys):
    assert main(["descent", "claims", *words]) == 2
    assert sentence in capsys.readouterr().err
