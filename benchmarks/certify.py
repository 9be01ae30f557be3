"""A certificate against one forward and backward pass of the same batch in fp64: time and peak memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ratios
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiebreak.data import load, train_batches
from tiebreak.design.axes import NATIVE
from tiebreak.design.cell import Data, Network
from tiebreak.exact.certificate import Certificate, Mode
from tiebreak.exact.certify import certify_graph, cotangent_of
from tiebreak.exact.graph import Graph
from tiebreak.exact.record import record
from tiebreak.models import build

CASES = {
    # arch: images, time bar in random mode, in proof mode, memory bar
    "lenet5": (128, 10.0, 40.0, 4.0),
    "vgg11": (20, 14.0, None, 4.0),
    "vgg16": (4, None, None, None),
    "vgg19": (4, None, None, None),
}


def case(arch: str, num_images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Network and batch in fp32: digits for LeNet-5, else smooth random photos with a flat border."""
    channels = 1 if arch == "lenet5" else 3
    init = "pytorch" if arch == "lenet5" else "kaiming_uniform"
    network = Network(arch=arch, init=init)  # pyright: ignore[reportArgumentType]
    model = build(network, num_classes=10, in_channels=channels, jacobian=NATIVE, seed=0)
    if arch == "lenet5":
        data = Data(name="mnist5k", batch_size=num_images)  # pyright: ignore[reportArgumentType]
        dataset = load(data, root=Path("data"))
        batch = next(train_batches(dataset, data=data, epoch=0, order_seed=0, augment_seed=0))
        return model, batch.images, batch.labels
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(num_images, 3, 8, 8, generator=generator)
    images = functional.interpolate(coarse, size=32, mode="bilinear")
    images[:, :, :3] = images[:, :, :, :3] = -1.9
    return model, images, torch.randint(0, 10, (num_images,), generator=generator)


def point(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Graph, Tensor]:
    """What is certified."""
    graph, output = record(model, images)
    return graph, cotangent_of(functional.cross_entropy, output, labels)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One forward and backward pass in fp64."""
    wide, inputs = model.double(), images.double()

    def run() -> None:
        wide.zero_grad(set_to_none=True)
        functional.cross_entropy(wide(inputs), labels).backward()

    return run


def peak(arch: str, num_images: int, certifies: bool) -> int:
    """Bytes by which a work raises the memory of its process at the most; of Linux only."""
    torch.set_num_threads(1)
    model, images, labels = case(arch, num_images)
    if certifies:
        graph, cotangent = point(model, images, labels)
        work = lambda: certify_graph(graph, cotangent, seed=0)  # noqa: E731
        certify_graph(*point(*case("lenet5", 1)), seed=0)  # tables of primes, self-test
    else:
        work = step(model, images, labels)
        step(*case("lenet5", 1))()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _status("VmRSS")
    work()
    return 1024 * (_status("VmHWM") - before)


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory_ratio(arch: str, num_images: int) -> float:
    """Peak of a certificate over that of the step, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, theirs = (pool.apply(peak, (arch, num_images, certifies)) for certifies in (True, False))
    return ours / theirs


def main() -> None:
    parser = ratios.arguments(__doc__)
    parser.add_argument("--arch", nargs="*", choices=tuple(CASES), default=tuple(CASES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for arch in options.arch:
        num_images, random_bar, proof_bar, memory_bar = CASES[arch]
        model, images, labels = case(arch, num_images)
        graph, cotangent = point(model, images, labels)
        run = step(model, images, labels)
        for mode, bar in ((Mode.RANDOM, random_bar), (Mode.PROOF, proof_bar)):
            last: list[Certificate] = []

            def certify(graph=graph, cotangent=cotangent, mode=mode, last=last) -> None:
                last[:] = [certify_graph(graph, cotangent, mode=mode, seed=0)]

            row = ratios.ratio(
                f"certificate {arch}, {num_images} images, fp32, {mode}",
                certify,
                run,
                baseline="fp64 forward and backward",
                repeats=options.repeats if bar else 1,
                target=bar,
                warmup=1 if bar else 0,
            )
            evidence, verdict = last[0].evidence, last[0].verdicts[0]
            said = "D != 0" if verdict.different else "D = 0"
            sure = f"2**{evidence.log2_error:.0f}" if evidence.log2_error > -float("inf") else "0"
            what = f" ({said}, {len(evidence.primes)} primes, error {sure}, {evidence.digits} digits)"
            rows.append(replace(row, work=row.work + what))
        values = [memory_ratio(arch, num_images) for _ in range(3 if memory_bar else 1)]
        rows.append(
            ratios.row(
                f"certificate {arch}, {num_images} images, peak memory",
                values,
                baseline="fp64 forward and backward",
                target=memory_bar,
            )
        )
    ratios.report("Certificates", rows, path=options.json)


if __name__ == "__main__":
    main()
