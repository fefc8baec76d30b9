# SPDX-License-Identifier: Apache-2.0
"""The graph that a transition tour walks: what the device went through lately, and what each target adds.

A *context* of order k is the last k - 1 targets with the state that the first of them led to.  An *edge* is
a context and one more target: a *window* of k targets.  `Graph` holds all contexts of one order.  Which
windows a tour must walk says `Graph.required`.
"""

from __future__ import annotations

from harness.spec.arcs import Mig, S, State, path, states

__all__ = ["AFTER_RESET", "ARRIVED", "LOST", "REFUSED", "RESET", "Context", "Graph", "targets_of"]

RESET = 255
"""The target that stands for a reset, as in the agent's `walk`."""
ARRIVED, AFTER_RESET, LOST, REFUSED = 0, 1, 2, 16
"""How a context's first state came about; `REFUSED` + target: that target was refused in it.

`LOST`: nobody knows, as GET reported another state than the model's.
"""
Context = tuple[int, ...]
"""(state, how it came about, targets since)."""


def targets_of(flags: Mig) -> tuple[int, ...]:
    """Targets of a SET: the declared states; ERROR and numbers outside the enum are tried elsewhere."""
    return tuple(int(s) for s in sorted(states(flags)) if s != S.ERROR)


def _move(state: State, target: int, flags: Mig) -> tuple[int, int, bool]:
    """The state after a SET, its arcs, and whether it is refused."""
    way = path(state, target, flags)
    return (int(state), 0, True) if way is None else (int(way[-1]), len(way) - 1, False)


class Graph:
    """All contexts of one order; a node is a number, and edge e = node * `width` + letter.

    A letter is the index of a target in `letters`.  `head[e]` is the node after it, or -1; `arcs[e]` how
    many arcs the device walks for it: those of the path, and none where SET is refused or asks for the
    current state.  `shorter[node]` is the node of `lower`, the graph of the order before.
    """

    def __init__(self, flags: Mig, order: int, resets: bool, lower: Graph | None) -> None:
        self.order, self.lower = order, lower
        self.letters = (*targets_of(flags), *([RESET] if resets else []))
        self.width = len(self.letters)
        self._moves = {
            (s, t): _move(State(s), t, flags) for s in targets_of(flags) for t in targets_of(flags)
        }
        self.nodes: list[Context] = []
        self.number: dict[Context, int] = {}
        self.state: list[int] = []
        self.shorter: list[int] = []
        self.head: list[int] = []
        self.arcs: list[int] = []
        self.required = bytearray()
        """For each edge whether the tour has to walk it."""
        self.start = self._node((int(S.RUNNING), ARRIVED))
        self.lost = {s: self._node((s, LOST)) for s in targets_of(flags)}
        """Where nothing is known but the state."""
        for node, context in enumerate(self.nodes):  # grows meanwhile
            for target in self.letters:
                self._edge(node, context, target)

    def _node(self, context: Context) -> int:
        if self.order == 1:
            context = (context[0], ARRIVED)
        if context not in self.number:
            self.number[context] = len(self.nodes)
            self.nodes.append(context)
            state = context[0]
            for target in context[2:]:
                state = self._moves[state, target][0]
            self.state.append(state)
            if self.lower is not None:
                # A context of the order before has one target less; order 1 knows the state alone.
                short = (state, ARRIVED) if self.order == 2 else self._cut(context, self.order - 1)
                self.shorter.append(self.lower.number[short])
        return self.number[context]

    def _cut(self, context: Context, order: int) -> Context:
        """The context without what an order does not remember."""
        while len(context) - 2 > order - 2:
            state, _, refused = self._moves[context[0], context[2]]
            context = (state, REFUSED + context[2] if refused else ARRIVED, *context[3:])
        return context

    def _edge(self, node: int, context: Context, target: int) -> None:
        if target == RESET:
            self.head.append(self._node((int(S.RUNNING), AFTER_RESET)))
            self.arcs.append(0)
        else:
            after, arcs, _ = self._moves[self.state[node], target]
            longer = (after, ARRIVED) if self.order == 1 else self._cut((*context, target), self.order)
            self.head.append(self._node(longer))
            self.arcs.append(arcs)
        self.required.append(self._must(context, target))

    def _must(self, context: Context, target: int) -> bool:
        if self.order == 1:
            return True
        how, since = context[1], context[2:]
        if target == RESET or len(since) < self.order - 2 or how == LOST:
            return False
        if how == AFTER_RESET:
            return self.order == 2
        return how == ARRIVED or all(self._moves[context[0], t][2] for t in since)

    def open_edges(self, node: int) -> range:
        """The edges that leave a node."""
        return range(node * self.width, (node + 1) * self.width)
