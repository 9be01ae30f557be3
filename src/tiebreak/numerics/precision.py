"""The arithmetic each `Precision` stands for: a storage dtype and a context to compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tiebreak.design.axes import DesignError, Precision


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of parameters and inputs: that of the format, fp32 for the mixed precisions and tf32."""
    return getattr(torch, precision.storage)


def cast(model: nn.Module, precision: Precision) -> nn.Module:
    """`model` with parameters and floating-point buffers in `dtype_of(precision)`, in place.

    Networks are drawn in fp32 and then cast, so every precision starts from the same point, rounded.
    """
    return model.to(dtype_of(precision))


@contextmanager
def arithmetic(precision: Precision, *, device: torch.device | str = "cpu") -> Iterator[None]:
    """Compute in `precision`: enter it around the forward *and* the backward pass.

    * `fp16_rounded`: contractions and normalisations on fp16 tensors run in fp32 and their results are
      rounded once to fp16. Elementwise operations and sums do that already.
    * `amp16`, `ampbf16`: nothing here; `autocast` goes around the forward pass alone.
    * `tf32`, and every other precision on CUDA: TF32 contractions are switched on, or off, and restored.

    Raises:
        DesignError: tf32 without CUDA.
    """
    kind = torch.device(device).type
    if precision is Precision.TF32 and kind != "cuda":
        raise DesignError(f"precision=tf32 is arithmetic of CUDA devices, got device={kind}. Use fp32.")
    with _tf32(precision is Precision.TF32) if kind == "cuda" else _nothing():
        if precision is Precision.FP16_ROUNDED:
            with RoundedContractions():
                yield
        else:
            yield


@contextmanager
def autocast(precision: Precision, *, device: torch.device | str = "cpu") -> Iterator[None]:
    """torch's autocast for the mixed precisions, nothing for the others.

    Enter it around the forward pass only: the backward pass runs each operation in the dtype that the
    forward pass chose, and autocasting it again would choose anew.
    """
    if precision.is_mixed:
        narrow = torch.float16 if precision is Precision.AMP16 else torch.bfloat16
        with torch.autocast(torch.device(device).type, dtype=narrow):
            yield
    else:
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = (matmul.fp32_precision, conv.fp32_precision)
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32" if enabled else "ieee"
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


_aten = torch.ops.aten
_CONTRACTIONS = {
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.avg_pool2d.default,
    _aten.avg_pool2d_backward.default,
    _aten.native_batch_norm_backward.default,
}
_BATCH_NORMS = {_aten.native_batch_norm.default}
_RUNNING_STATISTICS = (3, 4)  # positions of running_mean and running_var, which the operation updates


class RoundedContractions(TorchDispatchMode):
    """fp16 with one rounding an operation: computed in fp32, result rounded to fp16.

    A tensor core accumulates fp16 products in fp32 and rounds once; CPU kernels for fp16 convolutions
    round more often and are 6 to 9 times slower. Only operations with an fp16 operand are touched. The
    batch statistics that batch norm keeps for its own backward pass stay in fp32: they are inside one
    operation.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Route contractions of fp16 tensors through fp32."""
        kwargs = kwargs or {}
        if func in _BATCH_NORMS and args[0].dtype is torch.float16:
            return self._batch_norm(func, args, kwargs)
        if func not in _CONTRACTIONS or not _any_half(args):
            return func(*args, **kwargs)
        wide = tree_map_only(Tensor, _widen, (args, kwargs))
        return tree_map_only(Tensor, _round, func(*wide[0], **wide[1]))

    @staticmethod
    def _batch_norm(func: Any, args: tuple, kwargs: dict) -> Any:
        wide = [_widen(value) if isinstance(value, Tensor) else value for value in args]
        output, *statistics = func(*wide, **kwargs)
        for position in _RUNNING_STATISTICS:
            if isinstance(args[position], Tensor):
                args[position].copy_(wide[position])
        return _round(output), *statistics


def _any_half(args: tuple) -> bool:
    return any(isinstance(value, Tensor) and value.dtype is torch.float16 for value in args)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.float16 else tensor


def _round(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.dtype is torch.float32 else tensor
