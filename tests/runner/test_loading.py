"""The collector is off while libraries are loaded, and as before afterwards."""

import doctest
import gc
import sys
import weakref

import pytest

from tiebreak.runner import loading as module
from tiebreak.runner.loading import loading


@pytest.fixture(autouse=True)
def unfrozen():
    was_on = gc.isenabled()
    yield
    gc.unfreeze()
    gc.enable() if was_on else gc.disable()


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_off_inside_and_as_before_outside(is_on, fails):
    gc.enable() if is_on else gc.disable()
    try:
        with loading():
            assert not gc.isenabled()
            with loading():
                pass
            assert not gc.isenabled()
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert gc.isenabled() is is_on


def test_only_where_something_was_loaded_it_counts_as_permanent(monkeypatch):
    gc.unfreeze()
    with loading():
        pass
    assert gc.get_freeze_count() == 0
    with loading():
        monkeypatch.setitem(sys.modules, "a module that nobody has", module)
    assert gc.get_freeze_count() > 0


def test_what_becomes_garbage_later_is_still_collected():
    class Node:
        pass

    gc.freeze()
    node = Node()
    node.itself = node
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None


def test_examples_run():
    assert doctest.testmod(module).failed == 0
