"""`device=auto` agrees with torch without loading it."""

from __future__ import annotations

import subprocess
import sys

import torch

from tiebreak.cuda import best_device, torch_cuda
from tiebreak.design.axes import Device


def test_agrees_with_torch() -> None:
    built_for = torch.version.cuda
    assert torch_cuda() == (int(built_for.split(".")[0]) if built_for else None)
    assert (best_device() is Device.CUDA) == torch.cuda.is_available()


def test_does_not_load_torch() -> None:
    code = "import sys, tiebreak.cuda; tiebreak.cuda.best_device(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
