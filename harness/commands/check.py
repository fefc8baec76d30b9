# SPDX-License-Identifier: Apache-2.0
"""`vfiocert check`: check the project itself, with a line per check at the end.

Each check is a separate program, run in the project's folder.  Its output is passed on as it comes; while a
check prints nothing for long, a line says that it still runs.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Annotated

import typer

from harness import PROJECT
from harness.errors import EXIT_CONFORMING, EXIT_NON_CONFORMING, UsageError

__all__ = ["CHECKS", "Check", "CheckOutcome", "check", "run_check", "summary_lines"]

SILENCE_S = 60.0
GRACE_S = 90.0


@dataclass(frozen=True)
class Check:
    """One check: `argv` after the interpreter, its deadline, and whether it needs the embedded lab."""

    name: str
    what: str
    argv: tuple[str, ...]
    deadline_s: float
    needs_lab: bool = False


_PYTEST = ("-m", "pytest", "-q", "--color=no")
_SELFTEST = (*_PYTEST, "suites/selftest")
_LAYOUT = "suites/selftest/test_layout.py"

# In the order they run: quick checks first.
CHECKS: tuple[Check, ...] = (
    Check("ruff", "lint", ("-m", "ruff", "check"), 120),
    Check("format", "layout of the source", ("-m", "ruff", "format", "--check"), 120),
    Check("types", "mypy --strict", ("-m", "mypy"), 600),
    Check("layout", "imports go down, licences, no host names", (*_PYTEST, _LAYOUT), 300),
    Check(
        "unit",
        "self-tests without a lab",
        (
            *_PYTEST,
            "-n",
            "auto",
            "--maxprocesses=4",
            "-m",
            "not lab",
            "suites/selftest",
            f"--ignore={_LAYOUT}",
        ),
        1200,
    ),
    Check(
        "lab",
        "self-tests on the embedded lab",
        (*_SELFTEST, "-m", "lab"),
        3600,
        needs_lab=True,
    ),
)


@dataclass
class CheckOutcome:
    """How a check ended: `status` is passed, FAILED or skipped; `why` is empty for passed."""

    check: Check
    status: str
    why: str = ""
    seconds: float = 0.0


@dataclass
class _Stream:
    """Passes on a program's output as it comes, and remembers when the last of it came."""

    pipe: IO[bytes]
    write: Callable[[bytes], object]
    last: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float) -> bool:
        """Pass on output that comes within `seconds`; False at the end of the output."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            if not selector.select(seconds):
                return True
        data = os.read(self.pipe.fileno(), 65536)
        if data:
            self.last = time.monotonic()
            self.write(data)
        return bool(data)


def _out(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _line(text: str) -> None:
    _out(text.encode(errors="replace") + b"\n")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the check and its children: first with SIGINT, so that fixtures undo their changes."""
    for number, wait_s in ((signal.SIGINT, GRACE_S), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    paths = [str(PROJECT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    environment["PYTHONUNBUFFERED"] = "1"
    # A run's own options must not change what the checks run.
    return {k: v for k, v in environment.items() if not k.startswith("VFIOCERT_CHECK_")}


def run_check(check: Check, silence_s: float = SILENCE_S) -> CheckOutcome:
    """Run one check to its end or its deadline; after each `silence_s` without output, say that it runs."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *check.argv],
        cwd=PROJECT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    stream = _Stream(process.stdout, _out)
    why = ""
    try:
        while stream.wait(1.0):
            now = time.monotonic()
            if now - started > check.deadline_s:
                why = f"not done after {check.deadline_s:.0f} s"
                break
            if now - stream.last > silence_s:
                stream.last = now
                _line(f"   ... {check.name}: still running after {now - started:.0f} s")
            if process.poll() is not None and not stream.wait(0.2):
                break
        if not why:
            status = process.wait(30)
            why = f"exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        why = "closed its output but did not end"
    finally:
        if process.poll() is None:
            _stop(process)
        process.stdout.close()
    return CheckOutcome(check, "FAILED" if why else "passed", why, time.monotonic() - started)


def _selected(only: Sequence[str]) -> tuple[Check, ...]:
    names = [c.name for c in CHECKS]
    for name in only:
        if name not in names:
            raise UsageError(f"--only='{name}' is not a check: {', '.join(names)}")
    return tuple(c for c in CHECKS if not only or c.name in only)


def summary_lines(outcomes: Sequence[CheckOutcome]) -> list[str]:
    """The closing table, one line per check, and the counts on the last line."""
    lines = []
    for o in outcomes:
        tail = o.why if o.status == "skipped" else f"{o.seconds:.1f} s{', ' + o.why if o.why else ''}"
        lines.append(f"{o.check.name:<8} {o.status:<8} {tail:<32} {o.check.what}".rstrip())
    count = {s: sum(o.status == s for o in outcomes) for s in ("passed", "FAILED", "skipped")}
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    lines.append(f"{count['passed']} passed, {count['FAILED']} failed{skipped}")
    return lines


def check(
    fast: Annotated[bool, typer.Option("--fast", help="leave out what needs the embedded lab")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="run this check alone (repeatable)")
    ] = None,
) -> int:
    """Check this project itself: style, types, self-tests, and a short certify on the embedded lab.

    Ends with a line per check and the counts. Exit status 0 when none failed, 1 otherwise.
    """
    outcomes = []
    for one in _selected(only or ()):
        if fast and one.needs_lab:
            outcomes.append(CheckOutcome(one, "skipped", "--fast"))
            continue
        _line(f"== {one.name}: {one.what}")
        outcomes.append(run_check(one))
    _line("")
    for text in summary_lines(outcomes):
        _line(text)
    failed = any(o.status == "FAILED" for o in outcomes)
    return EXIT_NON_CONFORMING if failed else EXIT_CONFORMING
