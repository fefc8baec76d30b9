# SPDX-License-Identifier: Apache-2.0
"""Programs as data: built, saved, validated, shown; and access to the records of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.agent.operations import OPERATIONS
from harness.agent.validation import check_program
from harness.errors import HarnessError
from harness.uapi.names import errno_name, mig_state_name

__all__ = ["Op", "Program", "Thread", "TraceRecord", "op", "program", "render", "trace_records"]


@dataclass(frozen=True)
class Op:
    """One operation: its name and its arguments (docs/architecture.md lists both)."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """Return `[name, args]`."""
        return [self.name, dict(self.args)]


@dataclass(frozen=True)
class Thread:
    """A named sequence of operations; with `actor` it runs in a process of its own."""

    name: str
    ops: tuple[Op, ...]
    actor: str | None = None


@dataclass(frozen=True)
class Program:
    """A program as the agent takes it.

    `devices` maps the names operations use to `{"cdev", "group", "name", "debugfs", ...}`; `keep` names
    the slots
    that outlive the program in `session`; `deadline_ms` is for the whole program.
    """

    threads: tuple[Thread, ...]
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    session: str | None = None
    keep: tuple[str, ...] = ()
    deadline_ms: int = 20000

    def __post_init__(self) -> None:
        wrong = check_program(self.to_json())
        if wrong is not None:
            raise HarnessError(f"program: {wrong}")

    @property
    def ops(self) -> tuple[Op, ...]:
        """All operations, thread after thread."""
        return tuple(one for thread in self.threads for one in thread.ops)

    def with_devices(self, devices: Mapping[str, Mapping[str, Any]]) -> Program:
        """Return the same program on other devices."""
        return replace(self, devices=devices)

    def to_json(self) -> dict[str, Any]:
        """Return the program as the JSON object the agent takes."""
        threads: list[dict[str, Any]] = []
        for thread in self.threads:
            item: dict[str, Any] = {"name": thread.name, "ops": [one.to_json() for one in thread.ops]}
            if thread.actor is not None:
                item["actor"] = thread.actor
            threads.append(item)
        return {
            "devices": {name: dict(device) for name, device in self.devices.items()},
            "session": self.session,
            "keep": list(self.keep),
            "deadline_ms": self.deadline_ms,
            "threads": threads,
        }

    @classmethod
    def from_json(cls, value: Any) -> Program:
        """Return the program in a JSON object; HarnessError says what is wrong with it."""
        wrong = check_program(value)
        if wrong is not None:
            raise HarnessError(f"program: {wrong}")
        return cls(
            threads=tuple(
                Thread(t["name"], tuple(Op(name, args) for name, args in t["ops"]), t.get("actor"))
                for t in value["threads"]
            ),
            devices=value.get("devices", {}),
            session=value.get("session"),
            keep=tuple(value.get("keep", ())),
            deadline_ms=value.get("deadline_ms", 20000),
        )


def op(name: str, /, **args: Any) -> Op:
    """Return an operation: `op("set_state", fd="d", state=3, out="f")`.  `from_` stands for the argument
    `from`."""
    return Op(name, {key.rstrip("_"): value for key, value in args.items()})


def program(
    ops: Iterable[Op],
    *,
    devices: Mapping[str, Mapping[str, Any]] | None = None,
    session: str | None = None,
    keep: Sequence[str] = (),
    deadline_ms: int = 20000,
    others: Sequence[Thread] = (),
) -> Program:
    """Return a program whose thread `main` performs `ops`, beside the threads in `others`."""
    return Program((Thread("main", tuple(ops)), *others), devices or {}, session, tuple(keep), deadline_ms)


@dataclass(frozen=True)
class TraceRecord:
    """One record of a trace; `fields` are what the operation returns beside the common ones."""

    thread: str
    index: int
    op: str
    ret: int
    errno: int
    t0_ns: int
    duration_ns: int
    skipped: str | None
    fields: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the operation ran and succeeded."""
        return self.ret >= 0 and self.errno == 0 and self.skipped is None

    def __getitem__(self, name: str) -> Any:
        """Return a result field; HarnessError names those there are."""
        if name not in self.fields:
            raise HarnessError(
                f"record of {self.op} has no {name!r}; it has {', '.join(self.fields) or 'none'}"
            )
        return self.fields[name]

    @classmethod
    def from_json(cls, value: Any) -> TraceRecord:
        """Return the record in a JSON object of the agent; HarnessError says what is wrong with it."""
        kinds = {"t": str, "i": int, "op": str, "ret": int, "errno": int, "t0": int, "dt": int}
        if not isinstance(value, dict):
            raise HarnessError("trace: a record is not an object")
        for key, kind in kinds.items():
            if not isinstance(value.get(key), kind):
                raise HarnessError(f"trace: {key}={value.get(key)!r} of a record is not {kind.__name__}")
        skipped = value.get("skipped")
        if skipped is not None and not isinstance(skipped, str):
            raise HarnessError("trace: skipped of a record is not a string")
        rest = {k: v for k, v in value.items() if k not in kinds and k != "skipped"}
        return cls(
            value["t"],
            value["i"],
            value["op"],
            value["ret"],
            value["errno"],
            value["t0"],
            value["dt"],
            skipped,
            rest,
        )


def trace_records(trace: Iterable[Mapping[str, Any]]) -> list[TraceRecord]:
    """Return the records of a trace, validated, in order of completion."""
    return [
        TraceRecord.from_json(dict(record) if isinstance(record, Mapping) else record) for record in trace
    ]


_STATE_OPS = frozenset(["set_state"])
_RESULTS = ("out", "keep")
_NAMES = frozenset(["fd", "slot", "id", "str"])
"""Types of arguments whose text is a name, shown without quotes."""


def render(subject: Program | Op, trace: Iterable[Mapping[str, Any]] | None = None) -> list[str]:
    """Return readable lines, such as `f = set_state(d, PRE_COPY)`; with `trace`, each with its outcome."""
    if isinstance(subject, Op):
        return [_render_op(subject)]
    outcomes = {(r.thread, r.index): r for r in trace_records(trace or ())}
    lines = []
    for thread in subject.threads:
        if len(subject.threads) > 1:
            lines.append(f"# thread {thread.name}" + (f", a process {thread.actor}" if thread.actor else ""))
        for index, one in enumerate(thread.ops):
            record = outcomes.get((thread.name, index))
            lines.append(_render_op(one) + (f"  # {_outcome(record)}" if record else ""))
    return lines


def _render_op(one: Op) -> str:
    args = dict(one.args)
    out = next((args.pop(key) for key in _RESULTS if key in args), None)
    left = "" if out is None else f"{', '.join(out) if isinstance(out, list) else out} = "
    shown = []
    types = OPERATIONS[one.name].args if one.name in OPERATIONS else {}
    for position, (key, value) in enumerate(args.items()):
        text = value if isinstance(value, str) and types.get(key) in _NAMES else _short(value)
        if one.name in _STATE_OPS and key == "state" and isinstance(value, int):
            text = mig_state_name(value)
        plain = position == 0 or (one.name in _STATE_OPS and key == "state")
        shown.append(text if plain else f"{key}={text}")
    return f"{left}{one.name}({', '.join(shown)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _outcome(record: TraceRecord) -> str:
    if record.skipped is not None:
        return f"skipped: {record.skipped}"
    if record.errno:
        return errno_name(record.errno)
    parts = [f"{k}={mig_state_name(v) if k == 'state' and isinstance(v, int) else _short(v)}"
             for k, v in record.fields.items()]  # fmt: skip
    return ", ".join(parts) or "ok"
