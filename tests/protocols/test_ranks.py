"""Training on several ranks: the numbers of one process, the same weights on all, one end for all of them.

The test's own process is rank 0 and starts rank 1, as a trial does.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_session import MemorySession
from PIL import Image
from torch.nn import functional

from tiebreak.data import load, train_batches
from tiebreak.data.streams import permutation, stream
from tiebreak.design.axes import DataName, DesignError, LossScale, Precision, Schedule, UserError
from tiebreak.design.cell import Cell, Data, Execution, Optimizer, Train, Trial
from tiebreak.models import build
from tiebreak.protocols import joining, measure
from tiebreak.protocols.ranks import ALONE, Ranks, RanksDifferError, digest
from tiebreak.protocols.seat import Seat, rank_timeout, seat_for, seat_from_torchrun
from tiebreak.protocols.setting import Setting
from tiebreak.protocols.shared_session import FollowerSession
from tiebreak.records.session import OutcomeKind, RankLost, Stopped
from tiebreak.records.store import RecordStore
from tiebreak.runner.attempt import Ending
from tiebreak.runner.checkpoint import CheckpointStore
from tiebreak.runner.claim import Attempts
from tiebreak.runner.session import AttemptFailed, Bench, run_trial

TWO = Execution(num_ranks=2)
SGD = Optimizer(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule=Schedule.COSINE)


class Recorded(subprocess.Popen):
    """A process that is remembered."""

    started: list[subprocess.Popen[str]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started.append(self)


@pytest.fixture
def followers(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that are started as ranks; all have ended when the test does."""
    started: list[subprocess.Popen[str]] = []
    monkeypatch.setattr(joining.subprocess, "Popen", type("Popen", (Recorded,), {"started": started}))
    yield started
    assert all(process.returncode is not None for process in started)


@dataclass
class Meddling(MemorySession):
    """Does something when step `at` is reported."""

    at: int = 0
    act: Callable[[], None] = lambda: None
    seen: list[int] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        super().progress(done, total)
        self.seen.append(done)
        if done == self.at:
            self.act()


# ---------------------------------------------- the numbers of one process


def test_fifty_steps_have_the_losses_of_one_process(make_cell, tmp_path) -> None:
    """65 images: shares of 33 and 32. Each epoch is one step, so every step's loss is a row."""
    data = {"batch_size": 65, "train_size": 65, "test_size": 600}  # two batches to evaluate, one each
    cell = make_cell(Train(num_epochs=50, optimizer=SGD), betas=(10.0,), data=data)
    rows = {}
    for execution in (Execution(), TWO):
        session = MemorySession(data_root=tmp_path)
        measure(Trial(cell=replace(cell, execution=execution), replicate=0), session)
        rows[execution] = session.rows
    assert len(rows[TWO]) == 50
    assert rows[TWO][-1]["train_loss"] < 0.5 * rows[TWO][0]["train_loss"]  # there was something to compare
    for one, two in zip(rows[Execution()], rows[TWO], strict=True):
        for key in ("train_loss", "test_loss"):
            assert two[key] == pytest.approx(one[key], rel=1e-4), one["step"]
        assert {key: one[key] for key in ("epoch", "step", "lr", "chance", "test_images")} == {
            key: two[key] for key in ("epoch", "step", "lr", "chance", "test_images")
        }


def test_batch_norm_normalises_each_share_and_averages_what_it_remembers(make_cell, tmp_path) -> None:
    """One step against a plain loop over the two shares, of 33 and 32 images."""
    data = {"batch_size": 65, "train_size": 130}
    train = Train(num_epochs=1, optimizer=Optimizer(lr=0.5))
    trial = Trial(cell=make_cell(train, network={"batch_norm": True}, data=data, execution=TWO), replicate=1)
    session = MemorySession(data_root=tmp_path, stop_after=1)
    with pytest.raises(Stopped):
        measure(trial, session)
    assert session.checkpoint is not None
    found = {
        name.removeprefix("model."): tensor
        for name, tensor in session.checkpoint.tensors.items()
        if name.startswith("model.")
    }
    dataset = load(trial.cell.data, root=tmp_path)
    seeds = {"order_seed": trial.seed("order"), "augment_seed": trial.seed("augment")}
    batch = next(train_batches(dataset, data=trial.cell.data, epoch=0, **seeds))
    totals: dict[str, torch.Tensor] = {}
    for part in (slice(0, 33), slice(33, 65)):
        model = build(trial.cell.network, num_classes=10, in_channels=1, seed=trial.seed("init"))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        functional.cross_entropy(model(batch.images[part]), batch.labels[part]).backward()
        moved = dict(model.named_buffers())
        moved |= {name: before[name] - 0.5 * value.grad for name, value in model.named_parameters()}
        for name, tensor in moved.items():
            totals[name] = totals.get(name, 0) + tensor.detach() * len(batch.labels[part]) / 65
    assert found.keys() == totals.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), totals[name].double(), rtol=1e-4, atol=1e-6)


