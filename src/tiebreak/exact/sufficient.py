"""Conditions under which AD's gradient is the derivative, or a limit of derivatives, over the reals.

AD gives the derivative where no ReLU has an argument of exactly 0 and each window of a max pool whose maximum
is attained several times is *trivial*: its maximal entries are one function of the parameters (their patches
are equal, whatever the weights are), or all of them are 0 because the ReLUs before them are off, and stay 0
nearby. Then the network is, near the point, one smooth function, and AD differentiates it.

Where ReLUs have an argument of 0 and the windows are trivial all the same, the network is, near the point,
one without a max pool. If each such ReLU's layer adds a bias of its own to every channel, AD's gradient is a
limit of derivatives: with 0 at all kinks every ReLU is taken on the same side.

Both are sufficient and not necessary. A statement is wrong only if two different patches were taken for
equal, which has the probability `Sufficient.log2_error`; whatever else is not certain counts against it.

Source:
    The first condition is that of docs/theory.md, T9, for entries that are identical or off. The second is
    the theorem on shared biases of S. Park, S. Chun and W. Lee, "What does automatic differentiation compute
    for neural networks?", ICLR 2024, for networks without a max pool that acts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tiebreak.exact import primes as prime_numbers
from tiebreak.exact.certify import nonfinite_place, require_pixels
from tiebreak.exact.classes import Classes, log2_collision, num_hashes, of_several_classes
from tiebreak.exact.contraction import require_exact
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Decision, Evaluation, Windows, patches
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.graph import (
    Affine,
    BatchNorm2d,
    Conv2d,
    Graph,
    Linear,
    NotCertifiableError,
)
from tiebreak.exact.memory import images_at_a_time
from tiebreak.exact.residues import Residues
from tiebreak.exact.run import Progress, silent

_NUM_RESIDUES = 3  # a wrong equality counts against the certificate, so a few primes do
LOG2_ERROR = -40.0


@dataclass(frozen=True, kw_only=True)
class Sufficient:
    """What is certain of AD's gradient at a point, image by image.

    Attributes:
        images: of the batch.
        derivative: images at which AD gives the derivative.
        limit: further images, at which it gives a limit of derivatives.
        neurons: ReLUs of all images.
        touched: those whose argument is exactly 0.
        windows: of all max pools and images.
        tied: those whose maximum is attained several times.
        equal: tied windows whose maximal entries are of equal patches.
        dead: other tied windows whose maximal entries are ReLUs that are off.
        log2_error: bound of log2 of the probability that a statement is wrong; -inf if none rests on chance.
    """

    images: int
    derivative: int
    limit: int
    neurons: int
    touched: int
    windows: int
    tied: int
    equal: int
    dead: int
    log2_error: float


def sufficient(
    graph: Graph,
    *,
    log2_error: float = LOG2_ERROR,
    seed: int,
    chunk: int | None = None,
    progress: Progress = silent,
) -> Sufficient:
    """Look for the conditions at each image of a batch.

    Args:
        graph: the network at its point, from `record`.
        log2_error: bound of log2 of the probability of a wrong statement; below 0.
        seed: of primes and hashes.
        chunk: images at a time; None chooses by memory.
        progress: told what comes next.

    Raises:
        NotCertifiableError: an infinity or NaN, batch norm in training mode, or a max pool behind an
            operation through which patches cannot be followed.

    Example:
        >>> from torch import nn
        >>> from tiebreak.exact.record import record
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Flatten())
        >>> sufficient(record(model, torch.ones(1, 1, 2, 2))[0], seed=0).equal
        1
    """
    if (place := nonfinite_place(graph, torch.zeros(0))) is not None:
        raise NotCertifiableError(f"not certifiable, because there is an infinity or a NaN at {place}.")
    for node in graph.nodes:
        if isinstance(node.operation, BatchNorm2d):
            raise NotCertifiableError(
                f"not certifiable, because batch norm at {node.where} is in training mode, where images act "
                "on each other. Put the network into evaluation mode."
            )
    require_pixels(graph)
    require_exact(graph.batch.device)
    hashes = prime_numbers.draw_primes(num_hashes(graph, log2_error=log2_error), seed=seed)
    fields = [Residues(prime) for prime in prime_numbers.draw_primes(_NUM_RESIDUES, seed=seed)]
    images = chunk or images_at_a_time(graph, len(fields) + len(hashes))
    wide = cache(FixedPoint)
    with torch.no_grad(), torch.autocast(graph.batch.device.type, enabled=False):
        found = []
        for start in range(0, len(graph.batch), images):
            batch = graph.batch[start : start + images]
            progress(f"images {start + 1} to {start + len(batch)} of {len(graph.batch)}")
            walk = Walk(graph, batch, fields=fields, wide=wide)
            walk.run()
            found.append(_part(graph, batch, walk, hashes=hashes, seed=seed))
    return _together(found, log2_collision(graph, num_primes=len(hashes)))


def _part(graph: Graph, batch: Tensor, walk: Walk, *, hashes: Iterable[int], seed: int) -> Sufficient:
    keep = frozenset(graph.nodes[index].inputs[0] for index in graph.pools)
    lanes = [Evaluation(Classes(prime, seed), graph, batch, keep=keep) for prime in hashes]
    none: dict[int, Decision] = {}
    is_open = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    windows = tied = equal = dead = 0
    for index in graph.pools:
        node, decision = graph.nodes[index], walk.decisions[index]
        assert isinstance(decision, Windows)
        source = node.inputs[0]
        is_tied = decision.number > 1
        is_dead = walk.dead_zeros(index) & is_tied
        touched = walk.zeros.get(source)
        if touched is not None:
            is_dead &= ~(patches(touched, node, fill=0) & decision.tied).any(0)
        elif any(bool(zeros.any()) for zeros in walk.zeros.values()):
            is_dead &= False  # a ReLU further up is neither on nor off, and it is not followed down to here
        differs = (
            of_several_classes([lane.advance(source, none) for lane in lanes], node, decision.tied)
            if bool((is_tied & ~is_dead).any())
            else torch.zeros_like(is_tied)
        )
        is_equal = is_tied & ~is_dead & ~differs
        is_open |= (is_tied & ~is_dead & ~is_equal).flatten(1).any(1)
        windows += is_tied.numel()
        tied, dead, equal = tied + int(is_tied.sum()), dead + int(is_dead.sum()), equal + int(is_equal.sum())
    is_touched = torch.zeros_like(is_open)
    for zeros in walk.zeros.values():
        is_touched |= zeros.flatten(1).any(1)
    limit = ~is_open & is_touched if _have_biases(graph, walk.zeros) else torch.zeros_like(is_open)
    return Sufficient(
        images=len(batch),
        derivative=int((~is_open & ~is_touched).sum()),
        limit=int(limit.sum()),
        neurons=sum(zeros.numel() for zeros in walk.zeros.values()),
        touched=sum(int(zeros.sum()) for zeros in walk.zeros.values()),
        windows=windows,
        tied=tied,
        equal=equal,
        dead=dead,
        log2_error=-math.inf,
    )


def _have_biases(graph: Graph, touched: dict[int, Tensor]) -> bool:
    """Whether the layer before every touched ReLU adds a parameter of its own to each channel."""
    for index, zeros in touched.items():
        if not bool(zeros.any()):
            continue
        operation = graph.nodes[graph.nodes[index].inputs[0]].operation
        match operation:
            case Conv2d() | Linear():
                if operation.bias is None or operation.bias.name is None:
                    return False
            case Affine():
                if operation.bias is None:
                    return False
            case _:
                return False
    return True


def _together(parts: list[Sufficient], log2_error: float) -> Sufficient:
    counts = {
        name: sum(getattr(part, name) for part in parts)
        for name in (
            "images", "derivative", "limit", "neurons", "touched", "windows", "tied", "equal", "dead",
        )
    }  # fmt: skip
    return Sufficient(**counts, log2_error=log2_error if counts["equal"] else -math.inf)
