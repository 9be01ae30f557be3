"""The CUDA kernels: in Triton's interpreter everywhere, on the device where there is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import MINIMAL, NATIVE, PoolJacobian, Selection
from tiebreak.numerics import pool_torch
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.pooling import max_pool2d

pytest.importorskip("triton")

# In the interpreter a conversion to bfloat16 truncates where a device rounds, so sums and shares in
# that format are left out.
INTERPRETED = """
import torch
from tiebreak.design.axes import MINIMAL, NATIVE, PoolJacobian
from tiebreak.numerics import pool_torch, pool_triton
from tiebreak.numerics.geometry import PoolGeometry

RULES = [NATIVE, MINIMAL, PoolJacobian(beta=10), PoolJacobian(beta=0.1), PoolJacobian(selection="last")]
RULES += [PoolJacobian(selection="random", seed=3), PoolJacobian(selection="all_ones")]
GEOMETRIES = [
    PoolGeometry.of(2),
    PoolGeometry.of(3, stride=2, padding=1),
    PoolGeometry.of((2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1), ceil_mode=True),
    PoolGeometry.of(5, stride=2, padding=2),
    PoolGeometry.of(2, stride=3),
]

def same(got, wanted):
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    return ((got.view(word) == wanted.view(word)) | (got.isnan() & wanted.isnan())).all()

def wide_scatter(g, mask, size, geometry, rule):
    # Windows that share a pixel are added in fp32 here: shares are rounded one by one, their sum once.
    total = torch.zeros(size)
    for index in range(g.numel()):
        alone = torch.zeros_like(g)
        alone.view(-1)[index] = g.view(-1)[index]
        total += pool_torch.scatter(alone, mask, size=size, geometry=geometry, jacobian=rule).float()
    return total.to(g.dtype)

count = 0
for geometry in GEOMETRIES:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        torch.manual_seed(count)
        x = torch.randint(-3, 4, (1, 2, 7, 9)).to(dtype)
        for special in (float("nan"), float("inf"), -float("inf"), -0.0):
            x[torch.rand(x.shape) < 0.08] = special
        value, mask = pool_torch.forward(x, geometry=geometry)
        got, got_mask = pool_triton.forward(x, geometry=geometry)
        assert same(got, value), (geometry, dtype)
        assert torch.equal(got_mask, mask), (geometry, dtype)
        for rule in RULES:
            if dtype == torch.bfloat16 and (rule.beta or geometry.overlaps):
                continue
            g = torch.randn(value.shape).to(dtype)
            if dtype == torch.float16 and geometry.overlaps:
                wanted = wide_scatter(g, mask, x.shape, geometry, rule) if not rule.seed else None
            else:
                wanted = pool_torch.scatter(g, mask, size=x.shape, geometry=geometry, jacobian=rule)
            if wanted is None:
                continue
            got = pool_triton.scatter(g, mask, size=x.shape, geometry=geometry, jacobian=rule)
            assert same(got, wanted), (geometry, dtype, rule)
            count += 1
print(count)
"""


def test_interpreted_kernels_have_the_bits_of_pytorchs_operations() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


# ---- on a device -------------------------------------------------------------------------------------------

cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
RULES = [
    NATIVE,
    MINIMAL,
    PoolJacobian(beta=100),
    PoolJacobian(selection=Selection.LAST),
    PoolJacobian(selection=Selection.RANDOM, seed=5),
    PoolJacobian(selection=Selection.ALL_ONES),
]
ON_DEVICE = [
    {"kernel": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 3, "stride": 1, "padding": 1, "ceil_mode": True},
    {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1)},
]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def images(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (4, 3, 33, 35), generator=generator).to(dtype)
    for special in (float("nan"), float("inf"), -0.0):
        x[torch.rand(x.shape, generator=generator) < 0.02] = special
    return x.cuda()


class TestOnDevice:
    pytestmark = cuda

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("geometry", ON_DEVICE, ids=str)
    def test_value_and_native_rule_are_cudas(self, dtype, geometry) -> None:
        x = images(dtype).requires_grad_()
        value = functional.max_pool2d(
            x, **{"kernel_size" if k == "kernel" else k: v for k, v in geometry.items()}
        )
        got = max_pool2d(x, **geometry)
        assert torch.equal(got.nan_to_num(9.0), value.nan_to_num(9.0))
        if PoolGeometry.of(**geometry).overlaps:
            return
        g = torch.randn_like(value)
        wanted = torch.autograd.grad(value, x, g)[0]
        assert torch.equal(torch.autograd.grad(got, x, g)[0], wanted)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("geometry", ON_DEVICE, ids=str)
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)
    def test_triton_and_pytorchs_operations_agree(self, dtype, geometry, rule) -> None:
        from tiebreak.numerics import pool_triton

        x, windows = images(dtype), PoolGeometry.of(**geometry)
        value, mask = pool_torch.forward(x, geometry=windows)
        got, got_mask = pool_triton.forward(x, geometry=windows)
        assert torch.equal(got_mask, mask)
        assert torch.equal(got.nan_to_num(9.0), value.nan_to_num(9.0))
        g = torch.randn_like(value)
        wanted = pool_torch.scatter(g, mask, size=x.shape, geometry=windows, jacobian=rule)
        assert torch.equal(
            pool_triton.scatter(g, mask, size=x.shape, geometry=windows, jacobian=rule), wanted
        )

    def test_other_streams(self) -> None:
        x = torch.zeros(64, 32, 64, 64, device="cuda", requires_grad=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            pooled = max_pool2d(x + 1.0, kernel=2, jacobian=MINIMAL)
            pooled.sum().backward()
        torch.cuda.current_stream().wait_stream(stream)
        assert (pooled == 1.0).all()
        assert (x.grad == 0.25).all()
