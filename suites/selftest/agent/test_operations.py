# SPDX-License-Identifier: Apache-2.0
"""The table of operations: complete, and correct about which of them touch a device."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

import pytest

from harness.agent.operations import (
    ACTOR_OPS,
    DEADLINE_CLASSES,
    HERE_OPS,
    OPERATIONS,
    WAITING_OPS,
    Operation,
    touches_device,
)
from harness.agent.perform import FUNCTIONS
from harness.agent.validation import TYPES

# What in a context may give access to a device: its fds, memory that may be mapped from it, its entry in
# the program, and processes that hold any of them.
_WAYS = {"fds", "maps", "device", "actors"}

# Operations that have such access and touch no device, by the reason.
NOT_THE_DEVICE = {
    "the kernel answers from the table of fds, the inode or the socket, and calls no driver": {
        "dup", "fcntl", "stat", "send_fd", "recv_fd",
    },
    "an eventfd counts by itself: reading it calls nobody (writing does: who waits on it runs then)": {
        "eventfd_read",
    },
    "the process started here has copies of the fds, so that it closes no last one": {"exec_self"},
    "these end in time by themselves, whatever an actor is stuck in": {"kill", "exit", "wait"},
}  # fmt: skip

# Operations that touch a device without such access.
BY_OTHER_WAYS = {"open", "open_iommufd", "open_container"}  # by a path

# The rest concerns this process alone; it uses no fd and no memory of a program.
OUR_OWN = {
    "barrier", "bytes", "drop_capability", "eventfd", "memfd", "pinned_memory", "pipe", "read_text",
    "rlimit_memlock", "sleep", "socketpair",
}  # fmt: skip


def instructions(code: CodeType) -> Iterator[dis.Instruction]:
    """Every instruction of the code, with those of functions and lambdas inside it."""
    yield from dis.get_instructions(code)
    for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
        yield from instructions(inner)


def ways_of(function: FunctionType) -> set[str]:
    """Which of `_WAYS` a function uses, itself or through functions of its module that it calls."""
    found: set[str] = set()
    seen, rest = set(), [function]
    while rest:
        one = rest.pop()
        if one in seen:
            continue
        seen.add(one)
        for step in instructions(one.__code__):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _WAYS:
                found.add(step.argval)
            called = one.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
            if isinstance(called, FunctionType) and called.__module__ == function.__module__:
                rest.append(called)
    return found


def test_what_has_a_device_in_hand_is_marked_or_has_its_reason():
    """Steps: read the code of every operation.  Verify: its mark agrees, or a list has the reason."""
    excused = set().union(*NOT_THE_DEVICE.values())
    wrong = []
    for name, function in FUNCTIONS.items():
        near = (bool(ways_of(function)) or name in BY_OTHER_WAYS) and name not in excused
        if near != touches_device(name):
            wrong.append(f"{name}: marked {touches_device(name)}, uses {ways_of(function) or 'nothing'}")
    assert not wrong, "\n".join(wrong)


def test_the_operations_that_touch_no_device_are_these():
    unmarked = {name for name in OPERATIONS if not touches_device(name)}
    assert unmarked == OUR_OWN.union(*NOT_THE_DEVICE.values())


def test_the_lists_name_only_what_they_speak_of():
    """Verify: an excused operation has access to a device; those of the other lists have none."""
    assert all(ways_of(FUNCTIONS[name]) for reason in NOT_THE_DEVICE.values() for name in reason)
    assert not any(ways_of(FUNCTIONS[name]) for name in OUR_OWN | BY_OTHER_WAYS)


def test_a_way_through_another_function_or_a_lambda_is_seen():
    def inner(ctx):
        return lambda: ctx.maps["m"]

    assert ways_of(inner) == {"maps"}
    assert ways_of(FUNCTIONS["device_info"]) == {"fds"}


@pytest.mark.parametrize("name", [None, "start", "no_such_operation"])
def test_what_is_no_operation_touches_no_device(name):
    assert not touches_device(name)


def test_every_entry_is_whole():
    """Verify: known types, one deadline class, known marks, and a sentence that says what it does."""
    for name, one in OPERATIONS.items():
        assert name == one.name
        assert set(one.args.values()) <= TYPES.keys(), name
        assert one.required <= one.args.keys(), name
        assert one.deadline in DEADLINE_CLASSES, name
        assert set(one.marks) <= {"device", "agent", "here"}, name
        assert one.does, name


def test_the_sets_that_the_executor_uses():
    assert {"barrier", "sleep"} == HERE_OPS
    assert {"barrier", "sleep", "wait", "poll", "recv_fd"} == WAITING_OPS
    assert {"act", "barrier", "exec", "exit", "fork", "kill", "wait"} == ACTOR_OPS


def test_an_entry_without_a_deadline_class_is_refused():
    with pytest.raises(ValueError, match="not enough values"):
        Operation("get: fd:fd | asks | state")
