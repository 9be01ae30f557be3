"""Directed near-ties: neurons that fp64 cannot tell from 0 and candidates that it cannot tell apart.

A case is a channel group of its own, so that its decisions show in entries of the gradient of its own: four
patches under one window, whose products with one filter are equal over the reals, or differ by 2**-40 to
2**-50 of their size. Equal ones are made by permuted factors, whose fp64 sums are rounded differently; a sum
that cancels does the same around the kink of a ReLU.
"""

from random import Random

import torch
from networks import Draft, Point

from tiebreak.exact.graph import Conv2d, Linear, Parameter, ReLU, Reshape
from tiebreak.numerics.geometry import PoolGeometry

CASES = 8
"""Of one network."""

FACTORS = 6
"""Of one patch."""


def near_ties(seed: int) -> Point:
    """A network of eight cases."""
    random = Random(f"near ties {seed}")
    drawn = [_case(random) for _ in range(CASES)]
    filters, patches = (torch.tensor(part, dtype=torch.float64) for part in zip(*drawn, strict=True))
    # (case, candidate, factor) becomes an image of 2 x 2 pixels with a channel for each factor of each case
    batch = patches.transpose(1, 2).reshape(1, CASES * FACTORS, 2, 2)
    draft = Draft(random, numbers=(-1.0, 0.5, 1.0), batch=batch)
    weight = _named(draft, "0.weight", filters.reshape(CASES, FACTORS, 1, 1))
    draft.add(Conv2d(weight, None, (1, 1), (0, 0), (1, 1), CASES))
    has_relu = random.random() < 0.6
    if has_relu:
        draft.add(ReLU())
    if random.random() < 0.3:  # a layer in which an undecided neuron would be used
        scale = _named(draft, "1.weight", draft.tensor(CASES, 1, 1, 1))
        bias = _named(draft, "1.bias", draft.tensor(CASES) * random.choice((0, 1)))
        draft.add(Conv2d(scale, bias, (1, 1), (0, 0), (1, 1), CASES))
        if random.random() < 0.5:
            draft.add(ReLU())
    draft.max_pool(PoolGeometry.of(2))
    draft.add(Reshape(), shape=(1, CASES))
    if random.random() < 0.5:
        draft.add(ReLU())
    draft.add(Linear(_named(draft, "2.weight", draft.tensor(2, CASES)), None))
    return Point(draft.graph(), draft.cotangent())


def _named(draft, name, value):
    draft.parameters[name] = value
    return Parameter(value, name)


def _case(random):
    """A filter and four patches; a candidate is a permutation of the best one, or nearly so, or far below."""
    filters = [_long(random) for _ in range(FACTORS)]
    if random.random() < 0.5:  # every product cancels: the sums are 0 over the reals
        half = FACTORS // 2
        filters[half:] = [-number for number in filters[:half]]
        best = _cyclic(filters[:half], 1) + _cyclic(filters[:half], 2)
        others = [_cyclic(filters[:half], 2) + _cyclic(filters[:half], 1), best, best]
    else:  # the filter is the best patch, rotated: rotating further leaves the sum as it is
        best = _cyclic(filters, 2)
        others = [_cyclic(filters, FACTORS - 2), best, _cyclic(filters, 1)]
    patches = [best, *(_nudged(random, patch) for patch in others)]
    random.shuffle(patches)
    return filters, patches


def _nudged(random, patch):
    """The patch as it is, or with one number moved by 2**-40 to 2**-50 of itself, or far below."""
    patch, place, kind = list(patch), random.randrange(len(patch)), random.random()
    if kind < 0.5:
        patch[place] *= 1 + random.choice((-1, 1)) * 2.0 ** -random.randint(40, 50)
    elif kind < 0.55:
        patch[place] -= 1.0
    return patch


def _long(random):
    """A number with a mantissa of 53 bits or fewer."""
    number = random.uniform(0.5, 1) * random.choice((-1, 1))
    return random.choice((number, round(number * 2**27) / 2**27))


def _cyclic(numbers, steps):
    return numbers[steps:] + numbers[:steps]
