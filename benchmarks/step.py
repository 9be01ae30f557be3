"""A training step with our exact pool against the same step with PyTorch's."""

from __future__ import annotations

import ratios
import torch
from pool import without_kernels
from published import PublishedPool, PublishedReLU, with_pools
from torch import nn
from torch.nn import functional
from zones import digits, photos

from tiebreak.design.axes import NATIVE, PoolJacobian
from tiebreak.design.cell import Network
from tiebreak.models import build


def stepper(model: nn.Module, images, labels, *, steps: int):
    """A function that makes some SGD steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return run


def plainly(run):
    """The same with PyTorch's operations only."""

    def run_plainly() -> None:
        with without_kernels():
            run()

    return run_plainly


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

        def made(
            jacobian=NATIVE,
            relu: type[nn.Module] = nn.ReLU,
            *,
            pool=None,
            network=network,
            channels=channels,
            batch=(images, labels),
            steps=steps,
        ):
            model = build(network, num_classes=10, in_channels=channels, jacobian=jacobian, relu=relu, seed=0)
            model = with_pools(model, pool) if pool else model
            return stepper(model.to(options.device), *batch, steps=steps)

        native = made(pool=lambda: nn.MaxPool2d(2))
        for name, ours, goal in (
            ("beta 0", made(), target),
            ("beta 1", made(PoolJacobian(beta=1)), target),
            ("beta 100", made(PoolJacobian(beta=100)), target),
            ("beta 100, PyTorch's operations", plainly(made(PoolJacobian(beta=100))), 1.15),
            ("no max pool, the average", made(pool=lambda: nn.AvgPool2d(2)), None),
            ("published pool", made(pool=lambda: PublishedPool(1.0)), None),
            ("published pool and ReLU", made(relu=PublishedReLU, pool=lambda: PublishedPool(1.0)), None),
        ):
            goal = 1.02 if options.device == "cuda" and goal else goal
            rows.append(
                ratios.ratio(
                    f"training step {arch}, batch 128, fp32, {name}",
                    ours,
                    native,
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
