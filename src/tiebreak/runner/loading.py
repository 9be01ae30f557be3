"""Loading large libraries quickly."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import modules without the collector of cyclic garbage looking through them again and again.

    A library of a hundred thousand objects, none of them garbage, is looked through after every few hundred
    more, and once more when the process ends: a third of the time that it takes to load and leave torch. What
    is there after something was loaded counts as permanent; otherwise the collector is as before, and no
    number depends on it.

    Example:
        >>> with loading():
        ...     import fractions
    """
    was_on, before = gc.isenabled(), set(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if sys.modules.keys() - before:  # a count would miss one that came while another went
            gc.freeze()
        if was_on:
            gc.enable()
