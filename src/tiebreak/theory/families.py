"""The networks that the theorems are tried on. x, the input, is 1 unless said otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from tiebreak.design.axes import UserError
from tiebreak.theory.activations import (
    ABS,
    HARDTANH,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    RELU6,
    PiecewiseLinear,
    stair,
)
from tiebreak.theory.machine import MachineSet
from tiebreak.theory.network import Network, Number, Sketch, Wire


def sum_of_neurons(function: PiecewiseLinear, *, count: int) -> Network:
    """The sum of function(b_i): it attains the bound on points that are not differentiable."""
    sketch = Sketch(f"sum of {count} {function.name}(b_i)")
    return sketch.network(
        sketch.total([sketch.parameter(f"b{i}").through(function) for i in range(1, count + 1)])
    )


def hidden_layer(function: PiecewiseLinear, *, count: int = 1) -> Network:
    """The sum of v_i function(u_i + b_i)."""
    name = "v" if count == 1 else f"sum of {count} v_i"
    index = "" if count == 1 else "_i"
    sketch = Sketch(f"{name} {function.name}(u{index} + b{index})")
    neurons = []
    for _ in range(count):
        u, b, v = sketch.parameters("u", "b", "v")
        neurons.append(v * (u + b).through(function))
    return sketch.network(sketch.total(neurons))


def two_layers(function: PiecewiseLinear) -> Network:
    """v function(w2 function(w1 + b1) + b2)."""
    sketch = Sketch(f"v {function.name}(w2 {function.name}(w1 + b1) + b2)")
    w1, b1, w2, b2, v = sketch.parameters("w1", "b1", "w2", "b2", "v")
    return sketch.network(v * (w2 * (w1 + b1).through(function) + b2).through(function))


def residual(function: PiecewiseLinear) -> Network:
    """v (z + function(w2 z + b2)) with z = function(w1 + b1)."""
    sketch = Sketch(f"v (z + {function.name}(w2 z + b2)), z = {function.name}(w1 + b1)")
    w1, b1, w2, b2, v = sketch.parameters("w1", "b1", "w2", "b2", "v")
    z = (w1 + b1).through(function)
    return sketch.network(v * (z + (w2 * z + b2).through(function)))


def plus_minus(function: PiecewiseLinear = RELU) -> Network:
    """function(w) - function(-w): the smallest network without biases on which AD is wrong."""
    sketch = Sketch(f"{function.name}(w) - {function.name}(-w)")
    w = sketch.parameter("w")
    return sketch.network(w.through(function) - (-w).through(function))


def stairs(machine: MachineSet) -> Network:
    """stair(w) - stair(-w), with a kink at every machine number: AD is wrong everywhere."""
    return plus_minus(stair(machine.numbers))


def product_neuron() -> Network:
    """relu(w2 id(w1))."""
    sketch = Sketch("relu(w2 w1)")
    w1, w2 = sketch.parameters("w1", "w2")
    return sketch.network((w2 * w1.through(IDENTITY)).through(RELU))


def product_plus_minus() -> Network:
    """relu(w2 id(w1)) - relu(-w2 id(w1))."""
    sketch = Sketch("relu(w2 w1) - relu(-w2 w1)")
    w1, w2 = sketch.parameters("w1", "w2")
    y = w2 * w1.through(IDENTITY)
    return sketch.network(y.through(RELU) - (-y).through(RELU))


def fully_connected(
    functions: Sequence[PiecewiseLinear], widths: Sequence[int], *, inputs: Sequence[Number] = (1,)
) -> Network:
    """Layers without biases, each weight its own; a last layer of width 1 gives the output.

    Args:
        functions: of each layer.
        widths: of each layer; the last is 1.
        inputs: the numbers that the first layer sees.

    Raises:
        UserError: no layer, as many functions as widths not given, or a last layer of another width.
    """
    if len(functions) != len(widths) or list(widths[-1:]) != [1]:
        raise UserError(
            f"a fully connected network needs a function a layer and a last layer of width 1, got "
            f"{len(functions)} functions and widths {tuple(widths)}."
        )
    sketch = Sketch(" -> ".join(f"{f.name}({n})" for f, n in zip(functions, widths, strict=True)))
    values: list[Wire | Number] = list(inputs)
    for layer, (function, width) in enumerate(zip(functions, widths, strict=True), start=1):
        neurons: list[Wire | Number] = []
        is_output = layer == len(widths) and function is IDENTITY
        for i in range(1, width + 1):
            weights = [sketch.parameter(f"w{layer}_{i}{j}") for j in range(1, len(values) + 1)]
            y = sketch.total([weight * value for weight, value in zip(weights, values, strict=True)])
            neurons.append(y if is_output else y.through(function))
        values = neurons
    (output,) = values
    assert isinstance(output, Wire)
    return sketch.network(output)


def minibatch(function: PiecewiseLinear, inputs: Sequence[Number]) -> Network:
    """The sum of function(w + x) over a batch of inputs: one bias that all of them share."""
    shown = ", ".join(map(str, inputs))
    sketch = Sketch(f"sum of {function.name}(w + x) over x in ({shown})")
    w = sketch.parameter("w")
    return sketch.network(sketch.total([(w + x).through(function) for x in inputs]))


def maximum_of(count: int) -> Network:
    """max(b_1, ..., b_n)."""
    sketch = Sketch(f"max(b_1, ..., b_{count})")
    return sketch.network(sketch.largest([sketch.parameter(f"b{i}") for i in range(1, count + 1)]))


def two_windows() -> Network:
    """max(u + b, b) - max(-u + b, b): equal to u, by a max pool over values with one bias."""
    sketch = Sketch("max(u + b, b) - max(-u + b, b)")
    u, b = sketch.parameters("u", "b")
    return sketch.network(sketch.largest([u + b, b]) - sketch.largest([-u + b, b]))


def two_windows_with_biases() -> Network:
    """max(u + b1, b2) - max(-u + b3, b4)."""
    sketch = Sketch("max(u + b1, b2) - max(-u + b3, b4)")
    u, b1, b2, b3, b4 = sketch.parameters("u", "b1", "b2", "b3", "b4")
    return sketch.network(sketch.largest([u + b1, b2]) - sketch.largest([-u + b3, b4]))


def repeated_entries() -> Network:
    """max(p, q, q) - max(p, p, q): always 0, and wrong for the even split."""
    sketch = Sketch("max(p, q, q) - max(p, p, q)")
    p, q = sketch.parameters("p", "q")
    return sketch.network(sketch.largest([p, q, q]) - sketch.largest([p, p, q]))


def convolution_and_pool(inputs: Sequence[Number], *, stride: int = 1) -> Network:
    """conv1d of two weights and a bias, max_pool1d of two; the windows count +1, -1, +1, ...

    Args:
        inputs: a row of numbers.
        stride: of the pool.
    """
    row = ", ".join(map(str, inputs))
    sketch = Sketch(f"alternating sum of max_pool1d(conv1d(({row})), 2, stride {stride})")
    u1, u2, b = sketch.parameters("u1", "u2", "b")
    outputs = [u1 * x + u2 * y + b for x, y in pairwise(inputs)]
    pools = [
        sketch.largest(outputs[start : start + 2]) * (-1) ** place
        for place, start in enumerate(range(0, len(outputs) - 1, stride))
    ]
    return sketch.network(sketch.total(pools))


def pooled_neurons() -> Network:
    """max(relu(u1 + b1), relu(u2 + b2)): dead neurons are tied at 0."""
    sketch = Sketch("max(relu(u1 + b1), relu(u2 + b2))")
    u1, b1, u2, b2 = sketch.parameters("u1", "b1", "u2", "b2")
    return sketch.network(sketch.largest([(u1 + b1).through(RELU), (u2 + b2).through(RELU)]))


def weighted_differences(factors: Sequence[int] = (1, -1, 2)) -> Network:
    """The sum of relu(u_a (z1 - a z2)): a weight that multiplies two inputs, which the bound forbids."""
    sketch = Sketch(f"sum of relu(u_a (z1 - a z2)) over a in {tuple(factors)}")
    w1, w2 = sketch.parameters("w1", "w2")
    z1, z2 = w1.through(IDENTITY), w2.through(IDENTITY)
    weights = [sketch.parameter(f"u{i}") for i in range(1, len(factors) + 1)]
    return sketch.network(
        sketch.total([(u * (z1 - z2 * a)).through(RELU) for u, a in zip(weights, factors, strict=True)])
    )


def drawn_network(seed: int, *, with_maxima: bool = True) -> Network:
    """A random network of one to four parameters, of every kind of node, tied weights and dead ends included.

    Args:
        seed: the same one gives the same network.
        with_maxima: whether there may be max pools.
    """
    draw = random.Random(seed)
    sketch = Sketch(f"drawn({seed})")
    parameters = [sketch.parameter(f"w{i}") for i in range(1, draw.randint(1, 4) + 1)]
    functions = (RELU, ABS, LEAKY_RELU, HARDTANH, RELU6)
    neurons: list[Wire] = []
    num_products = 0
    for _ in range(draw.randint(3, 8)):
        left, right = (draw.choice([*parameters, *neurons]) for _ in range(2))
        kind = draw.choice(["product", "activation", "activation", "activation", "maximum"])
        if kind == "product" and num_products < 3:
            num_products += 1
            neurons.append(left * right)
        elif kind == "maximum" and with_maxima:
            neurons.append(sketch.largest([left, right + draw.randint(-1, 1)]))
        else:
            argument = (
                left * draw.choice([1, -1, 2]) + right * draw.choice([0, 1, -1]) + draw.choice([0, 0, 1])
            )
            neurons.append(argument.through(draw.choice(functions)))
    return sketch.network(sketch.total([neuron * draw.choice([1, -1, 2]) for neuron in neurons]))
