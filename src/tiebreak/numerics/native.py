"""The compiled CPU kernel of the exact pool: built at first use, kept in the user's cache, called by address.

The kernel is one C++ file without dependencies. It is compiled for the processor at hand into
`$TIEBREAK_CACHE`, else `$XDG_CACHE_HOME/tiebreak`, else `~/.cache/tiebreak`, under a name made of its source,
the flags, the compiler and the processor, so that a changed one is never taken for the other; several
processes may build at once. Without a compiler, or with `TIEBREAK_KERNEL=off`, PyTorch's operations give the
same bits more slowly: that is said once in the log and is kept by `kernel_status`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, Selection
from tiebreak.numerics.geometry import PoolGeometry, memory_format_of

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
"""Contraction is off because a fused multiply-add has other bits."""

MAX_ENTRIES = 255
"""Largest kernel, in entries, that the compiled code takes."""

_log = logging.getLogger(__name__)
_FORMATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_RULES = {Selection.LAST: 1, Selection.RANDOM: 2, Selection.ALL_ONES: 3, Selection.BETA: 4}
_FIRST = 0
_SEAL_BYTES = hashlib.sha256().digest_size
_PARALLEL_FROM = 1 << 15  # pixels; below, waking threads costs more than it saves


@dataclass(frozen=True)
class KernelStatus:
    """Whether the compiled CPU kernel runs.

    Args:
        available: true if it does.
        reason: which compiler made it, or why there is none.
    """

    available: bool
    reason: str


@dataclass(frozen=True)
class CompiledPool:
    """The loaded kernel. Tensors are on the CPU; the bits are those of `tiebreak.numerics.pool_torch`."""

    compute_forward: Callable[..., None]
    compute_backward: Callable[..., None]
    compute_live: Callable[..., int]

    def forward(self, x: Tensor, *, geometry: PoolGeometry) -> tuple[Tensor, Tensor]:
        """The maximum of each window and the mask of its tied entries, both in the memory format of x.

        Args:
            x: (N, C, H, W) or (C, H, W).
            geometry: the windows, of at most MAX_ENTRIES entries.
        """
        order = memory_format_of(x)
        x = x.contiguous(memory_format=order)
        shape = (*x.shape[:-2], *geometry.output_size((x.shape[-2], x.shape[-1])))
        output = torch.empty(shape, dtype=x.dtype, memory_format=order)
        mask = torch.empty(
            (geometry.num_planes * shape[0], *shape[1:]), dtype=torch.uint8, memory_format=order
        )
        mask = mask.view(geometry.num_planes, *shape)
        self.compute_forward(
            _FORMATS[x.dtype],
            x.data_ptr(),
            output.data_ptr(),
            mask.data_ptr(),
            _numbers(x.shape, output.shape, geometry, order),
            _num_threads(x.numel()),
        )
        return output, mask

    def scatter(
        self,
        gradient: Tensor,
        mask: Tensor,
        *,
        size: torch.Size,
        memory_format: torch.memory_format,
        geometry: PoolGeometry,
        jacobian: PoolJacobian,
    ) -> Tensor:
        """The transposed Jacobian applied to the gradient of the output.

        Args:
            gradient: of the output.
            mask: from `forward`.
            size: shape of the input.
            memory_format: of the input, and of the result.
            geometry: the windows.
            jacobian: the rule at ties.
        """
        gradient = gradient.contiguous(memory_format=memory_format)
        mask = mask.flatten(0, 1).contiguous(memory_format=memory_format)
        result = torch.empty(size, dtype=gradient.dtype, memory_format=memory_format)
        is_first = jacobian.selection is Selection.BETA and jacobian.beta == 0.0
        self.compute_backward(
            _FORMATS[gradient.dtype],
            gradient.data_ptr(),
            mask.data_ptr(),
            result.data_ptr(),
            _numbers(size, gradient.shape, geometry, memory_format),
            _FIRST if is_first else _RULES[jacobian.selection],
            jacobian.beta,
            jacobian.seed,
            _num_threads(result.numel()),
        )
        return result

    def live_ties(self, output: Tensor, mask: Tensor) -> int:
        """Number of windows with several maxima that are not 0; both tensors dense and of one layout."""
        return self.compute_live(
            _FORMATS[output.dtype], output.data_ptr(), mask.data_ptr(), output.numel(), len(mask)
        )


def kernel_status() -> KernelStatus:
    """Whether the compiled kernel runs; builds it if that has not been tried in this process.

    Example:
        >>> isinstance(kernel_status().reason, str)
        True
    """
    return _load()[1]


def compiled_pool() -> CompiledPool | None:
    """The compiled kernel, or None where there is none."""
    return _load()[0]


def is_switched_off() -> bool:
    """Whether `TIEBREAK_KERNEL` asks for PyTorch's operations only."""
    return os.environ.get("TIEBREAK_KERNEL", "").lower() in ("off", "0", "false", "no")


