"""A network's operations on whole numbers times a power of two for each tensor: exact, and fast enough."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Exact:
    """numbers * 2**-places / divisor, with Python's whole numbers in an array."""

    numbers: np.ndarray
    places: int
    divisor: int = 1

    @property
    def shape(self):
        return self.numbers.shape

    def times(self, factor):
        """The same value over a divisor that is `factor` times as large, with so many times the numbers."""
        return Exact(self.numbers * factor, self.places, self.divisor * factor)

    def at(self, places):
        """The same value with more places."""
        return Exact(self.numbers * (1 << (places - self.places)), places, self.divisor)


def exact(x):
    """The numbers that floats are; infinities and NaN as 0."""
    ratios = [
        float(number).as_integer_ratio() for number in x.double().nan_to_num(0, 0, 0).flatten().tolist()
    ]
    places = max((below.bit_length() - 1 for _, below in ratios), default=0)
    numbers = np.empty(len(ratios), dtype=object)
    numbers[:] = [above << (places - below.bit_length() + 1) for above, below in ratios]
    return Exact(numbers.reshape(tuple(x.shape)), places)


def added(one, other):
    """Sum, of shapes that broadcast."""
    one, other = one.times(other.divisor), other.times(one.divisor)
    places = max(one.places, other.places)
    return Exact(one.at(places).numbers + other.at(places).numbers, places, one.divisor)


def product(one, other):
    """Product entry by entry, of shapes that broadcast."""
    return Exact(one.numbers * other.numbers, one.places + other.places, one.divisor * other.divisor)


def linear(x, weight, bias=None):
    """x W^T + b."""
    result = Exact(np.dot(x.numbers, weight.numbers.T), x.places + weight.places, x.divisor)
    return result if bias is None else added(result, bias)


def conv(x, weight, spec, bias=None):
    """Cross-correlation, as sums over the pixels of each patch."""
    images, _, rows, _ = x.shape
    padded = np.append(x.numbers.ravel(), 0)  # the last one is padding
    places = torch.arange(1, x.numbers.size + 1, dtype=torch.float64).reshape(x.shape)
    size = weight.shape[2:]
    patches = functional.unfold(places, size, spec.dilation, spec.padding, spec.stride).long() - 1
    height = (rows + 2 * spec.padding[0] - spec.dilation[0] * (size[0] - 1) - 1) // spec.stride[0] + 1
    found = padded[patches.numpy()].reshape(images, spec.groups, -1, patches.shape[-1])
    kernels = weight.numbers.reshape(spec.groups, -1, found.shape[2])
    parts = [np.matmul(kernels[group], found[:, group]) for group in range(spec.groups)]
    numbers = np.concatenate(parts, 1).reshape(images, len(weight.numbers), height, -1)
    result = Exact(numbers, x.places + weight.places, x.divisor)
    return result if bias is None else added(result, channelwise(bias))


def channelwise(x):
    """One number a channel beside (N, C, H, W)."""
    return Exact(x.numbers.reshape(1, -1, 1, 1), x.places, x.divisor)


def average(x, operation):
    """An average pool; all quotients over the product of the divisors that there are."""
    rows, columns = (exact(part).numbers for part in (operation.rows, operation.columns))
    sums = np.matmul(np.matmul(rows, x.numbers), columns.T)
    divisors = operation.divisor.long()
    common = int(torch.tensor(divisors.unique().tolist()).prod())
    factors = np.array([[common // number for number in row] for row in divisors.tolist()], dtype=object)
    return Exact(sums * factors, x.places, x.divisor * common)


def errors(value, truth):
    """|value - truth| in units of 2**-places / divisor as whole numbers, and the truth at these places."""
    floats = exact(value)
    places = max(floats.places, truth.places)
    scaled = truth.at(places)
    return np.abs(floats.times(truth.divisor).at(places).numbers - scaled.numbers), scaled
