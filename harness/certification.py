# SPDX-License-Identifier: Apache-2.0
"""One run of the suites: starts pytest, takes the tests' records as they come, shows how far it is."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fixtures.collector import Collector
from fixtures.plugin import RESULT, TEST
from harness.inventory import Target
from harness.progress import Progress
from harness.spec.clause import Clause
from reports.records import Run, RunWriter

__all__ = ["Certification", "Outcome"]

PROJECT = Path(__file__).resolve().parent.parent


@dataclass
class Outcome:
    """The run as written, the bugs of the suite that showed, and whether it was cut short."""

    run: Run
    bugs: list[str] = field(default_factory=list)
    interrupted: bool = False


class Certification:
    """The controller's side of a run; also the pytest plugin that receives the reports."""

    def __init__(
        self, writer: RunWriter, clauses: Sequence[Clause], targets: Sequence[Target], progress: Progress
    ) -> None:
        self.writer, self.targets, self.progress = writer, targets, progress
        self.collector = Collector(writer, clauses)
        self.bugs: list[str] = []
        self.begun = time.monotonic()
        self.before = self.collector.arcs
        self.expected = 0
        self.done = 0

    def run(
        self,
        *,
        lab: str,
        lab_name: str | None,
        depth: int,
        budget_s: float,
        seed: int,
        clause_globs: Sequence[str],
        modules: Sequence[str],
        workers: int,
        labs_file: Path | None,
    ) -> Outcome:
        """Run the suites on the targets and finish the folder.  Ctrl-C keeps what was finished."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="vfiocert-done-") as done:
            json.dump(sorted(self.collector.finished()), done)
            done.flush()
            args = [
                str(PROJECT / "suites" / "mig"), f"--rootdir={PROJECT}", "-c", str(PROJECT / "pyproject.toml"),
                "-p", "fixtures.plugin", "-p", "no:cacheprovider", "-p", "no:allure_pytest", "--capture=no",
                "--lab", lab, "--depth", str(depth), "--budget", str(budget_s), "--vfiocert-seed", str(seed),
                "--out", str(Path(self.writer.dir).resolve()), "--done", done.name,
            ]  # fmt: skip
            for target in self.targets:
                args += ["--device", target.device.id]
            for glob in clause_globs:
                args += ["--clause", glob]
            for module in modules:
                args += ["--module", module]
            if lab_name:
                args += ["--lab-name", lab_name]
            if labs_file:
                args += ["--labs-file", str(labs_file.resolve())]
            if workers > 1:
                args += ["-n", str(workers)]
            status = pytest.main(args, plugins=[self])
        if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            self.bugs.append(f"pytest ended with status {int(status)}")
        self.collector.finish(t.device.id for t in self.targets)
        return Outcome(self.writer.finish(), self.bugs, status == pytest.ExitCode.INTERRUPTED)

    # -- pytest hooks
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Our progress and summary stand in for pytest's terminal output."""
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            config.pluginmanager.unregister(reporter)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many tests there are."""
        self.expected = max(self.expected, len(session.items))

    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """The same, where workers collect."""
        self.expected = max(self.expected, len(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Name what runs now."""
        self.progress.step(
            f"[{self.done + 1}/{self.expected or '?'}] {nodeid.rpartition('::')[2]}{self._rate()}"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's record from its report, whichever worker it ran in."""
        properties = dict(report.user_properties)
        if report.when in ("setup", "teardown") and report.passed:
            return
        if RESULT in properties and report.when == "call":
            self.done += 1
            record = json.loads(str(properties[RESULT]))
            self.collector.add(record)
            for finding in record["findings"]:
                self.progress.step(
                    f"finding: {finding['clause']}: expected {finding['expected']}, observed {finding['observed']}"
                )
            return
        if report.skipped:
            return
        about = json.loads(str(properties.get(TEST, "null"))) or {
            "device": _device(report.nodeid),
            "test": report.nodeid,
            "named": [],
        }
        error = json.loads(str(properties.get("vfiocert-error", "null")))
        crashed = str(report.when) == "???"
        if (error and error[0] == "LabError") or crashed:
            fault = error[1] if error else "the worker process died"
            self.progress.step(f"no verdict from {about['test']}: {fault}")
            empty: dict[str, Any] = {
                "checked": {},
                "cells": {},
                "arcs": 0,
                "programs": 0,
                "findings": [],
                "facts": None,
            }
            self.collector.add({**about, **empty, "lab_error": fault})
            return
        self.bugs.append(
            f"{about['test']}: {error[1] if error else report.longreprtext.strip().splitlines()[-1:] or ['?']}"
        )
        with (Path(self.writer.dir) / "harness-errors.txt").open("a") as file:
            file.write(f"{report.nodeid} ({report.when})\n{report.longreprtext}\n\n")

    def _rate(self) -> str:
        arcs, seconds = self.collector.arcs - self.before, time.monotonic() - self.begun
        if not arcs:
            return ""
        return f"  ({arcs:,} arcs, {arcs / seconds:,.0f}/s, {len(self.collector.signatures)} findings)"


def _device(nodeid: str) -> str:
    return nodeid.partition("[")[2].partition("]")[0].partition("-")[0] or "?"
