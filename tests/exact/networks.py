"""Random small networks at random points where windows tie often, for a reason and without one.

Weights and pixels come from tiny grids, images have constant and repeated areas, so that many windows are
tied over the reals: some between different patches (the derivative then depends on the rule), some between
equal ones or at zero (it does not). All is a function of the seed.

A graph may hold several networks side by side, one a lane: with the same layers, and no number in common.
"""

from dataclasses import dataclass
from itertools import product
from random import Random

import torch
from interpreter import apply
from torch import Tensor

from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    Concat,
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Parameter,
    ReLU,
    Reshape,
)
from tiebreak.numerics import kernels
from tiebreak.numerics.geometry import PoolGeometry

MOST_PRODUCTS = 260
"""Multiplications of one forward pass; what the judge takes grows with them."""

FEWEST_WINDOWS = 6
"""Windows of all max pools; with fewer most networks have no tie to speak of."""


@dataclass(frozen=True, eq=False)
class Point:
    """Networks at a point, with the fixed cotangent of their output."""

    graph: Graph
    cotangent: Tensor
    lanes: int = 1

    def by_lane(self, entries):
        """For each network whether any of its entries is not 0; flat lists of entries by name."""
        kept = [numbers for name, numbers in entries.items() if name != UNUSED]
        assert all(len(numbers) % self.lanes == 0 for numbers in kept)
        return [any(any(_part(numbers, lane, self.lanes)) for numbers in kept) for lane in range(self.lanes)]


def _part(numbers, lane, lanes):
    """Lane l has the l-th part of the first axis of every parameter, and so of its numbers in order."""
    length = len(numbers) // lanes
    return numbers[lane * length : (lane + 1) * length]


UNUSED = "unused"
"""Name of a parameter that no network has a use for."""


def random_point(seed: int, *, lanes: int = 1) -> Point:
    """The graph number `seed`. With several lanes there are no linear layers and no concatenated channels."""
    random = Random(f"{seed}, {lanes} lanes")
    while True:
        draft = Draft(random, lanes=lanes)
        _layers(draft)
        if draft.num_windows >= FEWEST_WINDOWS * lanes and draft.num_products <= MOST_PRODUCTS * lanes:
            return Point(draft.graph(), draft.cotangent(), lanes)


