# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol over its unix socket: one command at a time, each with a deadline."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import LabError

__all__ = ["Qmp"]

_MAX_LINE_BYTES = 1 << 20


class Qmp:
    """A session on the socket `path`; LabError if QEMU does not answer within the deadline."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = b""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise LabError(f"QEMU's control socket {path} does not answer: {error}") from None
        try:
            self._line(time.monotonic() + timeout_s)
            self.execute("qmp_capabilities", timeout_s=timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> Any:
        """Run a command and return its result; events that come before it are dropped."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise LabError(f"QEMU took no {command!r}: {error}") from None
        while True:
            answer = self._line(deadline)
            if "error" in answer:
                detail = answer["error"]
                text = detail.get("desc") if isinstance(detail, dict) else detail
                raise LabError(f"QEMU refused {command!r}: {text}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """End the session; QEMU keeps running."""
        self._socket.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError("QEMU's control socket is silent past its deadline")
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise LabError(f"QEMU's control socket sent a line of more than {_MAX_LINE_BYTES} bytes")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise LabError(f"QEMU's control socket broke: {error}") from None
            if not data:
                raise LabError("QEMU closed its control socket")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            raise LabError("QEMU's control socket sent no JSON") from None
        if not isinstance(answer, dict):
            raise LabError("QEMU's control socket sent no JSON object")
        return answer
