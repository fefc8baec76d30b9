# SPDX-License-Identifier: Apache-2.0
"""The process that owns one lab's QEMU: it starts QEMU, limits the size of its console log, and ends it.

Run as a script of its own (standard library only), detached from the controller, so that a controller that
crashes leaves neither QEMU nor its folder behind for longer than the lab's idle limit:
* QEMU is a child of this process and dies with it (PR_SET_PDEATHSIG), whatever kills it;
* the lab lives while an owner does (`owners/PID.STARTTIME`), while an SSH connection to its port is open, or
  while the file `heartbeat` is younger than the idle limit; then QEMU is killed and the folder removed;
* SIGTERM ends QEMU and leaves the folder to the sender.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_CONSOLE_BYTES = 512 << 10
_STDERR_BYTES = 64 << 10
_POLL_S = 0.5
_IDLE_CHECK_S = 2.0
_PR_SET_PDEATHSIG = 1


class Keeper:
    """One QEMU, from start to end."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.spec = spec
        self.stopping = False
        self.process: subprocess.Popen[bytes] | None = None
        self.console = open(folder / "console.log", "ab", buffering=0)  # noqa: SIM115
        self.errors = open(folder / "qemu.err", "wb", buffering=0)  # noqa: SIM115

    def run(self) -> None:
        """Start QEMU and watch it until it ends or the lab is no longer in use."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        libc = ctypes.CDLL(None)

        def in_child() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        keeper = os.getpid()
        self.process = subprocess.Popen(
            self.spec["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=in_child,
            cwd=self.folder,
        )
        _write_json(
            self.folder / "keeper.json",
            {
                "keeper": [keeper, start_time(keeper)],
                "qemu": [self.process.pid, start_time(self.process.pid)],
            },
        )
        expired = self._watch()
        self._end()
        if expired:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            status = self.process.returncode
            with contextlib.suppress(OSError):
                _write_json(self.folder / "exit.json", {"status": status, "stopped": self.stopping})

    def _on_term(self, number: int, frame: object) -> None:
        self.stopping = True

    def _watch(self) -> bool:
        """Wait until QEMU ends or must end; True if the lab is no longer in use."""
        assert self.process is not None
        streams = {
            stream.fileno(): target
            for stream, target in ((self.process.stdout, self.console), (self.process.stderr, self.errors))
            if stream
        }
        next_check = time.monotonic() + _IDLE_CHECK_S
        while not self.stopping:
            ready, _, _ = select.select(list(streams), [], [], _POLL_S)
            for number in ready:
                data = os.read(number, 65536)
                if not data:
                    del streams[number]
                elif streams[number] is self.console:
                    self._keep_console(data)
                elif self.errors.tell() < _STDERR_BYTES:
                    self.errors.write(data[:_STDERR_BYTES])
            if self.process.poll() is not None and not ready:
                return False
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + _IDLE_CHECK_S
                if not self.folder.is_dir() or self._idle():
                    return True
        return False

    def _keep_console(self, data: bytes) -> None:
        if self.console.tell() + len(data) > _CONSOLE_BYTES:
            self.console.close()
            with contextlib.suppress(OSError):
                os.replace(self.folder / "console.log", self.folder / "console.log.1")
            self.console = open(self.folder / "console.log", "wb", buffering=0)  # noqa: SIM115
        self.console.write(data)

    def _idle(self) -> bool:
        try:
            beat = (self.folder / "heartbeat").stat().st_mtime
        except OSError:
            beat = 0.0
        if owned(self.folder) or connected(self.spec["port"]):
            with contextlib.suppress(OSError):
                os.utime(self.folder / "heartbeat")
            return False
        # A clock that is set back must not keep the lab forever.
        return not 0 <= time.time() - beat <= float(self.spec["idle_limit_s"])

    def _end(self) -> None:
        assert self.process is not None
        for stop, patience_s in ((self.process.terminate, 2.0), (self.process.kill, 10.0)):
            if self.process.poll() is not None:
                return
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)


def start_time(pid: int) -> int:
    """A process's start time in clock ticks since boot, which makes its pid unique; 0 if it has ended."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return 0 if fields[0] in {"Z", "X"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def owned(folder: Path) -> bool:
    """Whether a process named in `owners/` is alive."""
    try:
        names = os.listdir(folder / "owners")
    except OSError:
        return False
    for name in names:
        pid, _, since = name.partition(".")
        if pid.isdigit() and since.isdigit() and int(since) > 0 and start_time(int(pid)) == int(since):
            return True
    return False


def connected(port: int) -> bool:
    """Whether a TCP connection to 127.0.0.1:`port` is open on this machine."""
    try:
        with open("/proc/net/tcp", encoding="ascii", errors="replace") as table:
            for line in table:
                columns = line.split()
                if len(columns) > 3 and columns[1] == f"0100007F:{port:04X}" and columns[3] == "01":
                    return True
    except OSError:
        pass
    return False


def _write_json(path: Path, values: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.replace(path)


def _main() -> int:
    folder = Path(sys.argv[1])
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    # A child in a session of its own: no terminal's signal and no wait of the controller reaches it.
    if os.fork() > 0:
        return 0
    os.setsid()
    try:
        Keeper(folder, spec).run()
    except Exception as error:
        with contextlib.suppress(OSError):
            _write_json(folder / "exit.json", {"status": None, "error": str(error)[:500], "stopped": False})
    return 0


if __name__ == "__main__":
    sys.exit(_main())