class Draft:
    """A graph under construction, run as a program as it grows: in fp64, each result rounded to a format."""

    def __init__(self, random, *, numbers=None, batch=None, lanes=1):
        self.random, self.lanes = random, lanes
        self.numbers = numbers or _numbers(random)
        self.dtype = random.choice((torch.float64, torch.float64, torch.float32, torch.bfloat16))
        self.batch = _batch(random, self.numbers, lanes) if batch is None else batch
        self.nodes = [Node(Input(), (), tuple(self.batch.shape), "batch")]
        self.values = [self.batch]
        self.parameters = {}
        self.num_products = self.num_windows = 0

    @property
    def last(self):
        return len(self.nodes) - 1

    def shape(self, index=None):
        return self.nodes[self.last if index is None else index].shape

    def add(self, operation, *inputs, shape=None):
        """A node that reads the last one, or those given."""
        inputs = inputs or (self.last,)
        value = apply(operation, [self.values[index] for index in inputs], shape=shape)
        value = value.to(self.dtype).double()
        name = type(operation).__name__.lower()
        self.nodes.append(Node(operation, inputs, tuple(value.shape), f"{name} {len(self.nodes)}"))
        self.values.append(value)
        return self.last

    def parameter(self, *shape, kind="weight"):
        """A new one; or one that there is already; or a constant."""
        alike = [name for name, value in self.parameters.items() if tuple(value.shape) == shape]
        if alike and self.random.random() < 0.3:
            name = self.random.choice(alike)
            return Parameter(self.parameters[name], name)
        value = self.tensor(*shape)
        if self.random.random() < 0.05:
            return Parameter(value, None)
        name = f"{len(self.parameters)}.{kind}"
        self.parameters[name] = value
        return Parameter(value, name)

    def tensor(self, *shape):
        """Numbers of the grid."""
        numbers = self.random.choices(self.numbers, k=torch.Size(shape).numel())
        return torch.tensor(numbers, dtype=torch.float64).reshape(shape)

    def conv(self, *inputs, keeps_size=False):
        """A convolution of any kind; or one whose result has the rows and columns of its input."""
        random = self.random
        _, depth, *size = self.shape(*inputs)
        if keeps_size:
            kernel = random.choice(((1, 1), (3, 3), (1, 3)))
            stride, dilation = (1, 1), (1, 1)
            padding = (kernel[0] // 2, kernel[1] // 2)
        else:
            padding = random.choice(((0, 0), (0, 0), (1, 1), (0, 1)))
            dilation = random.choice(((1, 1), (1, 1), (1, 1), (2, 1), (2, 2)))
            stride = random.choice(((1, 1), (1, 1), (1, 1), (2, 2), (1, 2)))
            most = [
                min(3, (length + 2 * pad - 1) // step + 1)
                for length, pad, step in zip(size, padding, dilation, strict=True)
            ]
            kernel = tuple(min(longest, random.choice((1, 2, 2, 3))) for longest in most)
        groups = depth if random.random() < 0.25 else self.lanes
        number = groups * random.randint(1, 2)
        self._conv(*inputs, number=number, kernel=kernel, groups=groups, places=(stride, padding, dilation))

    def _conv(self, *inputs, number, kernel, groups, places=((1, 1), (0, 0), (1, 1))):
        weight = self.parameter(number, self.shape(*inputs)[1] // groups, *kernel)
        bias = self.parameter(number, kind="bias") if self.random.random() < 0.6 else None
        self.add(Conv2d(weight, bias, *places, groups), *inputs)
        self.num_products += torch.Size(self.shape()).numel() * weight.value[0].numel()

    def head(self, number):
        """Scores of all that there is; a linear layer, or a convolution that is one in each lane."""
        if self.lanes == 1:
            self.flatten()
            self.linear(number)
        else:
            self._conv(number=number * self.lanes, kernel=self.shape()[2:], groups=self.lanes)
            self.flatten()

    def flatten(self):
        """Rows of numbers, one an image."""
        images, *rest = self.shape()
        self.add(Reshape(), shape=(images, torch.Size(rest).numel()))

    def linear(self, number):
        """A fully connected layer."""
        weight = self.parameter(number, self.shape()[1])
        bias = self.parameter(number, kind="bias") if self.random.random() < 0.6 else None
        self.add(Linear(weight, bias))
        self.num_products += self.shape()[0] * weight.value.numel()

    def affine(self):
        """A folded batch norm."""
        channels = self.shape()[1]
        names = [f"{len(self.parameters)}.norm_{kind}" for kind in ("scale", "shift")]
        names = [name if self.random.random() < 0.8 else None for name in names]
        values = [self.tensor(channels) for _ in names]
        self.parameters |= {
            name: value for name, value in zip(names, values, strict=True) if name is not None
        }
        self.add(Affine(*values, self.tensor(channels), *names))

    def max_pool(self, geometry=None):
        """A max pool of any geometry that has a pixel in each window."""
        size = self.shape()[2:]
        while geometry is None or not _has_pixels(geometry, size):
            geometry = _geometry(self.random)
        mask = kernels.forward(self.values[-1], geometry=geometry)[1]
        self.add(MaxPool2d(geometry, mask))
        self.num_windows += torch.Size(self.shape()).numel()

    def average_pool(self):
        """Windows of 2, 3, 4 or 9, moving or adaptive, padded and counted in any way."""
        random, size = self.random, self.shape()[2:]
        kernel = random.choice(((2, 2), (3, 3), (1, 2), (1, 3)))
        if random.random() < 0.3 or any(length < part for length, part in zip(size, kernel, strict=True)):
            counts = [random.randint(1, min(3, length)) for length in size]
            matrices = [adaptive(length, number) for length, number in zip(size, counts, strict=True)]
            divisor = torch.outer(matrices[0].sum(1), matrices[1].sum(1))
        else:
            stride = random.choice((kernel, (1, 1), (2, 1)))
            padding = random.choice(((0, 0), (kernel[0] // 2, kernel[1] // 2)))
            matrices = [moving(size[a], kernel[a], stride[a], padding[a]) for a in range(2)]
            whole = torch.full((len(matrices[0]), len(matrices[1])), float(kernel[0] * kernel[1])).double()
            inside = torch.outer(matrices[0].sum(1), matrices[1].sum(1))
            own = torch.full_like(whole, random.choice((1.0, 7.0)))
            divisor = random.choice((whole, inside, own))
        self.add(AveragePool2d(matrices[0], matrices[1], divisor))

    def graph(self):
        """What was built, with a parameter now and then that nothing depends on."""
        if self.random.random() < 0.05:
            self.parameters[UNUSED] = self.tensor(2)
        shapes = {name: tuple(value.shape) for name, value in self.parameters.items()}
        return Graph(tuple(self.nodes), self.last, self.batch, shapes)

    def cotangent(self):
        """Dyadic; zero for an image now and then."""
        shape = self.shape()
        grid = self.random.choice(((-1.0, -0.5, 0.25, 0.5, 1.0), (1.0,), (-1.0, 0.0, 0.0, 1.0)))
        numbers = self.random.choices(grid, k=torch.Size(shape).numel())
        return torch.tensor(numbers, dtype=torch.float64).reshape(shape)


def moving(size, kernel, stride, padding):
    """Which pixels of a line each window of an average pool has."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    return torch.tensor([[float(s <= p < s + kernel) for p in range(size)] for s in starts]).double()


def adaptive(size, number):
    """Which pixels of a line each window of an adaptive pool has."""
    rows = [
        [float(i * size // number <= p < -(-(i + 1) * size // number)) for p in range(size)]
        for i in range(number)
    ]
    return torch.tensor(rows).double()


def _layers(draft):
    random = draft.random
    blocks = (_plain, _plain, _residual, *((_branches, _through_linear) if draft.lanes == 1 else (_plain,)))
    if random.random() < 0.12:
        draft.max_pool()
    for _ in range(random.choice((1, 1, 2, 2, 3))):
        random.choice(blocks)(draft)
        if random.random() < 0.12:
            draft.affine()
        relu = random.choice(("before", "before", "after", "none", "none"))
        if relu == "before":
            draft.add(ReLU())
        if random.random() < 0.8:
            draft.max_pool()
        elif random.random() < 0.3:
            draft.average_pool()
        if relu == "after":
            draft.add(ReLU())
    if random.random() < 0.15:
        draft.average_pool()
    if random.random() < 0.2:
        draft.flatten()
        return
    draft.head(random.randint(1, 3))
    if draft.lanes == 1 and random.random() < 0.3:
        draft.add(ReLU())
        draft.linear(2)


def _plain(draft):
    draft.conv()


def _residual(draft):
    start = draft.last
    draft.conv(keeps_size=True)
    if draft.random.random() < 0.5:
        draft.add(ReLU())
    channels = draft.shape()[1]
    if channels == draft.shape(start)[1]:
        draft.add(Add(), draft.last, start)
    else:
        draft.add(Add(), draft.last, draft.last)


def _branches(draft):
    start = draft.last
    draft.conv(start, keeps_size=True)
    first = draft.last
    if draft.random.random() < 0.5:
        draft.conv(start, keeps_size=True)
        draft.add(ReLU())
        draft.add(Concat(1), first, draft.last)
    elif draft.random.random() < 0.7 or draft.shape()[1] != draft.shape(start)[1]:
        draft.add(Concat(1), start, first)
    else:
        draft.add(Concat(draft.random.choice((2, 3))), first, start)


def _through_linear(draft):
    if torch.Size(draft.shape()[1:]).numel() > 16:
        draft.average_pool()
    images = draft.shape()[0]
    draft.flatten()
    draft.linear(8)
    draft.add(Reshape(), shape=(images, *draft.random.choice(((1, 2, 4), (2, 2, 2), (1, 4, 2)))))


def _geometry(random):
    if random.random() < 0.3:
        return PoolGeometry.of(2)
    kernel = random.choice(((2, 2), (3, 3), (3, 3), (3, 3), (1, 2), (2, 3), (3, 1)))
    padding = tuple(random.randint(0, size // 2) for size in kernel)
    dilation = random.choice((1, 1, 1, 2))
    stride = random.choice((kernel, (2, 2), (1, 1), (2, 1), (3, 3)))
    ceil_mode = random.random() < 0.3
    return PoolGeometry.of(kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)


def _has_pixels(geometry, size):
    """Whether there is a window, and a pixel in each."""
    for axis in range(2):
        room = size[axis] + 2 * geometry.padding[axis]
        if room < (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1:
            return False
    counts = geometry.output_size(size)
    return all(
        any(
            0 <= i * geometry.stride[axis] - geometry.padding[axis] + a * geometry.dilation[axis] < size[axis]
            for a in range(geometry.kernel[axis])
        )
        for axis in range(2)
        for i in range(counts[axis])
    )


def _numbers(random):
    """The grid of a network."""
    grids = (
        (-1.0, -0.5, 0.0, 0.5, 1.0),
        (-1.0, 0.0, 1.0),
        (-1.0, 0.0, 1.0),
        (-1.0, 1.0),
        (-1.0, 1.0),
        (0.5, 1.0),
        (-1.0, 0.5, 1.0, 2.0),
        tuple(number / 4 for number in range(-4, 5)),
    )
    kind = random.random()
    if kind < 0.84:
        return random.choice(grids)
    if kind < 0.88:  # sums over many magnitudes, which float64 may overflow or underflow
        scale = 2.0 ** random.choice((-200, -120, 130, 200))
        return tuple(number * scale for number in random.choice(grids))
    if kind < 0.97:  # few numbers with long mantissas: sums tie through different roundings
        return tuple(random.uniform(-1, 1) for _ in range(random.randint(2, 4)))
    return tuple(random.uniform(-1, 1) * 2.0 ** random.randint(-60, 60) for _ in range(5))


def _batch(random, numbers, lanes):
    """Images with constant and repeated areas."""
    images, channels = random.choice((1, 1, 2, 3)), random.choice((1, 1, 2)) * lanes
    rows, columns = random.randint(3, 6), random.randint(4, 6)
    batch = torch.zeros(images, channels, rows, columns, dtype=torch.float64)
    tiles = random.random() < 0.12
    for n, c in product(range(images), range(channels)):
        pixels = random.choices(numbers, k=rows * columns)
        image = torch.tensor(pixels, dtype=torch.float64).reshape(rows, columns)
        kind = random.random()
        if tiles:
            image = image[:2, :2].repeat(3, 3)[:rows, :columns]
        elif kind < 0.1:
            image[:] = image[0, 0]
        elif kind < 0.25:
            image[: random.randint(1, rows)] = random.choice(numbers)
        batch[n, c] = image
    return batch
