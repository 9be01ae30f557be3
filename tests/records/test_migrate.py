"""Records of older schemas under the present one: nothing measured is lost, nothing measured changes."""

import hashlib
import json
from dataclasses import replace

import pytest

from tiebreak.design.axes import NATIVE, Precision
from tiebreak.design.cell import SCHEMA, Cell, Data, Execution, Noise, Trial, Zones
from tiebreak.design.study import Part, Study
from tiebreak.records import store as store_module
from tiebreak.records.durable import RecordError, StoreError
from tiebreak.records.migrate import MIGRATIONS, former_ids, identity, migrated
from tiebreak.records.record import parse
from tiebreak.records.store import RecordStore

# The ids that version 0.1.0 of schema 1 gave, written down before schema 2 was made.
TRAIN_1 = (
    '{"data":{"augment":false,"batch_size":128,"dither":0.0,"folder":"","held_out":0,"image_size":0,'
    '"name":"mnist","test_size":0,"train_size":0,"train_split":"train"},'
    '"execution":{"deterministic":true,"device":"cpu","memory_format":"contiguous","num_threads":1},'
    '"jacobians":[{"beta":0.0,"forward":"exact","seed":0,"selection":"beta"}],'
    '"measure":{"num_epochs":10,"optimizer":{"eps":1e-08,"loss_scale":"none","lr":0.01,"momentum":0.0,'
    '"name":"sgd","schedule":"constant","step_epochs":0,"step_factor":0.1,"weight_decay":0.0},'
    '"protocol":"train"},"network":{"arch":"lenet5","batch_norm":false,"init":"pytorch","stem_pool":"2x2"},'
    '"precision":"fp32"}'
)
TRAIN_1_ID = "ef448fac1e79"
ZONES_1 = (
    '{"data":{"augment":false,"batch_size":128,"dither":0.0,"folder":"","held_out":0,"image_size":0,'
    '"name":"cifar10","test_size":0,"train_size":0,"train_split":"train"},'
    '"execution":{"deterministic":true,"device":"cpu","memory_format":"contiguous","num_threads":1},'
    '"jacobians":[{"beta":0.0,"forward":"exact","seed":0,"selection":"beta"},'
    '{"beta":1.0,"forward":"exact","seed":0,"selection":"beta"},'
    '{"beta":0.0,"forward":"exact","seed":3,"selection":"random"}],'
    '"measure":{"margins":true,"num_batches":0,"protocol":"zones"},'
    '"network":{"arch":"vgg11","batch_norm":false,"init":"pytorch","stem_pool":"2x2"},"precision":"bf16"}'
)
ZONES_1_ID = "5b94213bfb79"

# What the golden cells of tests/design had as ids under schema 2, written down before schema 3 was made.
TRAIN_2_ID = "e714046f9fd2"
ZONES_2_ID = "3ffea1e6afc1"


@pytest.mark.parametrize(
    ("text", "known", "younger"),
    [(TRAIN_1, TRAIN_1_ID, TRAIN_2_ID), (ZONES_1, ZONES_1_ID, ZONES_2_ID)],
)
def test_cells_of_schema_1_become_cells_that_say_what_they_said(text, known, younger):
    old = json.loads(text)
    assert identity(old, schema=1) == known
    cell = Cell.from_dict(migrated(old, schema=1))
    assert cell.data.content == ""
    assert getattr(cell.measure, "certify", False) is False
    assert cell.execution.num_ranks == 1
    assert list(former_ids(cell)) == [younger, known]
    assert json.loads(text) == old  # the migration touches nothing that it was given


def test_cells_of_schema_2_become_cells_of_one_rank(train_cell):
    old = train_cell.to_dict()
    del old["execution"]["num_ranks"]
    assert Cell.from_dict(migrated(old, schema=2)) == train_cell
    assert next(former_ids(train_cell)) == identity(old, schema=2)


