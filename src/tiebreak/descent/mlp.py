"""Small fully connected networks, a batch of them at a time: runs that differ in seed and learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from tiebreak.design.descent_axes import Gain, Method


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
        fused_bias: whether a layer rounds once, its bias being part of the matrix product, or twice: the
            product, and then its sum with the bias. In few bits that sum lies on a grid, and may be 0.

    Raises:
        UserError: fewer than two widths, or one below 1.
    """

    widths: tuple[int, ...]
    activation: Activation
    gain: Gain = Gain.HE
    fused_bias: bool = True

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
        scale: mean and standard deviation of the pixels that the inputs were standardised with.
    """

    inputs: Float[Tensor, "N F"]
    labels: Int64[Tensor, " N"]
    num_classes: int
    scale: tuple[float, float] = (0.0, 1.0)

    def to(self, dtype: torch.dtype, *, device: torch.device | str = "cpu") -> Examples:
        """The same in another dtype and on a device."""
        return replace(self, inputs=self.inputs.to(device=device, dtype=dtype), labels=self.labels.to(device))


def examples(
    images: Images | ImageFiles, *, num: int, side: int = 7, scale: tuple[float, float] | None = None
) -> Examples:
    """The first images of a split as standardised vectors of side^2 means over blocks of pixels.

    Args:
        images: of one channel, such as `mnist5k`, `mnist` or `fashion_mnist`.
        num: how many.
        side: of the smaller image; divides the side of the images.
        scale: mean and standard deviation to standardise with, those of the training examples for a test
            split; without them those of these images are taken.

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
    mean, deviation = scale or (float(pooled.mean()), float(pooled.std()))
    return Examples(
        inputs=((pooled - mean) / deviation).float(),
        labels=images.labels[:num],
        num_classes=int(images.labels.max()) + 1,
        scale=(mean, deviation),
    )


def draw_examples(
    *, num: int, num_test: int, side: int = 7, num_classes: int = 10
) -> tuple[Examples, Examples]:
    """Points to train and to test on that are drawn: a prototype a class, with noise of twice its size.

    Labels go round the classes, so each is as frequent as the others. The draw is a constant, as data are.

    Args:
        num: to train on.
        num_test: to test on.
        side: points have side^2 coordinates.
        num_classes: prototypes.
    """
    prototypes = normals(stream("descent/synthetic/prototypes", seed=0), shape=(num_classes, side * side))
    noise = normals(stream("descent/synthetic/noise", seed=0), shape=(num + num_test, side * side))
    labels = torch.arange(num + num_test) % num_classes
    inputs = (prototypes[labels] + 2 * noise) / 5**0.5
    return (
        Examples(inputs=inputs[:num], labels=labels[:num], num_classes=num_classes),
        Examples(inputs=inputs[num:], labels=labels[num:], num_classes=num_classes),
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
        self._fused = layout.fused_bias
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

    def affine(
        self, points: Sequence[Tensor], *, inputs: Float[Tensor, "N F"] | None = None
    ) -> Iterator[Float[Tensor, "R N units"]]:
        """What every layer gives before its activation, the last one's being the logits.

        Args:
            points: weight (R, in, out) and bias (R, 1, out), layer by layer.
            inputs: other ones than the examples'.
        """
        hidden = (self._data.inputs if inputs is None else inputs).expand(points[0].shape[0], -1, -1)
        for layer in range(0, len(points), 2):
            weight, bias = points[layer], points[layer + 1]
            given = torch.baddbmm(bias, hidden, weight) if self._fused else torch.bmm(hidden, weight) + bias
            yield given
            hidden = self._activation(given)

    def outputs(
        self, points: Sequence[Tensor], *, inputs: Float[Tensor, "N F"] | None = None
    ) -> Float[Tensor, "R N classes"]:
        """Logits of every run at `points`; see `affine`."""
        *_, logits = self.affine(points, inputs=inputs)
        return logits

    @torch.no_grad()
    def accuracy(self, data: Examples, *, points: Sequence[Tensor] | None = None) -> Float[Tensor, " R"]:
        """The share of examples that every run puts in their class; 0 where its logits are not finite."""
        logits = self.outputs(self.points if points is None else points, inputs=data.inputs)
        is_right = (logits.argmax(-1) == data.labels) & logits.isfinite().all(-1)
        return is_right.double().mean(-1)

    def losses(self, points: Sequence[Tensor]) -> Float[Tensor, " R"]:
        """The loss of every run at `points`, differentiable."""
        outputs = self.outputs(points)
        match self._criterion:
            case Criterion.CROSS_ENTROPY:
                wanted = (outputs * self._one_hot).sum(-1)
                return (outputs.logsumexp(-1) - wanted).mean(-1)
            case Criterion.SQUARED:
                return ((outputs - self._one_hot) ** 2).mean((-1, -2))

    def train(
        self,
        *,
        lr: Float[Tensor, " R"],
        rule: Rule,
        steps: int,
        penalty: Float[Tensor, " R"] | None = None,
        derivative_at_zero: float = 0.0,
    ) -> Iterator[Float[Tensor, " R"]]:
        """Full-batch training in place, one step for each loss that is taken from the iterator.

        Args:
            lr: learning rate of each run.
            rule: how gradients become steps.
            steps: how many.
            penalty: lambda of each run: of an L1 norm of the weights, not of the biases, that is added to the
                loss that is descended on (and not to the one that is yielded).
            derivative_at_zero: of |.|, at weights that are 0; 0 is PyTorch's.

        Yields:
            The loss of every run before the step; inf or NaN where it diverged.

        Raises:
            UserError: proximal steps without a penalty.
        """
        stepper = Stepper(self.points, lr=lr, rule=rule)
        level = None if penalty is None else penalty.to(self.points[0]).reshape(-1, 1, 1)
        proximal = rule.method is Method.PROXIMAL
        thresholds = [penalty, None] * (len(self.points) // 2) if proximal and penalty is not None else None
        for _ in range(steps):
            leaves = [point.detach().requires_grad_() for point in self.points]
            losses = self.losses(leaves)
            gradients = list(torch.autograd.grad(losses.sum(), leaves))
            if level is not None and not proximal:
                for layer in range(0, len(leaves), 2):
                    sign = self.points[layer].sign()
                    if derivative_at_zero:
                        sign += derivative_at_zero * (self.points[layer] == 0)
                    gradients[layer] = gradients[layer] + level * sign
            stepper.step(gradients, thresholds=thresholds)
            yield losses.detach()
