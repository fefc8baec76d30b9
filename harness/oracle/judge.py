# SPDX-License-Identifier: Apache-2.0
"""The oracle: a pure function from (capabilities, program, trace) to what was checked and what was broken.

Two mechanisms.  The *tracker* knows the migration state machine and the life of data fds, and judges every
operation of every program by it.  *Claims* are comparisons that a program carries with it as data, for what
only its author knows (this digest must equal that one).  Both can be recomputed offline from a saved trace.
"""

from __future__ import annotations

import errno as errnos
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from harness.oracle.access import judge_ownership
from harness.oracle.address_space import judge_address_spaces
from harness.oracle.device import judge_device
from harness.oracle.dma_log import judge_dirty
from harness.oracle.iommu_dirty import judge_hwpt_dirty
from harness.oracle.judgement import Judgement, Violation
from harness.oracle.migration import Tracker
from harness.oracle.races import judge_concurrent
from harness.spec.arcs import Mig
from harness.spec.clause import Clause

__all__ = ["Judgement", "Violation", "absent", "applicable", "first_absent", "judge"]

Record = Mapping[str, Any]
Records = Mapping[tuple[str | None, int], Record]
"""Trace records by thread (None: the main thread) and index."""


def migration_flags(capabilities: Mapping[str, Any]) -> Mig:
    """The declared migration features as flags; `capabilities["migration"]` lists their names."""
    flags = Mig(0)
    for name in capabilities.get("migration") or ():
        flags |= Mig[name]
    return flags


_SPECIAL = {"noiommu": "one without an IOMMU", "vf_token_pair": "a VF that needs its PF's token"}
"""Devices that a program cannot just open, by capability: only clauses that need it speak of them."""


def applicable(clause: Clause, capabilities: Mapping[str, Any]) -> str:
    """Why the clause does not apply to a device with these probed capabilities; '' when it does."""
    if capabilities.get("mock") and not clause.mock:
        return f"it speaks of VFIO devices, and here {capabilities['mock']}"
    for kind, words in _SPECIAL.items():
        if capabilities.get(kind) and kind not in clause.needs:
            return f"it speaks of devices that a cdev gives to anyone, and here is {words}"
    return absent(clause.needs, capabilities)


def absent(needs: Sequence[str], capabilities: Mapping[str, Any]) -> str:
    """PROBE's answer for the first capability of `needs` that the device has not; '' where it has all."""
    need = first_absent(needs, capabilities)
    if need is None:
        return ""
    if need in _OF_MIGRATION:
        flags = migration_flags(capabilities)
        answer = ", ".join(f.name or "" for f in Mig if f in flags) or "none"
        return f"PROBE said migration features: {answer}"
    return f"PROBE said {need}: {capabilities.get(f'{need}_why') or repr(capabilities.get(need))}"


_OF_MIGRATION: dict[str, Callable[[Mig], bool]] = {
    "migration": bool,
    "p2p": lambda flags: bool(flags & Mig.P2P),
    "pre_copy": lambda flags: bool(flags & Mig.PRE_COPY),
    "lacks_optional_state": lambda flags: flags & (Mig.P2P | Mig.PRE_COPY) != Mig.P2P | Mig.PRE_COPY,
}
"""Capabilities that the flags of VFIO_DEVICE_FEATURE_MIGRATION tell."""


def first_absent(needs: Sequence[str], capabilities: Mapping[str, Any]) -> str | None:
    """Name the first capability of `needs` that the device has not; None where it has all."""
    flags = migration_flags(capabilities)
    for need in needs:
        told = _OF_MIGRATION.get(need)
        if not (told(flags) if told else bool(capabilities.get(need))):
            return need
    return None


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
    "contains": lambda a, b: b in a,
    "lacks": lambda a, b: re.search(b, a) is None,
}


class _NotDone(Exception):
    """A claim speaks of an operation that the program's end in time cut off, or of what came after it."""


Ends = Mapping[str | None, int]
"""Thread (None: the main one) -> index of its first operation that was not done, or done in part."""


