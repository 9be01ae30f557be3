"""Whether there is a CUDA device, asked of the driver, without loading torch."""

from __future__ import annotations

import ctypes

from tiebreak.design.axes import Device


def best_device() -> Device:
    """CUDA if the driver reports a device that this process may see, else the CPU: what `auto` stands for."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Device.CPU
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return Device.CPU
    return Device.CUDA if count.value else Device.CPU
