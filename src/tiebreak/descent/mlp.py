"""Small fully connected networks, a batch of them at a time: runs that differ in seed and learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from tiebreak.data.files import ImageFiles
from tiebreak.data.images import Images
from tiebreak.data.streams import normals, stream
from tiebreak.descent.activations import Activation
from tiebreak.descent.steps import Rule, Stepper
from tiebreak.design.axes import UserError


class Gain(StrEnum):
    """How initial weights are scaled: by activation or not.

    `he` has variance 2/fan_in whatever the activation; `matched` 1/(fan_in E s(g)^2) with g ~ N(0, 1), which
    keeps the size of the signal for every activation, and is the same for the ReLU.
    Without `matched` an activation's gain is confounded with its smoothness.
    """

    HE = "he"
    MATCHED = "matched"


class Criterion(StrEnum):
    """Mean cross-entropy, or the mean over images and classes of the squared distance from one-hot labels."""

    CROSS_ENTROPY = "cross_entropy"
    SQUARED = "squared"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The networks of one batch.

    Args:
        widths: units from the input to the output; `len(widths) - 1` layers.
        activation: between the layers.
        gain: of the initial weights; biases start at 0.

    Raises:
        UserError: fewer than two widths, or one below 1.
    """

    widths: tuple[int, ...]
    activation: Activation
    gain: Gain = Gain.HE

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UserError(f"widths go from input to output, each 1 or more, got {self.widths}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What the networks are trained on, full batch.

    Args:
        inputs: (N, features).
        labels: int64 (N,).
        num_classes: of the labels.
    """

    inputs: Float[Tensor, "N F"]
    labels: Int64[Tensor, " N"]
    num_classes: int

    def to(self, dtype: torch.dtype) -> Examples:
        """The same in another dtype."""
        return Examples(inputs=self.inputs.to(dtype), labels=self.labels, num_classes=self.num_classes)


def examples(images: Images | ImageFiles, *, num: int, side: int = 7) -> Examples:
    """The first images of a split as standardised vectors of side^2 means over blocks of pixels.

    Args:
        images: of one channel, such as `mnist5k`, `mnist` or `fashion_mnist`.
        num: how many.
        side: of the smaller image; divides the side of the images.

    Raises:
        UserError: more than there are, several channels, a side that does not divide, or files that are not
            in memory.
    """
    if not isinstance(images, Images):
        raise UserError(
            "examples are images in memory, such as mnist5k; got files that are decoded when read."
        )
    channels, size = images.pixels.shape[1], images.image_size
    if not 1 <= num <= len(images) or channels != 1 or side < 1 or size % side:
        raise UserError(
            f"examples are 1 to {len(images)} images of one channel whose side of {size} pixels is divided, "
            f"got num={num}, {channels} channels, side={side}."
        )
    pooled = functional.avg_pool2d(images.pixels[:num].double() / 255, size // side).flatten(1)
    inputs = (pooled - pooled.mean()) / pooled.std()
    return Examples(
        inputs=inputs.float(), labels=images.labels[:num], num_classes=int(images.labels.max()) + 1
    )


class Networks:
    """R networks of one layout, each with its own weights, and their losses on the same examples.

    A seed draws the same network beside any others, in fp32 and then cast.

    Args:
        layout: widths, activation, gain.
        seeds: one a run; runs of a seed start from the same weights.
        data: examples, in the dtype to compute in.
        criterion: the loss.

    Raises:
        UserError: widths that the examples do not fit.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        seeds: Sequence[int],
        data: Examples,
        criterion: Criterion = Criterion.CROSS_ENTROPY,
    ) -> None:
        ends = (data.inputs.shape[1], data.num_classes)
        if (layout.widths[0], layout.widths[-1]) != ends:
            raise UserError(f"the examples need networks from {ends[0]} to {ends[1]}, got {layout.widths}.")
        self._activation = layout.activation
        self._criterion = criterion
        self._data = data
        self._one_hot = functional.one_hot(data.labels, data.num_classes).to(data.inputs)
        square = 0.5 if layout.gain is Gain.HE else layout.activation.mean_square()
        self.points: list[Tensor] = []
        for layer, (inward, outward) in enumerate(zip(layout.widths, layout.widths[1:], strict=False)):
            drawn = torch.stack(
                [
                    normals(stream(f"descent/mlp/{layer}", seed=seed), shape=(inward, outward))
                    for seed in seeds
                ]
            ).to(data.inputs)
            self.points += [drawn / (inward * square) ** 0.5, drawn.new_zeros(len(seeds), 1, outward)]

    def outputs(self, points: Sequence[Tensor]) -> Float[Tensor, "R N classes"]:
        """Logits of every run at `points`: weight (R, in, out) and bias (R, 1, out), layer by layer."""
        hidden = self._data.inputs.expand(points[0].shape[0], -1, -1)
        for layer in range(0, len(points), 2):
            hidden = torch.baddbmm(points[layer + 1], hidden, points[layer])
            if layer + 2 < len(points):
                hidden = self._activation(hidden)
        return hidden

    def losses(self, points: Sequence[Tensor]) -> Float[Tensor, " R"]:
        """The loss of every run at `points`, differentiable."""
        outputs = self.outputs(points)
        match self._criterion:
            case Criterion.CROSS_ENTROPY:
                wanted = (outputs * self._one_hot).sum(-1)
                return (outputs.logsumexp(-1) - wanted).mean(-1)
            case Criterion.SQUARED:
                return ((outputs - self._one_hot) ** 2).mean((-1, -2))

    def train(self, *, lr: Float[Tensor, " R"], rule: Rule, steps: int) -> Iterator[Float[Tensor, " R"]]:
        """Full-batch training in place, one step for each loss that is taken from the iterator.

        Args:
            lr: learning rate of each run.
            rule: how gradients become steps.
            steps: how many.

        Yields:
            The loss of every run before the step; inf or NaN where it diverged.
        """
        stepper = Stepper(self.points, lr=lr, rule=rule)
        for _ in range(steps):
            leaves = [point.detach().requires_grad_() for point in self.points]
            losses = self.losses(leaves)
            gradients = torch.autograd.grad(losses.sum(), leaves)
            stepper.step(gradients)
            yield losses.detach()
