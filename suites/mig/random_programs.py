# SPDX-License-Identifier: Apache-2.0
"""Random programs: of one thread from bytes that Hypothesis draws, of several threads from a seed."""

from __future__ import annotations

from typing import Any

from fixtures.subject import Subject
from harness.program.script import Script
from harness.spec.arcs import OUT_OF_RANGE, S

__all__ = ["BATCH", "concurrent_program", "decode", "race_program"]

Op = list[Any]

BATCH = 8
"""Programs that go to the agent in one request."""


def decode(data: bytes, subject: Subject) -> dict[str, Any]:
    """A program of len(data)/2 steps, two bytes each: what to do and with what.  Zeros are GETs."""
    s = subject.script()
    fds: list[str] = []
    for kind, value in zip(data[::2], data[1::2], strict=False):
        fd = fds[-1 - value % min(3, len(fds))] if fds else None
        match kind % 16:
            case 0:
                s.op("get_state", fd="d")
            case 1 | 2 | 3 | 4 | 5 | 6 | 7:
                out = s.slot()
                s.op("set_state", fd="d", state=value % (OUT_OF_RANGE + 1), out=out)
                s.op("get_state", fd="d")
                fds.append(out)
            case 8 | 9:
                if fd:
                    s.op("read", fd=fd, n=(1, 3, 16, 24, 100, 4096, 65536)[value % 7])
            case 10:
                if fd:
                    s.op("precopy_info", fd=fd)
            case 11:
                if fd:
                    s.op("write", fd=fd, hex="00" * (1 + value % 8))
            case 12:
                if subject.has("data_size"):
                    s.op("data_size", fd="d")
            case 13:
                if subject.has("reset"):
                    s.op("reset", fd="d")
                    s.op("get_state", fd="d")
            case 14:
                if value < 64:  # slow: it opens a file
                    s.op("debugfs_state", dev="dev0")
            case _:
                if fd and value & 1:
                    s.op("close", fd=fd)
                    fds.remove(fd)
                elif fd:
                    s.op("poll", fd=fd, events=["IN"], timeout_ms=0)
    return s.to_json()


def concurrent_program(subject: Subject) -> dict[str, Any]:
    """Two or three threads of SET, GET and reset that start together in RUNNING.

    In half of them another one keeps the device busy meanwhile, which must change no state.
    """
    rng = subject.rng
    count = rng.choice((2, 2, 3))
    names = [f"t{n}" for n in range(count)]
    threads = [{"name": "main", "ops": [["get_state", {"fd": "d"}]]}]
    for name in names:
        ops: list[Op] = [["barrier", {"name": "go", "parties": count}]]
        for n in range(rng.randint(2, 4)):
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
    s.claim("MIG-069", end, "state", "==", int(after), f"{after.name}, whatever the reader did with its fd")
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