def _ends(program: Mapping[str, Any], trace: Sequence[Record]) -> dict[str | None, int]:
    """Where the threads of a program that was cut short end; {} where the trace is whole."""
    main = program["threads"][0]["name"]
    ends: dict[str | None, int] = {}
    for rec in trace:
        if rec.get("cut"):
            for name in {rec["t"], None if rec["t"] == main else rec["t"]}:
                ends[name] = min(ends.get(name, int(rec["i"])), int(rec["i"]))
    return ends


def _value(term: Any, records: Records, ends: Ends) -> Any:
    """A term of a claim: `{"op": i, "field": f, "t": thread}` is looked up in the trace, all else is itself.

    Raises KeyError where the operation did not run or has no such field, `_NotDone` where it was cut off.
    """
    if isinstance(term, Mapping):
        place = term.get("t"), int(term["op"])
        if place[0] in ends and place[1] >= ends[place[0]]:
            raise _NotDone
        record = records[place]
        if record.get("skipped"):
            raise KeyError("skipped")
        return record[term["field"]]
    return term


def _holds(test: Sequence[Any], records: Records, ends: Ends) -> bool:
    left, compare, right = test
    return bool(_COMPARE[compare](_value(left, records, ends), _value(right, records, ends)))


def _judge_claims(
    program: Mapping[str, Any], records: Records, out: Judgement, ends: Ends = MappingProxyType({})
) -> None:
    for claim in program.get("claims", ()):
        try:
            if not all(_holds(t, records, ends) for t in claim.get("when", ())):
                continue
            ok = _holds(claim["test"], records, ends)
            seen = _value(claim["test"][0], records, ends)
        except _NotDone:
            out.undecided[claim["clause"]] = f"no time was left for what it claims ({claim['expected']})"
            continue
        except (KeyError, TypeError):
            continue  # the operation it speaks of did not happen: nothing was checked
        index = int(claim["test"][0]["op"])
        out.checked[claim["clause"]] += 1
        if not ok:
            observed = f"{claim['test'][0]['field']} is {_say(claim, seen)}"
            out.violations.append(
                Violation(claim["clause"], index, claim["expected"], observed, claimed=True)
            )


def _say(claim: Mapping[str, Any], seen: Any) -> str:
    if claim["test"][0]["field"] == "errno" and isinstance(seen, int):
        return "0 (success)" if seen == 0 else errnos.errorcode.get(seen, str(seen))
    text = str(seen)
    return text if len(text) <= 200 else text[:200] + "..."


def judge(capabilities: Mapping[str, Any], program: Mapping[str, Any], trace: Sequence[Record]) -> Judgement:
    """Judge one run of a program.

    Takes the device's probed capabilities, the program as JSON (docs/architecture.md) with its claims, and
    the trace as the agent returned it.  Gives the clauses checked, how often, and every violation.  A
    program that was cut short is judged up to there; a claim about what came after is undecided.
    """
    out = Judgement()
    whole, ends = program, _ends(program, trace)
    if ends:
        program = {**program, "threads": [
            {**t, "ops": t["ops"][: ends.get(t["name"])]} for t in program["threads"]
        ]}  # fmt: skip
        trace = [r for r in trace if r["t"] not in ends or int(r["i"]) < ends[r["t"]]]
    threads = program["threads"]
    main = threads[0]
    records: dict[tuple[str | None, int], Record] = {(r["t"], int(r["i"])): r for r in trace}
    records |= {(None, i): r for (t, i), r in list(records.items()) if t == main["name"]}
    if program.get("judge") == "ownership":
        judge_ownership(program, trace, out)
    elif program.get("judge") == "device":
        judge_device(program, trace, out)
    elif len(threads) > 1 and program.get("judge") != "log":
        judge_concurrent(migration_flags(capabilities), capabilities, program, trace, out)
    elif len(threads) == 1:
        tracker = Tracker(migration_flags(capabilities), capabilities, out, program)
        for index, (name, args) in enumerate(main["ops"]):
            if (None, index) not in records:
                break
            tracker.step(index, name, args, records[None, index])
    if any(name == "iommu" for name, _ in main["ops"]):
        mine = {i: r for (t, i), r in records.items() if t is None}
        judge_hwpt_dirty(main["ops"], mine, out)
        judge_address_spaces(main["ops"], mine, out)
    judge_dirty(program, trace, out)
    _judge_claims(whole, records, out, ends)
    return out
