"""Whether a certificate fits into memory, asked before it is begun, and how many images at a time do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from tiebreak.design.axes import PoolJacobian, UserError
from tiebreak.exact.certificate import Mode
from tiebreak.exact.fixed_point import MOST_AT_ONCE
from tiebreak.exact.graph import Affine, Conv2d, Graph, Linear, MaxPool2d, ReLU
from tiebreak.exact.heights import heights, num_primes
from tiebreak.exact.rules import TieRule

_NUMBER = 8
_GIB = 2.0**30


class NotEnoughMemoryError(UserError):
    """A certificate that does not fit into memory; the message says what it needs and what there is."""


def images_that_fit(
    graph: Graph,
    cotangent: Tensor,
    *,
    jacobians: Sequence[PoolJacobian | Fraction],
    mode: Mode,
    log2_error: float,
    chunk: int | None = None,
    available: float | None = None,
) -> int:
    """How many images to certify at a time: `chunk`, or what `certify_graph` would choose if that fits.

    Args:
        graph: the network.
        cotangent: of its output.
        jacobians: compared with PyTorch's.
        mode: random or proof.
        log2_error: in random mode.
        chunk: asked for; None leaves it to the memory.
        available: bytes that may be used; None asks the machine.

    Returns:
        1 or more.

    Raises:
        NotEnoughMemoryError: not even one image fits, or not `chunk`: with what is needed and what there is.
    """
    finite = [cotangent, graph.batch, *_weights(graph)]
    if graph.nonfinite is not None or not all(bool(tensor.isfinite().all()) for tensor in finite):
        return chunk or len(graph.batch)  # no verdict, and nothing is computed
    cotangent = cotangent.double()
    rules = [TieRule.of(jacobian) for jacobian in jacobians]
    number = num_primes(graph, heights(graph, cotangent, rules=rules), mode, log2_error)
    available = available_bytes(graph.batch.device) if available is None else available
    fixed, each = needed_bytes(graph, num_primes=number, num_rules=len(rules))
    asked = chunk or 1
    if fixed + asked * each <= available:
        return chunk or min(images_at_a_time(graph, number), math.floor(min(1e9, (available - fixed) / each)))
    fitting = math.floor((available - fixed) / each)
    advice = (
        f"Use --images {max(1, fitting)} to certify fewer images at a time."
        if fitting >= 1
        else "Use a machine with more memory, random mode in place of proof, or fewer rules."
    )
    images = "1 image" if asked == 1 else f"{asked} images"
    raise NotEnoughMemoryError(
        f"a certificate of {images} at a time needs about {(fixed + asked * each) / _GIB:.2g} GiB, and this "
        f"machine has {max(0.0, available) / _GIB:.2g} GiB left. {advice}"
    )


def images_at_a_time(graph: Graph, num_primes: int) -> int:
    """Images whose residues modulo all primes take about as much memory as a backward pass of the batch.

    That holds every activation, and a gradient as large as the network.
    """
    number = len(graph.batch)
    every = sum(math.prod(node.shape[1:]) for node in graph.nodes)
    weights = sum(math.prod(shape) for shape in graph.parameters.values())
    lanes = num_primes * sum(math.prod(graph.nodes[index].shape[1:]) for index in graph.multiplied)
    return max(1, min(number, math.ceil((weights + number * every) / (every + lanes))))


def needed_bytes(graph: Graph, *, num_primes: int, num_rules: int) -> tuple[float, float]:
    """About how much memory a certificate takes beside the graph: once, and for each image at a time.

    Args:
        graph: the network.
        num_primes: moduli.
        num_rules: compared with PyTorch's.
    """
    nodes = graph.nodes
    sizes = [math.prod(node.shape[1:]) for node in nodes]
    weights = [tensor.numel() for tensor in _weights(graph)] or [0]
    # D modulo one prime, and in half the memory modulo every prime before it; of the largest weight what it
    # takes to use it once: residues, sizes, digits and their sums.
    copies = num_rules * (1 + num_primes / 2)
    fixed = _NUMBER * (sum(weights) * copies + max(weights) * 3 + min(max(weights), MOST_AT_ONCE) * 12)
    kept = _NUMBER * num_primes * sum(sizes[index] for index in graph.multiplied)
    decided, columns = 0, 0
    for index, node in enumerate(nodes):
        if isinstance(node.operation, MaxPool2d):
            decided += sizes[index] * (node.operation.geometry.num_entries + 2 * _NUMBER)
            columns = max(columns, 3 * sizes[index] * node.operation.geometry.num_entries)
        elif isinstance(node.operation, ReLU):
            decided += sizes[index]
        elif isinstance(node.operation, Conv2d):
            places = math.prod(node.shape[2:]) * node.operation.weight.value[0].numel()
            columns = max(columns, places * node.operation.groups)
    return float(fixed), float(kept + decided + _NUMBER * (8 * max(sizes) + columns))


def available_bytes(device: torch.device) -> float:
    """Memory that is left on a device; infinity where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    left = math.inf
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        left = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    for folder, limit, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        group = Path("/sys/fs/cgroup") / folder
        with suppress(OSError, ValueError):  # no such file, or "max": no limit
            spent = int((group / used).read_text()) - _reclaimable(group)
            left = min(left, float(int((group / limit).read_text()) - spent))
    return left


def _reclaimable(group: Path) -> int:
    """Bytes of files that the system holds in memory and gives up when asked."""
    lines = (group / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file")), 0)


def _weights(graph: Graph) -> list[Tensor]:
    found = []
    for node in graph.nodes:
        match node.operation:
            case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
                found += [weight.value] if bias is None else [weight.value, bias.value]
            case Affine(scale=scale, shift=shift, mean=mean):
                found += [scale, shift, mean]
    return found
