"""A certificate is two files and is replaced as one: whenever its writer dies, it is the old or the new."""

import os
from contextlib import suppress

import pytest
import torch
from torch import nn

from tiebreak.design.axes import MINIMAL
from tiebreak.exact.certificate import Certificate, Mode
from tiebreak.exact.recheck import Standing, recheck
from tiebreak.protocols.certificate_files import certify_point, read_certificate, write_certificate
from tiebreak.protocols.points import point_of_model


def stored(seed):
    """Of one network that ties, at other weights a seed; the file of its tensors is different each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    images = torch.zeros(2, 1, 6, 6)
    point = point_of_model(net, images, torch.tensor([0, 1]), jacobians=(MINIMAL,), about=f"network {seed}")
    asked = {"mode": Mode.RANDOM, "log2_error": -40.0, "seed": 1, "chunk": None, "provenance": {}}
    return certify_point(point, **asked)


@pytest.fixture(scope="module")
def made():
    return {seed: stored(seed) for seed in range(3)}


class Killed(BaseException):
    """The process is gone."""


class Machine:
    """The calls that change files, of which the `last` ones and all later ones are never made."""

    CALLS = ("open", "write", "fsync", "replace", "unlink")

    def __init__(self, patch, last):
        self.left = last
        for name in self.CALLS:
            patch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, call):
        def made(*given, **named):
            if self.left <= 0:
                raise Killed  # what cleans up after an exception does not run in a process that is gone
            self.left -= 1
            return call(*given, **named)

        return made


def held(path):
    """What stands at a path, checked."""
    unpacked = read_certificate(path)
    assert unpacked.altered == ()
    for found in recheck(unpacked, seed=2):
        assert isinstance(found, Certificate) or found.standing is Standing.SAME, found
    return unpacked.stored.about


def kill_at_every_step(path, before, after, *, prepare):
    """Write over `before` with a writer that dies after 0, 1, 2 ... calls; what was found each time."""
    seen = []
    for last in range(200):
        for old in path.parent.iterdir():
            old.unlink()
        prepare()
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(patch, last)
            try:
                write_certificate(path, after)
                done = True
            except Killed:
                done = False
        seen.append(held(path))
        if done:
            assert machine.left >= 0
            break
    assert done
    return seen


def test_a_writer_that_dies_leaves_the_old_certificate_or_the_new_one(made, tmp_path):
    path = tmp_path / "c.json"
    seen = kill_at_every_step(path, made[0], made[1], prepare=lambda: write_certificate(path, made[0]))
    assert seen == sorted(seen)  # once it is the new one, it stays so
    assert (seen[0], seen[-1]) == ("network 0", "network 1")
    assert len(seen) > 10
    assert sorted(one.name for one in tmp_path.iterdir()) == ["c.json", "c.json.safetensors"]


def test_a_writer_that_dies_after_one_that_died_leaves_a_certificate(made, tmp_path):
    """The first one died with its tensors in the third file, and the text naming it."""
    path = tmp_path / "c.json"

    def half_written():
        write_certificate(path, made[0])
        for last in range(200):
            with pytest.MonkeyPatch.context() as patch:
                Machine(patch, last)
                with suppress(Killed):
                    write_certificate(path, made[1])
            if "c.json.new.safetensors" in path.read_text():
                return
        raise AssertionError("the third file was never named")

    seen = kill_at_every_step(path, made[1], made[2], prepare=half_written)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ("network 1", "network 2")
    assert not (tmp_path / "c.json.new.safetensors").exists()


def test_a_first_certificate_is_there_whole_or_not_at_all(made, tmp_path):
    path = tmp_path / "c.json"
    for last in range(200):
        for old in tmp_path.iterdir():
            old.unlink()
        with pytest.MonkeyPatch.context() as patch:
            Machine(patch, last)
            try:
                write_certificate(path, made[0])
                done = True
            except Killed:
                done = False
        if path.exists():
            assert held(path) == "network 0"
        if done:
            break
    assert done
    assert path.exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"tensors": 3}', "\ud800"])
def test_what_is_no_certificate_is_replaced(made, tmp_path, damage):
    path = tmp_path / "c.json"
    path.write_bytes(damage.encode("utf-8", "surrogatepass"))
    write_certificate(path, made[0])
    assert held(path) == "network 0"
