# SPDX-License-Identifier: Apache-2.0
"""Run a long command under a deadline, log its output and show its progress."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.progress import Progress

__all__ = ["watched"]

_TAIL_LINES = 20


def watched(
    command: list[str],
    log: Path | None,
    timeout_s: float,
    progress: Progress,
    fraction: Callable[[], float | None],
    *,
    env: Mapping[str, str] | None = None,
    lines: list[int] | None = None,
) -> None:
    """Run `command`; LabError with the last lines of its output if it fails or outlives `timeout_s`.

    All output is appended to `log`; `fraction()` is called for the progress about twice a second;
    `lines[0]` counts output lines.  The command and its children are killed if this is interrupted.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with open(log if log is not None else os.devnull, "a", encoding="utf-8", errors="replace") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=dict(env) if env is not None else None,
                start_new_session=True,
                cwd=tempfile.gettempdir(),
            )
        except FileNotFoundError:
            raise UsageError(f"program {command[0]!r} is missing; see harness/lab/packages.txt") from None

        def drain() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                tail.append(line[:400].rstrip())
                if lines is not None:
                    lines[0] += 1

        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    process.wait(0.5)
                    break
                except subprocess.TimeoutExpired:
                    progress.tick(fraction())
                if time.monotonic() > deadline:
                    raise LabError(f"{_short(command)} did not end within {timeout_s:.0f} s")
        finally:
            if process.poll() is None:
                _kill_group(process)
            reader.join(5)
    if process.returncode != 0:
        where = f" (all of it: {log})" if log is not None else ""
        raise LabError(
            f"{_short(command)} failed with status {process.returncode}{where}: "
            + " | ".join([line for line in tail if line.strip()][-6:])
        )


def _kill_group(process: subprocess.Popen[str]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(3)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _short(command: list[str]) -> str:
    return " ".join(word for word in command if "/" not in word or word == command[0])[:80]
