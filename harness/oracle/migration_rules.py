# SPDX-License-Identifier: Apache-2.0
"""Which clause governs a request, and the words for states and errors in what the oracle says."""

from __future__ import annotations

import errno as errnos

from harness.spec.arcs import BLOCKED, Mig, S, State, states
from harness.spec.clauses.mig import ARC_CLAUSES

__all__ = ["RESET_CLAUSE", "arc_clause", "end_clause", "errno_name", "name_of", "refusal_clause"]

RESET_CLAUSE: dict[int, str] = {
    S.RUNNING: "MIG-141",
    S.STOP: "MIG-140",
    S.RUNNING_P2P: "MIG-140",
    S.STOP_COPY: "MIG-142",
    S.PRE_COPY: "MIG-142",
    S.PRE_COPY_P2P: "MIG-142",
    S.RESUMING: "MIG-113",
    S.ERROR: "MIG-133",
}
"""The clause on a reset in each state."""


def name_of(state: int) -> str:
    """The state's name, or the bare number for a value outside the enum."""
    return State(state).name if state in State._value2member_map_ else str(state)


def errno_name(number: int) -> str:
    """`EINVAL` for 22; '0 (success)' for 0."""
    return "0 (success)" if number == 0 else errnos.errorcode.get(number, str(number))


def refusal_clause(cur: int, new: int, flags: Mig) -> str:
    """Which clause says that SET(new) in cur must be refused."""
    if cur == S.ERROR:
        return "MIG-130"
    if new == S.ERROR:
        return "MIG-047"
    if new not in State._value2member_map_:
        return "MIG-048"
    if State(new) not in states(flags):
        return "MIG-049"
    return "MIG-046" if (cur, new) in BLOCKED else "MIG-049"


def arc_clause(way: tuple[State, ...]) -> str:
    """Which clause says that this path can be walked."""
    if len(way) == 1:
        return "MIG-024"
    return ARC_CLAUSES.get((way[0], way[1]), "MIG-045") if len(way) == 2 else "MIG-045"


def end_clause(cur: int) -> str:
    """Which clause says that leaving cur by SET ends its session."""
    ends = {S.STOP_COPY: "MIG-060", S.PRE_COPY: "MIG-061", S.PRE_COPY_P2P: "MIG-062"}
    return ends.get(State(cur), "MIG-063")
