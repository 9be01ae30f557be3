import doctest
import os

import pytest
import torch

import tiebreak.numerics.determinism as determinism_module
from tiebreak.numerics.determinism import deterministic, threads

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def state():
    """Everything that the context manager may touch, and what it must leave alone."""
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "workspace": os.environ.get(WORKSPACE),
        "threads": torch.get_num_threads(),
        "generator": torch.random.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
    }


STARTS = {
    "plain": lambda: None,
    "warn only": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "strict": lambda: torch.use_deterministic_algorithms(True),
    "off, warn only": lambda: torch.use_deterministic_algorithms(False, warn_only=True),
    "no fill": lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
    "cudnn": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "workspace": lambda: os.environ.__setitem__(WORKSPACE, ":16:8"),
}


@pytest.fixture(autouse=True)
def untouched():
    """The tests themselves leave torch as they found it."""
    before = state()
    yield
    torch.use_deterministic_algorithms(before["algorithms"], warn_only=before["warn_only"])
    torch.utils.deterministic.fill_uninitialized_memory = before["fill"]
    torch.backends.cudnn.deterministic = before["cudnn.deterministic"]
    torch.backends.cudnn.benchmark = before["cudnn.benchmark"]
    os.environ.pop(WORKSPACE, None)
    if before["workspace"] is not None:
        os.environ[WORKSPACE] = before["workspace"]
    torch.set_num_threads(before["threads"])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_everything_is_as_before(start, enabled, fails):
    STARTS[start]()
    before = state()
    try:
        with deterministic(enabled):
            assert torch.are_deterministic_algorithms_enabled() is enabled
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.backends.cudnn.deterministic is enabled
            assert torch.backends.cudnn.benchmark is False
            assert not torch.utils.deterministic.fill_uninitialized_memory
            if enabled:
                assert os.environ[WORKSPACE] == ":4096:8"
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert state() == before


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_nested_managers_restore_in_turn(outer, inner):
    before = state()
    with deterministic(outer):
        between = state()
        with pytest.raises(KeyError), deterministic(inner):
            raise KeyError("inside")
        assert state() == between
        with deterministic(inner):
            assert torch.are_deterministic_algorithms_enabled() is inner
        assert state() == between
    assert state() == before


def test_an_operation_without_a_deterministic_algorithm_is_refused_only_inside():
    pool = torch.nn.FractionalMaxPool2d(2, output_size=2)  # its CPU kernels are deterministic: no refusal
    assert pool(torch.ones(1, 1, 4, 4)).shape == (1, 1, 2, 2)

    def put():
        target = torch.zeros(2)
        return target.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)

    with deterministic(), pytest.raises(RuntimeError, match="deterministic"):
        put()
    put()


@pytest.mark.parametrize("fails", [True, False])
def test_threads_are_restored(fails):
    before = state()
    try:
        with threads(before["threads"] + 1):
            assert torch.get_num_threads() == before["threads"] + 1
            with threads(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == before["threads"] + 1
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert state() == before


def test_a_number_of_threads_that_cannot_be_changes_nothing():
    before = state()
    with pytest.raises(RuntimeError), threads(0):
        pass  # pragma: no cover - never reached
    assert state() == before


def test_examples_run():
    assert doctest.testmod(determinism_module).failed == 0
