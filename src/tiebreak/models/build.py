"""From a `Network` to the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tiebreak.design.axes import NATIVE, Arch, DesignError, PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models.densenet import DenseNet121
from tiebreak.models.initial import draw_weights, rule_of
from tiebreak.models.lenet import LeNet5
from tiebreak.models.parts import Parts
from tiebreak.models.resnet import ResNet
from tiebreak.models.vgg import VGG
from tiebreak.numerics.pooling import JacobianSwitch


def build(
    network: Network,
    *,
    num_classes: int,
    in_channels: int = 3,
    jacobian: PoolJacobian | JacobianSwitch = NATIVE,
    relu: Callable[[], nn.Module] = nn.ReLU,
    seed: int,
) -> nn.Module:
    """A network with its initial weights, fp32, contiguous, on the CPU, in training mode.

    The weights are a function of architecture, init and seed. Batch norm, stem pool, Jacobian, ReLU,
    torch's global generators and default dtype do not move a bit of them; a layer that two variants share
    has the same name and the same values in both. Nothing is drawn twice; under `torch.device("meta")` the
    layers stay there, without values.

    Args:
        network: architecture, batch norm, stem pool and init.
        num_classes: of the output, 1 or more.
        in_channels: of the images, 1 or more.
        jacobian: of every max pool; a switch is shared by all of them.
        relu: makes one ReLU, such as `nn.ReLU`; a module without parameters and buffers.
        seed: of the weights, 0 or more; 0 is a seed like any other.

    Raises:
        DesignError: a number outside these.

    Example:
        >>> model = build(Network(arch="lenet5"), num_classes=10, in_channels=1, seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        44426
    """
    for key, value, least in (
        ("num_classes", num_classes, 1),
        ("in_channels", in_channels, 1),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DesignError(f"{key} of a network must be a whole number, {least} or more, got {value!r}.")
    parts = Parts(jacobian=jacobian, relu=relu, batch_norm=network.batch_norm, stem_pool=network.stem_pool)
    described_only = torch.get_default_device().type == "meta"
    with torch.device("meta" if described_only else "cpu"), _Undrawn():
        model = _describe(network.arch, num_classes=num_classes, in_channels=in_channels, parts=parts).float()
    if not described_only:
        draw_weights(model, rule=rule_of(network), seed=seed)
    return model


class _Undrawn(TorchFunctionMode):
    """Leaves out what `torch.nn.init` would draw: memory is allotted, no generator is read or advanced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _describe(arch: Arch, *, num_classes: int, in_channels: int, parts: Parts) -> nn.Module:
    """The layers of `arch` with whatever values they come with."""
    match arch:
        case Arch.LENET5:
            return LeNet5(num_classes=num_classes, in_channels=in_channels, parts=parts)
        case Arch.VGG11 | Arch.VGG13 | Arch.VGG16 | Arch.VGG19:
            return VGG(arch=arch, num_classes=num_classes, in_channels=in_channels, parts=parts)
        case Arch.RESNET18 | Arch.RESNET34 | Arch.RESNET50:
            return ResNet(arch=arch, num_classes=num_classes, in_channels=in_channels, parts=parts)
        case Arch.DENSENET121 | Arch.DENSENET121_PUBLISHED:
            published = arch is Arch.DENSENET121_PUBLISHED
            return DenseNet121(
                published=published, num_classes=num_classes, in_channels=in_channels, parts=parts
            )
