# SPDX-License-Identifier: Apache-2.0
"""Judge of chapter ACC: compares each answer of the kernel with the model of ownership.

A program says `"judge": "ownership"` and `"world": {"groups": {device: group}, "emulated": bool}`.  With one
thread the order of the operations is known.  With several threads, the answers conform if at least one order
that agrees with the start and end times of the operations explains all of them.
"""

from __future__ import annotations

import copy
import errno as errnos
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.oracle.judgement import Judgement
from harness.oracle.ownership import Expect
from harness.oracle.ownership_rules import OwnershipRules

__all__ = ["judge_ownership"]

Record = Mapping[str, Any]
Step = tuple[str, str, Mapping[str, Any]]
"""Process, operation, arguments."""
_SCARCE = frozenset({errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE, errnos.EINTR})
"""Errors that say nothing about the rule: the host ran out of a resource, or a signal arrived."""
_MAX_STATES = 20_000
_DEV_ID, _DEV_ID_OWNED = 1, 2
_OWNED, _NOT_OWNED = 0, -1
_CONTAINER_SET, _VIABLE = 2, 1
_CLAIMS = frozenset({"bind", "open_group"})
_WAITS = frozenset({"barrier", "wait"})
_IDLE = frozenset({"barrier", "sleep"})


def judge_ownership(program: Mapping[str, Any], trace: Sequence[Record], out: Judgement) -> None:
    """Check the answers in `trace` against the ACC clauses; count checks and record violations in `out`."""
    about = program["world"]
    groups = {str(k): int(v) for k, v in about["groups"].items()}
    world = OwnershipRules(groups, bool(about["emulated"]), about.get("names", {}))
    if len(program["threads"]) > 1:
        _judge_race(world, program, trace, out)
        return
    records = {int(r["i"]): r for r in trace}
    for index, op in enumerate(program["threads"][0]["ops"]):
        record = records.get(index)
        if record is None or _unusable(record):
            return  # from here on it is unknown who holds what
        _step(world, _of(op, "main"), record, index, out)


def _unusable(record: Record) -> bool:
    waits = record["op"] in _WAITS and record["errno"] == errnos.ETIMEDOUT
    return waits or record["errno"] in _SCARCE


def _of(op: Sequence[Any], proc: str) -> Step:
    """Resolve an operation of a thread of `proc`; `act` means that another process performs it."""
    name, args = op
    if name == "act":
        return str(args["actor"]), str(args["do"][0]), args["do"][1]
    return proc, str(name), args


def _step(world: OwnershipRules, step: Step, record: Record, index: int, out: Judgement) -> None:
    proc, name, args = step
    if record.get("skipped"):
        return
    expect = world.expect(proc, name, args)
    succeeded = not record["errno"]
    if expect.ok is not None and expect.clauses:
        observed = "it succeeds" if succeeded else _said(record)
        wanted = "succeeds" if expect.ok else "is refused"
        first, rest = expect.clauses[0], expect.clauses[1:]
        if out.check(first, succeeded == expect.ok, index, f"{name} {wanted}: {expect.words}", observed):
            out.checked.update(set(rest) - {first})
    if succeeded:
        _check_answer(world, step, record, index, out)
    world.apply(proc, name, args, record)


def _said(record: Record) -> str:
    number = int(record["errno"])
    return f"it fails with {errnos.errorcode.get(number, number)}"


def _check_answer(world: OwnershipRules, step: Step, record: Record, index: int, out: Judgement) -> None:
    """Check what a successful operation returned."""
    proc, name, args = step
    if name == "bind":
        devid = int(record["devid"])
        out.check("ACC-006", devid > 0, index, "a device id above 0", f"devid {devid}")
        target = world.file(proc, args["iommufd"])
        others = world.devids(target) if target is not None else set()
        if others:
            out.check("ACC-019", devid not in others, index, "an id of its own", f"devid {devid} is taken")
    elif name == "attach" and not args.get("flags"):
        file = world.file(proc, args["fd"])
        number = args["pt"] if isinstance(args["pt"], int) else world.ints.get(proc, {}).get(args["pt"])
        if file is not None and file.context is not None and number is not None:
            pt = int(record["pt"])
            ok = pt == number or (pt > 0 and file.context.objects.get(pt, "hwpt") == "hwpt")
            out.check("ACC-026", ok, index, f"pt_id {number} or that of a hwpt", f"pt_id {pt}")
    elif name == "group_status" and args.get("argsz", 8) >= 8:
        group = world.file(proc, args["fd"])
        if group is not None and group.kind == "group":
            flags, is_set = int(record["flags"]), group.context is not None
            out.check("ACC-080", bool(flags & _VIABLE), index, "VIABLE", f"flags {flags:#x}")
            out.check(
                "ACC-082", bool(flags & _CONTAINER_SET) == is_set, index,
                f"CONTAINER_SET {'set' if is_set else 'clear'}", f"flags {flags:#x}",
            )  # fmt: skip
    elif name == "hot_reset_info":
        _check_affected(world, proc, args, record, index, out)


