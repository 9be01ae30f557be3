"""Random bits with an address: a stream is a function of its name and of whole numbers, and of nothing else.

The bits come from Philox, a counter-based generator whose raw output NumPy fixes across versions and
machines. Its 128-bit key is the head of SHA-256 over the address, written out. `torch.Generator` is not used:
on the CPU it keeps 32 of a seed's 64 bits, so seeds that differ by 2**32 are one stream, and its functions
may change between versions. A stream has no state to save: to resume at batch b is to name b.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Int64
from numpy.random import Philox
from numpy.typing import NDArray
from torch import Tensor


def stream(name: str, *, seed: int, epoch: int = 0, batch: int = 0) -> Philox:
    """The random bits at an address.

    Args:
        name: what they are for, such as `order`, `crop`, `dither`.
        seed: of the replicate.
        epoch: number of the epoch.
        batch: number of the batch in the epoch.

    Returns:
        A bit generator keyed by the first 16 bytes of SHA-256 of `tiebreak:<name>:<seed>:<epoch>:<batch>`.

    Example:
        >>> stream("order", seed=0).random_raw() == stream("order", seed=0).random_raw()
        True
    """
    digest = hashlib.sha256(f"tiebreak:{name}:{seed}:{epoch}:{batch}".encode()).digest()
    return Philox(key=int.from_bytes(digest[:16], "big"))


def permutation(bits: Philox, *, num: int) -> Int64[Tensor, " n"]:
    """The numbers below `num`, in the order of as many 64-bit draws."""
    return torch.from_numpy(np.argsort(bits.random_raw(num), kind="stable"))


def whole_numbers(bits: Philox, *, num: int, below: int) -> Int64[Tensor, " n"]:
    """`num` draws from 0 to `below` - 1; uneven by less than `below` * 2**-64."""
    return torch.from_numpy((bits.random_raw(num) % np.uint64(below)).astype(np.int64))


def uniforms(bits: Philox, *, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws from [0, 1) on the grid of 2**-53."""
    raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(11)
    return (raw.astype(np.float64) * 2.0**-53).reshape(shape)


def normals(bits: Philox, *, shape: tuple[int, ...]) -> Tensor:
    """Draws from N(0, 1) in fp32, on the CPU."""
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))
