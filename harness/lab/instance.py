# SPDX-License-Identifier: Apache-2.0
"""One QEMU in its folder: start it through its keeper, send it requests, wait for it, end it.

The folder (mode 0700) holds `spec.json` (what the keeper runs), `keeper.json` (who runs), the sockets
`qmp` and `control`, `console.log`, `qemu.err`, and `exit.json` once QEMU has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import LabError
from harness.lab.keeper import start_time
from harness.lab.places import project_path
from harness.lab.qmp import Qmp
from harness.progress import Progress

__all__ = ["Instance", "free_port"]

_KEEPER_START_S = 20.0
_STOP_S = 20.0
_PORT_TRIES = 5
_PORT_TAKEN = "Could not set up host forwarding rule"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Instance:
    """The QEMU of `folder`, an existing private folder; nothing runs before `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, argv: Callable[[int], list[str]], *, port: int | None, idle_limit_s: float) -> int:
        """Start QEMU with the arguments `argv(port)`; return the port.  LabError if QEMU ends at once.

        If another process takes the port first, another port is tried, unless the caller gives `port`.
        """
        for attempt in range(_PORT_TRIES):
            chosen = port if port is not None else free_port()
            error = self._start_once(argv(chosen), chosen, idle_limit_s)
            if error is None:
                return chosen
            if _PORT_TAKEN not in error or attempt + 1 == _PORT_TRIES:
                raise LabError(f"QEMU of lab {self.folder.name!r} did not start: {error}")
            # A given port is that of the QEMU that we just ended: it becomes free in a moment.
            time.sleep(0.2 * (attempt + 1))
        raise LabError(f"QEMU of lab {self.folder.name!r} found no free port in {_PORT_TRIES} tries")

    def stop(self) -> None:
        """End QEMU and its keeper, if they run; LabError if they do not end."""
        pids = self._pids()
        deadline = time.monotonic() + _STOP_S
        kind = signal.SIGTERM
        while any(start_time(pid) == since for pid, since in pids):
            if time.monotonic() > deadline:
                if kind == signal.SIGKILL:
                    raise LabError(
                        f"processes {[pid for pid, _ in pids]} of lab {self.folder.name!r} do not end"
                    )
                kind, deadline = signal.SIGKILL, time.monotonic() + 5
            # The keeper ends QEMU; if the keeper is gone or must be killed, QEMU dies with it.
            for pid, since in pids[:1] if start_time(pids[0][0]) == pids[0][1] else pids:
                with contextlib.suppress(ProcessLookupError):
                    if start_time(pid) == since:
                        os.kill(pid, kind)
            time.sleep(0.05)

    def alive(self) -> bool:
        """Whether both keeper and QEMU run."""
        pids = self._pids()
        return len(pids) == 2 and all(since > 0 and start_time(pid) == since for pid, since in pids)

    def qemu_pid(self) -> int | None:
        """QEMU's process id while it runs."""
        pids = self._pids()
        return pids[1][0] if len(pids) == 2 and start_time(pids[1][0]) == pids[1][1] else None

    def keeper_pid(self) -> int | None:
        """The keeper's process id while it runs."""
        pids = self._pids()
        return pids[0][0] if pids and start_time(pids[0][0]) == pids[0][1] else None

    def qmp(self) -> Qmp:
        """Open a QMP session with QEMU; the caller closes it."""
        return Qmp(self.folder / "qmp")

    def console_tail(self, lines: int = 30) -> str:
        """The last lines of the guest's console and of QEMU's own errors."""
        text = ""
        for name, size in (("console.log.1", 16384), ("console.log", 65536), ("qemu.err", 4096)):
            text += _tail(self.folder / name, size)
        return "\n".join(line[:400] for line in text.replace("\r", "").splitlines()[-lines:])

    def wait_loaded(self, deadline: float) -> None:
        """Wait until QEMU has loaded the saved machine, which is then paused; LabError past `deadline`."""
        while True:
            try:
                with self.qmp() as qmp:
                    status = qmp.execute("query-status")
                    if isinstance(status, dict) and status.get("status") == "paused":
                        return
            except LabError:
                if not self.alive():
                    raise LabError(self._ended("QEMU ended")) from None
            if time.monotonic() > deadline:
                raise LabError(self._ended("QEMU did not load the saved machine within its deadline"))
            time.sleep(0.02)

    def ask(self, request: str, answer: str, deadline: float, progress: Progress) -> None:
        """Send `request` on the guest's control line until `answer` comes; LabError past `deadline`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            try:
                line.settimeout(5)
                line.connect(str(self.folder / "control"))
            except OSError as error:
                raise LabError(self._ended(f"the control line does not open: {error}")) from None
            heard = b""
            ask_again = 0.0
            while f"{answer}\n".encode() not in heard.replace(b"\r", b""):
                now = time.monotonic()
                if now > deadline or not self.alive():
                    raise LabError(self._ended(f"the guest did not answer {request.split()[0]!r}"))
                try:
                    if now >= ask_again:
                        line.sendall(f"{request}\n".encode())
                        ask_again = now + 10
                    line.settimeout(0.5)
                    data = line.recv(4096)
                except TimeoutError:
                    progress.tick(None)
                    continue
                except OSError as error:
                    raise LabError(self._ended(f"the control line broke: {error}")) from None
                if not data:
                    raise LabError(self._ended("QEMU closed the control line"))
                heard = (heard + data)[-4096:]
                failed = re.search(rb"^error (.{0,200})", heard.replace(b"\r", b""), re.M)
                if failed:
                    raise LabError(
                        f"lab {self.folder.name!r}: the guest could not {request.split()[0]}: "
                        + failed.group(1).decode("ascii", "replace")
                    )

    def wait_ssh(self, port: int, deadline: float, progress: Progress) -> None:
        """Wait for an SSH banner on `port`; past `deadline`, LabError with the end of the console."""
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                    if connection.recv(64).startswith(b"SSH-2.0-"):
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise LabError(self._ended(f"no SSH banner on 127.0.0.1:{port} within the deadline"))
            if not self.alive():
                raise LabError(self._ended("QEMU ended before SSH was ready"))
            progress.tick(None)
            time.sleep(0.05)

    def resumed(self, devices: list[dict[str, object]], deadline: float, progress: Progress) -> None:
        """Plug in `devices` and wait until the resumed guest has its clock, random seed and devices."""
        self.wait_loaded(deadline)
        with self.qmp() as qmp:
            for device in devices:
                qmp.execute("device_add", device)
            qmp.execute("cont")
        now = int(time.time())
        self.ask(f"resume {now} {secrets.token_hex(16)}", f"ok {now}", deadline, progress)

    def touch(self) -> None:
        """Mark the lab as in use: its idle time starts again."""
        (self.folder / "heartbeat").touch()

    def _start_once(self, argv: list[str], port: int, idle_limit_s: float) -> str | None:
        for name in ("qmp", "control", "keeper.json", "exit.json"):
            (self.folder / name).unlink(missing_ok=True)
        spec = {"argv": argv, "port": port, "idle_limit_s": idle_limit_s}
        (self.folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        self.touch()
        # -I: the keeper needs only the standard library, and nothing from this process's environment.
        started = subprocess.run(
            [sys.executable, "-I", str(project_path("keeper.py")), str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_KEEPER_START_S,
            cwd="/",
        )
        if started.returncode != 0:
            return f"its keeper failed with status {started.returncode}"
        deadline = time.monotonic() + _KEEPER_START_S
        while time.monotonic() < deadline:
            if (self.folder / "exit.json").exists():
                return _tail(self.folder / "qemu.err", 2000).strip() or self._exit_text()
            if (self.folder / "qmp").exists() and self.alive():
                try:
                    self.qmp().close()
                    return None
                except LabError:
                    pass
            time.sleep(0.02)
        self.stop()
        return f"no control socket within {_KEEPER_START_S:.0f} s"

    def _pids(self) -> list[tuple[int, int]]:
        """(pid, start time) of the keeper and of QEMU, from the keeper's file."""
        values = _read_json(self.folder / "keeper.json")
        pids: list[tuple[int, int]] = []
        for name in ("keeper", "qemu"):
            pair = values.get(name)
            if (
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(one, int) and one > 0 for one in pair)
            ):
                pids.append((pair[0], pair[1]))
        return pids

    def _exit_text(self) -> str:
        values = _read_json(self.folder / "exit.json")
        return str(values.get("error") or f"exit status {values.get('status')}")

    def _ended(self, what: str) -> str:
        return f"lab {self.folder.name!r}: {what}; console: " + (
            self.console_tail(8).replace("\n", " | ") or "empty"
        )


def _tail(path: Path, size: int) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
