"""What the user gives: a network, a batch, a loss; from Python or by name. A mistake is one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from tiebreak.design.axes import UserError
from tiebreak.models.factory import load_object, load_tensors
from tiebreak.report.wording import listed

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network is audited on.

    Attributes:
        images: (N, ...) floating point, finite.
        labels: (N, ...) what the loss takes as its second argument; None where it takes the output alone.
    """

    images: Tensor
    labels: Tensor | None


Loss = Callable[..., Tensor]
"""From the output and the labels, or from the output alone, to a scalar."""


def load_loss(name: str) -> Loss:
    """The loss at that name.

    Args:
        name: `package.module:function`.

    Raises:
        UserError: no such name, or nothing that can be called.
    """
    found = load_object(name, what="a loss")
    if not callable(found):
        raise UserError(f"the loss {name} must be callable, got {type(found).__name__}.")
    return cast(Loss, found)


def read_batch(path: Path) -> Batch:
    """The batch in a safetensors file with `images` (or `x`) and, where there are any, `labels` (or `y`).

    Raises:
        UserError: no such file, another format, or no such tensor.
    """
    tensors = load_tensors(path)
    try:
        return batch_of(tensors)
    except UserError as error:
        held = f", got {listed(sorted(tensors)) or 'nothing'}" if not set(_IMAGES) & set(tensors) else ""
        raise UserError(f"{path}: {str(error).removesuffix('.')}{held}.") from None


def read_classes(path: Path) -> tuple[Tensor, Tensor]:
    """Images and one class an image, from a file as `read_batch` takes it.

    Returns:
        Images (N, ...), floating point, in the format in which they stand in the file; labels (N,), int64.

    Raises:
        UserError: as `read_batch`, or labels that are missing or no whole numbers.
    """
    batch = read_batch(path)
    labels = batch.labels
    if labels is None or labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        got = "none" if labels is None else f"{tuple(labels.shape)} of {labels.dtype}"
        raise UserError(
            f"{path} must hold labels (or y), whole numbers of the shape ({len(batch.images)},), got {got}."
        )
    return batch.images, labels.long()


def batch_of(given: Any) -> Batch:
    """A checked batch from what a caller of `audit` gives.

    Args:
        given: images and labels as a pair, as a mapping, or images alone.

    Raises:
        UserError: no images, or images or labels that cannot be.
    """
    if isinstance(given, Batch):
        return batch_of((given.images, given.labels))
    if isinstance(given, Mapping):
        found = [[given[name] for name in names if name in given] for names in (_IMAGES, _LABELS)]
        if len(found[0]) != 1 or len(found[1]) > 1:
            raise UserError("a batch holds one tensor `images` (or `x`), and at most one `labels` (or `y`).")
        images, labels = found[0][0], next(iter(found[1]), None)
    elif isinstance(given, tuple | list) and len(given) == 2:
        images, labels = given
    else:
        images, labels = given, None
    if not isinstance(images, Tensor):
        raise UserError(
            "a batch is a pair (images, labels), a mapping of these, or images alone, got "
            f"{type(given).__name__}."
        )
    if images.dim() < 2 or 0 in images.shape:
        raise UserError(
            f"images must have the shape (N, ...) with a number in it, got {tuple(images.shape)}."
        )
    if not images.is_floating_point():
        raise UserError(
            f"images must be floating point, as the network takes them, got {images.dtype}. Convert and "
            "normalise them as in training."
        )
    _require_dense("images", images)
    _require_finite("images", images)
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.dim() == 0 or len(labels) != len(images):
            got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise UserError(f"labels must be a tensor of {len(images)}, one an image, got {got}.")
        _require_dense("labels", labels)
        if labels.is_floating_point():
            _require_finite("labels", labels)
    return Batch(images, labels)


def _require_dense(name: str, tensor: Tensor) -> None:
    if tensor.is_meta or tensor.layout != torch.strided:
        got = "one on the meta device" if tensor.is_meta else f"layout {tensor.layout}"
        raise UserError(
            f"{name} must be a dense tensor that holds numbers, got {got}. Convert it, for example with "
            ".to_dense()."
        )


def _require_finite(name: str, tensor: Tensor) -> None:
    number = int((~tensor.double().isfinite()).sum())  # eight-bit formats have no isfinite of their own
    if number:
        raise UserError(
            f"{name} must be finite, got {number} infinities or NaNs among {tensor.numel()} numbers."
        )


def require_sound(model: Any) -> nn.Module:
    """`model`, if it is a network whose parameters are numbers and of which one asks for a derivative.

    Raises:
        UserError: anything else.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"audit takes a torch.nn.Module, got {type(model).__name__}.")
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if is_lazy(tensor):
                raise UserError(f"the {kind} {name} has no shape yet. Run the network on a batch once.")
            if tensor.is_meta:
                raise UserError(f"the {kind} {name} has no numbers: it is on the meta device.")
            if tensor.is_floating_point() and not bool(tensor.detach().double().isfinite().all()):
                raise UserError(
                    f"the {kind} {name} holds an infinity or a NaN. Audit a network whose numbers are finite."
                )
    if not any(tensor.requires_grad for tensor in model.parameters()):
        raise UserError(
            "no parameter of the network asks for a derivative (requires_grad), so there is no gradient."
        )
    return model


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in the format of the output.

    Args:
        output: (N, classes).
        labels: (N,) whole numbers, or (N, classes) shares.

    Raises:
        UserError: labels that name no class of the output.
    """
    if labels.is_floating_point() or output.dim() < 2:
        return functional.cross_entropy(output, labels.to(output.dtype))
    classes = output.shape[1]
    wrong = labels[((labels < 0) & (labels != -100)) | (labels >= classes)]
    if wrong.numel():
        raise UserError(
            f"labels must lie in [0, {classes}), the classes of the network's output, got {int(wrong[0])}."
        )
    return functional.cross_entropy(output, labels.long())


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, without a full stop."""
    said = str(error).strip()
    return said.splitlines()[0].rstrip(". ") if said else "no message"
