# SPDX-License-Identifier: Apache-2.0
"""The migration v2 state machine, derived from the words of `include/uapi/linux/vfio.h`.

`DIRECT_ARCS` is the only arc table: the arcs listed in the comment above `enum vfio_device_mig_state`.
Everything else here follows from it and two rules of that comment ("select the shortest path", "the path
cannot have saving group states as interior arcs"), not from the kernel's `vfio_from_fsm_table`; a self-test
compares the two.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from functools import cache

__all__ = [
    "BLOCKED",
    "DIRECT_ARCS",
    "OUT_OF_RANGE",
    "PRE_COPY_STATES",
    "SAVING_GROUP",
    "Mig",
    "State",
    "direct_arcs",
    "path",
    "reachable_by_set",
    "starts_session",
    "states",
]


class State(enum.IntEnum):
    """`enum vfio_device_mig_state`."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


class Mig(enum.IntFlag):
    """Flags of `struct vfio_device_feature_migration`."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


S = State
OUT_OF_RANGE = len(State)
SAVING_GROUP = frozenset({S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY})
PRE_COPY_STATES = frozenset({S.PRE_COPY, S.PRE_COPY_P2P})

# vfio.h, comment above enum vfio_device_mig_state, in its order.
DIRECT_ARCS: tuple[tuple[State, State], ...] = (
    (S.RUNNING_P2P, S.STOP),
    (S.STOP_COPY, S.STOP),
    (S.RESUMING, S.STOP),
    (S.PRE_COPY, S.RUNNING),
    (S.RUNNING_P2P, S.RUNNING),
    (S.PRE_COPY_P2P, S.RUNNING_P2P),
    (S.RUNNING, S.RUNNING_P2P),
    (S.STOP, S.RUNNING_P2P),
    (S.RUNNING, S.PRE_COPY),
    (S.RUNNING_P2P, S.PRE_COPY_P2P),
    (S.STOP, S.STOP_COPY),
    (S.PRE_COPY, S.PRE_COPY_P2P),
    (S.PRE_COPY_P2P, S.PRE_COPY),
    (S.PRE_COPY_P2P, S.STOP_COPY),
    (S.STOP, S.RESUMING),
)

# "These arcs are not permitted and return error if requested."
BLOCKED = frozenset({(S.STOP_COPY, S.PRE_COPY), (S.STOP_COPY, S.PRE_COPY_P2P)})

_NEEDS: dict[State, Mig] = {
    S.ERROR: Mig(0),
    S.STOP: Mig.STOP_COPY,
    S.RUNNING: Mig(0),
    S.STOP_COPY: Mig.STOP_COPY,
    S.RESUMING: Mig.STOP_COPY,
    S.RUNNING_P2P: Mig.STOP_COPY | Mig.P2P,
    S.PRE_COPY: Mig.STOP_COPY | Mig.PRE_COPY,
    S.PRE_COPY_P2P: Mig.STOP_COPY | Mig.P2P | Mig.PRE_COPY,
}


def states(flags: Mig) -> frozenset[State]:
    """The states a device with these feature flags has, ERROR among them."""
    return frozenset(s for s in State if _NEEDS[s] & flags == _NEEDS[s])


def _shortest(cur: State, new: State) -> tuple[State, ...] | None:
    """Shortest path over `DIRECT_ARCS`; saving group states are interior only within the saving group.

    The text forbids saving group states inside a path, and also says that moving between them does not end
    the session.  PRE_COPY -> STOP_COPY can satisfy both only through PRE_COPY_P2P, so we read the first rule
    as: a path that enters or leaves the group has none of its states inside.
    """
    within = cur in SAVING_GROUP and new in SAVING_GROUP
    queue: deque[tuple[State, ...]] = deque([(cur,)])
    seen = {cur}
    while queue:
        walked = queue.popleft()
        if walked[-1] == new:
            return walked
        for a, b in DIRECT_ARCS:
            if a != walked[-1] or b in seen:
                continue
            if within != (b in SAVING_GROUP) and b != new:
                continue
            seen.add(b)
            queue.append((*walked, b))
    return None


@cache
def path(cur: State, new: int, flags: Mig) -> tuple[State, ...] | None:
    """The states SET(new) goes through in state cur, both ends included; None if it must be refused.

    A state the device lacks is skipped ("behave as though the device was fully running if not supported").
    A request for the current state is the path of length one.
    """
    if new not in State._value2member_map_:
        return None
    target = State(new)
    has = states(flags)
    if cur == S.ERROR or target == S.ERROR or target not in has or (cur, target) in BLOCKED:
        return None
    if cur == target:
        return (cur,)
    full = _shortest(cur, target)
    return None if full is None else tuple(s for s in full if s in has)


def direct_arcs(flags: Mig) -> tuple[tuple[State, State], ...]:
    """The arcs a driver with these flags implements: every one-step path."""
    has = sorted(states(flags))
    return tuple((a, b) for a in has for b in has if a != b and len(path(a, b, flags) or ()) == 2)


def starts_session(cur: State, new: State) -> bool:
    """Whether a successful SET(new) in cur returns a data fd: entering the saving group, or RESUMING."""
    if cur == new:
        return False
    return new == S.RESUMING or (new in SAVING_GROUP and cur not in SAVING_GROUP)


def reachable_by_set(cur: State, targets: Iterable[int], flags: Mig) -> State:
    """The state of a conforming device after these SETs, if none fails on the way."""
    for target in targets:
        way = path(cur, target, flags)
        if way is not None:
            cur = way[-1]
    return cur
