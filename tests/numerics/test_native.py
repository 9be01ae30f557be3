"""Building, caching and doing without the compiled kernel."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tiebreak.design.axes import PoolJacobian
from tiebreak.numerics import pool_torch
from tiebreak.numerics.geometry import PoolGeometry
from tiebreak.numerics.native import MAX_ENTRIES, compiled_pool, kernel_status

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler on this machine")

REPORT = """
import logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s")
import torch
from tiebreak.numerics.native import kernel_status
from tiebreak.numerics.pooling import max_pool2d
for _ in range(3):
    y = max_pool2d(torch.ones(1, 1, 4, 4, requires_grad=True), kernel=2)
    y.sum().backward()
print(kernel_status().available, kernel_status().reason)
"""


def run(cache: Path, code: str = REPORT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TIEBREAK_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_status_is_the_same_each_time() -> None:
    assert kernel_status() == kernel_status()
    assert kernel_status().available == (compiled_pool() is not None)
    assert kernel_status().reason


def test_switched_off_it_says_so_once(tmp_path) -> None:
    done = run(tmp_path, TIEBREAK_KERNEL="off")
    assert done.stdout.startswith("False TIEBREAK_KERNEL is off")
    assert done.stderr.count("TIEBREAK_KERNEL is off") == 1
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_it_says_so_once(tmp_path) -> None:
    done = run(tmp_path, CXX="no-such-compiler")
    assert done.stdout.startswith("False No C++ compiler was found")
    assert done.stderr.count("No C++ compiler was found") == 1


@needs_compiler
def test_a_compiler_that_fails_is_no_error(tmp_path) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit 0\necho it broke >&2\nexit 3\n'
    )
    broken.chmod(0o755)
    assert "it broke" in run(tmp_path / "cache", CXX=str(broken)).stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A kernel that the real compiler has made."""
    cache = tmp_path_factory.mktemp("cache")
    assert run(cache).stdout.startswith("True compiled by")
    (library,) = cache.iterdir()
    return library


@pytest.fixture
def copier(built, tmp_path) -> Path:
    """A compiler that takes no time: it puts a copy of the kernel where it is wanted and counts its calls."""
    script = tmp_path / "copier"
    script.write_text(
        f"""#!/bin/sh
        [ "$1" = --version ] && echo copier 1.0 && exit 0
        echo called >>"{tmp_path}/calls"
        while [ "$1" != -o ]; do shift; done
        cp "{built}" "$2"
        """
    )
    script.chmod(0o755)
    return script


@needs_compiler
def test_it_is_built_once_and_found_again(tmp_path, copier) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):
        assert run(cache, CXX=str(copier)).stdout.startswith("True compiled by copier 1.0")
    assert (tmp_path / "calls").read_text() == "called\n"
    assert len(list(cache.iterdir())) == 1


@needs_compiler
def test_a_spoilt_library_is_built_again(tmp_path, copier) -> None:
    cache = tmp_path / "cache"
    run(cache, CXX=str(copier))
    (library,) = cache.iterdir()
    library.write_bytes(b"not a library")
    assert run(cache, CXX=str(copier)).stdout.startswith("True")


@needs_compiler
def test_an_unwritable_cache_is_no_obstacle(tmp_path, copier) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("in the way")
    assert run(occupied / "cache", CXX=str(copier)).stdout.startswith("True")


@pytest.mark.skipif(compiled_pool() is None, reason="no compiled kernel on this machine")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 40, 1100), (600, 3, 4, 4), (3, 70, 13, 9)], ids=str)
@pytest.mark.parametrize(
    "rule", [PoolJacobian(), PoolJacobian(beta=1), PoolJacobian(beta=7)], ids=lambda r: r.label
)
def test_vector_code_has_the_bits_of_pytorchs_operations_on_long_and_short_rows(dtype, shape, rule) -> None:
    kernel = compiled_pool()
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, shape, generator=generator).to(dtype)
    x[torch.rand(shape, generator=generator) < 0.001] = float("nan")
    x[torch.rand(shape, generator=generator) < 0.001] = -0.0
    for geometry in (PoolGeometry.of(2), PoolGeometry.of(3, stride=2, padding=1)):
        value, mask = pool_torch.forward(x, geometry=geometry)
        g = torch.randn(value.shape, generator=generator).to(dtype)
        wanted = pool_torch.scatter(g, mask, size=x.shape, geometry=geometry, jacobian=rule)
        for order in (torch.contiguous_format, torch.channels_last):
            own_value, own_mask = kernel.forward(x.contiguous(memory_format=order), geometry=geometry)
            assert torch.equal(mask, own_mask)
            assert torch.equal(value.nan_to_num(9.0), own_value.nan_to_num(9.0))
            got = kernel.scatter(
                g, own_mask, size=x.shape, memory_format=order, geometry=geometry, jacobian=rule
            )
            assert torch.equal(got, wanted)


