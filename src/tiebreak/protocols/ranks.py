"""Several processes that train one network: what they share and how their sums are taken.

Every rank holds the whole network and a part of each batch. After the backward pass gradients are added over
the ranks, so all take the same step. The sums are taken here and not by `DistributedDataParallel`, for three
reasons: it regroups gradients after its first step, and with the group the order of a sum's terms, so a
resumed run would not have the bits of one that was never stopped; it divides by the number of ranks, which
is wrong where their shares differ; and it adds fp16 gradients in fp16. Here pieces are fixed, each rank's
loss is weighted with its share of the batch, and sums are taken in fp32 or wider and rounded once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tiebreak.design.axes import UserError
from tiebreak.records.session import RankLost

_PIECE = 2**23
"""Numbers added over the ranks at once, at least one tensor: 32 MiB in fp32."""

_PLACE = re.compile(r"^\[[^\]]*:\d+\] ")


class RanksDifferError(UserError):
    """Ranks that should hold the same numbers do not; going on would train another network on each."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one network; alone, everything below is trivial.

    A method that is called on one rank is called on all, in the same order. Each raises `RankLost` when
    another rank is gone or silent.

    Args:
        rank: number of this process, from 0.
        size: how many processes there are.
        local: number of this process on its machine; picks the CUDA device.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def totals(self, values: Sequence[float]) -> list[float]:
        """The sums of a few numbers over the ranks, in fp64; the same bits on every rank."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with _answered():
            dist.all_reduce(numbers)
        return numbers.tolist()

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return self.totals([float(flag)])[0] > 0

    def add(self, tensors: Iterable[Tensor], *, weight: float = 1.0) -> None:
        """Replace each tensor by the sum over the ranks of `weight` times theirs.

        Summed in fp32 (fp64 in fp64) and rounded once to the tensor's dtype.

        Args:
            tensors: the same shapes and dtypes on every rank, changed in place.
            weight: of this rank's numbers.
        """
        if self.size == 1:
            return
        for piece in _pieces(tensors):
            wide = torch.promote_types(piece[0].dtype, torch.float32)
            flat = torch.cat([tensor.detach().reshape(-1).to(wide) for tensor in piece])
            if weight != 1.0:
                flat *= weight
            with _answered():
                dist.all_reduce(flat)
            sizes = [tensor.numel() for tensor in piece]
            with torch.no_grad():
                for tensor, total in zip(piece, flat.split(sizes), strict=True):
                    tensor.copy_(total.view(tensor.shape))

    def send(self, content: bytes) -> bytes:
        """What rank 0 gives, on every rank; what others give is not looked at."""
        if self.size == 1:
            return content
        size = int(self.totals([len(content) if self.rank == 0 else 0])[0])
        if not size:
            return b""
        if self.rank == 0:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        else:
            buffer = torch.empty(size, dtype=torch.uint8)
        with _answered():
            dist.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()

    def require_same(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """Compare a hash of every tensor's bytes over the ranks.

        Raises:
            RanksDifferError: a rank's differ from those of rank 0.
        """
        if self.size == 1:
            return
        digests = torch.zeros(self.size, 32, dtype=torch.uint8)
        digests[self.rank] = torch.frombuffer(bytearray(digest(tensors)), dtype=torch.uint8)
        with _answered():
            dist.all_reduce(digests)  # all others are zero, so nothing carries over
        found = [bytes(row.tolist()) for row in digests]
        for rank, other in enumerate(found):
            if other != found[0]:
                raise RanksDifferError(
                    f"rank {rank} has other weights than rank 0 {when} (SHA-256 {other.hex()[:12]} and "
                    f"{found[0].hex()[:12]}). All ranks need the same versions of torch and tiebreak and the "
                    "same kind of device."
                )


ALONE = Ranks()


def digest(tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names: 32 bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.digest()


def _pieces(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one dtype with about `_PIECE` numbers: a function of the shapes only."""
    piece: list[Tensor] = []
    for tensor in tensors:
        full = sum(item.numel() for item in piece) + tensor.numel() > _PIECE
        if piece and (full or tensor.dtype is not piece[0].dtype):
            yield piece
            piece = []
        piece.append(tensor)
    if piece:
        yield piece


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises for a closed connection and for a timeout
        raise RankLost(f"another rank does not answer: {in_short(error)}") from error


def in_short(error: RuntimeError) -> str:
    """The first sentence of what torch says, without the place in its source.

    Example:
        >>> in_short(RuntimeError("[/build/pair.cc:545] Connection reset by peer. Check the logs."))
        'Connection reset by peer'
    """
    words = " ".join(str(error).split())
    return _PLACE.sub("", words).partition(". ")[0]
