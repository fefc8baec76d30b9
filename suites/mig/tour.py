# SPDX-License-Identifier: Apache-2.0
"""The transition tour: every short sequence of SETs from every state, in as few arcs as can be.

**What is walked.**  A window of k targets is k targets in a row of which the first leads to its state, so
that the others, in every combination, begin in every state: every sequence of k - 1 targets from every
reachable state, and each of the n^k sequences of k targets.  As a SET that is refused must change nothing,
however often, so are k targets of which all but the last are refused.  For k = 1 it is a target in a state:
the cells of the state table, with a reset in each state; for k = 2 also each target after a reset.
These are the pairs of (state, last k - 1 targets) and a target, as far as they do not begin with a reset.

**Costs.**  A SET costs the arcs of its path, and an eighth of an arc for itself: refused ones and those that
ask for the current state take no arc, but some time.  A reset costs `reset_cost` arcs.

**In what order.**  All windows of one target, then those of two, and so on.  Nothing is walked twice for
that: who walks each window of k targets once walks a different window of k + 1 at each step, and they are
left out afterwards.  What is left of them enters each context as often as it leaves it but for the contexts
next to a refused SET (with P2P and PRE_COPY, STOP_COPY is left in vain for PRE_COPY, so PRE_COPY is entered
from one state less than the others, and STOP_COPY from more).  So the graph is not Eulerian: the cheapest
ways to even it out are added (`suites/mig/tour_route.py`), resets among them.

**Surprises.**  Where GET reports another state than the model's, the windows with that step in them do not
count; they are planned again when the others of their length are walked.  From there on what is walked
counts again, from the state that was reported.  What surprised twice and never went well is not tried any
more, the shortest window of it: `Tour.dropped`.  A device on which nothing new comes of walk after walk (it
cannot be brought to RUNNING, for example) ends the tour: `Tour.stuck`.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.spec.arcs import Mig, S, State
from suites.mig.tour_graph import AFTER_RESET, REFUSED, RESET, Graph
from suites.mig.tour_route import postman, reach, shortest

__all__ = ["Dropped", "Tour"]

_SET_WEIGHT, _ARC_WEIGHT = 1, 8
_TRIES = 2
"""A window that surprised so often is dropped; so many resets are asked for in a row to leave ERROR."""
_VAIN = 20
"""So many walks in a row that bring nothing new, not even a first or a last try, end the tour."""
_WARY = 64
"""Targets in one go after a walk that ended in ERROR: all that follows ERROR is lost."""


class Dropped(NamedTuple):
    """A window that is not tried any more: targets that were walked from `state`, and what happened."""

    state: int
    targets: tuple[int, ...]
    reported: tuple[int, ...]
    """What GET reported after the last of them, each time."""

    def __str__(self) -> str:
        names = ["reset" if t == RESET else State(t).name for t in self.targets]
        seen = [State(s).name if s in State._value2member_map_ else str(s) for s in self.reported]
        return f"{' '.join(names)} from {State(self.state).name}: then {', '.join(seen)}"


class Tour:
    """What to request next of a device with these flags, until each window up to `k` targets was walked.

    `reset_cost` is in arcs; None: the device cannot be reset.  `next_targets` says what to walk and
    `walked` what came of it; a caller that brings the device to RUNNING by a SET in between says `restart`.
    Takes memory and time for n^k contexts, n states: k = 5 is some seconds, k = 6 eight times that.
    """

    def __init__(self, flags: Mig, k: int, *, reset_cost: float | None = 2.0) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, allowed: 1 or more")
        self._graphs: list[Graph] = []
        for order in range(1, k + 1):
            lower = self._graphs[-1] if self._graphs else None
            self._graphs.append(Graph(flags, order, reset_cost is not None, lower))
        self._letters = self._graphs[0].letters
        self._index = {target: letter for letter, target in enumerate(self._letters)}
        reset = round(_ARC_WEIGHT * (reset_cost or 0)) + _SET_WEIGHT
        self._weights = [
            [
                reset if g.letters[e % g.width] == RESET else _SET_WEIGHT + _ARC_WEIGHT * arcs
                for e, arcs in enumerate(g.arcs)
            ]
            for g in self._graphs
        ]
        self._done = [bytearray(len(g.head)) for g in self._graphs]
        """For each edge whether it went well."""
        self._open = [set(e for e, must in enumerate(g.required) if must) for g in self._graphs]
        self.total = sum(map(len, self._open))
        """Windows of one to k targets."""
        self._failed: dict[tuple[int, int], list[int]] = {}
        """(order - 1, edge) -> the states reported, where they were not the model's."""
        self._barred: list[set[int]] = [set() for _ in self._graphs]
        self._known_closed: dict[int, set[int]] = {}
        self.dropped: list[Dropped] = []
        self.given_up = 0
        """Windows that were dropped, and those that cannot be walked without one that was."""
        self._at: list[int] | None = [g.start for g in self._graphs]
        """The context of each order; None where the device is in no state of the model."""
        self._trail: list[tuple[int, int]] = []
        """What is planned, last first, as (order - 1, edge)."""
        self._given: list[tuple[int, int]] = []
        """What `next_targets` gave: (target, how many edges of the trail that takes)."""
        self._limit = 1 << 30
        self._resets_in_vain = 0
        self._news, self._vain = False, 0
        """Whether this walk brought anything new; how many in a row did not."""
        self.stuck = False
        """The device is so far from the model that walks brought nothing new any more: all was given up."""
        self.sets_walked = self.arcs_walked = self.resets_walked = self.surprises = 0

    @property
    def resets(self) -> bool:
        """Whether the tour may reset the device."""
        return RESET in self._index

    # -- what is left
    @property
    def remaining(self) -> int:
        """Windows of one to k targets that are still to be walked."""
        return sum(map(len, self._open))

    @property
    def complete(self) -> int:
        """All windows of up to so many targets were walked or dropped."""
        return next((n for n, edges in enumerate(self._open) if edges), len(self._open))

    @property
    def arcs_planned(self) -> int:
        """Arcs walked, and those of what is planned by now, by the model and without ways to its begin."""
        return self.arcs_walked + sum(self._graphs[n].arcs[edge] for n, edge in self._trail)

    # -- where the device is
    def restart(self) -> None:
        """The device was brought to RUNNING by a SET since; what happened before that does not matter."""
        self._at = [g.start for g in self._graphs]
        self._resets_in_vain = 0

    def next_targets(self, limit: int) -> bytes:
        """The next targets to walk, RESET among them; b"" where nothing is left that can be reached from
        here (after a surprise it may take a `restart`).

        At most `limit`, but always as many as it takes to come to the next window and walk it.  Gives the
        same again until `walked` or `restart` is called.
        """
        limit = min(limit, self._limit)
        self._given = []
        if self._at is None:
            may = self.resets and self._resets_in_vain < _TRIES
            self._given = [(RESET, 0)] if may else []
            return bytes(t for t, _ in self._given)
        at, believed, taken = list(self._at), [set(edges) for edges in self._open], 0
        place, new = len(self._trail), False
        while len(self._given) < limit or not new:
            if not place:
                before = len(self._trail)
                self._plan(at, believed)
                place = len(self._trail) - before
                if not place:
                    break
            place -= 1
            order, edge = self._trail[place]
            taken += 1
            lead = self._lead(at, order, edge, believed)
            if lead is None:
                continue
            if new and len(self._given) + len(lead) >= limit:
                break
            for letter in lead:
                new |= self._believe(at, letter, believed)
                self._given.append((self._letters[letter], 0))
            letter = edge % len(self._letters)
            new |= self._believe(at, letter, believed)
            self._given.append((self._letters[letter], taken))
            taken = 0
        return bytes(target for target, _ in self._given)

    def _believe(self, at: list[int], letter: int, believed: list[set[int]]) -> bool:
        """Go on as the model does; whether that walks a window that is still to be walked."""
        new = False
        for n, graph in enumerate(self._graphs):
            edge = at[n] * graph.width + letter
            if edge in believed[n]:
                believed[n].remove(edge)
                new = True
            at[n] = graph.head[edge]
        return new

    def _lead(self, at: list[int], n: int, edge: int, believed: list[set[int]]) -> list[int] | None:
        """Letters of the way to an edge of the trail; None where it is barred, or of no use any more."""
        graph = self._graphs[n]
        if self._is_barred(n, edge):
            return None
        if at[n] == edge // graph.width:
            return []
        if edge not in believed[n]:
            return None  # it was there to lead on, and somewhere else the walk goes on
        closed = self._closed(n)
        way = shortest(at[n], {edge // graph.width}, graph.head, self._weights[n], graph.width, closed)
        return None if way is None else [e % graph.width for e in way]

    # -- planning
    def _is_barred(self, n: int, edge: int) -> bool:
        """Whether an edge has a dropped window at its end."""
        node, letter = divmod(edge, len(self._letters))
        while n >= 0:
            if node * len(self._letters) + letter in self._barred[n]:
                return True
            node = self._graphs[n].shorter[node] if n else node
            n -= 1
        return False

    def _closed(self, n: int) -> set[int]:
        """The edges of an order that are barred."""
        if n not in self._known_closed:
            some = any(self._barred[: n + 1])
            edges = range(len(self._graphs[n].head)) if some else ()
            self._known_closed[n] = {e for e in edges if self._is_barred(n, e)}
        return self._known_closed[n]

    def _plan(self, at: list[int], believed: list[set[int]]) -> None:
        """Put in front of the trail how to walk all windows of the shortest length that has some left."""
        for n, graph in enumerate(self._graphs):
            if not believed[n]:
                continue
            closed = self._closed(n)
            from_here = reach(at[n], graph.head, graph.width, closed)
            ever = reach(graph.start, graph.head, graph.width, closed)
            tails = {e: e // graph.width for e in believed[n]}
            lost = {e for e, t in tails.items() if e in closed or not (from_here[t] or ever[t])}
            self.given_up += len(lost & self._open[n])
            self._open[n] -= lost
            believed[n] -= lost
            wanted = {e for e in believed[n] if from_here[tails[e]]}
            if wanted:
                weights = self._weights[n]
                walk = postman(at[n], wanted, graph.head, weights, graph.width, closed)
                self._trail[:0] = [(n, edge) for edge in reversed(walk)]
            if believed[n]:
                return  # where none of them is wanted, it takes a restart to come to them

    # -- what came of it
    def walked(self, targets: bytes, states: bytes) -> None:
        """These targets were walked, and GET reported these states after them; more targets than states:
        the walk was cut short.

        They should be those of `next_targets`; where they are others, they count, and the tour plans anew.
        """
        given, self._given = self._given, []
        before, self._news = self.surprises, False
        for n, (target, state) in enumerate(zip(targets, states, strict=False)):
            if n < len(given) and given[n][0] == target:
                del self._trail[len(self._trail) - given[n][1] :]
            else:
                given = []
                self._trail.clear()
            self._step(target, state)
        # A walk that was cut short brings nothing new, either, but that is not the device's fault.
        self._vain = 0 if self._news else self._vain + (self.surprises > before)
        if self._vain >= _VAIN:
            self.stuck = True
            self.given_up += self.remaining
            self._open = [set() for _ in self._graphs]
            self._trail.clear()
        self._limit = _WARY if self._at is None else min(self._limit * 2, 1 << 30)

    def _step(self, target: int, state: int) -> None:
        letter = self._index.get(target, -1)
        if target == RESET:
            self.resets_walked += 1
        else:
            self.sets_walked += 1
        if self._at is None or letter < 0:
            # Nothing is known of the way here, so nothing is learnt from it.
            if target == RESET:
                self._resets_in_vain = 0 if state == S.RUNNING else self._resets_in_vain + 1
            self._lose(state)
            return
        edges = [at * graph.width + letter for at, graph in zip(self._at, self._graphs, strict=True)]
        first = self._graphs[0]
        if state == first.state[first.head[edges[0]]]:
            self.arcs_walked += first.arcs[edges[0]]
            for n, edge in enumerate(edges):
                self._done[n][edge] = 1
                self._news |= edge in self._open[n]
                self._open[n].discard(edge)
                self._at[n] = self._graphs[n].head[edge]
        else:
            self._surprise(edges, state)
            self._lose(state)

    def _lose(self, state: int) -> None:
        known = state in self._graphs[0].lost
        self._at = [g.lost[state] for g in self._graphs] if known else None

    def _surprise(self, edges: list[int], state: int) -> None:
        self.surprises += 1
        to_drop = -1
        for n, edge in enumerate(edges):
            reported = self._failed.setdefault((n, edge), [])
            reported.append(state)
            self._news |= len(reported) == 1 and edge in self._open[n]
            if to_drop < 0 and len(reported) >= _TRIES and not self._done[n][edge]:
                to_drop = n
        last = len(edges) - 1
        if to_drop < 0 and len(self._failed[last, edges[last]]) >= _TRIES:
            to_drop = last  # it went well once, but is no way to rely on
        if to_drop < 0 or edges[to_drop] in self._barred[to_drop]:
            return
        edge = edges[to_drop]
        self._barred[to_drop].add(edge)
        self._news = True
        self._known_closed.clear()
        graph = self._graphs[to_drop]
        node, letter = divmod(edge, graph.width)
        context = graph.nodes[node]
        how, targets = context[1], (*context[2:], self._letters[letter])
        if how == AFTER_RESET:
            targets = (RESET, *targets)
        elif how >= REFUSED:
            targets = (how - REFUSED, *targets)
        self.dropped.append(Dropped(context[0], targets, tuple(self._failed[to_drop, edge])))
