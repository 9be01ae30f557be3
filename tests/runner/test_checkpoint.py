import errno
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.records.durable import StoreError
from tiebreak.records.record import row_to_json
from tiebreak.records.session import Checkpoint
from tiebreak.runner.checkpoint import CheckpointStore, Saved

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def saved(tensors, *, state=None, rows=()):
    return Saved(
        checkpoint=Checkpoint(tensors=tensors, state=state or {}),
        rows=tuple(rows),
        elapsed_seconds=1.5,
        started="2026-01-31T12:00:00+00:00",
        origin={"commit": "c0ffee"},
    )


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def round_trip(store, trial, tensors):
    store.write(trial, saved(tensors))
    again = store.read(trial, note=pytest.fail).checkpoint.tensors
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        assert bits(again[name]) == bits(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)], ids=str)
def test_every_type_and_shape_comes_back_bit_for_bit(store, trial, dtype, shape):
    generator = torch.Generator().manual_seed(0)
    size = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), generator=generator, dtype=torch.uint8)
    round_trip(store, trial, {"x": raw.view(dtype).reshape(shape)})


@settings(max_examples=25)
@given(pattern=st.integers(0, 2**32 - 1))
def test_the_payload_of_a_nan_survives(tmp_path_factory, trial, pattern):
    word = torch.tensor([pattern - 2**31], dtype=torch.int32)
    round_trip(CheckpointStore(tmp_path_factory.mktemp("c")), trial, {"x": word.view(torch.float32)})


def test_tensors_that_share_memory_or_are_not_contiguous(store, trial):
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    round_trip(
        store,
        trial,
        {
            "whole": whole,
            "same": whole,
            "transposed": whole.T,
            "column": whole[:, 1],
            "expanded": whole[:1].expand(5, 4),
            "parameter": weight,
            "channels_last": weight.detach().contiguous(memory_format=torch.channels_last),
            "generator": torch.Generator().manual_seed(3).get_state(),
        },
    )
    assert store.read(trial, note=pytest.fail).checkpoint.tensors["parameter"].requires_grad is False


def test_state_and_rows_come_back(store, trial):
    rows = [
        {"row": "epoch", "loss": float("inf"), "name": "nan"},
        {"row": "epoch", "loss": 0.1, "name": None},
    ]
    state = {"epoch": 2, "losses": [0.5, float("-inf")], "nested": {"é": True}}
    store.write(trial, saved({}, state=state, rows=rows))
    again = store.read(trial, note=pytest.fail)
    assert again.checkpoint.state == state
    assert [row_to_json(row) for row in again.rows] == [row_to_json(row) for row in rows]
    assert (again.elapsed_seconds, again.started, again.origin) == (1.5, saved({}).started, saved({}).origin)


def test_what_is_saved_is_a_copy(store, trial):
    tensor = torch.ones(3)
    store.write(trial, saved({"x": tensor}))
    tensor.zero_()
    assert store.read(trial, note=pytest.fail).checkpoint.tensors["x"].tolist() == [1, 1, 1]


def test_a_state_without_tensors_needs_no_torch(tmp_path):
    program = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from tiebreak.records.session import Checkpoint
from tiebreak.runner.checkpoint import CheckpointStore, Saved

store = CheckpointStore(Path({str(tmp_path)!r}))
trial = SimpleNamespace(cell=SimpleNamespace(id="c"), replicate=0, id="c/0000")
kept = Saved(
    checkpoint=Checkpoint(tensors={{}}, state={{"step": 1}}), rows=(), elapsed_seconds=0.0, started=""
)
store.write(trial, kept)
assert store.read(trial, note=print) == kept
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("tensors", [{"x": torch.ones(4)}, {}], ids=["tensors", "none"])
def test_a_checkpoint_cut_or_changed_anywhere_is_ignored_with_a_sentence(store, trial, tensors):
    store.write(trial, saved(tensors, state={"step": 3}, rows=[{"row": "walk", "step": 1}]))
    path = store.path(trial)
    content = path.read_bytes()
    damages = [content[:length] for length in range(0, len(content), 7)]
    for place in range(8, len(content), 3):
        if content[place : place + 1].isspace():
            continue  # padding of the header
        damages.append(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for damaged in damages:
        notes = []
        path.write_bytes(damaged)
        assert store.read(trial, note=notes.append) is None
        (note,) = notes
        assert str(path) in note
        assert "starts from the beginning" in note


def test_a_checkpoint_of_another_trial_is_ignored(store, trials):
    store.write(trials[0], saved({}))
    path = store.path(trials[1])
    path.parent.mkdir(parents=True)
    os.rename(store.path(trials[0]), path)
    notes = []
    assert store.read(trials[1], note=notes.append) is None
    assert f"belongs to trial {trials[0].id}" in notes[0]


def test_the_last_one_stands_where_the_next_cannot_be_written(store, trial, monkeypatch):
    store.write(trial, saved({}, state={"step": 1}))

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        store.write(trial, saved({}, state={"step": 2}))
    assert store.read(trial, note=pytest.fail).checkpoint.state == {"step": 1}
    assert [path.name for path in store.path(trial).parent.iterdir()] == ["checkpoint.safetensors"]


def test_removing_leaves_nothing_and_other_replicates_alone(store, trials):
    for trial in trials[:2]:
        store.write(trial, saved({}))
    store.remove(trials[0])
    assert store.read(trials[0], note=pytest.fail) is None
    assert store.read(trials[1], note=pytest.fail) is not None
    store.remove(trials[1])
    store.remove(trials[1])
    assert list(store.root.iterdir()) == []
