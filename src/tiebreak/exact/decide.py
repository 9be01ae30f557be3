"""Which branch every ReLU and every pool takes over the reals: nothing is used before it is decided.

The filter decides what it can. For the rest, residues modulo all primes say which numbers are equal, which is
all that a tie asks; and where they say that two numbers differ, the filter is made wider until the sign or
the order is certain. That ends, because different rationals are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tiebreak.exact.bounds import UNIT, Ball, Balls
from tiebreak.exact.evaluation import Decision, Evaluation, Windows, patches, pixel_numbers
from tiebreak.exact.graph import (
    Affine,
    Concat,
    Conv2d,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    NotCertifiableError,
    ReLU,
    Reshape,
)
from tiebreak.exact.residues import Residues
from tiebreak.exact.slices import MOST_DIGITS, FixedPoint


@dataclass
class Walk:
    """One way through the network for some images, deciding as it goes.

    Args:
        graph: the network.
        images: a part of the batch.
        fields: residues modulo each prime, shared by all parts of a batch.
        filters: the filter by its width; 1 is float64.

    Attributes:
        decisions: of every ReLU and pool reached.
        equalities: number of equalities that zero residues stand for, by node.
        escalated: neurons and windows that float64 left open and that are not ties.
        width: digits of the filter in use; 1 is float64.
    """

    graph: Graph
    images: Tensor
    fields: Sequence[Residues]
    filters: Callable[[int], Balls | FixedPoint]
    decisions: dict[int, Decision] = field(default_factory=dict)
    equalities: dict[int, int] = field(default_factory=dict)
    escalated: int = 0
    width: int = 1

    def __post_init__(self) -> None:
        self._kept = frozenset(
            node.inputs[0]
            for node in self.graph.nodes
            if isinstance(node.operation, Conv2d | Linear | Affine)
        )
        self._filter = Evaluation(self.filters(1), self.graph, self.images, keep=frozenset())
        self._lanes: list[Evaluation[Tensor]] | None = None
        self._pixels: dict[int, Tensor] = {}

    def run(self) -> None:
        """Decide everything up to the output."""
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node.operation, ReLU):
                self.decisions[index] = self._signs(index, node)
            elif isinstance(node.operation, MaxPool2d):
                self.decisions[index] = self._maxima(index, node)

    def lanes(self) -> list[Evaluation[Tensor]]:
        """The network modulo each prime, as far as it is decided; made when they are first needed."""
        if self._lanes is None:
            self._lanes = [
                Evaluation(numbers, self.graph, self.images, keep=self._kept) for numbers in self.fields
            ]
        return self._lanes

    def dead_zeros(self, index: int) -> Tensor:
        """Windows of a pool whose maximum is the 0 of a ReLU: no gradient passes, whatever the rule."""
        windows = self.decisions[index]
        assert isinstance(windows, Windows)
        alive = self._alive(self.graph.nodes[index].inputs[0])
        if alive is None:
            return torch.zeros_like(windows.number, dtype=torch.bool)
        entries = patches(alive, self.graph.nodes[index], fill=0)
        return ~(entries & windows.tied).any(0)

    def _alive(self, index: int) -> Tensor | None:
        """Where a ReLU lets a gradient through; None where there is no ReLU to say so."""
        node = self.graph.nodes[index]
        match node.operation:
            case ReLU():
                decision = self.decisions[index]
                assert isinstance(decision, Tensor)
                return decision
            case Reshape():
                alive = self._alive(node.inputs[0])
                return None if alive is None else alive.reshape(len(alive), *node.shape[1:])
            case Concat(axis):
                parts = [self._alive(source) for source in node.inputs]
                return None if any(part is None for part in parts) else torch.cat(parts, axis)  # pyright: ignore[reportArgumentType]
            case MaxPool2d():
                alive, windows = self._alive(node.inputs[0]), self.decisions[index]
                assert isinstance(windows, Windows)
                if alive is None:
                    return None
                return (patches(alive, node, fill=0) & windows.tied).any(0)
            case _:
                return None

    def _signs(self, index: int, node: Node) -> Tensor:
        """Where the input of a ReLU is above 0."""
        source = node.inputs[0]
        counted = False
        while True:
            ball = self._centred(source)
            positive = ball.value > ball.radius
            exact_zero = (ball.value == 0) & (ball.radius == 0)
            is_open = ~(positive | (ball.value < -ball.radius) | exact_zero)
            if not bool(is_open.any()):
                return positive
            places = is_open.nonzero(as_tuple=True)
            differs = self._differs(source, lambda x, at=places: x[at] != 0)
            self.escalated += 0 if counted else int(differs.sum())
            counted = True
            self.equalities[index] = int((~differs).sum())
            if not bool(differs.any()):
                return positive  # the open ones are 0
            self._widen(index)

    def _maxima(self, index: int, node: Node) -> Windows:
        """Which entries of each window attain its maximum."""
        source = node.inputs[0]
        counted = False
        while True:
            self._filter.advance(source, self.decisions)
            entries, exists = self._filter.numbers.differences(self._filter.values[source], node)  # pyright: ignore[reportArgumentType]
            tied, is_open = _candidates(entries, exists)
            if not bool(is_open.any()):
                return self._windows(index, node, tied)
            places = is_open.nonzero(as_tuple=True)
            some = tied[(slice(None), *places)]
            first = some.int().argmax(0, keepdim=True)
            differs = self._differs(
                source, lambda x, at=places, one=some, ref=first: _unequal(x, node, at, one, ref)
            )
            self.escalated += 0 if counted else int(differs.sum())
            counted = True
            self.equalities[index] = int((some.sum(0) - 1)[~differs].sum())
            if not bool(differs.any()):
                return self._windows(index, node, tied)
            self._widen(index)

    def _centred(self, source: int) -> Ball:
        self._filter.advance(source, self.decisions)
        return self._filter.numbers.centred(self._filter.values[source])  # pyright: ignore[reportArgumentType]

    def _differs(self, source: int, test: Callable[[Tensor], Tensor]) -> Tensor:
        """Whether a test of the residues holds modulo any prime."""
        found = None
        for lane in self.lanes():
            one = test(lane.advance(source, self.decisions))
            found = one if found is None else found | one
        assert found is not None
        return found

    def _widen(self, index: int) -> None:
        """A wider filter, from the batch up to here again."""
        if self.width >= MOST_DIGITS:
            raise NotCertifiableError(
                f"undecided, because {MOST_DIGITS} digits of 20 bits do not separate the numbers at "
                f"{self.graph.nodes[index].where}."
            )
        self.width = min(max(3, 2 * self.width), MOST_DIGITS)
        self._filter = Evaluation(self.filters(self.width), self.graph, self.images, keep=frozenset())

    def _windows(self, index: int, node: Node, tied: Tensor) -> Windows:
        size = self.graph.nodes[node.inputs[0]].shape[2:]
        pixels = pixel_numbers(node, (size[0], size[1]), device=tied.device)
        first = tied.int().argmax(0)
        chosen = pixels[:, None, None].expand(-1, *tied.shape[1:3], -1, -1).gather(0, first[None])[0]
        return Windows(tied, tied.sum(0), chosen.flatten(2))


def _candidates(entries: Ball, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Entries that may attain the maximum, and windows in which it is open which of them do."""
    slack = 2 * UNIT * (entries.value.abs() + entries.radius)
    slack = torch.where(exists, slack, 0.0)
    low = (entries.value - entries.radius - slack).masked_fill_(~exists, -torch.inf).amax(0)
    loses = entries.value + entries.radius + slack < low
    candidate = exists & ~loses
    several = candidate.sum(0) > 1
    # Numbers that are known exactly are compared as they are.
    value, radius = entries.value, entries.radius
    top = torch.where(candidate, value, -torch.inf).amax(0)
    exact = ((radius == 0) | ~candidate).all(0) & several
    candidate = candidate & (~exact | (value == top))
    return candidate, several & ~exact


def _unequal(x: Tensor, node: Node, places: tuple[Tensor, ...], tied: Tensor, first: Tensor) -> Tensor:
    """Whether the candidates of some windows are not all the same residue."""
    entries = patches(x, node, fill=0.0)[(slice(None), *places)]
    return ((entries != entries.gather(0, first)) & tied).any(0)
