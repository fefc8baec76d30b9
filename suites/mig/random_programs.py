# SPDX-License-Identifier: Apache-2.0
"""Random programs: of one thread as a list of steps, of several threads from random choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fixtures.subject import Subject
from harness.program.script import Script
from harness.spec.arcs import OUT_OF_RANGE, S

__all__ = ["REGRESSIONS", "STEPS", "build", "concurrent_program", "programs", "race_program"]

Op = list[Any]
Step = tuple[Any, ...]
"""What to do, with what, and last, for what is done to a data fd, with which of those that there are."""

STEPS = 20
"""Steps of a program, at most."""
_SLOW_MS, _LONGEST_PAUSE_MS = 10, 2000
"""A SET that takes so long is met by others at any moment, if they pause as long as it; at most so long."""
_FDS = (-1, 0, -2)
_READS = (1, 3, 16, 24, 100, 4096, 65536)
# By weight; the first is what a program is made of when it is as simple as it can be.
_ALWAYS: tuple[Step, ...] = (
    *[("get_state",)] * 9,
    *[("set_state", state) for state in range(OUT_OF_RANGE + 1)] * 7,
    *[("read", n, fd) for n in _READS for fd in _FDS],
    *[("precopy_info", fd) for fd in _FDS] * 3,
    *[("write", n, fd) for n in (1, 2, 8) for fd in _FDS],
    *[("close", fd) for fd in _FDS] * 2,
    *[("poll", fd) for fd in _FDS] * 2,
    *[("debugfs_state",)] * 2,  # slow: it opens a file
)
_WHERE_THERE: dict[str, tuple[Step, ...]] = {
    "data_size": (("data_size",),) * 9, "reset": (("reset",),) * 9,
}  # fmt: skip
REGRESSIONS: tuple[tuple[Step, ...], ...] = (
    # A read at the temporary end of stream (MIG-078).
    (("set_state", S.PRE_COPY), ("read", 65536, -1), ("read", 24, -1)),
    # A header that write() refused is loaded all the same (MIG-107).
    (("set_state", S.RESUMING), ("write", 8, -1), ("set_state", S.STOP)),
    # An fd of a session that has ended, beside the one of the next (MIG-060, MIG-066).
    (("set_state", S.STOP_COPY), ("set_state", S.RUNNING), ("set_state", S.STOP_COPY), ("read", 24, 0)),
    (("set_state", S.PRE_COPY), ("precopy_info", -1), ("set_state", S.STOP_COPY), ("precopy_info", -1)),
    (("set_state", S.STOP_COPY), ("close", -1), ("set_state", S.STOP), ("set_state", S.RESUMING)),
    (("set_state", S.ERROR), ("set_state", OUT_OF_RANGE), ("set_state", S.STOP), ("get_state",)),
)
"""Programs that showed something once: they run first."""


def build(steps: Sequence[Step], subject: Subject) -> dict[str, Any]:
    """The program of these steps; one on a data fd that is not there is left out."""
    s = subject.script()
    fds: list[str] = []
    for name, *args in steps:
        if name in ("read", "write", "precopy_info", "close", "poll"):
            if len(fds) < (2 if args[-1] == -2 else 1):
                continue
            fd = fds[args[-1]]
            if name == "read":
                s.op("read", fd=fd, n=args[0])
            elif name == "write":
                s.op("write", fd=fd, hex="00" * args[0])
            elif name == "precopy_info":
                s.op("precopy_info", fd=fd)
            elif name == "poll":
                s.op("poll", fd=fd, events=["IN"], timeout_ms=0)
            else:
                s.op("close", fd=fd)
                fds.remove(fd)
        elif name == "set_state":
            fds.append(s.set(args[0]))
        elif name == "debugfs_state":
            s.op("debugfs_state", dev="dev0")
        else:
            s.op(name, fd="d")
            if name == "reset":
                s.op("get_state", fd="d")
    return s.to_json()


def programs(subject: Subject, least: int = 1) -> st.SearchStrategy[dict[str, Any]]:
    """Programs of `least` to `STEPS` requests and I/O on the device fd and on data fds, old ones too."""
    steps = _ALWAYS + sum((more for name, more in _WHERE_THERE.items() if subject.has(name)), ())
    lists = st.lists(st.sampled_from(steps), min_size=least, max_size=STEPS)
    return lists.map(lambda chosen: build(chosen, subject))


def concurrent_program(subject: Subject) -> dict[str, Any]:
    """Two or three threads of SET, GET and reset that start together in RUNNING.

    In half of them another one keeps the device busy meanwhile, which must change no state.  Where a SET
    takes long, what comes beside it comes at any moment of it, and not only when it begins.
    """
    rng = subject.rng
    slow = min(subject.arc_ms, _LONGEST_PAUSE_MS) if subject.arc_ms >= _SLOW_MS else 0
    count = rng.choice((2, 2, 3))
    names = [f"t{n}" for n in range(count)]
    threads = [{"name": "main", "ops": [["get_state", {"fd": "d"}]]}]
    for name in names:
        ops: list[Op] = [["barrier", {"name": "go", "parties": count}]]
        for n in range(rng.randint(2, 4)):
            if slow and rng.random() < 0.6:
                ops.append(["sleep", {"ms": rng.randint(1, slow)}])
            choice = rng.random()
            if choice < 0.55:
                ops.append(
                    ["set_state", {"fd": "d", "state": int(rng.choice(subject.states)), "out": f"{name}f{n}"}]
                )
            elif choice < 0.85 or not subject.has("reset"):
                ops.append(["get_state", {"fd": "d"}])
            else:
                ops.append(["reset", {"fd": "d"}])
        threads.append({"name": name, "ops": ops})
    if rng.random() < 0.5:
        threads.append({"name": "busy", "ops": _busy(subject)})
    del threads[0]
    prelude: list[Op] = [["reset" if subject.has("reset") else "get_state", {"fd": "d"}]]
    threads[0]["ops"] = [*prelude, *threads[0]["ops"]]
    return {"threads": threads, "claims": [], "start_state": int(S.RUNNING)}


def _busy(subject: Subject) -> list[Op]:
    """Accesses to the regions, and descriptors of the device that come and go beside the SETs."""
    ops: list[Op] = []
    for writes in subject.mutations[:4]:
        ops += [
            ["region_write", {"fd": "d", "region": r, "off": off, "hex": data}] for r, off, data in writes
        ]
        ops += [["dup", {"fd": "d", "out": "again"}], ["close", {"fd": "again"}]]
    return ops


def race_program(subject: Subject) -> dict[str, Any]:
    """One thread reads while the other ends the session; after that the reader gets nothing (MIG-163).

    Or it closes the fd meanwhile, which changes nothing for the other (MIG-069).
    """
    s = Script(reset=subject.has("reset"))
    s.op("set_state", fd="d", state=int(S.STOP_COPY), out="f")
    s.op("barrier", name="go", parties=2)
    ending = "reset" if subject.has("reset") and subject.rng.random() < 0.5 else "set_state"
    s.op(ending, fd="d", **({} if ending == "reset" else {"state": int(S.STOP)}))
    s.op("barrier", name="over", parties=2)
    end = s.op("get_state", fd="d")
    closes = subject.rng.random() < 0.25
    reads: list[tuple[str, dict[str, Any]]] = [("read", {"fd": "f", "n": 1})] * subject.rng.randint(1, 12)
    s.thread(
        "reader",
        [
            ("barrier", {"name": "go", "parties": 2}),
            *reads,
            *([("close", {"fd": "f"})] if closes else []),
            ("barrier", {"name": "over", "parties": 2}),
            *([] if closes else [("read", {"fd": "f", "n": 64})]),
        ],
    )
    after = S.RUNNING if ending == "reset" else S.STOP
    s.equals("MIG-069", end, "state", int(after), f"{after.name}, whatever the reader did with its fd")
    program = s.to_json()
    if closes:
        return program
    program["claims"].append(
        {
            "clause": "MIG-163",
            "test": [{"t": "reader", "op": len(reads) + 2, "field": "ret"}, "<=", 0],
            "expected": "no data after the session has ended",
        }
    )
    return program
