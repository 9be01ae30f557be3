"""The exact pool, forward and backward, against PyTorch's own; and what it keeps for the backward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import ratios
import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.design.axes import NATIVE, PoolJacobian
from tiebreak.numerics import kernels, pool_torch
from tiebreak.numerics.native import kernel_status
from tiebreak.numerics.pooling import max_pool2d

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SMALL = ((128, 6, 24, 24), (128, 64, 32, 32), (128, 512, 4, 4))
STEM = (8, 64, 112, 112)
RULES = (NATIVE, PoolJacobian(beta=1), PoolJacobian(beta=100))
PLAIN = {"kernel": 2}
OVERLAPPING = {"kernel": 3, "stride": 2, "padding": 1}


def seconds(pool: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> float:
    """Time of one forward and backward pass: of the CPU, or on the wall with the device waited for."""
    x.grad = None
    on_device = x.device.type == "cuda"
    clock = time.perf_counter if on_device else time.process_time
    if on_device:
        torch.cuda.synchronize()
    begin = clock()
    pool(x).backward(upstream)
    if on_device:
        torch.cuda.synchronize()
    return clock() - begin


def native(geometry: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """PyTorch's pool of a geometry."""
    words = {"kernel_size" if key == "kernel" else key: value for key, value in geometry.items()}
    return lambda x: functional.max_pool2d(x, **words)


def measured(
    shape: Sequence[int],
    dtype: torch.dtype,
    geometry: dict[str, Any],
    rule: PoolJacobian,
    *,
    repeats: int,
    device: str,
) -> list[float]:
    """Interleaved ratios of our time to PyTorch's on the output of a ReLU."""
    torch.manual_seed(0)
    x = torch.randn(*shape).relu().to(dtype).to(device).requires_grad_()
    baseline = native(geometry)
    upstream = torch.randn_like(baseline(x))

    def ours(x: Tensor) -> Tensor:
        return max_pool2d(x, **geometry, jacobian=rule)

    found = [
        seconds(ours, x, upstream) / seconds(baseline, x, upstream)
        for _ in range(repeats + 2)  # two rounds that do not count
    ]
    return found[2:]


def small_rows(
    name: str, *, targets: tuple[float, float | None], repeats: int, device: str
) -> list[ratios.Row]:
    """2x2/2: every dtype and shape, then the median over them round by round, and the worst of them."""
    rows = []
    for rule in RULES:
        found = {
            (shape, dtype): measured(shape, dtype, PLAIN, rule, repeats=repeats, device=device)
            for shape in SMALL
            for dtype in DTYPES
        }
        lines = [
            ratios.row(f"{name} 2x2/2 {rule.label}, {label(shape, dtype)}", values, baseline="max_pool2d")
            for (shape, dtype), values in found.items()
        ]
        middle = [statistics.median(values) for values in zip(*found.values(), strict=True)]
        worst = max(found, key=lambda key: statistics.median(found[key]))
        if rule is RULES[-1]:  # the one that computes most
            rows += lines
        rows.append(
            ratios.row(
                f"**{name} 2x2/2 {rule.label}, median**", middle, baseline="max_pool2d", target=targets[0]
            )
        )
        if targets[1] is not None:
            title = f"**{name} 2x2/2 {rule.label}, worst: {label(*worst)}**"
            rows.append(ratios.row(title, found[worst], baseline="max_pool2d", target=targets[1]))
    return rows


def stem_rows(name: str, *, targets: dict[torch.dtype, float], repeats: int, device: str) -> list[ratios.Row]:
    """3x3/2 with padding 1."""
    return [
        ratios.row(
            f"{name} 3x3/2 {rule.label}, {label(STEM, dtype)}",
            measured(STEM, dtype, OVERLAPPING, rule, repeats=repeats, device=device),
            baseline="max_pool2d",
            target=target,
        )
        for dtype, target in targets.items()
        for rule in RULES
    ]


def memory_rows() -> list[ratios.Row]:
    """Bytes a window that autograd keeps beyond the input and the output."""
    rows = []
    cases: list[tuple[dict[str, Any], float]] = [(PLAIN, 1.0), (OVERLAPPING, 2.0)]
    for geometry, bytes_a_window in cases:
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.untyped_storage().nbytes())
            return tensor

        x = torch.randn(8, 16, 32, 32, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = max_pool2d(x, **geometry, jacobian=RULES[1])
        size = geometry["kernel"]
        rows.append(
            ratios.row(
                f"kept for the backward pass at {size}x{size}",
                [sum(kept) / output.numel()],
                baseline="bytes a window",
                target=bytes_a_window,
            )
        )
    return rows


def bandwidth_rows(*, repeats: int) -> list[ratios.Row]:
    """Share of the memory bandwidth that the CUDA kernels reach, a device copy being 1."""
    rows = []
    for dtype in DTYPES:
        x = torch.randn(128, 64, 112, 112, device="cuda").relu().to(dtype).requires_grad_()
        upstream = torch.randn_like(native(PLAIN)(x))
        target = torch.empty_like(x)
        windows, item = upstream.numel(), x.element_size()
        moved = 2 * x.numel() * item + 2 * windows * (item + 1)  # in, out and mask; gradient, mask, result
        found = []
        for _ in range(repeats + 2):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            target.copy_(x.detach())
            torch.cuda.synchronize()
            copied = 2 * x.numel() * item / (time.perf_counter() - begin)
            found.append(moved / seconds(lambda x: max_pool2d(x, kernel=2), x, upstream) / copied)
        title = f"Triton 2x2/2, share of a copy's bandwidth, {str(dtype)[6:]}"
        rows.append(ratios.row(title, found[2:], baseline="copy", target=0.85, at_most=False))
    return rows


def label(shape: Sequence[int], dtype: torch.dtype) -> str:
    """128x6x24x24 float32."""
    return f"{'x'.join(map(str, shape))} {str(dtype)[6:]}"


def without_kernels() -> AbstractContextManager[object]:
    """PyTorch's operations only, by a plain function: a mock's own call would count as theirs."""

    def plain(*_: object) -> object:
        return pool_torch

    return mock.patch.object(kernels, "_kernel", plain)


def main() -> None:
    parser = ratios.arguments(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repeats, device = options.repeats, options.device
    rows: list[ratios.Row] = []
    if device == "cuda":
        rows += small_rows("Triton", targets=(0.6, None), repeats=repeats, device=device)
        rows += stem_rows("Triton", targets=dict.fromkeys(DTYPES, 0.6), repeats=repeats, device=device)
        rows += bandwidth_rows(repeats=repeats)
    elif kernel_status().available:
        rows += small_rows("compiled", targets=(0.35, 0.5), repeats=repeats, device=device)
        targets = {torch.float32: 0.8, torch.float64: 1.2}
        rows += stem_rows("compiled", targets=targets, repeats=repeats, device=device)
    else:
        print(f"No compiled kernel: {kernel_status().reason}")
    if device == "cpu":
        with without_kernels():
            rows += small_rows("PyTorch's operations", targets=(2.0, None), repeats=repeats, device=device)
            targets = dict.fromkeys(DTYPES, 7.0)
            rows += stem_rows("PyTorch's operations", targets=targets, repeats=repeats, device=device)
    rows += memory_rows()
    ratios.report("Exact pool, forward and backward", rows, path=options.json)


if __name__ == "__main__":
    main()
