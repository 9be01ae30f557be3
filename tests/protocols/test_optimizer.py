"""The update rules against torch's optimizer classes, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiebreak.design.cell import Optimizer
from tiebreak.protocols.optimizer import Updater

RULES = {
    "sgd": ({"lr": 0.1}, torch.optim.SGD, {}),
    "momentum": (
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 5e-4},
    ),
    "adam": ({"name": "adam", "lr": 1e-3, "eps": 1e-4}, torch.optim.Adam, {"eps": 1e-4}),
    "adam with decay": (
        {"name": "adam", "lr": 1e-2, "weight_decay": 0.1},
        torch.optim.Adam,
        {"weight_decay": 0.1},
    ),
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 2, 2), (5,), (4, 6), (2, 2)]
    made = [nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in shapes]
    made[0].data = made[0].data.contiguous(memory_format=torch.channels_last)
    return made


def give_gradients(lists: list[list[nn.Parameter]], *, step: int) -> None:
    """The same gradients to each list; the last parameter has one only from the third step on."""
    draw = torch.Generator().manual_seed(100 + step)
    for row in zip(*lists, strict=True):
        gradient = torch.randn(row[0].shape, generator=draw).to(row[0].dtype)
        for parameter in row:
            parameter.grad = gradient.clone()
    if step < 2:
        for own in lists:
            own[-1].grad = None


def slots_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
        if value is not None
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_every_step_has_the_bits_of_torchs_class(rule, dtype) -> None:
    settings, kind, options = RULES[rule]
    ours, theirs = parameters(DTYPES[dtype]), parameters(DTYPES[dtype])
    defaults = {"eps": settings.get("eps", 1e-8)} if kind is torch.optim.Adam else {}
    reference = kind(theirs, lr=settings["lr"], **defaults | options)
    updater = Updater(Optimizer(**settings), ours)
    for step in range(5):
        updater.lr = reference.param_groups[0]["lr"] = settings["lr"] / (1 + step)
        give_gradients([ours, theirs], step=step)
        updater.step()
        reference.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
        wanted, found = slots_of(reference), updater.tensors()
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name].dtype is value.dtype
            assert torch.equal(found[name], value)
    updater.zero_grad()
    assert all(parameter.grad is None for parameter in ours)


@pytest.mark.parametrize("rule", RULES)
def test_restored_slots_give_the_same_next_step(rule) -> None:
    settings = Optimizer(**RULES[rule][0])
    ours, again = parameters(torch.float32), parameters(torch.float32)
    first, second = Updater(settings, ours), Updater(settings, again)
    for step in range(3):
        give_gradients([ours], step=step)
        first.step()
    kept = first.tensors()
    second.restore(kept)
    for one, other in zip(ours, again, strict=True):
        other.data = one.data.clone(memory_format=torch.preserve_format)
    give_gradients([ours, again], step=3)
    before = {name: value.clone() for name, value in kept.items()}
    second.step()
    assert all(torch.equal(kept[name], value) for name, value in before.items())  # they were copied
    first.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


def test_a_loss_scaler_takes_it_for_an_optimizer() -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    updater = Updater(Optimizer(lr=0.1, momentum=0.9), ours)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for optimizer, own in ((updater, ours), (reference, theirs)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        for step in range(4):
            scaler.scale(torch.tensor(1.0))
            give_gradients([own], step=step)
            if step == 2:
                own[0].grad[0, 0, 0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0**10
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
