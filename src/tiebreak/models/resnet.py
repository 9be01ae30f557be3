"""Residual networks with one max pool, behind the stem. Parameters are named as in torchvision."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from tiebreak.design.axes import Arch
from tiebreak.models.parts import Parts


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the ReLU follows the sum.

    Args:
        inputs: channels that come in.
        width: channels of the convolutions, and of the output.
        stride: of the first convolution.
        parts: ReLU and normalisation.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, *, inputs: int, width: int, stride: int, parts: Parts) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = parts.norm2d(width)
        self.relu = parts.relu()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = parts.norm2d(width)
        self.downsample = _shortcut(inputs, width, stride=stride, parts=parts)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D I J"]:
        """The block's output."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a widening 1x1 convolution and a shortcut; the stride is that of the 3x3.

    Args:
        inputs: channels that come in.
        width: channels of the first two convolutions; the output has four times as many.
        stride: of the second convolution.
        parts: ReLU and normalisation.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, *, inputs: int, width: int, stride: int, parts: Parts) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = parts.norm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = parts.norm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = parts.norm2d(outputs)
        self.relu = parts.relu()
        self.downsample = _shortcut(inputs, outputs, stride=stride, parts=parts)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D I J"]:
        """The block's output."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, *, stride: int, parts: Parts) -> nn.Module | None:
    """A strided 1x1 convolution where the block changes the shape, nothing where it does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), parts.norm2d(outputs))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    num_blocks: int,
    *,
    inputs: int,
    width: int,
    stride: int = 2,
    parts: Parts,
) -> nn.Sequential:
    """Blocks of one width; the first has the stride."""
    first = block(inputs=inputs, width=width, stride=stride, parts=parts)
    inputs = width * block.expansion
    others = [block(inputs=inputs, width=width, stride=1, parts=parts) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *others)


_BLOCKS = {
    Arch.RESNET18: (BasicBlock, (2, 2, 2, 2)),
    Arch.RESNET34: (BasicBlock, (3, 4, 6, 3)),
    Arch.RESNET50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """ResNet18 and ResNet34 for images of about 32 pixels, ResNet50 for images of 64 and more.

    The first two have a 3x3 stem with stride 1, ResNet50 a 7x7 stem with stride 2; the max pool follows in
    all three. No convolution has a bias, with or without batch norm. For 10 classes ResNet18 has 11,164,362
    parameters, 11,173,962 with batch norm; ResNet50 with batch norm has 25,557,032 for 1,000 classes and,
    with the 3x3 stem pool, is torchvision's network, parameter by parameter.

    Args:
        arch: which of the three.
        num_classes: of the output.
        in_channels: of the images.
        parts: stem pool, ReLU and normalisation.

    Raises:
        KeyError: an architecture that is no ResNet.

    Source:
        He et al., "Deep residual learning for image recognition" (2016); stems and the 2x2 pool are those of
        the study by Boustany (2024).
    """

    def __init__(self, *, arch: Arch, num_classes: int, in_channels: int, parts: Parts) -> None:
        super().__init__()
        block, counts = _BLOCKS[arch]
        kernel, stride = (7, 2) if arch is Arch.RESNET50 else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = parts.norm2d(64)
        self.relu = parts.relu()
        self.maxpool = parts.stem()
        self.layer1 = _stage(block, counts[0], inputs=64, width=64, stride=1, parts=parts)
        self.layer2 = _stage(block, counts[1], inputs=64 * block.expansion, width=128, parts=parts)
        self.layer3 = _stage(block, counts[2], inputs=128 * block.expansion, width=256, parts=parts)
        self.layer4 = _stage(block, counts[3], inputs=256 * block.expansion, width=512, parts=parts)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, num_classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Logits of a batch."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
