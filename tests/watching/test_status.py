import json
import time
from collections import Counter

import made_up
import pytest
from rich.console import Console

from tiebreak.cli import main
from tiebreak.records.store import RecordStore
from tiebreak.watching.axes import Axes, in_order
from tiebreak.watching.standing import State
from tiebreak.watching.status import by_axis, failures, text, tree


def test_the_tree_counts_what_the_records_say(filled, study, survey_of):
    survey = survey_of(filled)
    [found] = tree(survey, survey.studies.values())["studies"]
    store = RecordStore(filled, only_looks=True)
    slow = Counter()
    by_precision = Counter()
    for trial in study.trials:
        record = store.read(trial)
        state = str(record.outcome.kind) if record else "left"
        slow[state] += 1
        by_precision[str(trial.cell.precision), state] += 1
    assert {state: count for state, count in found["counts"].items() if count} == slow
    assert (found["total"], found["done"]) == (120, 110)
    for row in found["by_axis"]["precision"]:
        for state, count in row["counts"].items():
            assert count == by_precision[row["value"], state]
    for rows in found["by_axis"].values():
        assert sum(sum(row["counts"].values()) for row in rows) == 120
    assert sum(group["count"] for group in found["failures"]) == slow["failed"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_axes_that_vary_are_counted_and_none_twice(filled, study, survey_of):
    view = survey_of(filled).studies["big"]
    found = by_axis(view, Axes(study))
    assert list(found)[:2] == ["part", "precision"]
    assert {"beta", "forward"} <= set(found)
    assert not {"protocol", "cell", "momentum", "replicate"} & set(
        found
    )  # protocol parts the cells as part does


def test_equal_failures_are_grouped_by_their_first_line(copied, study, survey_of, attempt):
    for trial in study.trials[-3:]:
        attempt(copied, trial, end={"reason": f"ValueError: odd\n{trial.id}"})
    found = dict(failures(survey_of(copied).studies["big"]))
    assert found["ValueError: odd"] == [trial.id for trial in study.trials[-3:]]


def test_values_are_in_order():
    assert in_order([True, 10.0, "b", None, 2, "a", "b"]) == [True, 2, 10.0, "b", "a", None]


def test_status_says_it_in_words(filled, capsys):
    assert main(["status", "big", f"results={filled}"]) == 0
    said = capsys.readouterr().out
    assert "120 trials: 110 done" in said
    assert "10 left" in said
    assert "nobody works on it now" in said
    assert "fp16_rounded" in said


def test_words_that_look_like_markup_are_shown_as_they_are(copied, study, survey_of, attempt):
    attempt(copied, study.trials[-1], end={"reason": "[bold]KeyError[/]: '[/red]' \x1b[2J"})
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    survey = survey_of(copied)
    console.print(text(survey, list(survey.studies.values())))
    console.file.close()
    said = console.export_text(styles=True)
    assert "[bold]KeyError[/]" in said
    assert "\x1b[2J" not in said


def test_status_as_json(filled, capsys):
    assert main(["status", f"results={filled}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 1
    assert found["studies"][0]["counts"]["left"] == 10


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no_such_study"], "there is no study 'no_such_study'"),
        (["one", "two"], "takes one study"),
        (["--json", "--watch"], "Leave one of them out"),
        (["results=/nonexistent/folder"], "there is no folder"),
        (["reslts=x"], "results=DIR"),
    ],
)
def test_a_mistake_is_a_sentence(filled, capsys, words, sentence):
    if not any("=" in word for word in words):
        words = [*words, f"results={filled}"]
    assert main(["status", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_an_empty_folder_says_what_to_do(tmp_path, capsys):
    assert main(["status", f"results={tmp_path}"]) == 0
    assert "There is no study" in capsys.readouterr().out


def test_watching_ends_when_all_is_done(tmp_path, capsys, monkeypatch):
    study = made_up.big_study(6)
    store = made_up.fill(tmp_path, study, count=4, durable=False)
    left = list(study.trials[4:])

    def sleep(seconds):
        assert seconds == 2.0
        store.write(made_up.record(left.pop()))

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["status", "--watch", f"results={tmp_path}"]) == 0
    assert not left
    assert "All done." in capsys.readouterr().out


def test_states_have_words():
    from tiebreak.watching.status import word

    assert {word(state) for state in State} >= {"not learned", "queued"}
