"""One real bifurcation taken apart: which window, which patches, which entry of the gradient, how large.

The decisions and which entries differ are certified; how large a difference is comes from float64 that takes
the certified branch everywhere, and is rounded as float64 is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from tiebreak.exact.bounds import Balls
from tiebreak.exact.certify import certify_graph
from tiebreak.exact.classes import Classes, of_several_classes
from tiebreak.exact.decide import Walk
from tiebreak.exact.evaluation import Evaluation, Windows
from tiebreak.exact.fixed_point import FixedPoint
from tiebreak.exact.graph import Affine, Conv2d, Graph, MaxPool2d, Node, NotCertifiableError, ReLU
from tiebreak.exact.residues import Adjoint, Residues
from tiebreak.exact.rules import TieRule


@dataclass(frozen=True, kw_only=True)
class Dissection:
    """A tie between different patches, and what the rule there does to the derivative.

    Attributes:
        pool: number of the pool, in the order in which they ran.
        where: its place in the network.
        image, channel, window_row, window_column: the window.
        tied: its tied entries.
        value: their common value, as float64.
        entries: the tied entries as (row, column) of the pool's input.
        patches: what the first and another of them see of the layer below, where the two differ; text.
        tensor: parameter with the largest difference of the whole batch, among entries proved to differ.
        index: of the entry, row-major places separated by commas.
        difference: D there.
    """

    pool: int
    where: str
    image: int
    channel: int
    window_row: int
    window_column: int
    tied: int
    value: float
    entries: str
    patches: str
    tensor: str
    index: str
    difference: float


def dissect(
    graph: Graph, cotangent: Tensor, *, beta: Fraction, primes: Sequence[int], seed: int
) -> Dissection | None:
    """The first tie between different patches in an image whose own share of D is not 0.

    Args:
        graph: the network, whose certificate for this rule says that D != 0.
        cotangent: of that certificate.
        beta: of the rule that is compared with PyTorch's.
        primes: of that certificate.
        seed: of the hashes by which patches are told apart.

    Returns:
        None where no single window explains it: all ties are between equal patches, or behind an operation
        through which places are not followed.
    """
    verdict = certify_graph(graph, cotangent, jacobians=(beta,), seed=seed, keep_entries=True).verdicts[0]
    assert verdict.entries is not None
    rounded = _difference(graph, cotangent, TieRule(beta), primes)
    size = {name: value.where(verdict.entries[name], 0.0) for name, value in rounded.items()}
    tensor = max(size, key=lambda name: float(size[name].abs().max()))
    place = int(size[tensor].abs().argmax())
    for image in range(len(graph.batch)):
        one, its = _image(graph, image), cotangent[image : image + 1]
        if not certify_graph(one, its, jacobians=(beta,), seed=seed).verdicts[0].different:
            continue
        found = _window(one, primes, seed)
        if found is not None:
            index = torch.unravel_index(torch.tensor(place), size[tensor].shape)
            return replace(
                found,
                image=image,
                tensor=tensor,
                index=",".join(str(int(part)) for part in index),
                difference=float(size[tensor].flatten()[place]),
            )
    return None


class _Rounded(Residues):
    """Float64 in the place of residues: the same steps, rounded."""

    def __init__(self) -> None:
        super().__init__(prime=1)

    def reduce(self, x: Tensor) -> Tensor:
        return x

    def encode(self, x: Tensor) -> Tensor:
        return x

    def constant(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x

    def number(self, share: Fraction) -> float:
        return float(share)


def _walk(graph: Graph, primes: Sequence[int]) -> Walk:
    fields = [Residues(prime) for prime in primes]
    walk = Walk(graph, graph.batch, fields=fields, wide=cache(FixedPoint))
    walk.run()
    return walk


def _difference(graph: Graph, cotangent: Tensor, rule: TieRule, primes: Sequence[int]) -> dict[str, Tensor]:
    """D in float64, on the certified branch."""
    decisions = _walk(graph, primes).decisions
    keep = frozenset(node.inputs[0] for node in graph.nodes[1:])
    numbers = _Rounded()
    values = Evaluation(numbers, graph, graph.batch, keep=keep)
    values.advance(graph.output, decisions)
    adjoint = Adjoint(numbers, graph, values=values.values, decisions=decisions, rules=(rule,))
    return adjoint.run(cotangent.double(), live=frozenset(graph.pools))[0]


def _image(graph: Graph, image: int) -> Graph:
    """The network with one image of the batch."""
    nodes = []
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, MaxPool2d):
            operation = replace(operation, float_mask=operation.float_mask[:, image : image + 1])
        nodes.append(Node(operation, node.inputs, (1, *node.shape[1:]), node.where))
    return replace(graph, nodes=tuple(nodes), batch=graph.batch[image : image + 1])


def _window(graph: Graph, primes: Sequence[int], seed: int) -> Dissection | None:
    """The first live window of one image whose tied entries come from different patches."""
    walk = _walk(graph, primes)
    values = Evaluation(Balls(), graph, graph.batch, keep=frozenset(range(len(graph.nodes))))
    classes = [Evaluation(Classes(prime, seed), graph, graph.batch, keep=frozenset()) for prime in primes]
    for number, index in enumerate(graph.pools):
        node, windows = graph.nodes[index], walk.decisions[index]
        assert isinstance(windows, Windows)
        live = (windows.number > 1) & ~walk.dead_zeros(index)
        if not bool(live.any()):
            continue
        try:
            seen = [lane.advance(node.inputs[0], walk.decisions) for lane in classes]
        except NotCertifiableError:
            return None
        places = (of_several_classes(seen, node, windows.tied) & live).nonzero()
        if len(places):
            _, channel, row, column = places[0].tolist()
            pixels = _pixels(node, windows, (0, channel, row, column))
            source = values.advance(node.inputs[0], walk.decisions).value
            return Dissection(
                pool=number,
                where=node.where,
                image=0,
                channel=channel,
                window_row=row,
                window_column=column,
                tied=len(pixels),
                value=float(source[0, channel, *pixels[0]]),
                entries=" ".join(f"({y},{x})" for y, x in pixels),
                patches=_patches(graph, node.inputs[0], values, pixels),
                tensor="",
                index="",
                difference=0.0,
            )
    return None


def _pixels(node: Node, windows: Windows, place: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """The tied pixels of a window, as (row, column) of the pool's input."""
    operation = node.operation
    assert isinstance(operation, MaxPool2d)
    geometry = operation.geometry
    entries = windows.tied[(slice(None), *place)].nonzero().flatten().tolist()
    return [
        tuple(  # pyright: ignore[reportReturnType]
            place[2 + axis] * geometry.stride[axis]
            - geometry.padding[axis]
            + (entry // geometry.kernel[1], entry % geometry.kernel[1])[axis] * geometry.dilation[axis]
            for axis in range(2)
        )
        for entry in entries
    ]


def _patches(graph: Graph, index: int, values: Evaluation, pixels: list[tuple[int, int]]) -> str:
    """What the first and each other tied pixel see below the nearest convolution, where they differ."""
    while isinstance(graph.nodes[index].operation, ReLU | Affine | MaxPool2d):
        if isinstance(graph.nodes[index].operation, MaxPool2d):
            return "below another pool"
        index = graph.nodes[index].inputs[0]
    operation = graph.nodes[index].operation
    if not isinstance(operation, Conv2d):
        return "not below a convolution"
    below = values.values[graph.nodes[index].inputs[0]].value[0]
    seen = [_seen(below, operation, pixel) for pixel in pixels]
    other = next((patch for patch in seen if not torch.equal(patch, seen[0])), None)
    if other is None:
        return "equal here, different further below"
    at = (seen[0] != other).nonzero().tolist()
    shown = [
        f"{place}: {float(seen[0][tuple(place)]):.6g} and {float(other[tuple(place)]):.6g}"
        for place in at[:4]
    ]
    more = f" and {len(at) - 4} more" if len(at) > 4 else ""
    return f"differ in {len(at)} of {seen[0].numel()} entries, at {'; '.join(shown)}{more}"


def _seen(below: Tensor, operation: Conv2d, pixel: tuple[int, int]) -> Tensor:
    """(channels, rows, columns) of the patch under one place of a convolution's result, zeros outside."""
    rows, columns = operation.weight.value.shape[2:]
    patch = below.new_zeros(below.shape[0], rows, columns)
    for y in range(rows):
        for x in range(columns):
            row = pixel[0] * operation.stride[0] - operation.padding[0] + y * operation.dilation[0]
            column = pixel[1] * operation.stride[1] - operation.padding[1] + x * operation.dilation[1]
            if 0 <= row < below.shape[1] and 0 <= column < below.shape[2]:
                patch[:, y, x] = below[:, row, column]
    return patch