def test_a_divergence_is_one_step_and_one_outcome_on_all_ranks(make_cell, tmp_path, followers) -> None:
    cell = make_cell(Train(num_epochs=3, optimizer=Optimizer(lr=1e30)), execution=TWO)
    session = MemorySession(data_root=tmp_path)
    outcome = measure(Trial(cell=cell, replicate=0), session)
    alone = MemorySession(data_root=tmp_path)
    assert outcome == measure(Trial(cell=replace(cell, execution=Execution()), replicate=0), alone)
    assert outcome.kind is OutcomeKind.DIVERGED
    assert session.rows[-1]["row"] == "nonfinite"
    assert [process.returncode for process in followers] == [0]


# ---------------------------------------------- stopped, killed, resumed: the same numbers

# Two steps of 32 images and one of a single image, which rank 1 has no share of; loss scale, momentum.
SHORT = {"batch_size": 32, "train_size": 65, "test_size": 64}
SCALED = replace(SGD, loss_scale=LossScale.DYNAMIC)


@pytest.fixture(scope="module")
def trial() -> Trial:
    from tiebreak.design.axes import PoolJacobian
    from tiebreak.design.cell import Network

    cell = Cell(
        network=Network(arch="lenet5"),
        data=Data(name="mnist5k", **SHORT),
        precision=Precision.AMP16,
        jacobians=(PoolJacobian(beta=10.0),),
        measure=Train(num_epochs=3, optimizer=SCALED),
        execution=TWO,
    )
    return Trial(cell=cell, replicate=3)


@pytest.fixture(scope="module")
def whole(trial, tmp_path_factory) -> MemorySession:
    """The trial run to its end without interruption."""
    session = MemorySession(data_root=tmp_path_factory.mktemp("whole"))
    measure(trial, session)
    assert len(session.rows) == 3
    return session


def test_sigterm_to_one_rank_stops_all_and_the_trial_resumes_bit_for_bit(
    trial, whole, tmp_path, followers
) -> None:
    stopped = Meddling(data_root=tmp_path, at=1, act=lambda: followers[0].send_signal(signal.SIGTERM))
    with pytest.raises(Stopped, match="Another rank was asked to stop"):
        measure(trial, stopped)
    assert stopped.saves == 1
    assert stopped.seen[-1] < 9
    assert followers[0].returncode in (joining.LOST, -signal.SIGKILL)  # told, or not waited for
    resumed = MemorySession(data_root=tmp_path)
    resumed.checkpoint, resumed.checkpoint_rows = stopped.checkpoint, stopped.checkpoint_rows
    measure(trial, resumed)
    assert resumed.rows == whole.rows


def bench_for(folder: Path, **changes: Any) -> Bench:
    settings = {
        "store": RecordStore(folder / "results"),
        "checkpoints": CheckpointStore(folder / "checkpoints"),
        "measure": measure,
        "data_root": folder,
        "checkpoint_every_seconds": 0.0,
    }
    return Bench(**settings | changes)


