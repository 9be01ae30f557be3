"""Where a number comes from: code, versions, machine, times. Nothing names a person, a host or a path."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict


class Provenance(TypedDict, total=False):
    """What a record says about its origin; plain JSON values.

    `commit` and `dirty` (whether the package's own files differ from the commit) are None where the package
    is not run from a checkout; `source` is a digest of the package's files as they are. `device` is the
    kind, `device_name` the model: of the GPU, or of the CPU. Times are UTC, ISO 8601, to the second.
    """

    commit: str | None
    dirty: bool | None
    source: str
    versions: dict[str, str]
    platform: str
    cpu: str
    device: str
    device_name: str
    num_threads: int
    deterministic: bool
    kernel: str
    started: str
    ended: str


_CODE = (".py", ".cpp")

SETTLED = ("source", "versions", "cpu", "device", "device_name", "kernel")
"""The fields in which two attempts must agree for one to go on with the other's checkpoint."""


@dataclass(frozen=True)
class Origin:
    """The code and the machine of this process, each looked up once and then remembered.

    Args:
        package: folder of the package whose commit is asked for.
    """

    package: Path = Path(__file__).resolve().parents[1]

    @cached_property
    def checkout(self) -> tuple[str | None, bool | None]:
        """Commit, and whether the package's files differ from it; (None, None) if it is not in a checkout."""
        if self._git("ls-files", "--error-unmatch", "__init__.py") is None:
            return None, None  # installed, perhaps into a folder that belongs to another project's checkout
        commit = self._git("rev-parse", "HEAD")
        changes = self._git("status", "--porcelain", "--", ".")
        return commit, None if changes is None else bool(changes)

    @cached_property
    def source(self) -> str:
        """First 12 hexadecimal digits of SHA-256 over the package's code: two edits of one commit differ."""
        digest = hashlib.sha256()
        for path in sorted(self.package.rglob("*")):
            if path.suffix in _CODE:
                digest.update(f"{path.relative_to(self.package).as_posix()}\0".encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    @cached_property
    def cpu(self) -> str:
        """Model name of the processor."""
        return cpu_model()

    def _git(self, *arguments: str) -> str | None:
        # A hook's GIT_DIR would point git elsewhere; a lock of ours would disturb a git of the user's.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment["GIT_OPTIONAL_LOCKS"] = "0"
        try:
            answer = subprocess.run(
                ["git", "-C", str(self.package), *arguments],
                capture_output=True,
                text=True,
                env=environment,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()


def collect(
    device: str,
    *,
    origin: Origin | None = None,
    num_threads: int | None = None,
    deterministic: bool | None = None,
    kernel: str = "",
) -> Provenance:
    """The provenance of a measurement that this process makes.

    torch is asked where it is loaded, and never loaded for this.

    Args:
        device: kind of device: `cpu` or `cuda`.
        origin: the process's origin, kept between calls to look things up once.
        num_threads: threads of a CPU operation; torch's setting if left out.
        deterministic: whether deterministic algorithms are asked for; torch's setting if left out.
        kernel: a word on the compiled kernel: whether it was there and, if not, why.

    Returns:
        Every field but the times.

    Example:
        >>> collect("cpu", num_threads=1, deterministic=True)["device"]
        'cpu'
    """
    origin = origin or Origin()
    commit, dirty = origin.checkout
    torch: Any = sys.modules.get("torch")
    found: Provenance = {
        "commit": commit,
        "dirty": dirty,
        "source": origin.source,
        "versions": _versions(),
        "platform": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "cpu": origin.cpu,
        "device": device,
        "device_name": _gpu(torch) if device == "cuda" else origin.cpu,
        "kernel": kernel,
    }
    if num_threads is None and torch:
        num_threads = torch.get_num_threads()
    if num_threads is not None:
        found["num_threads"] = num_threads
    if deterministic is None and torch:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if deterministic is not None:
        found["deterministic"] = deterministic
    return found


def utc_now() -> str:
    """This moment in UTC, to the second: `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_model() -> str:
    """Model name of the processor, or the architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu(torch: Any) -> str:
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "unknown"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("tiebreak", "torch", "numpy"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
