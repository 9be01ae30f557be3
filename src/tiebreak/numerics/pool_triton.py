"""The exact pool on CUDA: one kernel forward, one that gathers backward, no atomics.

Values are those of CUDA's own pool; its gradient too, at beta = 0: overlapping windows are added in ascending
order in fp32 (fp64 in fp64) and rounded once. The arithmetic of a share is that of the CPU: divisions are
rounded correctly and no product is fused with a sum. Launches go to the current stream and never wait.
"""
# What is inside a kernel is a language of its own, which its decorator hides from a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalOperand=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.selection import arithmetic_dtype, favoured

BLOCK = 1024
_WHOLE, _FIRST, _BETA = 0, 1, 2


def forward(x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
    """The maximum of each window and the mask of its tied entries; both in row-major order.

    Args:
        x: (N, C, H, W) or (C, H, W), on a CUDA device.
        geometry: the windows.
    """
    x = x.contiguous()
    rows, columns = geometry.output_size((x.shape[-2], x.shape[-1]))
    output = torch.empty((*x.shape[:-2], rows, columns), dtype=x.dtype, device=x.device)
    mask = torch.empty((geometry.num_planes, *output.shape), dtype=torch.uint8, device=x.device)
    if output.numel():
        with torch.cuda.device_of(x):
            _forward_kernel[(triton.cdiv(output.numel(), BLOCK),)](
                x,
                output,
                mask,
                output.numel(),
                x.shape[-2],
                x.shape[-1],
                rows,
                columns,
                *_constants(geometry),
                PLANES=geometry.num_planes,
                DOUBLE=x.dtype == torch.float64,
                FAR=x.numel() >= 1 << 31,
                BLOCK=BLOCK,
            )
    return output, mask


def scatter(
    gradient: Tensor, mask: Tensor, *, size: torch.Size, geometry: PoolGeometry, jacobian: PoolJacobian
) -> Tensor:
    """The transposed Jacobian applied to the gradient of the output; in row-major order.

    Args:
        gradient: of the output, on a CUDA device.
        mask: from `forward`.
        size: shape of the input.
        geometry: the windows.
        jacobian: the rule at ties.
    """
    gradient, mask = gradient.contiguous(), mask.contiguous()
    arithmetic = arithmetic_dtype(gradient.dtype)
    beta = rest = gradient
    if jacobian.selection is not Selection.BETA:
        rule = _WHOLE
        if jacobian.selection is not Selection.ALL_ONES:
            mask = favoured(mask, jacobian=jacobian)
    elif jacobian.beta == 0.0:
        rule = _FIRST
    else:
        rule = _BETA  # a number in memory keeps its 53 bits, a Python float would arrive with 24
        beta = torch.full((1,), jacobian.beta, dtype=arithmetic, device=gradient.device)
        rest = torch.full((1,), 1.0 - jacobian.beta, dtype=arithmetic, device=gradient.device)
    result = torch.empty(size, dtype=gradient.dtype, device=gradient.device)
    if result.numel():
        with torch.cuda.device_of(gradient):
            _scatter_kernel[(triton.cdiv(result.numel(), BLOCK),)](
                gradient,
                mask,
                result,
                beta,
                rest,
                gradient.numel(),
                result.numel(),
                size[-2],
                size[-1],
                gradient.shape[-2],
                gradient.shape[-1],
                *_constants(geometry),
                PLANES=geometry.num_planes,
                RULE=rule,
                MINIMAL=jacobian.beta == 1.0,
                DOUBLE=arithmetic == torch.float64,
                FAR=result.numel() >= 1 << 31,
                BLOCK=BLOCK,
                enable_fp_fusion=False,
            )
    return result


def _constants(geometry: PoolGeometry) -> tuple[int, ...]:
    return (*geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation)


@triton.jit
def _forward_kernel(
    x,
    output,
    mask,
    num_windows,
    height,
    width,
    rows,
    columns,
    KY: tl.constexpr,
    KX: tl.constexpr,
    SY: tl.constexpr,
    SX: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    DY: tl.constexpr,
    DX: tl.constexpr,
    PLANES: tl.constexpr,
    DOUBLE: tl.constexpr,
    FAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64) if FAR else tl.program_id(0)
    window = program * BLOCK + tl.arange(0, BLOCK)
    inside = window < num_windows
    column = window % columns
    row = (window // columns) % rows
    start = x + (window // (columns * rows)) * (height * width)
    top = row * SY - PY
    left = column * SX - PX
    arithmetic: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    best = tl.full((BLOCK,), float("-inf"), arithmetic)
    last_nan = tl.full((BLOCK,), -1, tl.int32)
    for entry in tl.static_range(KY * KX):
        y = top + (entry // KX) * DY
        z = left + (entry % KX) * DX
        valid = inside & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        value = tl.load(start + y * width + z, mask=valid, other=float("-inf")).to(arithmetic)
        is_nan = value != value
        last_nan = tl.where(is_nan, entry, last_nan)
        best = tl.where((value > best) | is_nan, value, best)
    tl.store(output + window, best.to(output.dtype.element_ty), mask=inside)
    for plane in tl.static_range(PLANES):
        marks = tl.zeros((BLOCK,), tl.int32)
        for bit in tl.static_range(8):
            entry = plane * 8 + bit
            if entry < KY * KX:
                y = top + (entry // KX) * DY
                z = left + (entry % KX) * DX
                valid = inside & (y >= 0) & (y < height) & (z >= 0) & (z < width)
                value = tl.load(start + y * width + z, mask=valid, other=float("nan")).to(arithmetic)
                marks |= tl.where((value == best) | (last_nan == entry), 1 << bit, 0)
        tl.store(mask + plane * num_windows + window, marks.to(tl.uint8), mask=inside)


@triton.jit
def _scatter_kernel(
    gradient,
    mask,
    result,
    beta,
    rest,
    num_windows,
    num_pixels,
    height,
    width,
    rows,
    columns,
    KY: tl.constexpr,
    KX: tl.constexpr,
    SY: tl.constexpr,
    SX: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    DY: tl.constexpr,
    DX: tl.constexpr,
    PLANES: tl.constexpr,
    RULE: tl.constexpr,
    MINIMAL: tl.constexpr,
    DOUBLE: tl.constexpr,
    FAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    arithmetic: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    storage: tl.constexpr = result.dtype.element_ty
    program = tl.program_id(0).to(tl.int64) if FAR else tl.program_id(0)
    pixel = program * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < num_pixels
    z = pixel % width
    y = (pixel // width) % height
    base = (pixel // (width * height)) * (rows * columns)
    total = tl.zeros((BLOCK,), arithmetic)
    for reverse in tl.static_range(KY * KX):
        entry: tl.constexpr = KY * KX - 1 - reverse  # so that windows come in ascending order
        up = y + PY - (entry // KX) * DY
        over = z + PX - (entry % KX) * DX
        row = up // SY
        column = over // SX
        valid = inside & (up >= 0) & (over >= 0) & (row < rows) & (column < columns)
        valid = valid & (row * SY == up) & (column * SX == over)
        window = base + row * columns + column
        here = tl.load(mask + (entry // 8) * num_windows + window, mask=valid, other=0).to(tl.int32)
        marked = valid & ((here >> (entry % 8)) % 2 == 1)
        g = tl.load(gradient + window, mask=marked, other=0.0).to(arithmetic)
        if RULE == 0:
            part = g
        else:
            earlier = here % (1 << (entry % 8))
            number = tl.zeros((BLOCK,), tl.int32)
            for plane in tl.static_range(PLANES):
                if RULE == 2 or plane < entry // 8:
                    byte = tl.load(mask + plane * num_windows + window, mask=marked, other=0).to(tl.int32)
                    if plane < entry // 8:
                        earlier |= byte
                    byte = byte - ((byte >> 1) & 0x55)
                    byte = (byte & 0x33) + ((byte >> 2) & 0x33)
                    number += (byte + (byte >> 4)) & 0x0F
            if RULE == 1:
                part = tl.where(earlier == 0, g, 0.0)
            else:
                many = tl.where(number > 1, number, 1).to(arithmetic)
                share = g / many if DOUBLE else tl.div_rn(g, many)
                if MINIMAL:
                    spread = share
                else:
                    share = tl.load(beta) * share
                    spread = tl.where(earlier == 0, share + tl.load(rest) * g, share)
                part = tl.where(number > 1, spread, g)
        total += tl.where(marked, part.to(storage).to(arithmetic), 0.0)
    tl.store(result + pixel, total.to(storage), mask=inside)
