"""Whether there is a CUDA device that torch can use, without loading torch."""

from __future__ import annotations

import ctypes
import os
import re
from importlib.util import find_spec
from pathlib import Path

from tiebreak.design.axes import Device


def best_device() -> Device:
    """What `device=auto` stands for: CUDA if torch was built for it and the driver shows a device, else CPU.

    A driver whose CUDA is of an older major version than torch's cannot run it and counts as none.
    """
    built_for = torch_cuda()
    if built_for is None:
        return Device.CPU
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Device.CPU
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) or version.value // 1000 < built_for:
        return Device.CPU
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return Device.CPU
    return Device.CUDA if count.value else Device.CPU


def visible_devices() -> tuple[str, ...]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if best_device() is not Device.CUDA:
        return ()
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(name.strip() for name in named.split(",") if name.strip())
    count = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return tuple(str(number) for number in range(count.value))


def torch_cuda() -> int | None:
    """Major version of the CUDA that the installed torch was built for, read from its files; None if none."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("version.py")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda[^=\n]*=\s*['\"](\d+)", text, flags=re.MULTILINE)
    return int(found.group(1)) if found else None
