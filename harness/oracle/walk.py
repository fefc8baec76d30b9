# SPDX-License-Identifier: Apache-2.0
"""Judges the `walk` operation: four bytes a step, a hundred thousand steps a run, so a table and no objects.

The record of a step is described in docs/architecture.md.  A step that the table knows as good costs one
look-up; all others go the slow way, which knows the words.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from functools import cache
from struct import Struct
from typing import Any

from harness.oracle.judgement import Judgement
from harness.oracle.migration_rules import (
    RESET_CLAUSE,
    arc_clause,
    end_clause,
    errno_name,
    name_of,
    refusal_clause,
)
from harness.spec.arcs import SAVING_GROUP, Mig, State, path, starts_session, states

__all__ = ["RESET", "judge_walk"]

RESET = 255
_RECORD = Struct("<I")
_NO_READ, _GAVE_DATA, _NO_GET = 0xFE, 0xFD, 0xFF
_FD, _CLOEXEC, _HELD, _ODD, _MISMATCH, _LOADED_NOW = 1, 2, 4, 8, 16, 32
_LOADED = len(State)
"""RESUMING with a whole stream written: unlike RESUMING without data it is left by SET."""
S = State


def _session_of(state: int) -> int:
    """0 none, 1 saving, 2 resuming: a held fd is good as long as this stays."""
    return 1 if state in SAVING_GROUP else 2 if state == S.RESUMING else 0


@cache
def _good(flags: Mig) -> dict[int, tuple[int, tuple[str, ...], str]]:
    """Good steps: cur<<24 | target<<16 | state<<8 | (ok, fd, cloexec) -> (end state, clauses, outcome)."""
    table: dict[int, tuple[int, tuple[str, ...], str]] = {}
    for cur in sorted(states(flags) - {S.ERROR}):
        _add_good(table, cur, cur, flags)
    _add_good(table, _LOADED, S.RESUMING, flags)
    return table


def _add_good(table: dict[int, tuple[int, tuple[str, ...], str]], key: int, cur: State, flags: Mig) -> None:
    """The good steps from one state; `key` stands for it in the table."""
    table[key << 24 | RESET << 16 | S.RUNNING << 8 | 1] = (S.RUNNING, (RESET_CLAUSE[cur], "MIG-052"), "")
    for target in range(RESET):
        way = path(cur, target, flags)
        start = key << 24 | target << 16
        if way is None:
            clause = refusal_clause(cur, target, flags)
            table[start | cur << 8] = (cur, (clause, "MIG-050", "MIG-052", "MIG-059"), "refused")
        elif key == S.RESUMING and len(way) > 1:
            for end in (cur, S.STOP):  # no data was written: it must fail, and may have stopped
                table[start | end << 8] = (end, ("MIG-106", "MIG-111", "MIG-059"), "refused")
        else:
            fd = 2 | 4 if starts_session(cur, State(target)) else 0
            within = cur != target and cur in SAVING_GROUP and target in SAVING_GROUP
            about_fd = "MIG-055" if fd else "MIG-024" if cur == target else "MIG-057" if within else "MIG-056"
            clauses = (arc_clause(way), about_fd, "MIG-022", "MIG-023", "MIG-052")
            table[start | target << 8 | 1 | fd] = (
                target,
                (*clauses, *(["MIG-058"] if fd else [])),
                "reached",
            )


def judge_walk(
    index: int,
    args: Mapping[str, Any],
    rec: Mapping[str, Any],
    flags: Mig,
    capabilities: Mapping[str, Any],
    out: Judgement,
) -> State | None:
    """Judge the steps of one walk that began in RUNNING with no session.

    Gives the state it ended in, or None where a violation makes it unknown.  A sequence after a violation
    is followed from the state that GET reported.
    """
    targets = base64.b64decode(args["targets"])
    recs = base64.b64decode(rec["recs"])
    out.walked = recs[1::4]
    good = _good(flags)
    cur: int = S.RUNNING
    passed: list[int] = []
    known: dict[int, int] = {}  # good step with where it began -> where it led; few differ, so few are judged
    for n, (target, (record,)) in enumerate(
        zip(targets, _RECORD.iter_unpack(recs[: len(recs) & ~3]), strict=False)
    ):
        step = cur << 40 | target << 32 | record
        led = known.get(step)
        if led is None:
            error, state, bits, old = record & 0xFF, record >> 8 & 0xFF, record >> 16 & 0xFF, record >> 24
            if state == S.RESUMING and (bits & _LOADED_NOW or (cur == _LOADED and not bits & _FD)):
                led = _LOADED
            else:
                led = state
            if _key(step) in good and not bits & (_ODD | _MISMATCH) and old != _GAVE_DATA and old != 0:
                known[step] = led
                passed.append(step)
            else:
                _slow(index, n, cur, target, error, state, bits, old, flags, capabilities, out)
                if state not in State._value2member_map_:
                    return None
        else:
            passed.append(step)
        cur = led
    for step, count in Counter(passed).items():
        _count(step, count, good, out)
    return S.RESUMING if cur == _LOADED else State(cur)


def _key(step: int) -> int:
    """The entry of `_good` for a step: cur<<40 | target<<32 | its record."""
    return step >> 32 << 16 | step & 0xFF00 | (step & 0xFF == 0) | (step >> 16 & 3) << 1


def _count(
    step: int, count: int, good: Mapping[int, tuple[int, tuple[str, ...], str]], out: Judgement
) -> None:
    """Count the clauses that a good step, seen `count` times, has checked."""
    _, clauses, outcome = good[_key(step)]
    start, target = step >> 40, step >> 32 & 0xFF
    start = int(S.RESUMING) if start == _LOADED else start
    for clause in clauses:
        out.checked[clause] += count
    if outcome:
        out.arcs += count
        if target < len(State):
            out.cells[start, target, outcome] += count
    if step >> 24 & 0xFF != _NO_READ:
        of_reset = "MIG-064" if start in SAVING_GROUP else "MIG-065"
        out.checked[of_reset if target == RESET else end_clause(start)] += count
        out.checked["MIG-067"] += count


def _slow(
    index: int,
    n: int,
    cur: int,
    target: int,
    error: int,
    state: int,
    bits: int,
    old: int,
    flags: Mig,
    capabilities: Mapping[str, Any],
    out: Judgement,
) -> None:
    """One step that is not plainly good: say which clause it breaks and in which words."""
    loaded = cur == _LOADED
    cur = S.RESUMING if loaded else cur

    def check(clause: str, ok: bool, expected: str, observed: str) -> None:
        out.check(clause, ok, index, expected, observed, n)

    where = f"SET({name_of(target)}) in {name_of(cur)}" if target != RESET else f"reset in {name_of(cur)}"
    check("MIG-052", state != _NO_GET, f"GET succeeds after {where}", "it failed")
    if target == RESET:
        check(
            "MIG-143",
            error == 0 or not capabilities.get("reset_flag"),
            f"{where} succeeds",
            errno_name(error),
        )
        if error == 0:
            check(
                RESET_CLAUSE[cur],
                state == S.RUNNING,
                f"RUNNING after {where}",
                name_of(state),
            )
            over = "MIG-064" if cur in SAVING_GROUP else "MIG-065"
        else:
            over = ""
    else:
        way = path(State(cur), target, flags)
        over = end_clause(cur) if _session_of(cur) else "MIG-066"
        if way is None:
            check(refusal_clause(cur, target, flags), error != 0, f"{where} is refused", "it succeeded")
            if error:
                check("MIG-050", state == cur, f"{name_of(cur)} after the refused {where}", name_of(state))
            out.cell(cur, target, "refused" if error and state == cur else "failed")
        elif error:
            if cur == S.RESUMING and len(way) > 1 and not loaded:
                check(
                    "MIG-111",
                    state in (*way, S.ERROR),
                    f"{name_of(cur)}, a state on the path, or ERROR",
                    name_of(state),
                )
                out.cell(cur, target, "refused")
            else:
                check(arc_clause(way), False, f"{where} succeeds", errno_name(error))
                check(
                    "MIG-051",
                    state in (*way, S.ERROR),
                    "the original state, one on the path, or ERROR",
                    name_of(state),
                )
                out.cell(cur, target, "failed")
            check("MIG-059", not bits & _FD, "a failed SET returns no data fd", "it returned one")
        else:
            if cur == S.RESUMING and len(way) > 1 and not loaded:
                check("MIG-106", False, "RESUMING without any data is not left by SET", "SET succeeded")
            check("MIG-022", state == target, f"{name_of(target)} after {where} succeeded", name_of(state))
            check("MIG-023", not bits & _MISMATCH, "device_state written back as set", "another value")
            starts = starts_session(State(cur), State(target))
            clause = (
                "MIG-055"
                if starts
                else "MIG-024"
                if cur == target
                else ("MIG-057" if cur in SAVING_GROUP and target in SAVING_GROUP else "MIG-056")
            )
            check(
                clause,
                bool(bits & _FD) == starts and not bits & _ODD,
                f"{where} returns {'a' if starts else 'no'} data fd",
                "none" if starts else "an fd, or a number that is none",
            )
            if starts and bits & _FD:
                check("MIG-058", bool(bits & _CLOEXEC), "FD_CLOEXEC is set", "it is not set")
            out.cell(cur, target, "reached" if state == target else "failed")
    if old != _NO_READ and over:
        check(over, old != _GAVE_DATA, f"no data from the session that {where} ended", "it delivered data")
        if old != _GAVE_DATA:
            check("MIG-067", old != 0, "an error from an ended session", "0, an end of stream")
