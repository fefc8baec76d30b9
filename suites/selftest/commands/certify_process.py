# SPDX-License-Identifier: Apache-2.0
"""`certify` as a process of its own, on a lab that is up already, watched line by line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
CLAUSES = ("MIG-00*", "MIG-021", "MIG-095", "MIG-100", "MIG-115", "MIG-121", "MIG-126", "MIG-150")
"""Clauses with several short tests, all of which pass on mtty: nothing but a fault can change the verdict."""


def _as_from_a_terminal() -> None:
    """Restore SIGINT, which a background job and its children ignore: Ctrl-C must work in the child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Certify:
    """A run of certify; `with` ends it, whatever happens."""

    def __init__(self, lab, out, *arguments, clauses=CLAUSES):
        options = [part for clause in clauses for part in ("--clause", clause)]
        # A lab of an inventory has devices of its own; of the embedded lab's one will do.
        device = () if {"--device", "--lab"} & set(arguments) else ("--device", "mtty0")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("VFIOCERT_", "PYTEST_"))}
        env |= {"PYTHONPATH": str(PROJECT)}
        if lab is not None:
            env["VFIOCERT_LAB_NAME"] = lab.name
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness", "certify", "--out", str(out), "--seed", "1",
             "--depth", "1", "--search-time", "5s", *options, *arguments, *device],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, cwd=Path(out).parent, preexec_fn=_as_from_a_terminal,
        )  # fmt: skip
        self.lines = []
        self._queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # The whole session: its workers too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def text(self):
        """All output so far."""
        return "\n".join(self.lines)

    def wait_line(self, pattern, deadline_s=120.0):
        """The match of the first new line with `pattern`."""
        end = time.monotonic() + deadline_s
        while (line := self._queue.get(timeout=max(0.1, end - time.monotonic()))) is not None:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"ended without {pattern!r}:\n{self.text}")

    def status(self, deadline_s=180.0):
        """Its exit status, after reading all of its output."""
        status = self.process.wait(deadline_s)
        while (line := self._queue.get(timeout=10)) is not None:
            self.lines.append(line)
        assert "Traceback" not in self.text, self.text
        return status


def finished(out):
    """(device, test, lab_error) of every finished test, in order, from the journal of tests."""
    journal = Path(out) / "tests.jsonl"
    records = []
    for line in journal.read_text().splitlines() if journal.exists() else ():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return [(r["device"], r["test"], r["lab_error"]) for r in records]


def verdicts_of(out):
    """Verdict of every (device, clause), and the run's under (None, None)."""
    run = json.loads((Path(out) / "run.json").read_text())
    known = {(d["id"], c["id"]): c["verdict"] for d in run["devices"] for c in d["clauses"]}
    return {**known, (None, None): run["verdict"]}


def children(pid):
    """Living descendants of a process, as {pid: command line}."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found[int(folder.name)] = command
    return found


def gone(pids, deadline_s=60.0):
    """Whether all processes end within the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.2)
    return False


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
