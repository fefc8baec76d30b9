# SPDX-License-Identifier: Apache-2.0
"""Operations on threads and processes: barrier, sleep, and control of actors."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time

from .failure import Failure
from .slots import Context, libc, libc_error

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_AGENT = os.getpid()
# Prints which of the descriptors in its arguments survived exec.
_EXEC_PROBE = """
import os, sys, json
def alive(n):
    try:
        os.fstat(n)
        return True
    except OSError:
        return False
print(json.dumps([alive(int(a)) for a in sys.argv[1:]]))
"""


def barrier(ctx: Context, a: dict[str, Any]) -> Any:
    # Give up shortly before the program's deadline, so that the late thread is reported as hung, not this.
    try:
        ctx.shared.barrier(a["name"], a["parties"]).wait(max(0.001, ctx.remaining_s() - 0.2))
    except threading.BrokenBarrierError:
        raise OSError(errno.ETIMEDOUT, "barrier %s was not reached by all" % a["name"])


def sleep(ctx: Context, a: dict[str, Any]) -> Any:
    time.sleep(min(a["ms"] / 1000, ctx.remaining_s()))


def fork(ctx: Context, a: dict[str, Any]) -> Any:
    if a["actor"] in ctx.slots.actors:
        raise Failure("usage", "fork: actor %r exists already" % a["actor"])
    return {"pid": ctx.shared.start_actor(a["actor"])}


def act(ctx: Context, a: dict[str, Any]) -> Any:
    """Have an actor perform one operation now, so that several processes run in a fixed order."""
    record = ctx.slots.actors[a["actor"]].run(a["do"], ctx.deadline_ns)
    if "failure" in record:
        raise Failure("usage", record["failure"])
    return {key: value for key, value in record.items() if key not in ("t", "i", "op", "t0", "dt")}


def exec_actor(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.actors[a["actor"]].exec_idle(ctx.deadline_ns)


def kill(ctx: Context, a: dict[str, Any]) -> Any:
    name = a.get("signal", "SIGKILL")
    number = getattr(signal, name, None) if name.startswith("SIG") and "_" not in name else None
    if number is None:
        raise Failure("usage", "kill: signal=%r is not a signal such as SIGKILL" % name)
    ctx.slots.actors[a["actor"]].signal(int(number))


def exit_actor(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.actors[a["actor"]].hang_up()


def wait(ctx: Context, a: dict[str, Any]) -> Any:
    limit_s = min(a.get("timeout_ms", 3_600_000) / 1000, max(0.0, ctx.remaining_s() - 0.2))
    status = ctx.slots.actors[a["actor"]].wait(limit_s)
    if status is None:
        raise OSError(errno.ETIMEDOUT, "actor %s did not end" % a["actor"])
    ctx.slots.actors.pop(a["actor"]).end()
    signaled = os.WIFSIGNALED(status)
    return {
        "code": None if signaled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signaled else 0,
    }


def drop_capability(ctx: Context, a: dict[str, Any]) -> Any:
    """Drop capabilities for good (effective and permitted).  For actors only: the agent keeps its own."""
    if os.getpid() == _AGENT:
        raise Failure("usage", "drop_capability: only an actor may; fork one and use act")
    from harness.uapi import capability

    header = capability.__user_cap_header_struct(version=capability._LINUX_CAPABILITY_VERSION_3)
    words = (capability.__user_cap_data_struct * capability._LINUX_CAPABILITY_U32S_3)()
    if libc.capget(ctypes.byref(header), words):
        raise libc_error()
    for number in a["caps"]:
        if not isinstance(number, int) or not 0 <= number < 64:
            raise Failure("usage", "drop_capability: caps=%.60r are not numbers of capabilities" % a["caps"])
        word, kept = words[number // 32], ~(1 << number % 32)
        word.effective &= kept
        word.permitted &= kept
    if libc.capset(ctypes.byref(header), words):
        raise libc_error()


def exec_self(ctx: Context, a: dict[str, Any]) -> Any:
    import subprocess  # slow to import, and seldom needed

    numbers = [str(ctx.fds[name]) for name in a["fds"]]
    probe = [sys.executable, "-I", "-S", "-c", _EXEC_PROBE] + numbers
    child = subprocess.Popen(probe, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        out, _ = child.communicate(timeout=max(1.0, ctx.remaining_s() - 0.2))
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise OSError(errno.ETIMEDOUT, "the exec'ed process did not answer")
    alive = json.loads(out.decode("ascii") or "[]")
    if len(alive) != len(numbers):
        raise Failure("agent", "the exec'ed process ended with status %d" % child.returncode)
    return {"open": dict(zip(a["fds"], alive))}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "barrier": barrier, "sleep": sleep, "fork": fork, "kill": kill, "exit": exit_actor, "wait": wait,
    "act": act, "exec": exec_actor, "exec_self": exec_self, "drop_capability": drop_capability,
}  # fmt: skip
