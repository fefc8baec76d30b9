# SPDX-License-Identifier: Apache-2.0
"""A C program on the lab host that does what the agent does, without the suite: what speed is measured by."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from harness.errors import LabError, UsageError
from harness.hosts.ssh import SshConnection, SshTransport

__all__ = ["Yardstick", "compiled", "parse_sweep", "yardstick"]

_SOURCE = Path(__file__).with_name("walk.c")
_COMPILE_LIMIT_S = 60.0
_SEND_LIMIT_S = 60.0
_FOLDER = re.compile(r"/dev/shm/vfiocert-bench\.[A-Za-z0-9]{6,}")
# `head` may read more than it is told to, so it comes once: the targets are the end of the program's file.
# The folder goes when this shell's input ends, that is with the connection, whatever broke it.
_HOLD = (
    'set -e; d=$(mktemp -d /dev/shm/vfiocert-bench.XXXXXX); trap \'rm -rf "$d"\' EXIT; echo "$d"; '
    'head -c {total} >"$d/walk"; tail -c {targets} "$d/walk" >"$d/targets"; chmod 700 "$d/walk"; echo ready; '
    "cat >/dev/null"
)


class Exec(Protocol):
    """Runs one shell command on the lab host."""

    def exec(self, command: str, deadline_s: float) -> tuple[int, bytes, bytes]:
        """(exit status, stdout, stderr); LabError past the deadline."""
        ...


def compiled(compiler: str = "gcc") -> bytes:
    """The yardstick's static binary; UsageError where there is no compiler or it refuses."""
    if shutil.which(compiler) is None:
        raise UsageError(f"{compiler} is not installed, and the yardstick is a C program; install gcc")
    with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as folder:
        target = Path(folder) / "walk"
        command = [compiler, "-O2", "-static", "-s", "-o", str(target), str(_SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_COMPILE_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"{compiler} was not done with {_SOURCE.name} within {_COMPILE_LIMIT_S:g} s"
            ) from None
        if done.returncode != 0:
            last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise UsageError(
                f"{compiler} refuses {_SOURCE.name}: {last}; install gcc and libc's static library"
            )
        return target.read_bytes()


def parse_sweep(text: bytes) -> tuple[int, int]:
    """(arcs, nanoseconds) of the line the program prints; LabError where it is none."""
    fields = text.split()
    if len(fields) != 3 or not all(f.isdigit() and len(f) < 20 for f in fields) or not int(fields[1]):
        raise LabError(f"the yardstick printed {text[:80]!r}, wanted arcs, nanoseconds and a checksum")
    return int(fields[0]), int(fields[1])


class Yardstick:
    """The program on the host, ready to run on one device node."""

    def __init__(self, host: Exec, folder: str, node: str, sudo: bool) -> None:
        self._host, self._folder, self._node, self._sudo = host, folder, shlex.quote(node), sudo

    def sweep(self, repeat: int) -> float:
        """Arcs per second of `repeat` rounds over the targets."""
        command = f"{self._folder}/walk sweep {self._node} {repeat} <{self._folder}/targets"
        arcs, ns = parse_sweep(self._run(command, 120.0))
        return arcs * 1e9 / ns

    def one(self, state: int) -> None:
        """One arc, one operation an `exec`: a SET, then the GET that says where it led."""
        self._run(f"{self._folder}/walk set {self._node} {state}", 30.0)
        self._run(f"{self._folder}/walk get {self._node}", 30.0)

    def _run(self, command: str, limit_s: float) -> bytes:
        status, out, err = self._host.exec(_as_root(command, self._sudo), limit_s)
        if status != 0:
            words = err.decode("utf-8", "replace").strip()[-200:]
            raise LabError(f"the yardstick ended with status {status}: {words or 'no message'}")
        return out


def _as_root(command: str, sudo: bool) -> str:
    return f"sudo -n sh -c {shlex.quote(command)}" if sudo else command


@contextlib.contextmanager
def yardstick(
    connection: SshConnection, node: str, program: bytes, targets: bytes, sudo: bool = False
) -> Iterator[Yardstick]:
    """The program and its targets in memory of the host, removed in any case."""
    hold = _HOLD.format(total=len(program) + len(targets), targets=len(targets))
    channel = connection.transport(_as_root(hold, sudo))
    try:
        folder = _line(channel)
        if not _FOLDER.fullmatch(folder):
            raise LabError(
                f"no folder for the yardstick on the lab host: {channel.stderr_tail().strip()[-200:]}"
            )
        channel.send(program + targets)
        if _line(channel) != "ready":
            raise LabError(f"the yardstick did not arrive: {channel.stderr_tail().strip()[-200:]}")
        yield Yardstick(connection, folder, node, sudo)
    finally:
        channel.close()


def _line(channel: SshTransport) -> str:
    line = bytearray()
    end = time.monotonic() + _SEND_LIMIT_S
    while len(line) < 200:
        try:
            byte = channel.recv_exact(1, max(0.1, end - time.monotonic()))
        except TimeoutError:
            raise LabError(f"the lab host was silent for {_SEND_LIMIT_S:g} s") from None
        if byte in (b"", b"\n"):
            break
        line += byte
    return line.decode("ascii", "replace")
