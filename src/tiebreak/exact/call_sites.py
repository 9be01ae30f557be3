"""Which module runs, and from which line of whose file, found without touching the module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks


@dataclass(frozen=True)
class CallSite:
    """Where an operation is called from.

    Attributes:
        module: path of the innermost module that was running; empty for the network itself.
        file: the file of the user's line, or None where only torch's layers call each other.
        line: its number.
    """

    module: str
    file: Path | None = None
    line: int = 0

    def __str__(self) -> str:
        line = "" if self.file is None else f"{self.file.name}:{self.line}"
        return ", ".join(part for part in (self.module, line) if part) or "top level"


class CallSites:
    """Follows the calls of a network's modules.

    Args:
        model: the network, whose modules are named by their paths in it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow the calls by hooks that belong to no module."""

        def enter(module: nn.Module, _: Any) -> None:
            self._stack.append(self._names.get(id(module), type(module).__name__))

        def leave(module: nn.Module, *_: Any) -> None:
            self._stack.pop()

        before = hooks.register_module_forward_pre_hook(enter)
        after = hooks.register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def here(self) -> CallSite:
        """The module that runs now and the user's line inside the network's call, as far as there are any."""
        path = self._stack[-1] if self._stack else ""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_inside(frame.f_code.co_filename):
            if frame.f_code is _CALL and frame.f_locals.get("self") is self._model:
                return CallSite(path)  # beyond it are the lines of whoever called the network
            frame = frame.f_back
        return (
            CallSite(path)
            if frame is None
            else CallSite(path, Path(frame.f_code.co_filename), frame.f_lineno)
        )


_CALL = nn.Module._call_impl.__code__
_TORCH, _OURS = Path(torch.__file__).parent, Path(__file__).parents[1]
_INSIDE = (
    f"{_TORCH}{os.sep}",
    f"{_OURS}{os.sep}",
)  # the names of other folders may begin so: torchvision
_NETWORKS, _REWRITING = f"{_OURS / 'models'}{os.sep}", str(_OURS / "models" / "rewrite.py")


def _is_inside(filename: str) -> bool:
    """Whether a file is PyTorch's or ours, not the user's; our own networks are as good as a user's."""
    if filename.startswith(_NETWORKS) and filename != _REWRITING:
        return False
    return filename.startswith(_INSIDE)
