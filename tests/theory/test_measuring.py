"""The protocol `correctness`: rows, resumption, and the scoreboard that is made of them."""

from __future__ import annotations

import pandas as pd
import pytest
from memory_session import MemorySession, run_interrupted

from tiebreak.design.cell import Trial
from tiebreak.design.correctness import Correctness, CorrectnessCell, Statement
from tiebreak.records.session import OutcomeKind
from tiebreak.report.scoreboard import scoreboard_lines, scoreboard_sentences, statement_table
from tiebreak.theory.measuring import measure_correctness
from tiebreak.theory.theorems import check_of


def trial(statement):
    return Trial(cell=CorrectnessCell(measure=Correctness(statement=statement)), replicate=0)


@pytest.fixture
def measured(tmp_path):
    def rows(statement):
        session = MemorySession(data_root=tmp_path)
        assert measure_correctness(trial(statement), session).kind is OutcomeKind.COMPLETED
        return session.rows

    return rows


def untimed(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_row_a_network_says_what_its_ground_says(measured):
    check = check_of(Statement.T4_ARGUMENT)
    rows = measured(Statement.T4_ARGUMENT)
    tallies = [ground.run() for ground in check.grounds]
    assert [row["network"] for row in rows] == [ground.network.name for ground in check.grounds]
    assert [row["violations"] for row in rows] == [tally.violations for tally in tallies]
    assert [row["points"] for row in rows] == [tally.points for tally in tallies]
    assert {row["row"] for row in rows} == {"statement"}
    assert all(row["num_numbers"] > 1 and row["is_control"] for row in rows)


def test_a_trial_that_is_stopped_at_each_network_goes_on_where_it_was(measured, tmp_path):
    session, attempts = run_interrupted(measure_correctness, trial(Statement.T3), tmp_path)
    assert attempts == len(session.rows) == 8
    assert untimed(session.rows) == untimed(measured(Statement.T3))


def statements(*rows):
    return pd.DataFrame([{"cell": row["theorem"], "seconds": 0.5, "witness": "", **row} for row in rows])


def network(theorem, points, violations, *, is_control=False, name="f"):
    return {
        "theorem": theorem,
        "words": f"words of {theorem}",
        "is_control": is_control,
        "network": name,
        "machine": "e2m1",
        "points": points,
        "violations": violations,
        "witness": f"{name} at 0" if violations else "",
    }


def test_the_scoreboard_adds_up_networks_and_says_what_is_not_as_it_must_be():
    table = statement_table(
        statements(
            network("T1", 10, 0),
            network("T1", 5, 0, name="g"),
            network("T1 control", 4, 2, is_control=True),
            network("T2", 7, 1),
            network("T2 control", 7, 0, is_control=True),
            network("T3", 0, 0),
        )
    ).set_index("theorem")
    assert list(table["num_networks"]) == [2, 1, 1, 1, 1]
    assert list(table["points"]) == [15, 4, 7, 7, 0]
    assert list(table["verdict"]) == ["holds", "fails", "fails", "holds", "holds"]
    # T2 has a violation, its control has none, and at T3 nothing was looked at
    assert list(table["as_it_must_be"]) == [True, True, False, False, False]
    assert table.loc["T1", "seconds"] == 1.0
    lines = list(scoreboard_lines(table.reset_index(), num_planned=7))
    assert lines[-1] == "2 of 7 statements are as they must be; 2 have no record yet."
    assert "NOT as it must be" in lines[3]
    assert "first: f at 0" in lines[3]
    (sentence,) = scoreboard_sentences(table.reset_index())
    assert "2 of 3 theorems hold" in sentence
    assert "T2 (words of T2); T2 control (words of T2 control); T3 (words of T3)" in sentence