@functools.cache
def _load() -> tuple[CompiledPool | None, KernelStatus]:
    try:
        library, maker = _built()
    except (_NoKernelError, OSError, ValueError, subprocess.SubprocessError) as error:
        reason = str(error)
        _log.warning("The compiled pool kernel is not used; PyTorch's operations are. %s", reason)
        return None, KernelStatus(False, reason)
    address, word, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    forward = library.tiebreak_pool_forward
    forward.argtypes, forward.restype = [number, address, address, address, address, number], None
    backward = library.tiebreak_pool_backward
    backward.argtypes = [
        *(number, address, address, address, address, number),
        *(ctypes.c_double, ctypes.c_uint64, number),
    ]
    backward.restype = None
    live = library.tiebreak_pool_live
    live.argtypes, live.restype = [number, address, address, word, word], word
    return CompiledPool(forward, backward, live), KernelStatus(True, f"compiled by {maker}")


class _NoKernelError(Exception):
    """Why there is no compiled kernel, as a sentence."""


def _built() -> tuple[ctypes.CDLL, str]:
    if is_switched_off():
        raise _NoKernelError("TIEBREAK_KERNEL is off.")
    wanted = os.environ.get("CXX", "").strip()
    choices = [shlex.split(wanted)] if wanted else [["c++"], ["g++"], ["clang++"]]
    compiler = next((words for words in choices if shutil.which(words[0])), None)
    if compiler is None:
        raise _NoKernelError(f"No C++ compiler was found (looked for {wanted or 'c++, g++ and clang++'}).")
    maker = _output_of([*compiler, "--version"]).splitlines()[0]
    source = Path(__file__).with_name("pool_kernel.cpp")
    identity = "\n".join((source.read_text(), *FLAGS, maker, platform.machine(), _processor()))
    name = f"pool_{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_sealed(folder / name):
            _compile(compiler, source, folder / name)
        return ctypes.CDLL(str(folder / name)), maker
    except OSError:  # an unwritable cache, or a file there that is no library
        with tempfile.TemporaryDirectory(prefix="tiebreak-") as temporary:
            _compile(compiler, source, Path(temporary) / name)
            return ctypes.CDLL(str(Path(temporary) / name)), maker


def _compile(compiler: list[str], source: Path, target: Path) -> None:
    """Builds into a neighbour of `target` and puts it in place in one step, whoever else builds it."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as folder:
        built = Path(folder) / target.name
        try:
            _output_of([*compiler, *FLAGS, "-fopenmp", "-o", str(built), str(source)])
        except _NoKernelError:  # a compiler without OpenMP: the same code on one thread
            _output_of([*compiler, *FLAGS, "-o", str(built), str(source)])
        content = built.read_bytes()
        with built.open("ab") as file:  # a loader does not look beyond its last section
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        built.replace(target)


def _is_sealed(library: Path) -> bool:
    """Whether a library ends with the sum of its content: loading half of one would kill the process."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return content[-_SEAL_BYTES:] == hashlib.sha256(content[:-_SEAL_BYTES]).digest()


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        complaint = (done.stderr.strip() or "no message").splitlines()[0]
        raise _NoKernelError(f"{command[0]} failed: {complaint}")
    return done.stdout.strip() or command[0]


def _cache_folder() -> Path:
    if chosen := os.environ.get("TIEBREAK_CACHE"):
        return Path(chosen).expanduser()
    general = os.environ.get("XDG_CACHE_HOME")
    return (Path(general) if general else Path.home() / ".cache") / "tiebreak"


def _processor() -> str:
    """What `-march=native` depends on: the processor's features, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model\t", "flags", "Features")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _numbers(
    size: torch.Size, output: Sequence[int], geometry: PoolGeometry, memory_format: torch.memory_format
) -> bytes:
    """The fields of the kernel's `Geometry`, in its order."""
    together = size[1] if memory_format == torch.channels_last else 1
    # A longer step leaves the image as this one does, and the kernel's buffers grow with the steps.
    longest = [size[axis] + 2 * geometry.padding[axis] for axis in (-2, -1)]
    return struct.pack(
        "14q",
        math.prod(size[:-2]) // together,
        together,
        size[-2],
        size[-1],
        output[-2],
        output[-1],
        *geometry.kernel,
        *map(min, geometry.stride, longest),
        *geometry.padding,
        *map(min, geometry.dilation, longest),
    )


def _num_threads(num_pixels: int) -> int:
    return torch.get_num_threads() if num_pixels >= _PARALLEL_FROM else 1
