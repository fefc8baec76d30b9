# SPDX-License-Identifier: Apache-2.0
"""Judges programs with several threads: some interleaving of the operations must explain what was seen.

Linearizability against the state machine: an operation that returned before another began comes first; the
search looks for an order of SET, GET and reset that the model can produce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.oracle.judgement import Judgement
from harness.spec.arcs import Mig, State, path

__all__ = ["judge_concurrent"]

_STATE_OPS = ("set_state", "get_state", "reset")
Event = tuple[int, int, str, int, int, int]  # t0, t1, op, target, errno, state seen


def _events(program: Mapping[str, Any], trace: Sequence[Mapping[str, Any]]) -> dict[str, list[Event]]:
    ops = {t["name"]: t["ops"] for t in program["threads"]}
    events: dict[str, list[Event]] = {t["name"]: [] for t in program["threads"]}
    for rec in sorted(trace, key=lambda r: r["i"]):
        name, args = ops[rec["t"]][rec["i"]]
        if name in _STATE_OPS and not rec.get("skipped"):
            events[rec["t"]].append(
                (
                    rec["t0"],
                    rec["t0"] + rec["dt"],
                    name,
                    int(args.get("state", -1)),
                    rec["errno"],
                    int(rec.get("state", -1)),
                )
            )
    return events


def _after(event: Event, state: State, flags: Mig, beside_reset: bool) -> tuple[State, ...]:
    """The states the model may be in after this event happened in `state`; () where it cannot have.

    A SET that a reset ran into (`beside_reset`) may fail wherever it was: its command to the device was
    aborted.  Whether RESUMING may be left without any data is for MIG-106 to say.
    """
    _, _, name, target, error, seen = event
    if name == "get_state":
        return (state,) if error == 0 and seen == state else ()
    if name == "reset":
        return (State.RUNNING,) if error == 0 else (state,)
    way = path(state, target, flags)
    if error == 0:
        return () if way is None else (way[-1],)
    if way is None:
        return (state,)
    if beside_reset:
        return (*way, State.ERROR)
    if state == State.RESUMING and len(way) > 1:
        return (*way[:2], State.ERROR)
    return ()


def _explained(threads: list[list[Event]], start: State, flags: Mig) -> bool:
    resets = [e for events in threads for e in events if e[2] == "reset"]
    beside = {
        id(e): any(r is not e and r[0] < e[1] and e[0] < r[1] for r in resets)
        for events in threads
        for e in events
    }
    seen: set[tuple[tuple[int, ...], State]] = set()
    stack = [(tuple(0 for _ in threads), start)]
    while stack:
        at, state = stack.pop()
        if (at, state) in seen:
            continue
        seen.add((at, state))
        pending = [(k, threads[k][n]) for k, n in enumerate(at) if n < len(threads[k])]
        if not pending:
            return True
        first_end = min(e[1] for _, e in pending)
        for k, event in pending:
            if event[0] > first_end:
                continue  # another pending one had returned before this began
            step = tuple(n + (j == k) for j, n in enumerate(at))
            stack.extend((step, s) for s in _after(event, state, flags, beside[id(event)]))
    return False


def judge_concurrent(
    flags: Mig,
    capabilities: Mapping[str, Any],
    program: Mapping[str, Any],
    trace: Sequence[Mapping[str, Any]],
    out: Judgement,
) -> None:
    """Judge a program of several threads that began in `program["start_state"]` (default RUNNING)."""
    threads = list(_events(program, trace).values())
    names = {e[2] for events in threads for e in events}
    main = program["threads"][0]["ops"]
    resets = sum(op[0] == "reset" for t in program["threads"] for op in t["ops"]) - (main[0][0] == "reset")
    clause = "MIG-161" if resets else "MIG-160"
    start = State(int(program.get("start_state", State.RUNNING)))
    if not any(threads):
        return
    ok = _explained(threads, start, flags)
    seen = "; ".join(f"{e[2]}({e[3]})={e[4] or e[5]}" for events in threads for e in events)
    out.check(clause, ok, 0, "some order of the operations explains what they returned", seen[:300])
    if "get_state" in names and "set_state" in names:
        out.check("MIG-162", ok, 0, "GET sees the state before or after a SET", seen[:300])
    out.arcs += sum(e[2] == "set_state" for events in threads for e in events)
