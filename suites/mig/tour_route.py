# SPDX-License-Identifier: Apache-2.0
"""The cheapest walk over given edges of a graph: a Chinese postman who may end anywhere.

Edges that are walked twice are chosen by a minimum-cost flow from nodes that are entered more often than
left to those that are left more often than entered (primal-dual: shortest paths, then a blocking flow over
tight edges); then each node is left as often as entered, and Hierholzer's circuits are one walk.  The flow
is the cheapest; only where the edges to walk fall into parts that do not touch is a way between the parts
added one by one.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

__all__ = ["postman", "reach", "shortest"]

_FAR = 1 << 60


def reach(start: int, head: Sequence[int], width: int, closed: Collection[int]) -> bytearray:
    """For each node whether a walk from `start` over edges that are not closed comes to it."""
    seen = bytearray(len(head) // width)
    seen[start] = 1
    stack = [start]
    while stack:
        node = stack.pop()
        for edge in range(node * width, (node + 1) * width):
            if not seen[head[edge]] and edge not in closed:
                seen[head[edge]] = 1
                stack.append(head[edge])
    return seen


def shortest(
    start: int,
    ends: Collection[int],
    head: Sequence[int],
    weight: Sequence[int],
    width: int,
    closed: Collection[int],
) -> list[int] | None:
    """The edges of a cheapest walk to the nearest of `ends`; None where no walk leads there."""
    best = {start: 0}
    by: dict[int, int] = {}
    heap = [(0, start)]
    while heap:
        far, node = heapq.heappop(heap)
        if node in ends:
            way: list[int] = []
            while node != start:
                way.append(by[node])
                node = by[node] // width
            return way[::-1]
        if far > best[node]:
            continue
        for edge in range(node * width, (node + 1) * width):
            there, cost = head[edge], far + weight[edge]
            if cost < best.get(there, _FAR) and edge not in closed:
                best[there] = cost
                by[there] = edge
                heapq.heappush(heap, (cost, there))
    return None


def postman(
    start: int,
    wanted: Collection[int],
    head: Sequence[int],
    weight: Sequence[int],
    width: int,
    closed: Collection[int],
) -> list[int]:
    """Edges of a cheapest walk from `start` that has each wanted edge in it, all of which it can reach.

    Where closed edges leave no way from each wanted edge to each other, it is a walk to the nearest one, and
    so on until none can be reached any more.
    """
    if not _joined(wanted, head, width, closed):
        return _greedy(start, set(wanted), head, weight, width, closed)
    excess = [0] * (len(head) // width)
    for edge in wanted:
        excess[head[edge]] += 1
        excess[edge // width] -= 1
    excess[start] += 1
    times = _Flow(start, excess, head, weight, width, closed).times
    for edge in wanted:
        times[edge] = times.get(edge, 0) + 1
    left: list[list[int]] = [[] for _ in excess]
    for edge in sorted(times, reverse=True):
        left[edge // width] += [edge] * times[edge]
    todo = {node for node, edges in enumerate(left) if edges}
    walk: list[int] = []
    while todo:
        here = head[walk[-1]] if walk else start
        if here not in todo:
            way = shortest(here, todo, head, weight, width, closed)
            assert way is not None, "a wanted edge that cannot be reached"
            walk += way
            here = head[walk[-1]] if walk else start
        walk += _circuits(here, head, left)
        todo = {node for node in todo if left[node]}
    return walk


def _joined(wanted: Collection[int], head: Sequence[int], width: int, closed: Collection[int]) -> bool:
    """Whether there is a way from each wanted edge to each other."""
    first = next(iter(wanted)) // width
    there = reach(first, head, width, closed)
    into: list[list[int]] = [[] for _ in there]
    for node, reached in enumerate(there):
        for edge in range(node * width, (node + 1) * width) if reached else ():
            if edge not in closed:
                into[head[edge]].append(node)
    back, stack = {first}, [first]
    while stack:
        for node in into[stack.pop()]:
            if node not in back:
                back.add(node)
                stack.append(node)
    return all(there[edge // width] and head[edge] in back for edge in wanted)


def _greedy(
    start: int,
    wanted: set[int],
    head: Sequence[int],
    weight: Sequence[int],
    width: int,
    closed: Collection[int],
) -> list[int]:
    """A walk that has always the nearest wanted edge next, as far as there is a way."""
    left: dict[int, list[int]] = {}
    for edge in sorted(wanted, reverse=True):
        left.setdefault(edge // width, []).append(edge)
    walk: list[int] = []
    here = start
    while left and (way := shortest(here, left, head, weight, width, closed)) is not None:
        node = head[way[-1]] if way else here
        edge = left[node].pop()
        if not left[node]:
            del left[node]
        walk += [*way, edge]
        here = head[edge]
    return walk


def _circuits(start: int, head: Sequence[int], left: list[list[int]]) -> list[int]:
    """Hierholzer: all edges that hang together with `start`, as one walk; takes them out of `left`."""
    stack = [(start, -1)]
    walk: list[int] = []
    while stack:
        node, by = stack[-1]
        if left[node]:
            edge = left[node].pop()
            stack.append((head[edge], edge))
        else:
            stack.pop()
            if by >= 0:
                walk.append(by)
    return walk[::-1]


class _Flow:
    """Cheapest flow that takes a unit to each node of negative excess; `times[edge]` is what it carries."""

    def __init__(
        self,
        start: int,
        excess: list[int],
        head: Sequence[int],
        weight: Sequence[int],
        width: int,
        closed: Collection[int],
    ) -> None:
        seen = reach(start, head, width, closed)
        self.times: dict[int, int] = {}
        self._excess, self._head, self._weight, self._width = excess, head, weight, width
        self._closed = closed
        self._back: list[set[int]] = [set() for _ in excess]
        """For each node the edges into it that carry something."""
        self._price = [0] * len(excess)
        """Cost of the cheapest way from any node of positive excess."""
        self._into: list[list[int]] = [[] for _ in excess]
        for node, reached in enumerate(seen):
            for edge in range(node * width, (node + 1) * width) if reached else ():
                if edge not in closed:
                    self._into[head[edge]].append(edge)
        lacking = sum(-e for e in excess if e < 0)
        while lacking:
            nearest = self._raise_prices()
            while pushed := self._fill(nearest):
                lacking -= pushed

    def _raise_prices(self) -> list[int]:
        """Dijkstra over what is left: afterwards each edge of a cheapest way is tight, which is that it costs
        the difference of the prices at its ends.  Gives the nearest lacking nodes.
        """
        head, width, weight, price, closed = self._head, self._width, self._weight, self._price, self._closed
        far = [_FAR] * len(price)
        heap = []
        for node, e in enumerate(self._excess):
            if e > 0:
                far[node] = -price[node]
                heap.append((far[node], node))
        heapq.heapify(heap)
        bound = _FAR
        nearest: list[int] = []
        while heap:
            d, node = heapq.heappop(heap)
            if d > far[node]:
                continue
            if d > bound:
                break
            if self._excess[node] < 0:
                bound = d
                nearest.append(node)
            base = d + price[node]
            for edge in range(node * width, (node + 1) * width):
                there = head[edge]
                cost = base + weight[edge] - price[there]
                if cost < far[there] and edge not in closed:
                    far[there] = cost
                    heapq.heappush(heap, (cost, there))
            for edge in self._back[node]:
                there = edge // width
                cost = base - weight[edge] - price[there]
                if cost < far[there]:
                    far[there] = cost
                    heapq.heappush(heap, (cost, there))
        assert bound < _FAR, "a wanted edge that cannot be reached"
        self._price = [p + min(d, bound) for p, d in zip(price, far, strict=True)]
        return nearest

    def _fill(self, ends: list[int]) -> int:
        """Take units to lacking nodes over tight edges; gives how many, 0 where no way is left.

        A way may be missed where a node was given up because the way to it stood in its own way.
        """
        tight: dict[int, list[tuple[int, bool]]] = {}
        return sum(self._fill_one(end, tight) for end in ends)

    def _fill_one(self, end: int, tight: dict[int, list[tuple[int, bool]]]) -> int:
        """Search back from a lacking node; takes edges that come from nowhere out of `tight`."""
        head, width, times, excess = self._head, self._width, self.times, self._excess
        filled = 0
        while excess[end] < 0:
            node, way, passed = end, list[tuple[int, bool]](), {end}
            while excess[node] <= 0 or self._price[node]:  # one whose price is not 0 is dearer than others
                edges = tight.get(node)
                if edges is None:
                    edges = tight[node] = self._tight(node)
                while edges:
                    edge, against = edges[-1]
                    before = head[edge] if against else edge // width
                    if before not in passed and not (against and edge not in times):
                        way.append((edge, against))
                        passed.add(before)
                        node = before
                        break
                    edges.pop()
                else:
                    if not way:
                        return filled
                    edge, against = way.pop()
                    node = edge // width if against else head[edge]
                    tight[node].pop()
            filled += self._along(node, end, way)
        return filled

    def _tight(self, node: int) -> list[tuple[int, bool]]:
        """The edges into a node, and against those from it, that lie on a cheapest way."""
        width, weight, price = self._width, self._weight, self._price
        here = price[node]
        found = [
            (edge, True)
            for edge in range(node * width, (node + 1) * width)
            if edge in self.times and price[self._head[edge]] - here == weight[edge]
        ]
        return found + [(e, False) for e in self._into[node] if here - price[e // width] == weight[e]]

    def _along(self, source: int, end: int, way: list[tuple[int, bool]]) -> int:
        """Send along the way, from its last edge to its first, as much as it takes; gives how much."""
        amount = min(self._excess[source], -self._excess[end])
        amount = min([amount, *(self.times[e] for e, against in way if against)])
        self._excess[source] -= amount
        self._excess[end] += amount
        for edge, against in way:
            self.times[edge] = self.times.get(edge, 0) + (-amount if against else amount)
            if self.times[edge]:
                self._back[self._head[edge]].add(edge)
            else:
                del self.times[edge]
                self._back[self._head[edge]].discard(edge)
        return amount
