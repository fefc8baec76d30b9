# SPDX-License-Identifier: Apache-2.0
"""Check that a program is well formed: the types of its arguments, and the table of operations."""

from __future__ import annotations

import binascii

from .operations import ACTOR_OPS, OPERATIONS

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = [
    "MAX_IO_BYTES",
    "MAX_STREAM_BYTES",
    "TYPES",
    "check_op",
    "check_ops",
    "check_program",
]

MAX_DEADLINE_MS = 3_600_000
MAX_THREADS = 64
MAX_IO_BYTES = 64 << 20  # one read, write or mapping larger than this is a mistake, not a test
MAX_STREAM_BYTES = 1 << 44  # of a migration stream; what is kept of it is bounded by the host's disk


def _is_slot(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 64


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64


def _is_fd(value: Any) -> bool:
    if type(value) is str:  # the usual case first: every operation of every program is checked
        return 0 < len(value) <= 64
    # A raw number is for negative tests and must not be able to name a descriptor of the agent itself.
    return _is_int(value) and (-(1 << 31) <= value < 0 or 1_000_000 <= value < 1 << 31)


def _is_hex(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 2 * MAX_IO_BYTES:
        return False
    try:
        binascii.unhexlify(value)
    except (ValueError, binascii.Error):
        return False
    return True


def _is_b64(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        binascii.a2b_base64(value)
    except (ValueError, binascii.Error):
        return False
    return True


def _unsigned(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= limit  # bool is no number


def _list_of(check: Callable[[Any], bool], length: int = 0) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and all(check(v) for v in value) and (not length or len(value) == length)
    )


_is_n = _unsigned(MAX_IO_BYTES)

TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fd": (_is_fd, "the name of a slot, or a number below 0 or from 1000000"),
    "fds": (_list_of(_is_fd), "a list of slot names or numbers below 0"),
    "slot": (_is_slot, "the name of a slot (1 to 64 characters)"),
    "pair": (_list_of(_is_slot, 2), "a list of two slot names"),
    "id": (lambda v: _is_slot(v) or _unsigned(0xFFFFFFFF)(v), "an integer slot or a number of 32 bits"),
    "int": (_is_int, "an integer of 64 bits"),
    "u32": (_unsigned(0xFFFFFFFF), "an unsigned number of 32 bits"),
    "u64": (_unsigned(0xFFFFFFFFFFFFFFFF), "an unsigned number of 64 bits"),
    "stream": (_unsigned(MAX_STREAM_BYTES), "a number from 0 to %d" % MAX_STREAM_BYTES),
    "n": (_is_n, "a number from 0 to %d" % MAX_IO_BYTES),
    "ns": (
        lambda v: _list_of(_is_n)(v) and bool(v) and all(v),
        "a list of numbers from 1 to %d" % MAX_IO_BYTES,
    ),
    "windows": (_list_of(_list_of(_unsigned(MAX_STREAM_BYTES), 2)), "a list of [first, end] byte offsets"),
    "hex": (_is_hex, "bytes in hex"),
    "b64": (_is_b64, "bytes in base64"),
    "str": (lambda v: isinstance(v, str) and len(v) <= 4096, "a string of up to 4096 characters"),
    "strs": (_list_of(lambda v: isinstance(v, str)), "a list of strings"),
    "list": (lambda v: isinstance(v, list), "a list"),
    "op": (
        lambda v: check_op(v, "do") is None and v[0] not in ACTOR_OPS,
        "an operation an actor can perform",
    ),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "obj": (lambda v: isinstance(v, dict), "an object"),
}


_CHECKS = {name: {arg: TYPES[kind][0] for arg, kind in one.args.items()} for name, one in OPERATIONS.items()}


def check_op(op: Any, where: str) -> str | None:
    """Return None when `op` (`[name, args]`) is well formed, else one line that says what is wrong.

    `where` is the op's place, such as `threads[0].ops[3]`.
    """
    if not isinstance(op, (list, tuple)) or len(op) != 2 or not isinstance(op[1], dict):
        return "%s is not [name, {arguments}]" % where
    name, args = op
    if not isinstance(name, str) or name not in OPERATIONS:
        return "%s: %r is not an operation; valid are %s" % (where, name, ", ".join(sorted(OPERATIONS)))
    checks = _CHECKS[name]
    for arg, value in args.items():
        check = checks.get(arg)
        if check is None:
            return "%s: %s takes no argument %r; valid are %s" % (where, name, arg, ", ".join(checks))
        if not check(value):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            return "%s: %s: %s=%s is not %s" % (where, name, arg, shown, TYPES[OPERATIONS[name].args[arg]][1])
    required = OPERATIONS[name].required
    if not required <= args.keys():
        missing = sorted(required - args.keys())
        return "%s: %s needs %s" % (where, name, ", ".join(missing))
    return None


def check_ops(ops: Any, where: str) -> str | None:
    """Return None when `ops` is a list of well formed operations, else the first thing that is wrong."""
    if not isinstance(ops, list):
        return "%s is not a list of operations" % where
    for index, op in enumerate(ops):
        wrong = check_op(op, "")
        if wrong is not None:
            return check_op(op, "%s[%d]" % (where, index))
    return None


_PROGRAM_KEYS = frozenset(["devices", "session", "keep", "deadline_ms", "op_ms", "busy_ms", "threads"])
_THREAD_KEYS = frozenset(["name", "actor", "ops"])


def check_program(program: Any) -> str | None:
    """Return None when `program` is well formed (docs/architecture.md), else what is wrong first."""
    if not isinstance(program, dict):
        return "program is not an object"
    extra = sorted(program.keys() - _PROGRAM_KEYS)
    if extra:
        return "program: unknown key %r; valid are %s" % (extra[0], ", ".join(sorted(_PROGRAM_KEYS)))
    for key in ("deadline_ms", "op_ms"):
        deadline = program.get(key, 1)
        if not _unsigned(MAX_DEADLINE_MS)(deadline) or not deadline:
            return "program: %s=%r is not a number from 1 to %d" % (key, deadline, MAX_DEADLINE_MS)
    if not _unsigned(MAX_DEADLINE_MS)(program.get("busy_ms", 0)):
        return "program: busy_ms=%r is not a number up to %d" % (program["busy_ms"], MAX_DEADLINE_MS)
    session = program.get("session")
    if session is not None and not _is_slot(session):
        return "program: session=%r is not a name" % (session,)
    if not _list_of(_is_slot)(program.get("keep", [])):
        return "program: keep is not a list of slot names"
    devices = program.get("devices", {})
    if not isinstance(devices, dict) or not all(isinstance(d, dict) for d in devices.values()):
        return "program: devices is not an object of objects"
    threads = program.get("threads")
    if not isinstance(threads, list) or not 1 <= len(threads) <= MAX_THREADS:
        return "program: threads is not a list of 1 to %d threads" % MAX_THREADS
    names = set()
    for number, thread in enumerate(threads):
        where = "threads[%d]" % number
        wrong = _check_thread(thread, where) or _check_devices(thread["ops"], devices, where)
        if wrong is not None:
            return wrong
        if thread["name"] in names:
            return "%s: name=%r is taken by another thread" % (where, thread["name"])
        names.add(thread["name"])
    return None


def _check_thread(thread: Any, where: str) -> str | None:
    if not isinstance(thread, dict) or not thread.keys() <= _THREAD_KEYS:
        return "%s is not an object of %s" % (where, ", ".join(sorted(_THREAD_KEYS)))
    if not _is_slot(thread.get("name")):
        return "%s: name=%r is not a name" % (where, thread.get("name"))
    if thread.get("actor") is not None and not _is_slot(thread["actor"]):
        return "%s: actor=%r is not a name" % (where, thread["actor"])
    return check_ops(thread.get("ops"), where + ".ops")


def _check_devices(ops: list[Any], devices: dict[str, Any], where: str) -> str | None:
    for index, (name, args) in enumerate(ops):
        if name == "act":
            name, args = args["do"]
        if "dev" in args and args["dev"] not in devices:
            known = ", ".join(sorted(devices)) or "none"
            return "%s.ops[%d]: %s: dev=%r is not in devices; known: %s" % (
                where,
                index,
                name,
                args["dev"],
                known,
            )
    return None
