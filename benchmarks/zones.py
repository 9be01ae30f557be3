"""Monte-Carlo over initialisations: our shared pass against the published loop, with the same gradients.

Each side runs in a process of its own, in the environment that it has in use: ours in that of a study's
worker, with malloc's thresholds raised, the published loop in a plain one. Two published loops are timed:
the one whose operations the target names, with PyTorch's ReLU, and the one of the published code, whose ReLU
is its own. The last rows of each group put in place of ours one forward and one backward pass of every batch,
and this with what every further Jacobian cannot do without: the derivatives of the convolutions below the
last pool with a live tie, to which another gradient comes. With the same bits no loop is faster than that.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ratios
import torch
from published import PublishedReLU, published_gaps
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import load, train_batches
from tiebreak.design.axes import PUBLISHED_BETAS, PoolJacobian
from tiebreak.design.cell import Data, Network
from tiebreak.models import build
from tiebreak.numerics.pooling import JacobianSwitch
from tiebreak.protocols.backprop import backprop, gradient, observe
from tiebreak.protocols.zones import draw_gaps
from tiebreak.runner.crew import worker_environment

Batches = list[tuple[Tensor, Tensor]]
NUM_INITS = 8


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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network on its images, a line a number of Jacobians."""

    arch: str
    what: str
    channels: int
    batches: Callable[[], Batches]
    targets: dict[int, float]
    has_live_ties: bool


CASES = (
    Case(
        arch="lenet5",
        what="digits, ties in the first pool",
        channels=1,
        batches=lambda: digits(128, 4),
        targets={2: 9.0, 6: 14.0},
        has_live_ties=True,
    ),
    Case(
        arch="vgg11",
        what="no live tie",
        channels=3,
        batches=lambda: photos(128, 1),
        targets={2: 5.0, 6: 15.0},
        has_live_ties=False,
    ),
    Case(
        arch="vgg11",
        what="border of a padded crop, ties in the first pool",
        channels=3,
        batches=lambda: photos(128, 1, border=3),
        targets={},
        has_live_ties=True,
    ),
)

NOTE = """
Each side is a process of its own in the environment that it has in use: ours that of a study's worker, with
malloc's thresholds raised, the published loop a plain one. "Published loop, torch's ReLU" does the operations
that the target names and no others; "published loop" has also the ReLU of the published code, which indexes
by boolean masks. Both build their networks as we do, without the second draw of the published code. The third
line of a group puts one forward and one backward pass of each batch in the place of ours, without building,
gaps or a second Jacobian; the fourth adds for each further Jacobian the derivatives of the layers below the
last pool with a live tie, to which another gradient comes: with the same bits nobody is faster than that.
"""

OURS, ONCE, NEEDED = "ours", "one pass a batch", "one pass a batch and what each Jacobian changes"
TORCH_RELU, OWN_RELU = "published loop, torch's ReLU", "published loop"


def needed(network: Network, *, channels: int, batches: Batches, count: int) -> Callable[[], object]:
    """One pass a batch, and below the last pool with a live tie one backward pass for each further Jacobian.

    Of `NUM_INITS` inits in turn, built before. What comes to that pool's input is drawn once: how it would be
    computed is not timed.
    """
    switches = [JacobianSwitch() for _ in range(NUM_INITS)]
    models = [
        build(network, num_classes=10, in_channels=channels, jacobian=switch, seed=seed)
        for seed, switch in enumerate(switches)
    ]
    turns = itertools.cycle(zip(models, switches, strict=True))
    drawn: dict[torch.Size, Tensor] = {}

    def once(model: nn.Module, switch: JacobianSwitch, images: Tensor, labels: Tensor) -> None:
        parameters = tuple(model.to(images.device).parameters())
        seen = observe(lambda: functional.cross_entropy(model(images), labels), switch=switch)
        gradient(seen.loss, parameters, retain_graph=True)
        live = [event for event, number in zip(seen.events, seen.live, strict=True) if number]
        if live:
            source = live[-1].input
            arrives = drawn.setdefault(source.shape, torch.randn_like(source))
            for further in range(count - 1):
                torch.autograd.grad(
                    source, parameters, arrives, retain_graph=further < count - 2, allow_unused=True
                )

    def run() -> None:
        model, switch = next(turns)
        for images, labels in batches:
            once(model, switch, images, labels)

    return run


