"""DenseNet121, with batch norm as it was designed and as it was published. Named as in torchvision."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiebreak.models.parts import Parts, require_side

_LAYERS = (6, 12, 24, 16)
_GROWTH = 32
_BOTTLENECK = 4 * _GROWTH
_STEM = 64


class DenseLayer(nn.Module):
    """Normalise, ReLU, 1x1 convolution to 128 channels; normalise, ReLU, 3x3 convolution to 32.

    Args:
        inputs: channels that come in.
        parts: ReLU and normalisation.
    """

    def __init__(self, *, inputs: int, parts: Parts) -> None:
        super().__init__()
        self.norm1 = parts.norm2d(inputs)
        self.relu1 = parts.relu()
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK, 1, bias=False)
        self.norm2 = parts.norm2d(_BOTTLENECK)
        self.relu2 = parts.relu()
        self.conv2 = nn.Conv2d(_BOTTLENECK, _GROWTH, 3, padding=1, bias=False)

    def forward(self, earlier: list[Float[Tensor, "N _ H W"]]) -> Float[Tensor, "N 32 H W"]:
        """The channels that this layer adds to those of all layers before it."""
        x = self.conv1(self.relu1(self.norm1(torch.cat(earlier, dim=1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.Module):
    """Layers that each see the channels of all layers before them.

    Args:
        num_layers: how many.
        inputs: channels that come in.
        parts: ReLU and normalisation.
    """

    def __init__(self, *, num_layers: int, inputs: int, parts: Parts) -> None:
        super().__init__()
        for index in range(num_layers):
            self.add_module(
                f"denselayer{index + 1}", DenseLayer(inputs=inputs + index * _GROWTH, parts=parts)
            )

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """The input's channels followed by those that the layers add."""
        # A list, not one growing tensor: the order in which a backward pass adds up gradients is then
        # that of the published and of torchvision's network, to the last bit.
        channels = [x]
        for layer in self.children():
            channels.append(layer(channels))
        return torch.cat(channels, dim=1)


class DenseNet121(nn.Module):
    """DenseNet121: a 7x7 stem with stride 2, one max pool, four dense blocks with average pools between.

    No convolution has a bias. Without batch norm there are 6,880,458 parameters for 10 classes, with it
    6,964,106 (for 1,000 classes torchvision's 7,978,856, parameter by parameter with the 3x3 stem pool).
    The published network normalises behind the stem and before the classifier only, 2 layers of 121:
    6,882,634 parameters.

    Args:
        published: whether batch norm, where it is on, is left out of the dense blocks and transitions.
        num_classes: of the output.
        in_channels: of the images.
        parts: stem pool, ReLU and normalisation.

    Source:
        Huang et al., "Densely connected convolutional networks" (2017); the published variant is that of the
        study by Boustany (2024).
    """

    def __init__(self, *, published: bool, num_classes: int, in_channels: int, parts: Parts) -> None:
        super().__init__()
        inner = replace(parts, batch_norm=parts.batch_norm and not published)
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, _STEM, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", parts.norm2d(_STEM))
        self.features.add_module("relu0", parts.relu())
        self.features.add_module("pool0", parts.stem())
        channels = _STEM
        for index, num_layers in enumerate(_LAYERS, start=1):
            block = DenseBlock(num_layers=num_layers, inputs=channels, parts=inner)
            self.features.add_module(f"denseblock{index}", block)
            channels += num_layers * _GROWTH
            if index < len(_LAYERS):
                self.features.add_module(f"transition{index}", _transition(channels, parts=inner))
                channels //= 2
        self.features.add_module("norm5", parts.norm2d(channels))
        self.relu = parts.relu()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Logits of a batch.

        Raises:
            DesignError: images smaller than 32x32.
        """
        require_side(images, least=32, name="densenet121")
        return self.classifier(self.avgpool(self.relu(self.features(images))).flatten(1))


def _transition(channels: int, *, parts: Parts) -> nn.Sequential:
    """Half the channels, half the height and width."""
    transition = nn.Sequential()
    transition.add_module("norm", parts.norm2d(channels))
    transition.add_module("relu", parts.relu())
    transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
    transition.add_module("pool", nn.AvgPool2d(2))
    return transition
