"""Whether AD's sides at kinks and ties can be reached: the linear forms of a batch, asked for and judged.

Each ReLU at 0 and each tied window asks for linear forms of one layer and one channel (`layer_forms`). What
is asked of one channel is asked of no other, so each is judged alone: by one direction for an image, and by
one for all images of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiebreak.exact.bounds import Ball, Balls
from tiebreak.exact.classes import has_places, of_several_classes
from tiebreak.exact.decide import Walk
from tiebreak.exact.directions import are_independent, positive_direction
from tiebreak.exact.evaluation import Evaluation, Windows
from tiebreak.exact.graph import Conv2d, Node
from tiebreak.exact.layer_forms import Demands, Layer, Layers, tied_entries
from tiebreak.exact.nearby import Nearby

Group = tuple[Layer, int]
"""A layer and one of its channels."""


class Places:
    """What each place of an activation is near the point, by hashes.

    Args:
        walk: a part of the batch, decided.
        primes: one hash each.
        seed: of the hashes.
    """

    def __init__(self, walk: Walk, *, primes: Sequence[int], seed: int) -> None:
        self._graph, self._images, self._primes, self._seed = walk.graph, walk.images, primes, seed
        self._decisions = dict(walk.decisions)
        for relu, zeros in walk.zeros.items():
            positive = self._decisions[relu]
            assert isinstance(positive, Tensor)
            self._decisions[relu] = positive | zeros
        keep = {walk.graph.nodes[index].inputs[0] for index in walk.graph.pools}
        keep |= {i for i, node in enumerate(walk.graph.nodes) if isinstance(node.operation, Conv2d)}
        self._keep = frozenset(keep)
        self._lanes: list[Evaluation[Tensor]] | None = None
        self._mixed: dict[Node, Tensor] = {}

    def classes(self, node: int) -> list[Tensor]:
        """Of a convolution or of what a pool reads: (N, channels, rows, columns) for each prime.

        Raises:
            NotCertifiableError: an operation before it through which places cannot be followed.
        """
        if self._lanes is None:  # a network without places may need none
            kinds = (Nearby(prime, self._seed, mixed=self._mixed) for prime in self._primes)
            self._lanes = [Evaluation(kind, self._graph, self._images, keep=self._keep) for kind in kinds]
        for index in self._graph.pools:
            pool, windows = self._graph.nodes[index], self._decisions[index]
            if index <= node and pool not in self._mixed:
                assert isinstance(windows, Windows)
                before = [lane.advance(pool.inputs[0], self._decisions) for lane in self._lanes]
                self._mixed[pool] = of_several_classes(before, pool, windows.tied)
        return [lane.advance(node, self._decisions) for lane in self._lanes]

    def of(self, node: int, image: Tensor, place: Tensor) -> Tensor | None:
        """Hashes of some places of a convolution, (number, primes); None where none can be had."""
        if not has_places(self._graph, node):
            return None
        height, width = self._graph.nodes[node].shape[2:]
        pixel = place % (height * width)
        return torch.stack([one[:, 0].flatten(1)[image, pixel] for one in self.classes(node)], 1)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found of the images that were asked about.

    Attributes:
        is_limit: (images,) bool, where AD's sides can be reached.
        is_independent: (images,) bool, where every choice of sides of ReLUs can, and no window matters.
        forms: of all images, by group; of use only where no image that asked is without a direction.
    """

    is_limit: Tensor
    is_independent: Tensor
    forms: dict[Group, Ball]


