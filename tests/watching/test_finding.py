import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.watching.axes import spelled
from tiebreak.watching.finding import FilterError, Index, final_result, ordered
from tiebreak.watching.gaps import GapCounts, share_nonzero, zone_points
from tiebreak.watching.heat import Shown, heat_map
from tiebreak.watching.standing import State
from tiebreak.watching.survey import Survey


@pytest.fixture(scope="module")
def index(filled):
    survey = Survey(filled, ask=lambda jobs: None)
    survey.refresh()
    return Index(survey.studies["big"])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", lambda trial, state: True),
        ("precision=fp16_rounded", lambda trial, state: trial.cell.precision == "fp16_rounded"),
        ("precision=fp32,fp64", lambda trial, state: trial.cell.precision in ("fp32", "fp64")),
        ("precision!=fp32", lambda trial, state: trial.cell.precision != "fp32"),
        (
            "beta=10000",
            lambda trial, state: len(trial.cell.jacobians) == 1 and trial.cell.reference.beta == 1e4,
        ),
        ("state=diverged,left", lambda trial, state: state in ("diverged", "left")),
        ("replicate=2 FP64", lambda trial, state: trial.replicate == 2 and "fp64" in trial.cell.name),
        (
            "part=zones state=completed",
            lambda trial, state: trial.cell.protocol == "zones" and state == "completed",
        ),
    ],
)
def test_a_filter_finds_what_a_loop_does(index, text, passes):
    slow = [entry for entry in index.entries if passes(entry.standing.trial, str(entry.standing.state))]
    assert index.found(text) == slow
    assert slow


@pytest.mark.parametrize("text", ["nothing=1", '"open', "state!!=x"])
def test_a_filter_that_is_none_is_a_sentence(index, text):
    with pytest.raises(FilterError):
        index.found(text)


@given(text=st.text(max_size=30))
def test_any_text_is_a_filter_or_a_sentence(index, text):
    try:
        found = index.found(text)
    except FilterError as error:
        assert str(error)  # noqa: PT017 - either may come
    else:
        assert set(map(id, found)) <= set(map(id, index.entries))


@pytest.mark.parametrize(
    "name", ["beta", "precision", "state", "result", "elapsed", "ended", "replicate", "lr"]
)
def test_sorting_keeps_every_trial_and_puts_what_is_missing_last(index, name):
    up, down = ordered(index.entries, by=name), ordered(index.entries, by=f"-{name}")
    assert sorted(e.standing.trial.id for e in up) == sorted(e.standing.trial.id for e in index.entries)
    assert len(down) == len(up)
    if name == "result":
        values = [final_result(entry.standing) for entry in up]
        present = [value for value in values if value is not None]
        assert values == [*sorted(present), *([None] * (len(values) - len(present)))]
        assert [final_result(e.standing) for e in down][: len(present)] == sorted(present, reverse=True)


def test_a_diverged_training_has_no_final_accuracy(index):
    for entry in index.entries:
        if entry.standing.state in (State.DIVERGED, State.FAILED, State.LEFT):
            assert entry.result is None


def test_a_map_is_the_mean_of_each_place_and_never_fills_one(index):
    grid = heat_map(index.entries, rows="precision", columns="beta", shown=Shown.RESULT, counts={})
    seen = 0
    for name, places in zip(grid.row_names, grid.places, strict=True):
        for top, place in zip(grid.column_names, places, strict=True):
            members = [
                entry
                for entry in index.entries
                if entry.values["precision"] == name and spelled(entry.values.get("beta")) == top
            ]
            results = [value for entry in members if (value := final_result(entry.standing)) is not None]
            assert (place.total, place.num) == (len(members), len(results))
            seen += len(members)
            if results:
                assert place.value == pytest.approx(sum(results) / len(results))
            else:
                assert place.value is None
                assert place.step is None
    assert seen == len(index.entries)
    lost = heat_map(
        index.found("forward=blended"), rows="precision", columns="beta", shown=Shown.RESULT, counts={}
    )
    assert any(place.value is None and "diverged" in place.note for row in lost.places for place in row)


@pytest.mark.parametrize("shown", list(Shown))
def test_every_map_has_its_trials_behind_its_filter(index, shown):
    grid = heat_map(index.entries, rows="part", columns="replicate", shown=shown, counts={})
    for places in grid.places:
        for place in places:
            if place.total:
                assert len(index.found(place.query)) == place.total


def test_gaps_are_counted_as_a_loop_does(filled, index):
    from tiebreak.records.store import RecordStore

    standings = [entry.standing for entry in index.entries]
    counts, unread = GapCounts(filled).of(standings)
    assert unread == 0
    store = RecordStore(filled, only_looks=True)
    for item in standings:
        if item.trial.cell.protocol != "zones":
            assert item.trial.id not in counts
            continue
        rows = [row for row in store.read(item.trial).rows if row["row"] == "gap"]
        good = [row for row in rows if not row["nonfinite"]]
        nonzero = sum(row["gap_sup_sum"] != 0 for row in good)
        assert share_nonzero(counts[item.trial.id]) == nonzero / len(rows)
    points = zone_points(standings, counts)
    assert [point.precision for point in points[:1]] == ["fp16_rounded"]
    for point in points:
        shares = [counts[trial][point.jacobian].share_nonzero for trial in point.trials]
        assert point.estimate.mean == pytest.approx(sum(shares) / len(shares))
        assert not point.estimate.has_interval  # four inits are too few


def test_what_takes_long_is_read_in_the_background(filled, index, monkeypatch):
    monkeypatch.setattr("tiebreak.watching.gaps.AT_ONCE_SECONDS", -1.0)
    gaps = GapCounts(filled)
    standings = [entry.standing for entry in index.entries]
    counts, unread = gaps.of(standings)
    assert (counts, unread) == ({}, 16)
    if gaps._thread is not None:
        gaps._thread.join(30)
    assert gaps.version >= 1
    assert len(gaps.of(standings)[0]) == 16
