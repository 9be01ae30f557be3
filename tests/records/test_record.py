import json
import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.design.cell import SCHEMA, Cell
from tiebreak.records.durable import RecordError
from tiebreak.records.migrate import Added, Migration
from tiebreak.records.record import CorruptRecord, NewerRecord, parse, row_from_json, row_to_json
from tiebreak.records.session import Outcome, OutcomeKind

texts = st.one_of(st.text(), st.sampled_from(["nan", "inf", "-inf", "NaN", "Infinity", "-Infinity", "text"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
rows = st.builds(
    lambda kind, fields: {"row": kind, **{k: v for k, v in fields.items() if k != "row"}},
    texts,
    st.dictionaries(st.text(), scalars, max_size=6),
)


def bits(value):
    """A value that can be compared: type and, for a float, its bits (all NaN alike)."""
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else struct.pack("<d", value)
    return type(value), value


def comparable(row):
    return [(key, bits(value)) for key, value in row.items()]


@given(rows)
def test_a_row_is_read_back_with_every_bit_and_type(row):
    line = row_to_json(row)
    assert "\n" not in line
    assert comparable(row_from_json(line)) == comparable(row)


@pytest.mark.parametrize("spelling", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_and_its_name_are_two_things(spelling):
    number = row_from_json(row_to_json({"row": "gap", "x": float(spelling)}))["x"]
    name = row_from_json(row_to_json({"row": "gap", "x": spelling}))["x"]
    assert isinstance(number, float)
    assert not math.isfinite(number)
    assert name == spelling
    assert json.loads(row_to_json({"row": "gap", "x": float(spelling)}))["x"] == spelling


@given(
    st.lists(rows, max_size=5),
    st.builds(
        Outcome,
        kind=st.sampled_from(list(OutcomeKind)),
        step=st.none() | st.integers(min_value=0),
        reason=st.text(),
    ),
    st.floats(min_value=0, allow_infinity=False),
)
def test_a_record_is_read_back_whole(trial, make_record, many, outcome, elapsed):
    record = replace(make_record(trial, rows=many, outcome=outcome), elapsed_seconds=elapsed)
    text = record.to_text()
    again = parse(text.encode(), place=trial.id)
    assert again.to_text() == text
    assert (again.trial, again.outcome, again.elapsed_seconds) == (trial, outcome, elapsed)
    assert [comparable(row) for row in again.rows] == [comparable(row) for row in many]
    for line in text.splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_every_line_is_an_object_with_the_promised_fields(trial, make_record):
    header, row, end = map(json.loads, make_record(trial).to_text().splitlines())
    assert header["kind"] == "header"
    assert (header["schema"], header["cell_id"], header["name"], header["replicate"]) == (
        SCHEMA,
        trial.cell.id,
        trial.cell.name,
        3,
    )
    assert Cell.from_dict(header["cell"]) == trial.cell
    assert row == {"row": "gap", "draw": 0, "gap_l1": 0.5}
    assert end["outcome"] == {"kind": "completed", "step": None, "reason": ""}
    assert (end["kind"], end["num_rows"], end["elapsed_seconds"]) == ("end", 1, 1.25)


def test_a_record_cut_anywhere_is_corrupt(trial, make_record):
    content = make_record(trial).to_text().encode()
    for length in range(len(content)):
        with pytest.raises(CorruptRecord):
            parse(content[:length])


@given(st.data())
def test_a_changed_byte_is_noticed_wherever_it_is(trial, make_record, data):
    content = bytearray(make_record(trial).to_text().encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    with pytest.raises(CorruptRecord):
        parse(bytes(content))


def resealed(text, change):
    """The text with a change and a sum that fits it, as somebody careful would forge it."""
    import hashlib

    sealed = change(text.rpartition(',"sha256":"')[0])
    return f'{sealed},"sha256":"{hashlib.sha256(sealed.encode()).hexdigest()}"}}\n'.encode()


def test_the_cell_id_is_recomputed(trial, make_record):
    forged = resealed(
        make_record(trial).to_text(), lambda text: text.replace('"batch_size":128', '"batch_size":64')
    )
    with pytest.raises(CorruptRecord, match="its header states cell"):
        parse(forged)


def test_a_missing_row_is_noticed(trial, make_record):
    def drop(text):
        return "\n".join(line for line in text.split("\n") if '"row"' not in line)

    with pytest.raises(CorruptRecord, match="counts 1 rows, and there are 0"):
        parse(resealed(make_record(trial).to_text(), drop))


def test_a_bare_nan_is_refused(trial, make_record):
    with pytest.raises(CorruptRecord, match="bare word NaN"):
        parse(resealed(make_record(trial).to_text(), lambda text: text.replace("0.5", "NaN")))


def test_a_record_of_another_trial_is_refused(trial, make_record):
    with pytest.raises(CorruptRecord, match=r"in the place of abc/0001"):
        parse(make_record(trial).to_text().encode(), place="abc/0001")


def test_a_newer_schema_is_told_apart_from_damage(trial, make_record):
    newer = resealed(
        make_record(trial).to_text(),
        lambda text: text.replace(f'"schema":{SCHEMA}', f'"schema":{SCHEMA + 1}'),
    )
    with pytest.raises(NewerRecord, match="Update tiebreak"):
        parse(newer)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"draw": 1}, 'names its kind in the text field "row"'),
        ({"row": "gap", "x": [1]}, "'x' of a row must be a number"),
        ({"row": "gap", "x": 1j}, "got complex"),
    ],
)
def test_a_row_that_is_not_flat_is_refused(row, sentence):
    with pytest.raises(RecordError, match=sentence):
        row_to_json(row)


def test_a_cell_without_a_migration_is_refused(trial, make_record):
    old = old_record(trial, make_record)
    with pytest.raises(RecordError, match="no migration leads to schema"):
        parse(old, migrations={})


def test_an_older_schema_is_brought_to_the_present_one(trial, make_record):
    old = old_record(trial, make_record)
    record = parse(old, migrations={SCHEMA - 1: ADDED})
    assert record.trial == trial
    assert record.rows == make_record(trial).rows


ADDED = Migration((Added(group="execution", name="deterministic", value=True),))


def old_record(trial, make_record):
    """A record as the schema before the field `deterministic` would have written it."""
    import hashlib

    tree = trial.cell.to_dict()
    tree["execution"].pop("deterministic")
    canonical = json.dumps({"schema": SCHEMA - 1, **tree}, sort_keys=True, separators=(",", ":"))
    identity = hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def change(text):
        header, *rest = text.split("\n")
        header = {**json.loads(header), "schema": SCHEMA - 1, "cell": tree, "cell_id": identity}
        return "\n".join([json.dumps(header, separators=(",", ":")), *rest])

    return resealed(make_record(trial).to_text(), change)
