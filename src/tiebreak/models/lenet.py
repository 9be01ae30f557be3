"""LeNet-5 for images of 28x28 pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from tiebreak.models.parts import Parts, require_side


class LeNet5(nn.Module):
    """Two blocks of 5x5 convolution, ReLU, 2x2 max pool and batch norm, then three linear layers.

    The batch norm stands *behind* the pool, and behind the ReLU of the linear layers. Without it, on one
    channel and 10 classes, there are 44,426 parameters; with it 44,878.

    Args:
        num_classes: of the output.
        in_channels: of the images.
        parts: pools, ReLU and normalisation.

    Source:
        LeCun et al., "Gradient-based learning applied to document recognition" (1998), in the form of the
        study of max pooling by Boustany (2024).
    """

    def __init__(self, *, num_classes: int, in_channels: int, parts: Parts) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((in_channels, 6), (6, 16)):
            layers += [nn.Conv2d(inputs, outputs, 5), parts.relu(), parts.pool(), parts.norm2d(outputs)]
        self.features = nn.Sequential(*layers)
        layers = []
        for inputs, outputs in ((16 * 4 * 4, 120), (120, 84)):
            layers += [nn.Linear(inputs, outputs), parts.relu(), parts.norm1d(outputs)]
        self.classifier = nn.Sequential(*layers, nn.Linear(84, num_classes))

    def forward(self, images: Float[Tensor, "N C 28 28"]) -> Float[Tensor, "N classes"]:
        """Logits of a batch.

        Raises:
            DesignError: images that are not 28x28.
        """
        require_side(images, least=28, most=28, name="lenet5")
        return self.classifier(self.features(images).flatten(1))