def test_a_rank_that_is_killed_ends_the_attempt_and_the_next_has_the_same_rows(
    trial, whole, tmp_path, followers
) -> None:
    killed = []

    def kill_once(event: Any) -> None:
        if getattr(event, "done", 0) >= 1 and not killed:
            killed.append(event.done)
            followers[0].kill()

    bench = bench_for(tmp_path, on_event=kill_once)
    assert run_trial(trial, bench=bench).kind is not OutcomeKind.FAILED
    record = bench.store.read(trial)
    assert record is not None
    assert list(record.rows) == whole.rows
    history = Attempts(bench.store.attempts_folder(trial), trial=trial.id).history()
    assert [attempt.ending for attempt in history] == [Ending.KILLED, Ending.RECORDED]
    assert "rank 1 ended (SIGKILL)" in history[0].reason


def test_a_rank_that_hangs_ends_the_attempt_within_the_timeout(
    trial, tmp_path, followers, monkeypatch
) -> None:
    monkeypatch.setenv("TIEBREAK_RANK_TIMEOUT_SECONDS", "3")
    monkeypatch.setattr(joining, "_WORDS_SECONDS", 0.2)

    def freeze(event: Any) -> None:
        if getattr(event, "done", 0) == 1:
            followers[0].send_signal(signal.SIGSTOP)

    with pytest.raises(AttemptFailed, match=r"RankLost: another rank does not answer.*last checkpoint"):
        run_trial(trial, bench=bench_for(tmp_path, on_event=freeze, retries=False))
    (attempt,) = Attempts(bench_for(tmp_path).store.attempts_folder(trial), trial=trial.id).history()
    assert attempt.ending is Ending.KILLED


# ---------------------------------------------- what is refused


def test_other_weights_on_one_rank_are_refused_at_the_start(trial, tmp_path, monkeypatch) -> None:
    drawn = Setting.network

    def nudged(setting: Setting, jacobian: Any) -> torch.nn.Module:
        model = drawn(setting, jacobian)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 2.0**-20
        return model

    monkeypatch.setattr(Setting, "network", nudged)  # in this process, which is rank 0
    session = MemorySession(data_root=tmp_path)
    with pytest.raises(
        RanksDifferError, match=r"rank 1 has other weights than rank 0 at the start \(SHA-256"
    ):
        measure(trial, session)
    assert session.rows == []


def test_what_another_rank_refuses_is_said_in_its_words(trial, tmp_path) -> None:
    """One image cannot be decoded, and rank 1 has it in its share of the first batch."""
    places = [Path("train") / name / f"{number}.png" for name in "ab" for number in range(4)]
    for place in [*places, Path("test/a/0.png"), Path("test/b/0.png")]:
        path = tmp_path / "few" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40, 80, 120)).save(path)
    seed = trial.seed("order")
    last = permutation(stream("order", seed=seed, epoch=0), num=8).tolist()[-1]
    broken = tmp_path / "few" / sorted(places)[last]
    broken.write_bytes(b"no image")
    data = Data(name=DataName.IMAGE_FOLDER, folder="few", batch_size=8, image_size=28, augment=True)
    cell = replace(trial.cell, data=data, precision=Precision.FP32, measure=Train(num_epochs=1))
    with pytest.raises(UserError, match=rf"{broken.name} cannot be decoded") as refusal:
        measure(Trial(cell=cell, replicate=3), MemorySession(data_root=tmp_path))
    assert isinstance(refusal.value.__cause__, RankLost)  # so it was the other rank that said it


