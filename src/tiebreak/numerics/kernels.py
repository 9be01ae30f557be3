"""Which implementation of the exact pool runs: the one place that decides.

On the CPU the compiled kernel and PyTorch's operations give the same bits. On CUDA the Triton kernel and
PyTorch's operations do; there overlapping windows are added in fp32 and rounded once, as CUDA's own pool
does.
"""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian
from tiebreak.numerics import pool_torch
from tiebreak.numerics.geometry import PoolGeometry, memory_format_of
from tiebreak.numerics.native import MAX_ENTRIES, CompiledPool, compiled_pool, is_switched_off

_log = logging.getLogger(__name__)


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window, in the memory format of x, and the mask of its tied entries."""
    x = _in_memory(x)
    output, mask = _kernel(x, geometry).forward(x, geometry=geometry)
    return _formatted(output, memory_format_of(x)), mask


def scatter(
    gradient: Tensor,
    mask: Tensor,
    *,
    size: torch.Size,
    memory_format: torch.memory_format,
    geometry: PoolGeometry,
    jacobian: PoolJacobian,
) -> Tensor:
    """The transposed Jacobian applied to the gradient of the output, of `size` in `memory_format`."""
    gradient = _in_memory(gradient)
    kernel = _kernel(gradient, geometry)
    if isinstance(kernel, CompiledPool):
        return kernel.scatter(
            gradient, mask, size=size, memory_format=memory_format, geometry=geometry, jacobian=jacobian
        )
    result = kernel.scatter(gradient, mask, size=size, geometry=geometry, jacobian=jacobian)
    return _formatted(result, memory_format)


def gather(vector: Tensor, mask: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> Tensor:
    """The Jacobian applied forward."""
    return pool_torch.gather(_in_memory(vector), mask, geometry=geometry, jacobian=jacobian)


def live_ties(output: Tensor, mask: Tensor) -> int | None:
    """Number of windows with several maxima that are not 0 if there is a kernel that counts them, or None."""
    dense = output.is_contiguous() or output.is_contiguous(memory_format=memory_format_of(output))
    alike = dense and output.device.type == "cpu" and mask[0].stride() == output.stride()
    kernel = compiled_pool() if alike else None
    return kernel.live_ties(output, mask) if kernel is not None else None


def _in_memory(x: Tensor) -> Tensor:
    """x with its numbers in memory: PyTorch keeps some negations and the zeros of automatic differentiation
    as a mark on the tensor, and whoever reads by address or by words would miss it."""
    if x._is_zerotensor():
        return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    return x.resolve_neg()


def _formatted(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x if memory_format == torch.contiguous_format else x.contiguous(memory_format=memory_format)


def _kernel(x: Tensor, geometry: PoolGeometry) -> CompiledPool | ModuleType:
    """What pools x: the kernel of its device where there is one that takes the geometry, else PyTorch."""
    if geometry.num_entries <= MAX_ENTRIES:
        if x.device.type == "cpu":
            return compiled_pool() or pool_torch
        if x.device.type == "cuda" and not is_switched_off():
            return _triton() or pool_torch
    return pool_torch


@functools.cache
def _triton() -> ModuleType | None:
    """The Triton kernels, or None without Triton; imported late because that takes a second."""
    try:
        return importlib.import_module("tiebreak.numerics.pool_triton")
    except ImportError as error:
        _log.warning("The Triton pool kernel is not used; PyTorch's operations are. %s", error)
        return None
