# SPDX-License-Identifier: Apache-2.0
"""Progress on something that is no terminal: a line a phase, no flood."""

from __future__ import annotations

import io

from harness import progress
from harness.progress import PlainProgress, RichProgress, open_progress


def test_phases_are_lines_and_quick_ticks_are_silent():
    out = io.StringIO()
    with open_progress(out) as report:
        assert isinstance(report, PlainProgress)
        report.tick(0.5)
        report.step("one")
        for number in range(100):
            report.tick(number / 100)
        report.step("two")
    assert out.getvalue() == "one\ntwo\n"


def test_long_phase_says_how_far_it_is(monkeypatch):
    out = io.StringIO()
    clock = iter([0.0, 16.0, 17.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    report = PlainProgress(out)
    report.step("build")
    report.tick(0.25)
    report.tick(0.5)
    report.tick(None)
    assert out.getvalue() == "build\nbuild: 25% after 16 s\nbuild: after 40 s\n"


def test_rich_progress_takes_every_tick():
    with RichProgress() as report:
        report.tick(0.1)
        report.step("one [bold]not markup[/bold]")
        for fraction in (None, -1.0, 0.5, 2.0):
            report.tick(fraction)
        report.step("two")