def test_a_migration_and_its_inverse_cancel(train_cell, zones_cell):
    noise = replace(zones_cell, measure=Noise(), jacobians=(NATIVE,))
    for cell in (train_cell, zones_cell, noise):
        for schema in range(1, SCHEMA):
            older = MIGRATIONS[schema].backward(cell.to_dict())
            assert older is not None
            assert MIGRATIONS[schema].forward(older) == cell.to_dict()


def test_what_no_older_version_could_say_has_no_former_id(zones_cell):
    images = Data(name="imagenet", content="0123456789ab")
    certified = replace(zones_cell, measure=Zones(certify=True))
    for cell in (certified, replace(zones_cell, data=images)):  # schema 2 could say it, schema 1 could not
        assert len(list(former_ids(cell))) == 1
    assert len(list(former_ids(replace(zones_cell, data=Data(name="imagenet"))))) == 2


def test_several_ranks_have_no_former_id(train_cell):
    assert list(former_ids(replace(train_cell, execution=Execution(num_ranks=2)))) == []


def test_every_older_schema_has_its_migration(zones_cell):
    assert set(MIGRATIONS) == set(range(1, SCHEMA))
    with pytest.raises(RecordError, match="no migration leads to schema"):
        migrated(zones_cell.to_dict(), schema=1, migrations={})


# ----------------------------------------------------------------------------------------------- whole stores


def as_schema_1(record):
    """The bytes that schema 1 wrote of a record, and the id of its cell then."""
    cell = record.trial.cell.to_dict()
    del cell["data"]["content"]
    del cell["execution"]["num_ranks"]
    cell["measure"].pop("certify", None)
    canonical = json.dumps({"schema": 1, **cell}, sort_keys=True, separators=(",", ":"))
    former = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    first, *rest = record.to_text().rpartition(',"sha256":"')[0].split("\n")
    name = record.trial.cell.name.replace(record.trial.cell.id, former)
    header = {**json.loads(first), "schema": 1, "cell": cell, "cell_id": former, "name": name}
    sealed = "\n".join([json.dumps(header, separators=(",", ":")), *rest])
    return f'{sealed},"sha256":"{hashlib.sha256(sealed.encode()).hexdigest()}"}}\n'.encode(), former


def put_schema_1(store, record):
    content, former = as_schema_1(record)
    path = store.root / "records" / former / f"{record.trial.replicate:04d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def trials(zones_cell, train_cell):
    return [Trial(cell=cell, replicate=number) for cell in (train_cell, zones_cell) for number in (0, 1)]


@pytest.fixture
def old_store(store, trials, make_record):
    for trial in trials:
        put_schema_1(store, make_record(trial))
    return store


def files(store):
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_a_record_of_schema_1_is_found_where_it_lies(old_store, trials, make_record):
    before = files(old_store)
    for trial in trials:
        assert old_store.is_done(trial)
        assert old_store.read(trial) == make_record(trial)
        with pytest.raises(store_module.AlreadyRecorded):
            old_store.write(make_record(trial, rows=()))
    assert [record.trial for record in old_store.records()] == sorted(
        trials, key=lambda trial: old_store.path(trial)
    )
    assert files(old_store) == before


def test_migration_moves_records_once_and_keeps_their_rows(old_store, trials, make_record):
    kept = old_store.path(trials[0]).with_suffix(store_module.ATTEMPTS_SUFFIX) / "1"
    kept.mkdir(parents=True)
    rows_before = {
        content.split(b"\n", 1)[1].rpartition(b',"sha256"')[0] for content in files(old_store).values()
    }
    assert old_store.migrate() == len(trials)
    assert kept.name == "1"
    assert (old_store.attempts_folder(trials[0]) / "1").is_dir()
    assert not kept.parent.parent.exists()
    for trial in trials:
        assert old_store.path(trial).parent.name == trial.cell.id
        assert old_store.path(trial).read_text() == make_record(trial).to_text()
    after = files(old_store)
    assert len(after) == len(trials)
    assert {
        content.split(b"\n", 1)[1].rpartition(b',"sha256"')[0] for content in after.values()
    } == rows_before
    assert old_store.migrate() == 0
    assert files(old_store) == after


