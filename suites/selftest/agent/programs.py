# SPDX-License-Identifier: Apache-2.0
"""Programs and traces as the tests of an agent write and read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TraceRecord", "op", "program", "thread", "trace_records"]


def op(name: str, /, **args: Any) -> list[Any]:
    """An operation: `op("set_state", fd="d", state=3, out="f")`.  `from_` stands for the argument `from`."""
    return [name, {key.rstrip("_"): value for key, value in args.items()}]


def thread(name: str, ops: Iterable[list[Any]], actor: str | None = None) -> dict[str, Any]:
    """A thread of a program; with `actor` it runs in a process of its own."""
    made: dict[str, Any] = {"name": name, "ops": list(ops)}
    return made if actor is None else {**made, "actor": actor}


def program(
    ops: Iterable[list[Any]],
    *,
    devices: Mapping[str, Mapping[str, Any]] | None = None,
    session: str | None = None,
    keep: Sequence[str] = (),
    deadline_ms: int = 20000,
    op_ms: int = 20000,
    others: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A program whose thread `main` performs `ops`, beside the threads in `others`."""
    return {
        "devices": dict(devices or {}), "session": session, "keep": list(keep), "deadline_ms": deadline_ms,
        "op_ms": op_ms, "threads": [thread("main", ops), *others],
    }  # fmt: skip


@dataclass(frozen=True)
class TraceRecord:
    """One record of a trace; `fields` is what the operation gives beside the common ones."""

    thread: str
    index: int
    op: str
    ret: int
    errno: int
    skipped: str | None
    fields: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the operation ran and succeeded."""
        return self.ret >= 0 and self.errno == 0 and self.skipped is None

    def __getitem__(self, name: str) -> Any:
        """A result field; KeyError where it is not there."""
        return self.fields[name]


def trace_records(trace: Iterable[Mapping[str, Any]]) -> list[TraceRecord]:
    """The records of a trace, in order of completion; KeyError where one lacks a common field."""
    common = ("t", "i", "op", "ret", "errno", "t0", "dt")
    made = []
    for each in trace:
        thread_name, index, name, ret, errno, _, _ = (each[key] for key in common)
        rest = {k: v for k, v in each.items() if k not in (*common, "skipped")}
        made.append(TraceRecord(thread_name, index, name, ret, errno, each.get("skipped"), rest))
    return made
