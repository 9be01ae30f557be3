"""Whether supplies can be shipped to demands: exact, over the integers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

Arc = tuple[int, int, int]
"""(supplier, consumer, capacity)."""


def can_ship(supplies: Sequence[int], demands: Sequence[tuple[int, int]], arcs: Sequence[Arc]) -> bool:
    """Whether every supply can be shipped in full so that every consumer gets an amount it accepts.

    A flow with lower bounds exists if and only if a flow without them, in a network that has one more source
    and sink, is as large as the bounds together; the latter is found by blocking flows.

    Args:
        supplies: what each supplier must ship, 0 or more.
        demands: (least, most) that each consumer accepts, 0 <= least; least > most says no.
        arcs: who can ship to whom, and how much.

    Returns:
        True if there is a shipment.

    Source:
        E. A. Dinic, Soviet Math. Doklady 11 (1970); the reduction of lower bounds is A. J. Hoffman's (1960).

    Example:
        >>> can_ship([3], [(1, 1), (0, 2)], [(0, 0, 3), (0, 1, 3)])
        True
        >>> can_ship([3], [(1, 1), (0, 1)], [(0, 0, 3), (0, 1, 3)])
        False
    """
    if any(least > most for least, most in demands):
        return False
    first_consumer = 2 + len(supplies)
    pool = first_consumer + len(demands)  # takes what consumers accept beyond their least
    network = _Network(pool + 1)
    for supplier, supply in enumerate(supplies):
        network.add(_SOURCE, 2 + supplier, supply)
    for supplier, consumer, capacity in arcs:
        network.add(2 + supplier, first_consumer + consumer, capacity)
    for consumer, (least, most) in enumerate(demands):
        network.add(first_consumer + consumer, _SINK, least)
        network.add(first_consumer + consumer, pool, most - least)
    total_supply, total_least = sum(supplies), sum(least for least, _ in demands)
    network.add(_SOURCE, pool, total_least)
    network.add(pool, _SINK, total_supply)
    return network.largest_flow() == total_supply + total_least


_SOURCE, _SINK = 0, 1


class _Network:
    """Residual capacities; the reverse of edge e is e ^ 1."""

    def __init__(self, num_nodes: int) -> None:
        self._edges: list[list[int]] = [[] for _ in range(num_nodes)]
        self._head: list[int] = []
        self._left: list[int] = []

    def add(self, tail: int, head: int, capacity: int) -> None:
        for start, end, room in ((tail, head, capacity), (head, tail, 0)):
            self._edges[start].append(len(self._head))
            self._head.append(end)
            self._left.append(room)

    def largest_flow(self) -> int:
        flow = 0
        while _SINK in (levels := self._levels()):
            tried = [0] * len(self._edges)
            while path := self._path(levels, tried):
                amount = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= amount
                    self._left[edge ^ 1] += amount
                flow += amount
        return flow

    def _levels(self) -> dict[int, int]:
        levels, queue = {_SOURCE: 0}, deque([_SOURCE])
        while queue:
            node = queue.popleft()
            for edge in self._edges[node]:
                if self._left[edge] and self._head[edge] not in levels:
                    levels[self._head[edge]] = levels[node] + 1
                    queue.append(self._head[edge])
        return levels

    def _path(self, levels: Mapping[int, int], tried: list[int]) -> list[int]:
        """A path that climbs one level an edge; `tried` counts the edges of each node that lead nowhere."""
        path: list[int] = []
        node = _SOURCE
        while node != _SINK:
            if tried[node] < len(self._edges[node]):
                edge = self._edges[node][tried[node]]
                if self._left[edge] and levels.get(self._head[edge]) == levels[node] + 1:
                    path.append(edge)
                    node = self._head[edge]
                else:
                    tried[node] += 1
            elif path:
                node = self._head[path.pop() ^ 1]
                tried[node] += 1
            else:
                return []
        return path