def test_a_rank_that_cannot_even_start_is_noticed(trial, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(joining, "COMMAND", ("python3", "-c", "raise SystemExit('no luck')"))
    with pytest.raises(RuntimeError, match="rank 1: no luck"):
        measure(trial, MemorySession(data_root=tmp_path))


def test_batch_norm_with_a_share_of_one_image_is_refused(make_cell, tmp_path) -> None:
    cell = make_cell(network={"batch_norm": True}, data={"train_size": 67}, execution=TWO)
    with pytest.raises(DesignError, match=r"batch of 3 out of 67 images, shared by 2 ranks"):
        measure(Trial(cell=cell, replicate=0), MemorySession(data_root=tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without enough CUDA devices")
def test_more_ranks_than_devices_are_refused(make_cell, tmp_path, monkeypatch) -> None:
    cell = make_cell(execution=Execution(device="cuda", num_ranks=4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DesignError, match=r"need 4 CUDA devices.*torch sees 0 \(CUDA_VISIBLE_DEVICES=\)"):
        measure(Trial(cell=cell, replicate=0), MemorySession(data_root=tmp_path))


# ---------------------------------------------- small parts

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_torchrun_is_told_by_its_variables(trial) -> None:
    assert seat_from_torchrun({}) is None
    assert seat_from_torchrun({"WORLD_SIZE": "8"}) is None  # some clusters set it for everything
    assert seat_from_torchrun(TORCHRUN) == Seat(rank=3, size=4, local=1, num_local=2)
    with pytest.raises(DesignError, match=r"started 4 processes \(WORLD_SIZE=4\).*num_ranks=2"):
        seat_for(trial, TORCHRUN)


@pytest.mark.parametrize(
    "change", [{"RANK": "4"}, {"RANK": "x"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": ""}]
)
def test_variables_that_torchrun_cannot_have_set_are_refused(change) -> None:
    with pytest.raises(DesignError, match="cannot be"):
        seat_from_torchrun(TORCHRUN | change)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "long"])
def test_a_timeout_that_is_none_is_refused(text) -> None:
    assert rank_timeout({}) == 600.0
    with pytest.raises(DesignError, match="TIEBREAK_RANK_TIMEOUT_SECONDS must be a number of seconds"):
        rank_timeout({"TIEBREAK_RANK_TIMEOUT_SECONDS": text})


def test_alone_nothing_is_shared() -> None:
    tensor = torch.tensor([1.5])
    ALONE.add([tensor], weight=7.0)
    ALONE.require_same({"x": tensor}, "never")
    assert tensor.item() == 1.5
    assert ALONE.totals([0.1, 2]) == [0.1, 2]
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.send(b"as it is") == b"as it is"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_rounded_once(monkeypatch, dtype) -> None:
    """Two ranks with the same numbers, played by an operation that doubles; larger than one piece."""
    from tiebreak.protocols import ranks

    monkeypatch.setattr(ranks, "_PIECE", 100)
    monkeypatch.setattr(ranks.dist, "all_reduce", lambda flat: flat.mul_(2))
    drawn = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=drawn, dtype=torch.float64).to(dtype)
        for shape in ((7,), (2, 3, 4, 5), (), (90,), (0,), (30,))
    ]
    tensors[1] = tensors[1].contiguous(memory_format=torch.channels_last)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected = [((tensor.to(wide) * 0.3) * 2).to(dtype) for tensor in tensors]
    Ranks(rank=0, size=2).add(tensors, weight=0.3)
    for got, want in zip(tensors, expected, strict=True):
        assert torch.equal(got, want)
    assert tensors[1].is_contiguous(memory_format=torch.channels_last)


def test_a_digest_is_of_names_kinds_shapes_and_bytes() -> None:
    tensor = torch.arange(6.0)
    variants = [
        {"x": tensor},
        {"y": tensor},
        {"x": tensor.view(2, 3)},
        {"x": tensor.double()},
        {"x": -0.0 * tensor},
        {"x": 0.0 * tensor},
        {"x": tensor, "y": torch.empty(0)},
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert digest({"x": tensor, "y": tensor + 1}) == digest({"y": tensor + 1, "x": tensor.clone()})


def test_a_rank_is_told_everything_it_needs(trial, tmp_path) -> None:
    seat = Seat(rank=1, size=2, local=1, num_local=2, meeting=tmp_path / "meeting")
    words = joining.to_arguments(trial, seat, data_root=tmp_path)
    assert joining.from_arguments(words) == (trial, seat, tmp_path)
    assert json.loads(words[0])["replicate"] == 3


def test_a_follower_keeps_nothing_and_tells_its_wish_to_stop(tmp_path) -> None:
    seat = Seat(rank=1, size=2, local=1, num_local=2)
    session = FollowerSession(seat=seat, data_root=tmp_path)
    session.emit({"row": "epoch"})
    session.progress(1, 2)
    session.save({}, {})
    assert (session.restore(), session.wants_checkpoint(), list(tmp_path.iterdir())) == (None, False, [])
    asked = replace(session, stop=lambda: True)
    assert asked.wants_checkpoint()
    with pytest.raises(Stopped, match="Rank 1"):
        asked.save({}, {})
