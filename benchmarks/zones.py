"""Monte-Carlo over initialisations: our shared pass against the published loop, with the same gradients."""

from __future__ import annotations

from pathlib import Path

import ratios
import torch
from published import published_gaps
from torch import Tensor
from torch.nn import functional

from tiebreak.data import load, train_batches
from tiebreak.design.axes import PUBLISHED_BETAS, PoolJacobian
from tiebreak.design.cell import Data, Network
from tiebreak.models import build
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.protocols.backprop import backprop, gradient
from tiebreak.protocols.zones import draw_gaps

Batches = list[tuple[Tensor, Tensor]]


def our_gaps(network: Network, *, channels: int, seed: int, batches: Batches, betas) -> list[list[float]]:
    """One init: build, then one shared pass a batch."""
    jacobians = [PoolJacobian(beta=beta) for beta in betas]
    switch = JacobianSwitch(jacobians[0])
    model = build(network, num_classes=10, in_channels=channels, jacobian=switch, seed=seed)
    model.to(batches[0][0].device)
    gaps = []
    for images, labels in batches:
        draw = draw_gaps(
            model,
            lambda images=images, labels=labels: functional.cross_entropy(model(images), labels),
            switch=switch,
            jacobians=jacobians,
        )
        gaps.append([gap.sup_sum for gap in draw.gaps])
    return gaps


def assert_equal_bits(network: Network, *, channels: int, batches: Batches, betas) -> None:
    """The shared pass gives the bits of separate runs, one network a Jacobian."""
    images, labels = batches[0]
    jacobians = [PoolJacobian(beta=beta) for beta in betas]
    switch = JacobianSwitch(jacobians[0])
    model = build(network, num_classes=10, in_channels=channels, jacobian=switch, seed=0).to(images.device)
    loss = lambda: functional.cross_entropy(model(images), labels)  # noqa: E731
    shared = backprop(loss, tuple(model.parameters()), switch=switch, jacobians=jacobians)
    for jacobian, gradients in zip(jacobians, shared.gradients, strict=True):
        alone = build(network, num_classes=10, in_channels=channels, jacobian=jacobian, seed=0)
        alone.to(images.device)
        separate = gradient(functional.cross_entropy(alone(images), labels), tuple(alone.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(gradients, separate, strict=True))


def digits(batch_size: int, count: int) -> Batches:
    """Batches of the packaged digits."""
    data = Data(name="mnist5k", batch_size=batch_size)  # pyright: ignore[reportArgumentType]
    feed = train_batches(load(data, root=Path("data")), data=data, epoch=0, order_seed=0, augment_seed=0)
    return [(batch.images, batch.labels) for batch, _ in zip(feed, range(count), strict=False)]


def photos(batch_size: int, count: int, *, border: int = 0) -> Batches:
    """CIFAR-shaped batches of random pixels, for timing, perhaps with the flat border of a padded crop."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        images = torch.randn(batch_size, 3, 32, 32, generator=generator)
        if border:
            images[:, :, :border] = images[:, :, :, :border] = -1.9
        batches.append((images, torch.randint(0, 10, (batch_size,), generator=generator)))
    return batches


def main() -> None:
    options = ratios.arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for arch, what, channels, batches, targets in (
        ("lenet5", "digits, ties in the first pool", 1, digits(128, 4), {2: 9.0, 6: 14.0}),
        ("vgg11", "no live tie", 3, photos(128, 1), {2: 5.0, 6: 15.0}),
        ("vgg11", "border of a padded crop, ties in the first pool", 3, photos(128, 1, border=3), {}),
    ):
        batches = [(images.to(options.device), labels.to(options.device)) for images, labels in batches]
        network = Network(arch=arch)  # pyright: ignore[reportArgumentType]
        for count in (2, 6):
            betas = PUBLISHED_BETAS[:count]
            assert_equal_bits(network, channels=channels, batches=batches, betas=betas)
            seeds = iter(range(10**6))
            arguments = {"channels": channels, "batches": batches, "betas": betas}
            rows.append(
                ratios.ratio(
                    f"zones {arch} ({what}), {len(batches)} x 128 images an init, {count} Jacobians",
                    lambda network=network, seeds=seeds, a=arguments: our_gaps(
                        network, seed=next(seeds), **a
                    ),
                    lambda network=network, seeds=seeds, a=arguments: published_gaps(
                        network, seed=next(seeds), **a
                    ),
                    baseline="published loop",
                    inverse=True,
                    repeats=options.repeats if count in targets else max(1, options.repeats // 3),
                    target=targets.get(count),
                    at_most=False,
                    clock=ratios.clock_of(options.device),
                    warmup=1,
                )
            )
    ratios.report("Zones (times faster; gradients bit-equal to separate runs)", rows, path=options.json)


if __name__ == "__main__":
    main()
