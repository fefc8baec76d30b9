# SPDX-License-Identifier: Apache-2.0
"""The agent's main loop: one request, one answer, until the channel closes; then everything is undone."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading

from . import wire
from .executor import Overdue
from .failure import Failure
from .methods import Methods

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["PROTOCOL", "TASK", "main"]

PROTOCOL = 1
TASK = "vfiocert-agent"  # at most 15 characters; harness.oracle.kernel_log looks for it
_UNDO_LIMIT_S = 120.0
_WATCH_PERIOD_S = 0.1


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _take_channel() -> tuple[int, int]:
    """Move the channel away from fds 0 and 1, so that stray prints and reads cannot touch it."""
    reader, writer = os.dup(0), os.dup(1)  # dup: above 2, and close-on-exec
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return reader, writer


def _name_task() -> None:
    """Give this process, and so its threads and actors, a name that the kernel log shows."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(TASK)
    except OSError:
        pass


def _raise_fd_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass


class _Server:
    """Serves requests in a thread that the main thread watches: a stuck request costs only that thread."""

    def __init__(self, methods: Methods, reader: int, writer: int) -> None:
        self.methods = methods
        self.reader = reader
        self.writer = writer
        self.ended = threading.Event()
        self.number: Any = None  # id of the request being served

    def start(self) -> None:
        """Start serving, or continue after a hang, in a new thread."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                answer = self._answer(wire.read_frame(self.reader))
                wire.write_all(self.writer, answer)
        except Overdue:
            return  # the watcher answered, and another thread serves
        except wire.EndOfStream:
            pass
        except ValueError as e:
            # Frame boundaries are lost: report it, and end.
            error = {"kind": "usage", "message": str(e), "detail": {}}
            wire.write_all(self.writer, wire.encode({"id": None, "error": error}))
        except OSError:
            pass  # nobody reads the answer: same as the end of the stream
        self.ended.set()

    def _answer(self, body: bytes) -> bytes:
        self.number = None
        try:
            try:
                request = wire.decode(body)
            except (ValueError, RecursionError) as e:
                raise Failure("usage", "the request is not JSON: %s" % e)
            if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
                raise Failure("usage", "the request is not an object with id, method and params")
            number = self.number = request.get("id")
            return wire.encode(
                {"id": number, "result": self.methods.call(request.get("method"), request.get("params", {}))}
            )
        except Overdue:
            raise
        except Failure as e:
            error = {"kind": e.kind, "message": e.message, "detail": e.detail}
        except OSError as e:
            error = {"kind": "lab", "message": str(e), "detail": {"errno": e.errno}}
        except Exception as e:
            # The agent must not die on a request: a bug in the agent is reported in the answer.
            from traceback import format_exc  # slow to import, and needed only here

            message = "%s: %s" % (type(e).__name__, e)
            error = {"kind": "agent", "message": message, "detail": {"traceback": format_exc()}}
        return wire.encode({"id": self.number, "error": error})

    def watch(self) -> None:
        """Wait for the end of the stream; answer for a program that hangs, and serve in a new thread."""
        while not self.ended.wait(_WATCH_PERIOD_S):
            hung = self.methods.executor.overdue()
            if hung is not None:
                wire.write_all(self.writer, wire.encode({"id": self.number, "result": hung}))
                self.start()


def _terminate(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


def main(bundle_hash: str) -> None:
    """Say hello, serve requests until the channel closes or a signal comes, undo, and exit."""
    reader, writer = _take_channel()
    _raise_fd_limit()
    _name_task()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _terminate)
    code = 0
    methods = Methods(bundle_hash)
    hello = {
        "protocol": PROTOCOL, "hash": bundle_hash, "python": "%d.%d.%d" % sys.version_info[:3],
        "pid": os.getpid(), "uid": os.getuid(), "kernel": os.uname().release, "boot_id": _boot_id(),
    }  # fmt: skip
    try:
        wire.write_all(writer, wire.encode({"hello": hello}))
        server = _Server(methods, reader, writer)
        server.start()
        server.watch()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except OSError:
        pass  # nobody reads the answer: same as the end of the stream
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the undo must not be interrupted
    last = threading.Thread(target=methods.shut_down, daemon=True)
    last.start()
    last.join(_UNDO_LIMIT_S)
    if last.is_alive():
        sys.stderr.write(
            "vfiocert agent: the undo did not finish within %d s; run undo again\n" % _UNDO_LIMIT_S
        )
        code = code or 3
    sys.stderr.flush()
    os._exit(code)
