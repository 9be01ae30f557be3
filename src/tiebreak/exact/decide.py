"""Which branch every ReLU and every pool takes over the reals: nothing is used before it is decided.

The filter decides what it can. For the rest, residues modulo all primes say which numbers are equal, which is
all that a tie asks; and where they say that two numbers differ, the filter is made wider until the sign or
the order is certain. That ends, because different rationals are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.exact.bounds import Balls, candidates, entries
from tiebreak.exact.evaluation import Decision, Evaluation, Windows, patches, pixel_numbers
from tiebreak.exact.fixed_point import FIRST_DIGITS, MOST_DIGITS, Fixed, FixedPoint
from tiebreak.exact.graph import (
    Concat,
    Graph,
    MaxPool2d,
    Node,
    NotCertifiableError,
    ReLU,
    Reshape,
)
from tiebreak.exact.residues import Residues


class Walk:
    """One way through the network for some images, deciding as it goes.

    Args:
        graph: the network.
        images: a part of the batch.
        fields: residues modulo each prime, shared by all parts of a batch.
        wide: fixed point by its width in digits, shared by all parts of a batch.
        progress: told which layer comes next.

    Attributes:
        decisions: of every ReLU and pool reached.
        zeros: of every ReLU reached, where its argument is exactly 0.
        equalities: number of equalities that zero residues stand for, by node.
        comparisons: number of pairs that residues were asked about, by node.
        escalated: neurons and windows that float64 left open and that are not ties.
        width: most digits that were needed; 0 where float64 was enough.
    """

    def __init__(
        self,
        graph: Graph,
        images: Tensor,
        *,
        fields: Sequence[Residues],
        wide: Callable[[int], FixedPoint],
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.graph, self.images = graph, images
        self.fields, self.wide, self.progress = fields, wide, progress
        self.decisions: dict[int, Decision] = {}
        self.zeros: dict[int, Tensor] = {}
        self.equalities: dict[int, int] = {}
        self.comparisons: dict[int, int] = {}
        self.escalated = self.width = 0
        self._filter = Evaluation(Balls(), graph, images, keep=frozenset())
        self._lanes: list[Evaluation[Tensor]] | None = None
        self._groups: list[_Group] = []
        self._group_of = torch.full((len(images),), -1, device=images.device)
        self._place_of = torch.zeros_like(self._group_of)

    def run(self) -> None:
        """Decide everything up to the output."""
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node.operation, ReLU | MaxPool2d):
                self.progress(node.where)
            if isinstance(node.operation, ReLU):
                self.decisions[index] = self._signs(index, node)
            elif isinstance(node.operation, MaxPool2d):
                self.decisions[index] = self._maxima(index, node)

    def lanes(self) -> list[Evaluation[Tensor]]:
        """The network modulo each prime, as far as it is decided; made when they are first needed."""
        if self._lanes is None:
            self._lanes = [
                Evaluation(numbers, self.graph, self.images, keep=self.graph.multiplied)
                for numbers in self.fields
            ]
        return self._lanes

    def dead_zeros(self, index: int) -> Tensor:
        """Windows of a pool whose maximum is the 0 of a ReLU: no gradient passes, whatever the rule."""
        windows = self.decisions[index]
        assert isinstance(windows, Windows)
        alive = self.alive(self.graph.nodes[index].inputs[0])
        if alive is None:
            return torch.zeros_like(windows.number, dtype=torch.bool)
        entries = patches(alive, self.graph.nodes[index], fill=0)
        return ~(entries & windows.tied).any(0)

    def alive(self, index: int) -> Tensor | None:
        """Where the last ReLU before a node lets a gradient through; None where there is none to say so."""
        node = self.graph.nodes[index]
        match node.operation:
            case ReLU():
                decision = self.decisions[index]
                assert isinstance(decision, Tensor)
                return decision
            case Reshape():
                alive = self.alive(node.inputs[0])
                return None if alive is None else alive.reshape(len(alive), *node.shape[1:])
            case Concat(axis):
                parts = [self.alive(source) for source in node.inputs]
                return None if any(part is None for part in parts) else torch.cat(parts, axis)  # pyright: ignore[reportArgumentType]
            case MaxPool2d():
                alive, windows = self.alive(node.inputs[0]), self.decisions[index]
                assert isinstance(windows, Windows)
                if alive is None:
                    return None
                return (patches(alive, node, fill=0) & windows.tied).any(0)
            case _:
                return None

    def _signs(self, index: int, node: Node) -> Tensor:
        """Where the input of a ReLU is above 0."""
        source = node.inputs[0]
        ball = self._filter.advance(source, self.decisions)
        positive = ball.value > ball.radius
        is_zero = (ball.value == 0) & (ball.radius == 0)
        self.zeros[index] = is_zero
        is_open = ~(positive | (ball.value < -ball.radius) | is_zero)
        if not bool(is_open.any()):
            return positive
        places = is_open.nonzero(as_tuple=True)
        differs = self._residues(source, lambda x: x[places]).any(0)
        self.equalities[index] = int((~differs).sum())
        self.comparisons[index] = len(differs)
        self.escalated += int(differs.sum())
        is_zero[places] = ~differs
        places = tuple(place[differs] for place in places)

        def sign(group: _Group, local: tuple[Tensor, ...], asked: Tensor) -> Tensor:
            fixed = group.numbers.centred(group.evaluation.advance(source, group.decisions))
            value, radius = fixed.value[local], fixed.radius[local]
            decided = value.abs() > radius
            positive[tuple(place[asked][decided] for place in places)] = value[decided] > 0
            return decided

        self._refine(index, places, sign)
        return positive

    def _maxima(self, index: int, node: Node) -> Windows:
        """Which entries of each window attain its maximum."""
        source = node.inputs[0]
        tied, is_open = candidates(*entries(self._filter.advance(source, self.decisions), node))
        if not bool(is_open.any()):
            return self._windows(node, tied)
        places = is_open.nonzero(as_tuple=True)
        some = tied[(slice(None), *places)]
        found = self._residues(source, lambda x: patches(x, node, fill=0.0)[(slice(None), *places)])
        is_tie = _are_equal(found, some)
        self.comparisons[index] = int((some.sum(0) - 1).sum())
        self.escalated += int((~is_tie).sum())
        rest = (~is_tie).nonzero().flatten()
        places = tuple(place[rest] for place in places)

        def order(group: _Group, local: tuple[Tensor, ...], asked: Tensor) -> Tensor:
            fixed = group.numbers.differences(group.evaluation.advance(source, group.decisions), node)
            at = rest[asked]
            some[:, at] &= candidates(*fixed)[0][(slice(None), *local)]
            self.comparisons[index] += int((some[:, at].sum(0) - 1).sum())
            return _are_equal(found[:, :, at], some[:, at])

        self._refine(index, places, order)
        self.equalities[index] = int((some.sum(0) - 1).sum())
        tied[(slice(None), *is_open.nonzero(as_tuple=True))] = some
        return self._windows(node, tied)

    def _residues(self, source: int, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """Some residues of a node modulo every prime, the primes along the first axis.

        Reduced once more: a residue next to half of the prime may come out of a long sum with either sign.
        """
        return torch.stack(
            [
                numbers.reduce(pick(lane.advance(source, self.decisions)).clone())
                for numbers, lane in zip(self.fields, self.lanes(), strict=True)
            ]
        )

    def _refine(
        self,
        index: int,
        places: tuple[Tensor, ...],
        test: Callable[[_Group, tuple[Tensor, ...], Tensor], Tensor],
    ) -> None:
        """Ask a wider and wider filter about places that are no ties, until each is decided.

        Args:
            index: the node that is decided.
            places: of what is open, the image first.
            test: decides what a group of images can, told the places in the group and which of `places`
                they are; returns which are decided.
        """
        is_open = torch.ones_like(places[0], dtype=torch.bool)
        while bool(is_open.any()):
            self.progress(f"{self.graph.nodes[index].where} in fixed point")
            images = places[0][is_open].unique()
            new = images[self._group_of[images] < 0]
            if len(new):
                self._open(new, width=FIRST_DIGITS)
            for number in self._group_of[images].unique().tolist():
                group = self._groups[number]
                group.follow(self.decisions)
                asked = (is_open & (self._group_of[places[0]] == number)).nonzero().flatten()
                local = (self._place_of[places[0][asked]], *(place[asked] for place in places[1:]))
                is_open[asked[test(group, local, asked)]] = False
                still = places[0][asked[is_open[asked]]].unique()
                if len(still):
                    self._open(still, width=self._wider(group, index))

    def _open(self, images: Tensor, *, width: int) -> None:
        """A new group of images with a filter of its own, from the batch on."""
        self._group_of[images] = len(self._groups)
        self._place_of[images] = torch.arange(len(images), device=images.device)
        numbers = self.wide(width)
        evaluation = Evaluation(numbers, self.graph, self.images[images], keep=frozenset())
        self._groups.append(_Group(images, numbers, evaluation, {}))
        self.width = max(self.width, width)

    def _wider(self, group: _Group, index: int) -> int:
        if group.numbers.width >= MOST_DIGITS:
            raise NotCertifiableError(
                f"undecided, because {MOST_DIGITS} digits of 20 bits do not separate the numbers at "
                f"{self.graph.nodes[index].where}."
            )
        return min(2 * group.numbers.width, MOST_DIGITS)

    def _windows(self, node: Node, tied: Tensor) -> Windows:
        size = self.graph.nodes[node.inputs[0]].shape[2:]
        pixels = pixel_numbers(node, (size[0], size[1]), device=tied.device)
        chosen = first_of(pixels[:, None, None], tied)
        return Windows(tied, tied.sum(0), chosen.flatten(2))


@dataclass
class _Group:
    """Some images with a filter of their own.

    Attributes:
        images: their places in the part of the batch.
        numbers: the filter.
        evaluation: how far it has come.
        decisions: of these images.
    """

    images: Tensor
    numbers: FixedPoint
    evaluation: Evaluation[Fixed]
    decisions: dict[int, Decision]

    def follow(self, decisions: dict[int, Decision]) -> None:
        """Take over what was decided since."""
        for index, decision in decisions.items():
            if index not in self.decisions:
                images = self.images
                self.decisions[index] = (
                    decision.of(images) if isinstance(decision, Windows) else decision[images]
                )


def _are_equal(residues: Tensor, candidates: Tensor) -> Tensor:
    """Whether the candidates of a window are one number, modulo every prime.

    Args:
        residues: (primes, entries, windows).
        candidates: (entries, windows) bool.
    """
    first = torch.stack([first_of(residue, candidates) for residue in residues])
    return ~((residues != first[:, None]) & candidates).any(0).any(0)


def first_of(values: Tensor, marked: Tensor) -> Tensor:
    """The value of the first marked entry along the first axis, of the last entry where none is marked.

    Args:
        values: (entries, ...), broadcast to `marked`.
        marked: (entries, ...) bool.
    """
    result = values[-1].expand(marked.shape[1:])
    for value, mark in zip(reversed(values[:-1].unbind()), reversed(marked[:-1].unbind()), strict=True):
        result = torch.where(mark, value, result)
    return result
