"""A training step with our exact pool against the same step with PyTorch's."""

from __future__ import annotations

import ratios
import torch
from pool import without_kernels
from published import PublishedPool, PublishedReLU, with_pools
from torch import nn
from torch.nn import functional
from zones import digits, photos

from tiebreak.design.axes import PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models import build


def stepper(model: nn.Module, images, labels):
    """A function that makes one SGD step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def plainly(step):
    """The step with PyTorch's operations only."""

    def run() -> None:
        with without_kernels():
            step()

    return run


def main() -> None:
    options = ratios.arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for arch, channels, batches, target, steps in (
        ("lenet5", 1, digits(128, 1), 0.8, 10),
        ("vgg11", 3, photos(128, 1), 0.95, 1),
    ):
        network = Network(arch=arch)  # pyright: ignore[reportArgumentType]
        images, labels = (tensor.to(options.device) for tensor in batches[0])

        def model(jacobian, relu: type[nn.Module] = nn.ReLU, network=network, channels=channels) -> nn.Module:
            made = build(network, num_classes=10, in_channels=channels, jacobian=jacobian, relu=relu, seed=0)
            return made.to(options.device)

        native = stepper(with_pools(model(PoolJacobian()), lambda: nn.MaxPool2d(2)), images, labels)

        def repeated(step, steps=steps):
            def run() -> None:
                for _ in range(steps):
                    step()

            return run

        for name, one, goal in (
            ("beta 0", stepper(model(PoolJacobian()), images, labels), target),
            ("beta 1", stepper(model(PoolJacobian(beta=1)), images, labels), target),
            ("beta 100", stepper(model(PoolJacobian(beta=100)), images, labels), target),
            (
                "beta 100, PyTorch's operations",
                plainly(stepper(model(PoolJacobian(beta=100)), images, labels)),
                1.15,
            ),
            (
                "published pool",
                stepper(with_pools(model(PoolJacobian()), lambda: PublishedPool(1.0)), images, labels),
                None,
            ),
            (
                "published pool and ReLU",
                stepper(
                    with_pools(model(PoolJacobian(), PublishedReLU), lambda: PublishedPool(1.0)),
                    images,
                    labels,
                ),
                None,
            ),
        ):
            goal = 1.02 if options.device == "cuda" and goal else goal
            rows.append(
                ratios.ratio(
                    f"training step {arch}, batch 128, fp32, {name}",
                    repeated(one),
                    repeated(native),
                    baseline="the step with nn.MaxPool2d",
                    repeats=options.repeats,
                    target=goal,
                    clock=ratios.clock_of(options.device),
                )
            )
    from tiebreak.numerics.native import kernel_status

    ratios.report(f"Training step ({kernel_status().reason})", rows, path=options.json)


if __name__ == "__main__":
    main()
