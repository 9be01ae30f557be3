"""Deterministic algorithms and threads as context managers that restore what they changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Ask for (or, with `enabled=False`, waive) algorithms whose result is the same in each run.

    Sets `use_deterministic_algorithms`, cuDNN's `deterministic` and `benchmark`, and cuBLAS's workspace,
    and restores each at the end, also after an exception. Memory is not filled: that costs time and moves
    no bit of a program that reads only what it wrote. cuBLAS reads its workspace setting when its handle
    is made, so enter this before the first CUDA matrix product of the process. `torch.compile` is told only
    where it was loaded before.

    Example:
        >>> with deterministic():
        ...     torch.are_deterministic_algorithms_enabled()
        True
    """
    before_algorithms = torch.are_deterministic_algorithms_enabled()
    before_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module whose setting is a property: no stub knows it
    before_fill = memory.fill_uninitialized_memory
    before_cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    before_workspace = os.environ.get(_WORKSPACE)
    try:
        _set_algorithms(enabled)
        memory.fill_uninitialized_memory = False
        torch.backends.cudnn.deterministic = enabled
        torch.backends.cudnn.benchmark = False
        if enabled:
            os.environ[_WORKSPACE] = ":4096:8"
        yield
    finally:
        _set_algorithms(before_algorithms, warn_only=before_warn_only)
        memory.fill_uninitialized_memory = before_fill
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before_cudnn
        if before_workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = before_workspace


def _set_algorithms(enabled: bool, *, warn_only: bool = False) -> None:
    """`use_deterministic_algorithms`, which loads torch's compiler to tell it too, where that is not loaded.

    The debug mode is the same setting without the compiler's, and loads nothing; that compiler takes a
    second to load, and a trial has no use for it. The debug mode cannot say "off, but only warn".
    """
    if "torch._inductor.config" in sys.modules or (warn_only and not enabled):
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    else:
        torch.set_deterministic_debug_mode(0 if not enabled else 1 if warn_only else 2)


@contextmanager
def threads(num_threads: int) -> Iterator[None]:
    """Run with `num_threads` threads inside an operation and restore the number: it changes last bits."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(before)
