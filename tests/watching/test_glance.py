import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import big_study
from made_up import record as made_record

from tiebreak.records.record import CorruptRecord, Record, parse
from tiebreak.watching.glance import glance

TRIAL = big_study(1).trials[0]
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ROWS = st.lists(
    st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=5).map(
        lambda row: {**row, "row": "any"}
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, length=st.sampled_from([0, 10, 3000, 5000, 70_000]))
def test_both_ends_are_those_of_the_whole(tmp_path_factory, rows, length):
    if length:
        rows = [*rows, {"row": "long", "text": "ü" * length}]
    whole = Record(
        trial=TRIAL,
        provenance={"ended": "x" * length},
        rows=tuple(rows),
        outcome=OUTCOME,
        elapsed_seconds=0.5,
    )
    path = tmp_path_factory.getbasetemp() / "glance.jsonl"
    path.write_bytes(whole.to_text().encode())
    seen, parsed = glance(path), parse(path.read_bytes())
    assert seen.outcome == parsed.outcome
    assert seen.ended == parsed.provenance["ended"]
    assert seen.num_rows == len(parsed.rows)
    assert repr(seen.last_row) == repr(parsed.rows[-1] if parsed.rows else None)


OUTCOME = made_record(TRIAL).outcome


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(min_value=1, max_value=4000))
def test_a_record_cut_short_is_never_taken_for_whole(tmp_path_factory, cut):
    content = made_record(TRIAL).to_text().encode()
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(content[: -min(cut, len(content))])
    with pytest.raises(CorruptRecord):
        glance(path)