def work_of(side: str, case: Case, *, count: int, device: str) -> Callable[[], object]:
    """A function that treats one more init each time it is called."""
    network = Network(arch=case.arch)  # pyright: ignore[reportArgumentType]
    batches = [(images.to(device), labels.to(device)) for images, labels in case.batches()]
    betas, seeds = PUBLISHED_BETAS[:count], itertools.count()
    if side == OURS:
        assert_equal_bits(network, channels=case.channels, batches=batches, betas=betas)
        return lambda: our_gaps(
            network, channels=case.channels, seed=next(seeds), batches=batches, betas=betas
        )
    if side == NEEDED:
        return needed(network, channels=case.channels, batches=batches, count=count)
    if side == ONCE:
        model = build(network, num_classes=10, in_channels=case.channels, seed=0).to(device)
        parameters = tuple(model.parameters())
        return lambda: [
            gradient(functional.cross_entropy(model(images), labels), parameters)
            for images, labels in batches
        ]
    return lambda: published_gaps(
        network,
        channels=case.channels,
        seed=next(seeds),
        batches=batches,
        betas=betas,
        relu=nn.ReLU if side == TORCH_RELU else PublishedReLU,
    )


def environment_of(side: str, *, threads: int) -> dict[str, str]:
    """Ours and its parts as in a worker of a study, the published loop as a notebook finds it."""
    environment = worker_environment(threads)
    if side in (TORCH_RELU, OWN_RELU):
        environment = {key: value for key, value in environment.items() if not key.startswith("MALLOC_")}
    return environment


def rows_of(place: int, *, count: int, options: argparse.Namespace) -> list[ratios.Row]:
    """The published loop over ours, with either ReLU, and over what nobody can do without."""
    case = CASES[place]
    names = (OURS, TORCH_RELU, OWN_RELU, ONCE, NEEDED)[: 5 if case.has_live_ties else 4]
    sides = [
        ratios.Apart(
            [
                *(sys.executable, __file__, "--device", options.device, "--threads", str(options.threads)),
                *("--serve", name, str(place), str(count)),
            ],
            environment=environment_of(name, threads=options.threads),
        )
        for name in names
    ]
    repeats = options.repeats if case.targets else max(1, options.repeats // 3)
    times = ratios.in_turn(sides, repeats=repeats)
    for side in sides:
        side.close()
    title = f"zones {case.arch} ({case.what}), {len(case.batches())} x 128 images an init, {count} Jacobians"
    target = case.targets.get(count)
    rows = [
        ratios.row(
            title,
            [theirs / ours for ours, theirs, *_ in times],
            baseline=TORCH_RELU,
            target=target,
            at_most=False,
        ),
        ratios.row(title, [theirs / ours for ours, _, theirs, *_ in times], baseline=OWN_RELU),
        ratios.row(
            f"the same, one forward and backward pass of each batch and nothing else, {count} Jacobians",
            [theirs / once for _, theirs, _, once, *_ in times],
            baseline=TORCH_RELU,
        ),
    ]
    if case.has_live_ties:
        title = f"the same with the derivatives that the others change, {count} Jacobians"
        least = [theirs / least for _, theirs, *_, least in times]
        rows.append(ratios.row(title, least, baseline=TORCH_RELU))
    return rows


def main() -> None:
    parser = ratios.arguments(__doc__)
    archs = tuple(dict.fromkeys(case.arch for case in CASES))
    parser.add_argument("--arch", nargs="*", choices=archs, default=archs)
    parser.add_argument("--serve", nargs=3, metavar=("SIDE", "CASE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve is not None:
        side, place, count = options.serve
        work = work_of(side, CASES[int(place)], count=int(count), device=options.device)
        ratios.serve(work, clock=ratios.clock_of(options.device))
        return
    rows = [
        row
        for place, case in enumerate(CASES)
        if case.arch in options.arch
        for count in (2, 6)
        for row in rows_of(place, count=count, options=options)
    ]
    title = "Zones (times faster; gradients bit-equal to separate runs)"
    ratios.report(title, rows, note=NOTE, path=options.json)


if __name__ == "__main__":
    main()