def _check_affected(
    world: OwnershipRules, proc: str, args: Mapping[str, Any], record: Record, index: int, out: Judgement
) -> None:
    """Check the devices that HOT_RESET_INFO lists, and their owners."""
    file = world.file(proc, args["fd"])
    if file is None or file.dev not in world.names:
        return
    ids = {bdf: int(number) for number, bdf in record["devices"]}
    flags, own = int(record["flags"]), world.names[file.dev]
    out.check("ACC-111", own in ids, index, f"{own} among the devices", f"{', '.join(ids) or 'none'}")
    if file.kind == "device":
        number = world.groups[file.dev]
        out.check("ACC-114", not flags and ids.get(own, number) == number, index,
                  f"flags 0, group {number}", f"flags {flags:#x}, id {ids.get(own)}")  # fmt: skip
        return
    out.check("ACC-112", bool(flags & _DEV_ID) and ids.get(own, file.devid) == file.devid, index,
              f"DEV_ID, devid {file.devid}", f"flags {flags:#x}, devid {ids.get(own)}")  # fmt: skip
    owned = _NOT_OWNED not in ids.values()
    out.check("ACC-113", bool(flags & _DEV_ID_OWNED) == owned, index,
              f"DEV_ID_OWNED {'set' if owned else 'clear'}", f"flags {flags:#x}, ids {ids}")  # fmt: skip
    bound = {c.dev: c.devid for c in world.bound(world.groups[file.dev])}
    for dev, bdf in world.names.items():
        if dev != file.dev and bdf in ids and world.groups.get(dev) == world.groups[file.dev]:
            wanted = bound.get(dev, _OWNED)
            out.check("ACC-121", ids[bdf] == wanted, index, f"{bdf}: devid {wanted}", f"{ids[bdf]}")


# -- several threads
@dataclass(frozen=True)
class _Timed:
    step: Step
    record: Record
    index: int
    thread: str

    @property
    def begun(self) -> int:
        return int(self.record["t0"])

    @property
    def ended(self) -> int:
        return int(self.record["t0"]) + int(self.record["dt"])


def _judge_race(
    world: OwnershipRules, program: Mapping[str, Any], trace: Sequence[Record], out: Judgement
) -> None:
    if any(_unusable(r) for r in trace):
        return
    threads = {t["name"]: t for t in program["threads"]}
    lanes: dict[str, list[_Timed]] = {name: [] for name in threads}
    for record in sorted(trace, key=lambda r: int(r["i"])):
        thread = threads[record["t"]]
        if record["op"] in _IDLE:
            continue
        step = _of(thread["ops"][int(record["i"])], thread.get("actor") or "main")
        lanes[record["t"]].append(_Timed(step, record, int(record["i"]), record["t"]))
    explained = _explained(world, [lane for lane in lanes.values() if lane])
    if explained is None:
        return
    claims = [t for lane in lanes.values() for t in lane if t.step[1] in _CLAIMS]
    words = ", ".join(f"{t.thread}: {t.step[1]} {'ok' if not t.record['errno'] else _said(t.record)}"
                      for t in sorted(claims, key=lambda t: t.begun))  # fmt: skip
    out.check("ACC-071", explained, 0, "some order of the operations explains every answer", words)
    for number in set(world.groups.values()):
        _one_wins(program, number, claims, out, words)


def _one_wins(
    program: Mapping[str, Any], number: int, claims: list[_Timed], out: Judgement, words: str
) -> None:
    """Check that one thread gets the device if all claim the same free one (`"contest": group`)."""
    if program.get("contest") == number:
        won = [t for t in claims if t.thread != program["threads"][0]["name"] and not t.record["errno"]]
        out.check("ACC-072", len(won) >= 1, 0, "one of those who claim a free device gets it", words)


def _explained(world: OwnershipRules, lanes: list[list[_Timed]]) -> bool | None:
    """Whether some order explains all answers; None if the search exceeds `_MAX_STATES`."""
    states = 0
    todo: list[tuple[OwnershipRules, tuple[int, ...]]] = [(world, (0,) * len(lanes))]
    while todo:
        now, heads = todo.pop()
        ready = [lanes[n][h] for n, h in enumerate(heads) if h < len(lanes[n])]
        if not ready:
            return True
        soonest = min(t.ended for t in ready)
        for n, h in enumerate(heads):
            if h >= len(lanes[n]) or lanes[n][h].begun > soonest:
                continue
            timed = lanes[n][h]
            if not _agrees(now.expect(*timed.step), timed, lanes):
                continue
            states += 1
            if states > _MAX_STATES:
                return None
            after = copy.deepcopy(now)
            proc, name, args = timed.step
            after.apply(proc, name, args, timed.record)
            todo.append((after, (*heads[:n], h + 1, *heads[n + 1 :])))
    return False


def _agrees(expect: Expect, timed: _Timed, lanes: list[list[_Timed]]) -> bool:
    if expect.ok is None or timed.record.get("skipped"):
        return True
    succeeded = not timed.record["errno"]
    if succeeded == expect.ok:
        return True
    # While a BIND is in progress the group may refuse to be opened, even if that BIND fails in the end.
    return timed.step[1] == "open_group" and not succeeded and any(
        other.step[1] == "bind" and other.record["errno"]
        and other.begun <= timed.ended and timed.begun <= other.ended
        for lane in lanes for other in lane if other.thread != timed.thread
    )  # fmt: skip
