"""A module of torch as a network of scalars, so that the oracle of `theory` can judge it."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import nn

from tiebreak.theory.activations import RELU
from tiebreak.theory.network import Sketch


def as_network(model, images):
    """The sum of a sequential module's outputs over all images, as a function of its parameters.

    Args:
        model: convolutions without groups, linear layers, ReLUs, max pools without padding, flattening.
        images: (N, C, H, W) of whole numbers.

    Returns:
        The network, and the point: the module's parameters in their order. A module that is there twice has
        one set of parameters.
    """
    sketch = Sketch("module")
    wires = {
        id(parameter): sketch.parameters(*(f"{name} {place}" for place in range(parameter.numel())))
        for name, parameter in model.named_parameters()
    }
    outputs = []
    for image in images:
        value = {place: Fraction(image[place].item()) for place in _places(image.shape)}
        shape = tuple(image.shape)
        for module in model:
            value, shape = _step(sketch, module, value, shape, wires)
        outputs += list(value.values())
    point = tuple(Fraction(entry.item()) for p in model.parameters() for entry in p.detach().flatten())
    return sketch.network(sketch.total(outputs)), point


def _places(shape):
    return [tuple(place.tolist()) for place in torch.ones(shape).nonzero()]


def _step(sketch, module, value, shape, wires):
    if isinstance(module, nn.ReLU):
        return {place: one.through(RELU) for place, one in value.items()}, shape
    if isinstance(module, nn.Flatten):
        return {(number,): one for number, one in enumerate(value.values())}, (len(value),)
    if isinstance(module, nn.MaxPool2d):
        (height, width), (down, right) = _pair(module.kernel_size), _pair(module.stride)
        shape = (shape[0], (shape[1] - height) // down + 1, (shape[2] - width) // right + 1)
        found = {}
        for channel, i, j in _places(shape):
            taps = [(i * down + di, j * right + dj) for di in range(height) for dj in range(width)]
            found[channel, i, j] = sketch.largest([value[channel, *tap] for tap in taps])
        return found, shape
    weight, bias = wires[id(module.weight)], None if module.bias is None else wires[id(module.bias)]
    if isinstance(module, nn.Linear):
        rows = [weight[k * shape[0] : (k + 1) * shape[0]] for k in range(module.out_features)]
        found = {}
        for k, row in enumerate(rows):
            products = [entry * value[(j,)] for j, entry in enumerate(row)]
            found[(k,)] = sketch.total(products + ([] if bias is None else [bias[k]]))
        return found, (module.out_features,)
    size = module.weight.shape
    shape = (size[0], shape[1] - size[2] + 1, shape[2] - size[3] + 1)
    found = {}
    for channel, i, j in _places(shape):
        products = [
            weight[((channel * size[1] + c) * size[2] + di) * size[3] + dj] * value[c, i + di, j + dj]
            for c, di, dj in _places(size[1:])
        ]
        found[channel, i, j] = sketch.total(products + ([] if bias is None else [bias[channel]]))
    return found, shape


def _pair(size):
    return size if isinstance(size, tuple) else (size, size)
