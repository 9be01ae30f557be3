"""Training: plain torch's bits, resumable bit for bit, divergence where it happens."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from memory_session import MemorySession, run_interrupted
from torch.nn import functional

from tiebreak.data import load, train_batches
from tiebreak.design.axes import Forward, LossScale, OptimizerName, PoolJacobian, Precision, Schedule
from tiebreak.design.cell import Network, Optimizer, Train, Trial
from tiebreak.models import build
from tiebreak.protocols import measure
from tiebreak.protocols.setting import prepare
from tiebreak.protocols.training import NonFinite, Training, learning_rate
from tiebreak.records.session import OutcomeKind

SGD = Optimizer(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule=Schedule.COSINE)
ADAM = Optimizer(name=OptimizerName.ADAM, lr=1e-3)


def sha(training: Training) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(training.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", list(OptimizerName))
def test_native_training_has_the_bits_of_a_plain_torch_loop(make_cell, session, name) -> None:
    optimizer = SGD if name is OptimizerName.SGD else ADAM
    trial = Trial(cell=make_cell(Train(num_epochs=2, optimizer=optimizer)), replicate=4)
    dataset = load(trial.cell.data, root=session.data_root)
    model = build(Network(arch="lenet5"), num_classes=10, in_channels=1, seed=trial.seed("init"))
    for module in model.modules():
        for child_name, child in list(module.named_children()):
            if type(child).__name__ == "MaxPool2d":
                setattr(module, child_name, torch.nn.MaxPool2d(2))
    if name is OptimizerName.SGD:
        plain = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=2)
    else:
        plain = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.ConstantLR(plain, factor=1.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for epoch in range(2):
        for images, labels in train_batches(
            dataset,
            data=trial.cell.data,
            epoch=epoch,
            order_seed=trial.seed("order"),
            augment_seed=trial.seed("augment"),
        ):
            plain.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            plain.step()
        schedule.step()
    torch.set_num_threads(threads)
    with prepare(trial, session) as setting:
        training = Training(setting, jacobian=trial.cell.reference, optimizer=optimizer, num_epochs=2)
        for epoch in range(2):
            training.start_epoch(epoch)
            for batch in setting.train_batches(epoch=epoch):
                assert training.step(batch) is None
    for ours, theirs in zip(training.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


RESUMED = [
    (Precision.FP32, False, SGD),
    (Precision.FP32, True, ADAM),
    (Precision.FP16_ROUNDED, True, SGD),
    (Precision.AMP16, False, replace(SGD, loss_scale=LossScale.DYNAMIC)),
    (Precision.BF16, True, SGD),
]


@pytest.mark.parametrize(("precision", "batch_norm", "optimizer"), RESUMED)
def test_resumed_at_every_step_gives_the_same_rows(
    make_cell, session, tmp_path, precision, batch_norm, optimizer
) -> None:
    cell = make_cell(
        Train(num_epochs=2, optimizer=optimizer),
        betas=(100.0,),
        network={"batch_norm": batch_norm},
        precision=precision,
    )
    trial = Trial(cell=cell, replicate=0)
    outcome = measure(trial, session)
    interrupted, attempts = run_interrupted(measure, trial, tmp_path)
    assert attempts == 6  # five checkpoints before the sixth and last step
    assert interrupted.outcome == outcome
    assert interrupted.rows == session.rows


def test_checkpoint_restores_the_weights_bit_for_bit(make_cell, session) -> None:
    trial = Trial(cell=make_cell(Train(num_epochs=1, optimizer=SGD)), replicate=0)

    def steps(setting, training: Training, start: int, count: int) -> None:
        for index, batch in enumerate(setting.train_batches(start=start)):
            if index == count:
                return
            training.step(batch)

    with prepare(trial, session) as setting:
        make = lambda: Training(setting, jacobian=trial.cell.reference, optimizer=SGD, num_epochs=1)  # noqa: E731
        whole = make()
        whole.start_epoch(0)
        steps(setting, whole, 0, 3)
        first = make()
        first.start_epoch(0)
        steps(setting, first, 0, 1)
        session.save(first.tensors(), first.state())
        second = make()
        second.restore(session.checkpoint, session.checkpoint.state)
        second.start_epoch(0, continued=True)
        steps(setting, second, 1, 2)
    assert sha(whole) == sha(second)
    assert whole.epoch_loss == second.epoch_loss


def test_same_replicate_starts_equal_and_sees_equal_batches_in_every_cell(make_cell, session) -> None:
    cells = [
        make_cell(betas=(0.0,)),
        make_cell(betas=(1e4,), network={"batch_norm": True}),
        make_cell(betas=(0.0,), precision=Precision.FP64),
    ]
    seen = []
    for cell in cells:
        with prepare(Trial(cell=cell, replicate=7), session) as setting:
            model = setting.network(cell.reference)
            first = next(iter(setting.train_batches(epoch=1)))
            seen.append((next(model.parameters()).float(), first.images.float(), first.labels))
    for weight, images, labels in seen[1:]:
        assert torch.equal(weight, seen[0][0])
        assert torch.equal(images, seen[0][1])
        assert torch.equal(labels, seen[0][2])


def test_published_forward_diverges_in_half_precision_where_the_exact_one_does_not(
    make_cell, session
) -> None:
    blended = PoolJacobian(beta=1e4, forward=Forward.BLENDED)
    for jacobian, expected in ((blended, OutcomeKind.DIVERGED), (PoolJacobian(beta=10), None)):
        cell = make_cell(
            Train(num_epochs=4, optimizer=SGD), jacobians=(jacobian,), precision=Precision.FP16_ROUNDED
        )
        outcome = measure(Trial(cell=cell, replicate=0), MemorySession(data_root=session.data_root))
        assert (outcome.kind is OutcomeKind.DIVERGED) == (expected is OutcomeKind.DIVERGED)


def test_nonfinite_is_named_where_it_began(make_cell, session) -> None:
    cell = make_cell(Train(num_epochs=3, optimizer=replace(SGD, lr=1e30, momentum=0.0, weight_decay=0.0)))
    outcome = measure(Trial(cell=cell, replicate=0), session)
    assert outcome.kind is OutcomeKind.DIVERGED
    last = session.rows[-1]
    assert last["row"] == "nonfinite"
    assert last["step"] == outcome.step
    assert last["where"] in ("loss", "gradient")
    with prepare(Trial(cell=cell, replicate=0), session) as setting:
        training = Training(setting, jacobian=cell.reference, optimizer=SGD, num_epochs=1)
        training.start_epoch(0)
        batch = next(iter(setting.train_batches()))
        with torch.no_grad():
            next(training.model.parameters()).fill_(math.nan)
        assert training.step(batch).where == "loss"


def found_after(setting, training: Training, batch) -> NonFinite | None:
    for _ in range(3):
        if (found := training.step(batch)) is not None:
            return found
    return None


def test_state_that_overflows_unseen_is_a_divergence(make_cell, session) -> None:
    """Adam's second moment and batch norm's variance can be infinite while loss and weights are finite."""
    adam = replace(ADAM, eps=1e-4)
    cell = make_cell(Train(optimizer=adam), network={"batch_norm": True}, precision=Precision.FP16_ROUNDED)
    with prepare(Trial(cell=cell, replicate=0), session) as setting:
        batch = next(iter(setting.train_batches()))
        training = Training(setting, jacobian=cell.reference, optimizer=adam, num_epochs=1)
        training.start_epoch(0)
        assert found_after(setting, training, batch) is None
        parameter = next(training.model.parameters())
        training._optimizer.state[parameter]["exp_avg_sq"].fill_(math.inf)
        assert found_after(setting, training, batch).where == "optimizer"
        training = Training(setting, jacobian=cell.reference, optimizer=adam, num_epochs=1)
        training.start_epoch(0)
        name, buffer = next((n, b) for n, b in training.model.named_buffers() if n.endswith("running_var"))
        buffer.fill_(math.inf)
        assert found_after(setting, training, batch) == NonFinite("buffer", name)


def test_mixed_precision_takes_one_loss_in_every_protocol(make_cell, session) -> None:
    """Under autocast the cross-entropy is fp32, so the first loss scale of 2**16 does not overflow in it."""
    scaled = replace(SGD, loss_scale=LossScale.DYNAMIC)
    cell = make_cell(Train(num_epochs=1, optimizer=scaled), precision=Precision.AMP16)
    with prepare(Trial(cell=cell, replicate=0), session) as setting:
        training = Training(setting, jacobian=cell.reference, optimizer=scaled, num_epochs=1)
        training.start_epoch(0)
        batch = next(iter(setting.train_batches()))
        logits, loss = setting.forward(training.model, batch)
        assert (logits.dtype, loss.dtype) == (torch.float16, torch.float32)
        before = next(training.model.parameters()).detach().clone()
        assert training.step(batch) is None
        assert not torch.equal(before, next(training.model.parameters())), "the first step was skipped"


def test_a_gradient_that_no_scale_can_save_is_a_divergence(make_cell, session) -> None:
    scaled = replace(SGD, loss_scale=LossScale.DYNAMIC)
    cell = make_cell(Train(num_epochs=1, optimizer=scaled), precision=Precision.AMP16)
    with prepare(Trial(cell=cell, replicate=0), session) as setting:
        training = Training(setting, jacobian=cell.reference, optimizer=scaled, num_epochs=1)
        training.start_epoch(0)
        batch = next(iter(setting.train_batches()))
        weight = next(training.model.parameters())
        weight.register_hook(lambda gradient: gradient * math.nan)
        found = [training.step(batch) for _ in range(18)]
        assert found[0] is None
        assert found[-1] == NonFinite("gradient", "features.0.weight")


def test_chance_level_is_not_learned(make_cell, session) -> None:
    cell = make_cell(Train(num_epochs=1, optimizer=replace(SGD, lr=1e-9)))
    assert measure(Trial(cell=cell, replicate=0), session).kind is OutcomeKind.NOT_LEARNED


def test_learning_rate_is_torchs_schedule() -> None:
    parameter = [torch.zeros(1, requires_grad=True)]
    plain = torch.optim.SGD(parameter, lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=7)
    for epoch in range(7):
        ours = learning_rate(replace(SGD, lr=0.1), epoch=epoch, num_epochs=7)
        assert ours == pytest.approx(plain.param_groups[0]["lr"], rel=1e-14)
        plain.step()
        cosine.step()
    step = Optimizer(lr=0.1, schedule=Schedule.STEP, step_epochs=2)
    assert [learning_rate(step, epoch=epoch, num_epochs=5) for epoch in range(5)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
