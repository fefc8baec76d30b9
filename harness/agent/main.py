# SPDX-License-Identifier: Apache-2.0
"""The agent's main loop: one request, one answer, until the channel closes; then everything is undone."""

from __future__ import annotations

import os
import platform
import resource
import signal
import sys
import threading
import traceback
from typing import Any

from . import wire
from .failure import Failure
from .methods import Methods

__all__ = ["PROTOCOL", "main"]

PROTOCOL = 1
_UNDO_LIMIT_S = 120.0


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _take_channel() -> tuple[int, int]:
    """Move the wire away from 0 and 1, so that nothing that prints or reads can touch it."""
    reader, writer = os.dup(0), os.dup(1)  # dup: above 2, and close-on-exec
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return reader, writer


def _raise_fd_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass


def _answer(methods: Methods, body: bytes) -> bytes:
    number = None
    try:
        try:
            request = wire.decode(body)
        except (ValueError, RecursionError) as e:
            raise Failure("usage", "the request is not JSON: %s" % e)
        if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
            raise Failure("usage", "the request is not an object with id, method and params")
        number = request.get("id")
        result = methods.call(request.get("method"), request.get("params", {}))
        return wire.encode({"id": number, "result": result})
    except Failure as e:
        error = {"kind": e.kind, "message": e.message, "detail": e.detail}
    except OSError as e:
        error = {"kind": "lab", "message": str(e), "detail": {"errno": e.errno}}
    except Exception as e:
        # The agent never dies on a request: a bug in it is an answer as well.
        message = "%s: %s" % (type(e).__name__, e)
        error = {"kind": "agent", "message": message, "detail": {"traceback": traceback.format_exc()}}
    return wire.encode({"id": number, "error": error})


def _serve(methods: Methods, reader: int, writer: int) -> None:
    while True:
        try:
            body = wire.read_frame(reader)
        except wire.EndOfStream:
            return
        except ValueError as e:
            # The stream cannot be followed any more: say so, and end.
            error = {"kind": "usage", "message": str(e), "detail": {}}
            wire.write_all(writer, wire.encode({"id": None, "error": error}))
            return
        wire.write_all(writer, _answer(methods, body))


def _terminate(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


def main(bundle_hash: str) -> None:
    """Say hello, serve requests until the channel closes or a signal comes, undo, and exit."""
    reader, writer = _take_channel()
    _raise_fd_limit()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _terminate)
    code = 0
    methods = Methods(bundle_hash)
    hello = {
        "protocol": PROTOCOL, "hash": bundle_hash, "python": platform.python_version(), "pid": os.getpid(),
        "uid": os.getuid(), "kernel": os.uname().release, "boot_id": _boot_id(),
    }  # fmt: skip
    try:
        wire.write_all(writer, wire.encode({"hello": hello}))
        _serve(methods, reader, writer)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except OSError:
        pass  # nobody reads the answer any more: the same as the end of the stream
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the undo must not be cut in half
    last = threading.Thread(target=methods.shut_down, daemon=True)
    last.start()
    last.join(_UNDO_LIMIT_S)
    if last.is_alive():
        sys.stderr.write("vfiocert agent: the undo did not finish within %d s; run undo again\n" % _UNDO_LIMIT_S)
        code = code or 3
    sys.stderr.flush()
    os._exit(code)
