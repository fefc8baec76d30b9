# SPDX-License-Identifier: Apache-2.0
"""Builder for programs and their claims: a test sends them, the oracle judges them, replay saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import HarnessError
from harness.spec.arcs import State

__all__ = ["FEATURE_GET", "FEATURE_PROBE", "FEATURE_SET", "Claim", "Guard", "Script", "succeeded"]

FEATURE_GET, FEATURE_SET, FEATURE_PROBE = 1 << 16, 1 << 17, 1 << 18
Ref = Mapping[str, Any]
_HANG_MS = 12_000
"""Limit of an operation of a program that may hang: far more than any of them takes."""
_BUSY_MS = 8_000
"""CPU time of such a program, thousands of times what it needs: only an endless loop can use it up."""


Guard = tuple[int, str, str, Any]
"""A condition of a claim: operation, field, comparison, value."""


def succeeded(op: int) -> Guard:
    """Condition: the operation returned without an error."""
    return (op, "errno", "==", 0)


class Claim:
    """One claim of a program; `data` is what the oracle reads."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def when(self, *guards: Guard) -> Claim:
        """Count the claim only if all these conditions hold; returns the claim."""
        self.data["when"] += [[Script.ref(op, field), compare, value] for op, field, compare, value in guards]
        return self


class Script:
    """A single-threaded program under construction.

    Programs use the session's kept slots: `d` is the device fd.  Each starts with the device in RUNNING.
    `faults` says that SETs may fail because the program injects faults; `hangs` names the clause that a
    program breaks which does not come back.  `limits`: arguments for every operation that reads a whole
    stream (`max_bytes`, `partial`, `fine`); `fine` goes to those that write one, too.
    """

    def __init__(
        self,
        *,
        reset: bool = True,
        fresh: bool = True,
        faults: bool = False,
        hangs: str = "",
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self.hangs = hangs
        self._limits = dict(limits or {})
        self._ops: list[tuple[str, dict[str, Any]]] = []
        self._claims: list[dict[str, Any]] = []
        self._threads: list[dict[str, Any]] = []
        self._faults = faults
        self._slots = 0
        self.save_set = -1
        """Index of the SET(STOP_COPY) of the last `save`."""
        self.restore_set = -1
        """Index of the SET(RESUMING) of the last `restore`."""
        if fresh:
            if reset:
                self.op("reset", fd="d")
            else:
                self.op("set_state", fd="d", state=int(State.RUNNING))
            self.op("get_state", fd="d")

    def op(self, name: str, /, **args: Any) -> int:
        """Append an operation and return its index, for claims."""
        self._ops.append((name, {k.rstrip("_"): v for k, v in args.items() if v is not None}))
        return len(self._ops) - 1

    def slot(self, prefix: str = "f") -> str:
        """A slot name not used before in this program."""
        self._slots += 1
        return f"{prefix}{self._slots}"

    def set(self, state: State | int, *, get: bool = True, **args: Any) -> str:
        """Append SET(state) and GET; returns the slot for the data fd, if the SET returns one."""
        out = self.slot()
        self.op("set_state", fd="d", state=int(state), out=out, **args)
        if get:
            self.op("get_state", fd="d")
        return out

    def last_set(self) -> int:
        """Index of the last SET."""
        return max(i for i, (name, _) in enumerate(self._ops) if name == "set_state")

    def save(self, keep: str = "", chunks: Sequence[int] = (65536,)) -> int:
        """From any running state: STOP_COPY, read the whole stream, STOP.

        `keep` names the bytes slot for it; without one only its length and digest stay.  Returns the index
        of the `read_all`.
        """
        fd = self.set(State.STOP_COPY)
        self.save_set = self.last_set()
        read = self.read_stream(fd, keep, chunks)
        self.set(State.STOP)
        self.op("close", fd=fd)
        return read

    def read_stream(self, fd: str, keep: str = "", chunks: Sequence[int] = (65536,)) -> int:
        """Read from a saving fd to the end, as far as the limits go; returns the index of the `read_all`."""
        return self.op("read_all", fd=fd, chunks=list(chunks), keep=keep or None, **self._limits)

    def restore(self, keep: str, chunks: Sequence[int] = (65536,), **args: Any) -> tuple[int, int]:
        """Append RESUMING, write of the bytes slot, SET(STOP); returns indices of `write_all` and the SET."""
        fd = self.set(State.RESUMING)
        self.restore_set = self.last_set()
        fine = self._limits.get("fine")
        write = self.op("write_all", fd=fd, from_=keep, chunks=list(chunks), fine=fine, **args)
        self.set(State.STOP)
        done = self.last_set()
        self.op("close", fd=fd)
        return write, done

    @staticmethod
    def ref(index: int, field: str) -> Ref:
        """Reference to a field of an operation's trace record, for use as a value in a claim."""
        return {"op": index, "field": field}

    # -- claims: each is a sentence about one operation; the words say what is expected
    def succeeds(self, clause: str, op: int, expected: str) -> Claim:
        """Claim that the operation returns without an error."""
        return self._claim(clause, op, "errno", "==", 0, expected)

    def is_refused(self, clause: str, op: int, *errnos: int, expected: str) -> Claim:
        """Claim that the operation fails, with one of these errors if any are given.

        HarnessError for errno 0: that is success, the opposite of the claim.
        """
        if 0 in errnos:
            raise HarnessError(f"{clause}: is_refused with errno 0, which is success")
        if not errnos:
            return self._claim(clause, op, "errno", "!=", 0, expected)
        if len(errnos) == 1:
            return self._claim(clause, op, "errno", "==", errnos[0], expected)
        return self._claim(clause, op, "errno", "in", list(errnos), expected)

    def equals(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field equals the value, which may be a `ref` to another operation's field."""
        return self._claim(clause, op, field, "==", value, expected)

    def differs(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field differs from the value."""
        return self._claim(clause, op, field, "!=", value, expected)

    def is_one_of(self, clause: str, op: int, field: str, values: Any, expected: str) -> Claim:
        """Claim that the field is one of the values."""
        return self._claim(clause, op, field, "in", values, expected)

    def contains(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field contains the value."""
        return self._claim(clause, op, field, "contains", value, expected)

    def lacks(self, clause: str, op: int, field: str, pattern: str, expected: str) -> Claim:
        """Claim that the regular expression finds nothing in the field."""
        return self._claim(clause, op, field, "lacks", pattern, expected)

    def at_least(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field is at least the value."""
        return self._claim(clause, op, field, ">=", value, expected)

    def at_most(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field is at most the value."""
        return self._claim(clause, op, field, "<=", value, expected)

    def exceeds(self, clause: str, op: int, field: str, value: Any, expected: str) -> Claim:
        """Claim that the field is greater than the value."""
        return self._claim(clause, op, field, ">", value, expected)

    def _claim(self, clause: str, op: int, field: str, compare: str, value: Any, expected: str) -> Claim:
        claim = Claim(
            {
                "clause": clause,
                "test": [self.ref(op, field), compare, value],
                "expected": expected,
                "when": [],
            }
        )
        self._claims.append(claim.data)
        return claim

    def thread(self, name: str, ops: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Add a thread that runs beside the main one."""
        self._threads.append({"name": name, "ops": [list(o) for o in ops]})

    def to_json(self) -> dict[str, Any]:
        """The program as data; `claims` and `faults` are for the oracle and never leave the controller."""
        return {
            "threads": [{"name": "main", "ops": [list(o) for o in self._ops]}, *self._threads],
            "claims": self._claims,
            "faults": self._faults,
            **({"hangs": self.hangs, "op_ms": _HANG_MS, "busy_ms": _BUSY_MS} if self.hangs else {}),
        }