class Sides:
    """What a part of a batch asks of directions.

    Args:
        walk: the part, decided.
        places: of the same images.

    Attributes:
        pairs: of places whose hashes were compared.
        merged: places that were taken for another one because of their hashes.
    """

    def __init__(self, walk: Walk, places: Places) -> None:
        self.pairs = self.merged = 0
        self._walk, self._places, self._layers = walk, places, Layers(walk.graph)
        self._is_lost = torch.zeros(len(walk.images), dtype=torch.bool, device=walk.images.device)
        self._is_dependent = self._is_lost.clone()
        self._asked: dict[Layer, list[Demands]] = defaultdict(list)

    def ask_to_go_off(self, relu: int, zeros: Tensor) -> None:
        """Ask that the arguments of a ReLU become negative where they are 0.

        Args:
            relu: its node.
            zeros: where its argument is 0, of its shape.
        """
        source = self._walk.graph.nodes[relu].inputs[0]
        if self._walk.alive(source) is None:
            image, place = zeros.flatten(1).nonzero(as_tuple=True)
            self._ask(source, image, above=None, below=place)
        else:
            self.mark_dependent(zeros)

    def mark_dependent(self, where: Tensor) -> None:
        """Mark images with zeros that stay 0 if the ReLUs at 0 before them go off, not for every choice.

        Args:
            where: (N, ...) bool.
        """
        self._is_dependent |= where.flatten(1).any(1)

    def ask_for_first(self, pool: int, others: Tensor) -> None:
        """Ask that the first maximal entry of a window come to be above others.

        Args:
            pool: its node.
            others: (entries, N, C, rows, columns) bool, the others.
        """
        node, windows = self._walk.graph.nodes[pool], self._walk.decisions[pool]
        assert isinstance(windows, Windows)
        size = self._walk.graph.nodes[node.inputs[0]].shape[2:]
        image, first, other = tied_entries(node, (size[0], size[1]), windows, others)
        self._is_dependent[image] = True  # windows that share entries cannot take sides one by one
        self._ask(node.inputs[0], image, above=first, below=other)

    def _ask(self, source: int, image: Tensor, *, above: Tensor | None, below: Tensor) -> None:
        if not len(image):
            return
        low = self._layers.follow(source, image, below, self._walk.decisions)
        if low is None:
            self._is_lost[image] = True
            return
        layer, low_place = low
        high_place = torch.full_like(low_place, -1)
        if above is not None:
            high = self._layers.follow(source, image, above, self._walk.decisions)
            assert high is not None
            high_place = high[1]
        self._asked[layer].append(Demands(image, high_place, low_place))

    def judge(self, wanted: Tensor) -> Judgement:
        """Look for a direction for each image, and whether all sides can be reached.

        Args:
            wanted: (images,) bool, which to judge; the others asked for nothing.
        """
        graph = self._walk.graph
        keep = frozenset(graph.nodes[layer.node].inputs[0] for layer in self._asked)
        balls = Evaluation(Balls(), graph, self._walk.images, keep=keep)
        is_lost, is_dependent = self._is_lost.clone(), self._is_dependent.clone()
        forms: dict[Group, Ball] = {}
        for layer in sorted(self._asked, key=lambda layer: layer.node):
            demands = _together(self._asked[layer])
            value = balls.advance(graph.nodes[layer.node].inputs[0], self._walk.decisions)
            self._layer(layer, demands, value, is_lost, is_dependent)
            if not bool(is_lost.any()):
                channels = self._layers.channels(layer, demands.below)
                for channel in channels.unique().tolist():
                    some = demands.at((channels == channel).nonzero().flatten())
                    forms[layer, channel] = self._layers.forms(layer, value, some)
        return Judgement(wanted & ~is_lost, wanted & ~is_lost & ~is_dependent, forms)

    def _layer(
        self, layer: Layer, demands: Demands, value: Ball, is_lost: Tensor, is_dependent: Tensor
    ) -> None:
        """Judge what is asked of one layer, image by image and channel by channel."""
        for image, some in self._groups(layer, demands):
            # Kinks alone, behind a bias: lowering it turns all of them off.
            is_easy = bool((some.above < 0).all() & self._layers.moves_constant(layer, some.below).all())
            if not is_easy and not bool(is_lost[image]):
                is_lost[image] = positive_direction(self._layers.forms(layer, value, some)) is None
            if not bool(is_dependent[image]) and not (is_easy and len(some.image) == 1):
                is_dependent[image] = not self._is_independent(layer, image, some)

    def _groups(self, layer: Layer, demands: Demands) -> Iterator[tuple[int, Demands]]:
        """Demands by image and channel, with the image."""
        channels = self._layers.channels(layer, demands.below)
        number = int(channels.max()) + 1
        keys, order = (demands.image * number + channels).sort(stable=True)
        found, counts = keys.unique_consecutive(return_counts=True)
        for key, part in zip(found.tolist(), order.split(counts.tolist()), strict=True):
            yield key // number, demands.at(part)

    def _is_independent(self, layer: Layer, image: int, some: Demands) -> bool:
        """Whether the patches of all ReLUs in question are independent; those of one class are one."""
        place = some.below.unique()
        images = torch.full_like(place, image)
        hashes = self._places.of(layer.node, images, place)
        if hashes is not None:
            _, which = hashes.unique(dim=0, return_inverse=True)
            place = place[
                torch.stack([(which == one).nonzero()[0, 0] for one in range(int(which.max()) + 1)])
            ]
            self.pairs += len(images) * (len(images) - 1) // 2
            self.merged += len(images) - len(place)
            images = images[: len(place)]
        numbers, lane = self._walk.fields[0], self._walk.lanes()[0]
        read = self._walk.graph.nodes[layer.node].inputs[0]
        lane.advance(read, self._walk.decisions)
        rows = self._layers.rows(layer, lane.values[read], images, place)
        return are_independent(numbers.reduce(rows), prime=numbers.prime)


class WholeBatch:
    """The forms of all images, to be served by one direction."""

    def __init__(self) -> None:
        self._forms: dict[Group, list[Ball]] = defaultdict(list)

    def add(self, forms: dict[Group, Ball]) -> None:
        """Add those of a part."""
        for group, one in forms.items():
            self._forms[group].append(one)

    def is_limit(self) -> bool:
        """Whether there is such a direction for every layer and channel."""
        return all(
            positive_direction(
                Ball(torch.cat([one.value for one in some]), torch.cat([one.radius for one in some]))
            )
            is not None
            for some in self._forms.values()
        )


def _together(parts: Sequence[Demands]) -> Demands:
    return Demands(
        torch.cat([one.image for one in parts]),
        torch.cat([one.above for one in parts]),
        torch.cat([one.below for one in parts]),
    )
