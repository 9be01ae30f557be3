"""The arithmetic each `Precision` stands for: a storage dtype and a context to compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tiebreak.design.axes import DesignError, Precision


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of parameters and inputs: that of the format, fp32 for the mixed precisions and tf32."""
    return getattr(torch, precision.storage)


def cast(model: nn.Module, precision: Precision) -> nn.Module:
    """`model` with parameters and floating-point buffers in `dtype_of(precision)`, in place.

    Networks are drawn in fp32 and then cast, so every precision starts from the same point, rounded. In e4m3
    and e5m2 the parameters are numbers of the format; buffers, such as the mean that batch norm keeps, are
    no input of the arithmetic and stay as they are.
    """
    model = model.to(dtype_of(precision))
    if precision.is_eight_bit:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(as_fed(parameter, precision))
    return model


def as_fed(values: Tensor, precision: Precision) -> Tensor:
    """`values` in `dtype_of(precision)`, in e4m3 and e5m2 rounded to numbers of the format.

    Eight bits: to the nearest, ties to even, and beyond the largest number (448 in e4m3, 57344 in e5m2) to
    it, infinities too. NaN stays NaN. The result is fp32 and holds each number exactly.

    Args:
        values: any shape; fp32, or a narrower format (fp64 would be rounded to fp32 first).
        precision: the format.

    Source:
        Micikevicius et al., FP8 formats for deep learning, 2022, for the formats and saturation.

    Example:
        >>> as_fed(torch.tensor([1.0625, 1.1875, 1000.0]), Precision.E4M3).tolist()
        [1.0, 1.25, 448.0]
    """
    values = values.to(dtype_of(precision))
    if not precision.is_eight_bit:
        return values
    narrow = _EIGHT_BIT[precision]
    largest = torch.finfo(narrow).max
    return values.clamp(-largest, largest).to(narrow).to(values.dtype)  # unclamped, the cast overflows


_EIGHT_BIT = {Precision.E4M3: torch.float8_e4m3fn, Precision.E5M2: torch.float8_e5m2}


@contextmanager
def arithmetic(precision: Precision, *, device: torch.device | str = "cpu") -> Iterator[None]:
    """Compute in `precision`: enter it around the forward *and* the backward pass.

    * `fp16_rounded`: contractions, normalisations and the cross-entropy of fp16 tensors run in fp32 and
      their results are rounded once to fp16. The other operations of the networks do that already. An
      optimizer's step is torch's own: on the CPU it rounds a scalar factor, such as the rate, to fp16.
    * `amp16`, `ampbf16`: nothing here; `autocast` goes around the forward pass alone.
    * `e4m3`, `e5m2`: nothing here; what is computed on has been rounded by `cast` and `as_fed`.
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
    cudnn: Any = torch.backends.cudnn  # a module with properties: no stub knows `conv`
    matmul, conv = torch.backends.cuda.matmul, cudnn.conv
    before = (matmul.fp32_precision, conv.fp32_precision)
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32" if enabled else "ieee"
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


_aten = torch.ops.aten
_WIDENED: dict[Any, tuple[int, ...]] = {  # and which of the results belong to the operation: kept in fp32
    _aten.convolution.default: (),
    _aten.convolution_backward.default: (),
    _aten.mm.default: (),
    _aten.addmm.default: (),
    _aten.bmm.default: (),
    _aten.avg_pool2d.default: (),
    _aten.avg_pool2d_backward.default: (),
    _aten.native_batch_norm.default: (1, 2),  # mean and inverse deviation of the batch
    _aten.native_batch_norm_backward.default: (),
    _aten._log_softmax.default: (),
    _aten._log_softmax_backward_data.default: (),
    _aten.nll_loss_forward.default: (1,),  # the sum of the weights
    _aten.nll_loss_backward.default: (),
}
_UPDATED = {
    _aten.native_batch_norm.default: (3, 4)
}  # arguments that change in place: running mean and variance


class RoundedContractions(TorchDispatchMode):
    """fp16 with one rounding an operation: computed in fp32, result rounded to fp16.

    A tensor core accumulates fp16 products in fp32 and rounds once; CPU kernels for fp16 convolutions
    round more often and are 6 to 9 times slower, and those of the cross-entropy round more often. Only
    operations with an fp16 operand are touched. What an operation keeps for its own backward pass, such as
    the batch statistics of batch norm, stays in fp32.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Route contractions, normalisations and losses of fp16 tensors through fp32."""
        kwargs = kwargs or {}
        if func not in _WIDENED or not _any_half(args):
            return func(*args, **kwargs)
        wide = [_widen(value) for value in args]
        results = func(*wide, **{key: _widen(value) for key, value in kwargs.items()})
        for position in _UPDATED.get(func, ()):
            if isinstance(args[position], Tensor):
                args[position].copy_(wide[position])
        if isinstance(results, Tensor):
            return _round(results)
        kept = _WIDENED[func]
        return tuple(value if index in kept else _round(value) for index, value in enumerate(results))


def _any_half(args: tuple) -> bool:
    return any(isinstance(value, Tensor) and value.dtype is torch.float16 for value in args)


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float16:
        return value.float()
    return torch.float32 if value is torch.float16 else value


def _round(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype is torch.float32 else value
