# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: a live line on a terminal, plain lines elsewhere, nothing in libraries and tests.

`step(text)` starts a phase; `tick(fraction)` says how much of it is done (0..1, or None if unknown).
Output goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, TextIO

__all__ = ["NoProgress", "PlainProgress", "Progress", "RichProgress", "open_progress"]

_PLAIN_INTERVAL_S = 15.0


class Progress(Protocol):
    """The interface through which long work reports its progress.

    Guarantees: both methods return at once and never raise, whatever the arguments; `tick` before the
    first `step` is ignored; calls come from one thread.
    """

    def step(self, text: str) -> None:
        """Start a phase called `text`; the phase before it is done."""

    def tick(self, fraction: float | None) -> None:
        """Report that the phase is `fraction` (0..1) done, or running without a known end (None)."""


class NoProgress:
    """No output: for libraries and tests."""

    def step(self, text: str) -> None:
        """Ignore the phase."""

    def tick(self, fraction: float | None) -> None:
        """Ignore the tick."""


class PlainProgress:
    """One line per phase, and one more every 15 s of a long phase: for logs and CI."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._text: str | None = None
        self._started = 0.0
        self._last = 0.0

    def step(self, text: str) -> None:
        """Print the phase."""
        now = time.monotonic()
        self._text, self._started, self._last = text, now, now
        self._print(text)

    def tick(self, fraction: float | None) -> None:
        """Print how far the phase is, at most every 15 s."""
        now = time.monotonic()
        if self._text is None or now - self._last < _PLAIN_INTERVAL_S:
            return
        self._last = now
        done = "" if fraction is None else f" {_clamped(fraction):.0%}"
        self._print(f"{self._text}:{done} after {now - self._started:.0f} s")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text = None


class RichProgress:
    """A live line with a bar; finished phases stay above it with the time they took."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def step(self, text: str) -> None:
        """Close the phase before and show the new one."""
        self._finish()
        self._task = self._bars.add_task(text, total=None)

    def tick(self, fraction: float | None) -> None:
        """Move the bar; without a fraction it pulses."""
        if self._task is None:
            return
        if fraction is None:
            self._bars.refresh()
        else:
            self._bars.update(self._task, total=1.0, completed=_clamped(fraction))

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1.0, completed=1.0)
            self._bars.stop_task(self._task)
            self._task = None

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()


def open_progress(stream: TextIO | None = None) -> PlainProgress | RichProgress:
    """Return the progress for `stream` (default: standard error), a context manager around the work."""
    out = stream if stream is not None else sys.stderr
    return RichProgress() if out is sys.stderr and out.isatty() else PlainProgress(out)


def _clamped(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))
