"""Initial weights: each layer draws from a generator of its own.

A layer's generator is seeded by the layer's name and the network's seed and by nothing else. So a layer
that exists with and without batch norm, or with either stem pool, starts from the same bits in both, and
torch's global generators are neither read nor advanced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from tiebreak.design.axes import Arch, Init
from tiebreak.design.cell import Network, stream_seed

Layer = nn.Conv2d | nn.Linear
Rule = Callable[[Layer, torch.Generator], None]
"""How the weight and bias of one layer are drawn."""


def draw_weights(model: nn.Module, *, rule: Rule, seed: int) -> None:
    """Draw every weight and bias of `model` in place and reset its batch norms.

    Args:
        model: of convolutions, linear layers, batch norms and layers without parameters, on the CPU.
        rule: draws one layer.
        seed: 0 or more.
    """
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            rule(module, torch.Generator().manual_seed(stream_seed(f"init/{name}", replicate=seed)))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


def rule_of(network: Network) -> Rule:
    """The rule that `network.init` stands for in `network.arch`."""
    if network.init is Init.KAIMING_UNIFORM:
        return kaiming_uniform
    match network.arch:
        case Arch.RESNET18 | Arch.RESNET34 | Arch.RESNET50:
            return resnet_default
        case Arch.DENSENET121 | Arch.DENSENET121_PUBLISHED:
            return densenet_default
        case _:
            return layer_default


def layer_default(layer: Layer, generator: torch.Generator) -> None:
    """What PyTorch's layers do by themselves: weight and bias uniform within 1 / sqrt(fan in)."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def resnet_default(layer: Layer, generator: torch.Generator) -> None:
    """Convolutions Kaiming normal by fan out, as in torchvision's ResNets; linear layers as by default."""
    layer_default(layer, generator)
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)


def densenet_default(layer: Layer, generator: torch.Generator) -> None:
    """Convolutions Kaiming normal by fan in, linear layers by default with zero bias, as in torchvision."""
    layer_default(layer, generator)
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, generator=generator)
    else:
        nn.init.zeros_(layer.bias)


def kaiming_uniform(layer: Layer, generator: torch.Generator) -> None:
    """Convolutions Kaiming uniform by fan in, linear weights N(0, 0.01**2), biases zero.

    Source:
        He et al., "Delving deep into rectifiers" (2015); the mixture is that of the published volume runs.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
    else:
        nn.init.normal_(layer.weight, std=0.01, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
