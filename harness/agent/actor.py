# SPDX-License-Identifier: Apache-2.0
"""Actors: processes forked from the agent, with their own fd table, told what to do one operation at a
time."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

from . import wire
from .failure import ActorGone, Failure
from .perform import perform
from .slots import Context, Slots

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    import socket
    from typing import Any

__all__ = ["Actor"]

_EXEC = ["exec", {}]
# Longer than any program, and bounded: an agent that died leaves nobody behind for good.
_IDLE = ["sh", "-c", "exec sleep 60 >/dev/null"]


class Actor:
    """The agent's end of one actor.  Used by one thread at a time."""

    def __init__(self, name: str, pid: int, sock: socket.socket) -> None:
        self.name = name
        self.pid = pid
        self.status: int | None = None
        self._sock = sock
        self._lock = threading.Lock()

    @classmethod
    def start(cls, name: str, slots: Slots, devices: dict[str, Any]) -> Actor:
        """Fork a process that has the named fds of `slots` and nothing else of the agent."""
        import socket  # dear to import, and seldom needed

        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _become_actor(theirs.detach(), slots, devices)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        return cls(name, pid, ours)

    def run(self, op: list[Any], deadline_ns: int) -> dict[str, Any]:
        """Have the actor perform one operation; its record.  `ActorGone` when the process has ended."""
        fd = self._sock.fileno()
        if fd < 0:
            raise ActorGone("actor %s was told to exit" % self.name)
        try:
            wire.write_all(fd, wire.encode([op, deadline_ns]))
            answer = wire.decode(wire.read_frame(fd))
        except (OSError, wire.EndOfStream, ValueError):
            raise ActorGone("actor %s is gone%s" % (self.name, self._how()))
        return answer  # type: ignore[no-any-return]

    def exec_idle(self, deadline_ns: int) -> None:
        """Have the process exec a program that only waits, with what it inherits; OSError where it cannot.

        That program closes its end of the channel: that is the answer.
        """
        fd = self._sock.fileno()
        if fd < 0 or self.status is not None:
            raise ActorGone("actor %s has ended" % self.name)
        try:
            wire.write_all(fd, wire.encode([_EXEC, deadline_ns]))
            answer = wire.decode(wire.read_frame(fd))
        except (OSError, wire.EndOfStream, ValueError):
            if self.wait(0) is not None:
                raise ActorGone("actor %s is gone%s" % (self.name, self._how()))
            return
        raise OSError(answer.get("errno") or errno.EIO, "exec")

    def _how(self) -> str:
        status = self.wait(1.0)
        if status is None:
            return ""
        if os.WIFSIGNALED(status):
            return " (signal %d)" % os.WTERMSIG(status)
        return " (exit status %d)" % os.WEXITSTATUS(status)

    def signal(self, number: int) -> None:
        """Send the process a signal; ESRCH when it is known to have ended."""
        if self.status is not None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """Close the command channel: the actor exits by itself, with status 0."""
        self._sock.close()

    def wait(self, limit_s: float) -> int | None:
        """Wait until the process has ended; its wait status, None when it has not after `limit_s`."""
        end = time.monotonic() + limit_s
        pause = 0.001
        while self.status is None:
            with self._lock:  # two threads may ask, and only one is told
                pid = 0
                if self.status is None:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.status = status
            if self.status is not None:
                break
            if time.monotonic() >= end:
                return None
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return self.status

    def end(self) -> bool:
        """Kill the process and reap it; False when it does not die (stuck in the kernel)."""
        self._sock.close()
        if self.status is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except OSError:
                pass
        return self.wait(5.0) is not None


def _become_actor(channel: int, slots: Slots, devices: dict[str, Any]) -> None:
    """In the child: drop what is the agent's (wire, leases, other sessions), then serve operations until
    EOF."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    mine = {0, 1, 2, channel}
    mine.update(slots.fds.values())
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in mine:
            try:
                os.close(int(name))
            except OSError:
                pass
    slots.replaced = []
    slots.actors.clear()
    ctx = Context(slots, devices, 0, None)
    while True:
        try:
            op, deadline_ns = wire.decode(wire.read_frame(channel))
        except wire.EndOfStream:
            return
        ctx.deadline_ns = deadline_ns
        try:
            if op == _EXEC:
                # Nothing of the agent's wire may stay open. The channel becomes the standard output until the
                # program runs: only then has the kernel closed all that is close-on-exec.
                null = os.open(os.devnull, os.O_RDWR)
                for std, source in ((0, null), (1, channel), (2, null)):
                    os.dup2(source, std)
                os.execvp(_IDLE[0], _IDLE)
            record = perform(ctx, op)
        except Failure as e:
            record = {"failure": e.message}
        except OSError as e:
            record = {"errno": e.errno or errno.EIO}
        wire.write_all(channel, wire.encode(record))
