"""How a device rounds convolutions in fp16, beside fp16_rounded: entries equal to the exact result, rounded.

    python benchmarks/fp16_convolutions.py [--device cuda]

The truth is computed in fp64 on the CPU and rounded once. `fp16` is the device's own; `fp16_rounded`
computes in fp32 and rounds the result once. Numbers measured are in docs/paper_map.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tiebreak.design.axes import Precision
from tiebreak.numerics.precision import arithmetic

SHAPES = {
    "LeNet-5, first": (128, 1, 28, 6, 5, 0),
    "LeNet-5, second": (128, 6, 12, 16, 5, 0),
    "VGG11, second": (32, 64, 16, 128, 3, 1),
}
"""Convolutions: images, channels in, side, channels out, kernel, padding."""

PARTS = ("value", "gradient of the input", "gradient of the weights")


def convolved(x: Tensor, weight: Tensor, upstream: Tensor, *, padding: int) -> tuple[Tensor, ...]:
    """Value and both gradients of a convolution, in the dtype of what is given."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = functional.conv2d(x, weight, padding=padding)
    return value.detach(), *torch.autograd.grad(value, (x, weight), upstream)


def ulps(got: Tensor, truth: Tensor) -> Tensor:
    """Distance in units of the last place of fp16 at the truth."""
    size = truth.double().abs()
    unit = 2.0 ** (torch.floor(torch.log2(size.clamp(min=2.0**-14))) - 10)
    return (got.double() - truth.double()).abs() / unit


def measured(device: str) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Convolution, part, arithmetic; share of equal entries, median and largest distance in ulps."""
    for name, (images, channels, side, out, kernel, padding) in SHAPES.items():
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(images, channels, side, side, generator=draw).relu().half()
        weight = torch.randn(out, channels, kernel, kernel, generator=draw) / (channels * kernel**2) ** 0.5
        weight = weight.half()
        shape = functional.conv2d(x.float(), weight.float(), padding=padding).shape
        upstream = (torch.randn(shape, generator=draw) / images / 10).half()
        given = (x, weight, upstream)
        truth = convolved(*(tensor.double() for tensor in given), padding=padding)
        for precision in (Precision.FP16, Precision.FP16_ROUNDED):
            with arithmetic(precision, device=device):
                found = convolved(*(tensor.to(device) for tensor in given), padding=padding)
            for part, got, exact in zip(PARTS, found, truth, strict=True):
                rounded = exact.half()
                far = ulps(got.cpu(), rounded)
                equal = (got.cpu() == rounded).double().mean().item()
                yield name, part, str(precision), equal, far.median().item(), far.max().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    print("| convolution | part | arithmetic | equal | median ulps | largest |\n|---|---|---|---|---|---|")
    for name, part, precision, equal, median, largest in measured(device):
        print(f"| {name} | {part} | {precision} | {100 * equal:.1f} % | {median:.0f} | {largest:.0f} |")


if __name__ == "__main__":
    main()