@pytest.mark.parametrize("dies_after", range(1, 9))
def test_a_migration_that_dies_anywhere_loses_nothing_and_goes_on(
    old_store, trials, make_record, monkeypatch, dies_after
):
    steps = []

    def killed_at(function):
        def step(*arguments, **options):
            steps.append(function)
            if len(steps) == dies_after:
                raise StoreError("killed")
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "create", killed_at(store_module.create))
        patch.setattr(store_module.Path, "unlink", killed_at(store_module.Path.unlink))
        with pytest.raises(StoreError, match="killed"):
            old_store.migrate()
    for trial in trials:
        assert old_store.is_done(trial)
    assert len(list(old_store.records())) == len(trials)
    old_store.migrate()
    assert {path.parent.name for path in files(old_store)} == {trial.cell.id for trial in trials}
    assert [old_store.read(trial) for trial in trials] == [make_record(trial) for trial in trials]


def test_a_record_that_stands_already_is_not_replaced(old_store, trials, make_record):
    trial = trials[0]
    newer = make_record(trial, rows=({"row": "gap", "draw": 1, "gap_l1": 0.0},))
    home = old_store.root / "records" / trial.cell.id / f"{trial.replicate:04d}.jsonl"
    home.parent.mkdir(parents=True)
    home.write_text(newer.to_text())
    assert old_store.read(trial) == newer
    old_store.migrate()
    assert old_store.read(trial) == newer
    assert len(files(old_store)) == len(trials)


def test_a_damaged_record_of_schema_1_is_set_aside_where_it_lies(old_store, trials, notices):
    path = old_store.path(trials[0])
    path.write_bytes(path.read_bytes()[:-20])
    assert not old_store.is_done(trials[0])
    assert [item.name for item in path.parent.glob("*.corrupt-*")] == [f"{path.name}.corrupt-1"]
    assert old_store.migrate() == len(trials) - 1
    assert len(notices) == 1


def test_a_failed_record_of_schema_1_is_reopened(store, trials, make_record):
    failed = {"kind": "failed", "step": None, "reason": "bad luck"}
    record = make_record(trials[0], rows=())
    record = replace(record, outcome=type(record.outcome)(**failed))
    put_schema_1(store, record)
    assert store.reopen(trials[0])
    assert store.read(trials[0]) is None


def test_a_study_of_schema_1_is_restamped_too(old_store, trials, zones_cell, train_cell):
    parts = (
        Part(name="zones", cells=(zones_cell,), num_replicates=2),
        Part(name="train", cells=(train_cell,), num_replicates=2),
    )
    study = Study(name="paper/both", question="Does it matter?", parts=parts)
    path = old_store.write_study(study)
    present, text = path.read_text(), path.read_text()
    for cell in (zones_cell, train_cell):
        *_, former = former_ids(cell)
        text = text.replace(cell.id, former)
    tree = json.loads(text)
    tree["schema"] = 1
    for cell in tree["cells"].values():
        del cell["data"]["content"]
        del cell["execution"]["num_ranks"]
        cell["measure"].pop("certify", None)
    path.write_text(json.dumps(tree, indent=1))
    assert old_store.read_study(study.name) == study
    assert all(old_store.is_done(trial) for trial in old_store.read_study(study.name).trials)
    assert old_store.migrate() == len(trials)
    assert path.read_text() == present


def test_dry_looks_move_nothing(old_store, trials):
    before = files(old_store)
    only_looks = RecordStore(old_store.root, only_looks=True)
    assert all(only_looks.is_done(trial) for trial in trials)
    assert files(old_store) == before


def test_the_bytes_of_schema_1_parse_to_the_present_cell(trials, make_record):
    content, former = as_schema_1(make_record(trials[0]))
    assert parse(content, place=f"{former}/0000").trial == trials[0]


def test_precisions_that_are_new_have_a_former_id_that_nothing_lies_under(zones_cell, store):
    cell = replace(zones_cell, precision=Precision.E4M3)
    assert not store.is_done(Trial(cell=cell, replicate=0))
