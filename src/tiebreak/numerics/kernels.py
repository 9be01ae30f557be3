"""Which implementation of the exact pool runs: the one place that decides.

On the CPU the compiled kernel and PyTorch's operations give the same bits. On CUDA the Triton kernel and
PyTorch's operations do; there overlapping windows are added in fp32 and rounded once, as CUDA's own pool
does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian
from tiebreak.numerics import native, pool_torch
from tiebreak.numerics.geometry import PoolGeometry


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window, in the memory format of x, and the mask of its tied entries."""
    kernel = _kernel(x, geometry)
    if kernel is None:
        return pool_torch.forward(x, geometry=geometry)
    output, mask = kernel.forward(x, geometry=geometry)
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
    kernel = _kernel(gradient, geometry) or pool_torch
    result = kernel.scatter(gradient, mask, size=size, geometry=geometry, jacobian=jacobian)
    return _formatted(result, memory_format)


def gather(vector: Tensor, mask: Tensor, *, geometry: PoolGeometry, jacobian: PoolJacobian) -> Tensor:
    """The Jacobian applied forward."""
    return pool_torch.gather(vector, mask, geometry=geometry, jacobian=jacobian)


def live_ties(output: Tensor, mask: Tensor) -> int | None:
    """Number of windows with several maxima that are not 0 if there is a kernel that counts them, or None."""
    kernel = native.compiled_pool() if output.device.type == "cpu" and output.is_contiguous() else None
    return kernel.live_ties(output, mask) if kernel is not None else None


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The order in memory that PyTorch's own pool gives what it makes of x."""
    if x.dim() == 4 and not x.is_contiguous():
        batch, channels, rows, columns = x.stride()
        if x.shape[1] > 1 and channels <= columns <= rows <= batch:
            return torch.channels_last
    return torch.contiguous_format


def _formatted(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x if memory_format == torch.contiguous_format else x.contiguous(memory_format=memory_format)


def _kernel(x: Tensor, geometry: PoolGeometry) -> native.CompiledPool | None:
    if x.device.type == "cpu" and geometry.num_entries <= native.MAX_ENTRIES:
        return native.compiled_pool()
    return None