@pytest.mark.skipif(compiled_pool() is None, reason="no compiled kernel on this machine")
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 8, 11, 12, 16, 32, 33, 130, 140, 160])
def test_rows_of_every_width_are_pooled_alike(columns: int) -> None:
    """Widths that the kernel knows as constants, their neighbours, and last blocks as wide as one of them."""
    kernel, geometry = compiled_pool(), PoolGeometry.of(2)
    generator = torch.Generator().manual_seed(columns)
    for border in (0, 1):
        x = torch.randint(0, 3, (2, 3, 6 + border, 2 * columns + border), generator=generator).float()
        value, mask = kernel.forward(x, geometry=geometry)
        wanted, indices = functional.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(value, wanted)
        entries = [x[..., a:6:2, b : 2 * columns : 2] for a in (0, 1) for b in (0, 1)]
        bits = [(entry == wanted).to(torch.uint8) << place for place, entry in enumerate(entries)]
        assert torch.equal(mask[0], bits[0] | bits[1] | bits[2] | bits[3])
        g = torch.randn(wanted.shape, generator=generator)
        got = kernel.scatter(
            g,
            mask,
            size=x.shape,
            memory_format=torch.contiguous_format,
            geometry=geometry,
            jacobian=PoolJacobian(),
        )
        flat = torch.zeros(2, 3, x[0, 0].numel()).scatter_(2, indices.flatten(2), g.flatten(2))
        assert torch.equal(got, flat.view(x.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("special", [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 5e-324])
def test_pytorchs_operations_have_the_bits_of_pytorchs_pool_beside_zeros_and_nan(dtype, special) -> None:
    x = torch.tensor([[0.0, special, -1.0, -0.0], [-2.0, 0.0, special, -3.0]], dtype=dtype)
    x = x[:, torch.tensor(list(itertools.product(range(4), repeat=2)))].permute(1, 0, 2)
    got, _ = pool_torch.forward(x, geometry=PoolGeometry.of(2))
    wanted = functional.max_pool2d(x, 2)
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    assert torch.equal(got.view(word), wanted.view(word))


def test_windows_of_more_entries_than_the_kernel_takes_go_to_pytorchs_operations() -> None:
    from tiebreak.numerics.pooling import max_pool2d

    side = 17
    assert side * side > MAX_ENTRIES
    x = torch.zeros(1, 1, side, side, requires_grad=True)
    max_pool2d(x, kernel=side, jacobian=PoolJacobian(beta=1)).sum().backward()
    assert (x.grad == torch.tensor(1.0) / side**2).all()


@needs_compiler
@pytest.mark.parametrize("damage", ["half", "foreign", "empty"])
def test_a_damaged_library_in_the_cache_is_built_again(tmp_path, copier, damage) -> None:
    """Loading half a library ends the process without a word, so its seal is checked first."""
    code = (
        "import torch; from tiebreak import max_pool2d; from tiebreak.numerics.native import kernel_status\n"
        "print(max_pool2d(torch.ones(1, 1, 2, 2), kernel=2).item(), kernel_status().available)"
    )

    cache = tmp_path / "cache"
    assert run(cache, code, CXX=str(copier)).stdout.strip() == "1.0 True"
    (library,) = cache.glob("*.so")
    content = library.read_bytes()
    library.write_bytes(
        {"half": content[: len(content) // 2], "foreign": b"\x7fELF" * 100, "empty": b""}[damage]
    )
    assert run(cache, code, CXX=str(copier)).stdout.strip() == "1.0 True"
    assert library.read_bytes()[:4] == b"\x7fELF"
    assert len(library.read_bytes()) == len(content)
