"""VGG for small images: five stages of 3x3 convolutions, each closed by a 2x2 max pool, one linear layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from tiebreak.design.axes import Arch
from tiebreak.models.parts import Parts, require_side

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {
    Arch.VGG11: (1, 1, 2, 2, 2),
    Arch.VGG13: (2, 2, 2, 2, 2),
    Arch.VGG16: (2, 2, 3, 3, 3),
    Arch.VGG19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """VGG11, VGG13, VGG16 or VGG19 with a single linear layer.

    Every convolution has a bias, with and without batch norm; VGG11 without batch norm has 9,225,610
    parameters for 10 classes. `features` keeps a place for each batch norm, so its layers are numbered as
    in torchvision's networks *with* batch norm in both cases. Images larger than 32x32 are averaged over
    what the five pools leave; at 32x32 that is one pixel, left as it is.

    Args:
        arch: which of the four.
        num_classes: of the output.
        in_channels: of the images.
        parts: pools, ReLU and normalisation.

    Raises:
        KeyError: an architecture that is no VGG.

    Source:
        Simonyan and Zisserman, "Very deep convolutional networks" (2015); the shortened classifier is that
        of the study by Boustany (2024).
    """

    def __init__(self, *, arch: Arch, num_classes: int, in_channels: int, parts: Parts) -> None:
        super().__init__()
        self.arch = arch
        layers: list[nn.Module] = []
        inputs = in_channels
        for width, count in zip(_WIDTHS, _CONVOLUTIONS[arch], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), parts.norm2d(width), parts.relu()]
                inputs = width
            layers.append(parts.pool())
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Logits of a batch.

        Raises:
            DesignError: images smaller than 32x32.
        """
        require_side(images, least=32, name=self.arch)
        return self.classifier(self.average(self.features(images)).flatten(1))
