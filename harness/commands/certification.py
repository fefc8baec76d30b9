# SPDX-License-Identifier: Apache-2.0
"""One run of the suites: starts pytest, takes the tests' records as they come, shows how far it is."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from fixtures.collector import Collector
from fixtures.plugin import RESULT, TEST
from fixtures.workers import device_of
from harness import PROJECT
from harness.errors import LabError
from harness.hosts.inventory import Target
from harness.progress import Progress
from harness.spec.clause import Clause
from reports.models import Run
from reports.writer import RunWriter

__all__ = ["Certification", "Outcome", "chapters", "suite_arguments"]

_EMPTY: dict[str, Any] = {
    "checked": {}, "cells": {}, "arcs": 0, "programs": 0, "findings": [], "facts": None,
}  # fmt: skip


def chapters() -> list[str]:
    """The folders of `suites/` that certify devices, the migration protocol first."""
    folders = [p.parent.name for p in (PROJECT / "suites").glob("*/__init__.py")]
    names = sorted({*folders} - {"selftest"}, key=lambda name: (name != "mig", name))
    return [str(PROJECT / "suites" / name) for name in names]


def suite_arguments(
    devices: Sequence[str], out: Path, *, lab: str, depth: int, budget_s: float, seed: int
) -> list[str]:
    """What pytest is called with to run every chapter on these devices, records kept in `out`."""
    args = [
        *chapters(), f"--rootdir={PROJECT}",
        "-c", str(PROJECT / "pyproject.toml"),
        "-p", "fixtures.plugin", "-p", "no:cacheprovider", "-p", "no:allure_pytest", "--capture=no",
        "--lab", lab, "--depth", str(depth), "--budget", str(budget_s), "--vfiocert-seed", str(seed),
        "--out", str(out.resolve()),
    ]  # fmt: skip
    for device in devices:
        args += ["--device", device]
    return args


@dataclass
class Outcome:
    """The run as written, the bugs of the suite that showed, and whether it was cut short."""

    run: Run
    bugs: list[str] = field(default_factory=list)
    interrupted: signal.Signals | None = None


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
        self.done = 0
        self.planned: dict[str, dict[str, Any]] = {}
        """What `fixtures.plugin.TEST` says of each test, by its id."""
        self.fault: LabError | None = None
        """Why records can be kept no longer: the run ends."""
        self.session: pytest.Session | None = None
        self.signal = signal.SIGINT
        """What an interruption came from."""

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
            args = suite_arguments(
                [t.device.id for t in self.targets], Path(self.writer.dir),
                lab=lab, depth=depth, budget_s=budget_s, seed=seed,
            )  # fmt: skip
            args += ["--done", done.name]
            for glob in clause_globs:
                args += ["--clause", glob]
            for module in modules:
                args += ["--module", module]
            if lab_name:
                args += ["--lab-name", lab_name]
            if labs_file:
                args += ["--labs-file", str(labs_file.resolve())]
            # pytest takes SystemExit for a test that failed, and goes on.
            before = signal.signal(signal.SIGTERM, self._terminate)
            hosts = [t.device.host for t in self.targets]
            own_labs = len((lab_name or "").split(",")) >= workers
            if workers > 1 and len(set(hosts)) < len(hosts) and not own_labs:
                args.append("--shared-host")
            if workers > 1:
                # Workers collect for themselves: what the tests are is asked beforehand.
                status = pytest.main([*args, "--collect-only"], plugins=[self])
                # Each death of a worker costs one test, so this many are enough.
                restarts = len(self.planned) + workers
                args += ["-n", str(workers), f"--max-worker-restart={restarts}"]
            if workers == 1 or status == pytest.ExitCode.OK:
                status = pytest.main(args, plugins=[self])
            signal.signal(signal.SIGTERM, before)
        if self.fault is not None:
            raise self.fault
        if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            self.bugs.append(f"pytest ended with status {int(status)}")
        interrupted = self.signal if status == pytest.ExitCode.INTERRUPTED else None
        self._settle("the run was interrupted" if interrupted else "the run ended before this test")
        self.collector.finish(t.device.id for t in self.targets)
        return Outcome(self.writer.finish(), self.bugs, interrupted)

    def _terminate(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self.signal = signal.SIGTERM
        raise KeyboardInterrupt

    def _settle(self, why: str) -> None:
        """A planned test without a record decides nothing: what it is there for is inconclusive."""
        recorded = {(r["device"], r["test"]) for r in self.collector.records}
        for about in self.planned.values():
            if (about["device"], about["test"]) not in recorded:
                self.collector.add({**about, **_EMPTY, "lab_error": why})

    # -- pytest hooks
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Our progress and summary stand in for pytest's terminal output."""
        for name in ("terminaldistreporter", "terminalreporter"):
            reporter = config.pluginmanager.getplugin(name)
            if reporter is not None:
                config.pluginmanager.unregister(reporter)
        # xdist keeps a reporter of its own, made before or after this.
        distributed = config.pluginmanager.getplugin("dsession")
        if distributed is not None:
            distributed.terminal = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep what a run is stopped by."""
        self.session = session

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What tests there are."""
        for item in session.items:
            about = dict(item.user_properties).get(TEST)
            if about is not None:
                self.planned[item.nodeid] = json.loads(str(about))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Name what runs now."""
        self.progress.step(
            f"[{self.done + 1}/{len(self.planned) or '?'}] {nodeid.rpartition('::')[2]}{self._rate()}"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's record from its report, whichever worker it ran in."""
        try:
            self._take(report)
        except LabError as error:
            self.fault = self.fault or error
            distributed = self.session.config.pluginmanager.getplugin("dsession") if self.session else None
            for each in (self.session, distributed):
                if each is not None:
                    each.shouldstop = str(error)

    def _take(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when in ("setup", "teardown") and report.passed:
            return
        if RESULT in properties and report.when == "call":
            self.done += 1
            record = json.loads(str(properties[RESULT]))
            self.collector.add(record)
            if record["lab_error"]:
                self.progress.step(f"no verdict from {record['test']}: {record['lab_error']}")
            for finding in record["findings"]:
                if finding["clause"] not in self.collector.clauses:
                    continue  # not asked for with --clause
                found = f"expected {finding['expected']}, observed {finding['observed']}"
                self.progress.step(f"finding: {finding['clause']}: {found}")
            return
        if report.skipped:
            return
        about = self.planned.get(report.nodeid) or {
            "device": device_of(report.nodeid, [t.device.id for t in self.targets]) or "?",
            "test": report.nodeid,
            "named": list(self.collector.clauses),
        }
        error = json.loads(str(properties.get("vfiocert-error", "null")))
        crashed = str(report.when) == "???"
        if error and error[0] == "LabError" and report.when == "teardown":
            # The test has its verdict; the device could not be put back.
            self.progress.step(f"{about['device']}: {error[1]}")
            self.writer.note(f"{about['device']}: {error[1]}")
            return
        if crashed and (about["device"], about["test"]) in self.collector.finished():
            return  # it died after the test
        if (error and error[0] == "LabError") or crashed:
            fault = error[1] if error else "the worker process died"
            self.progress.step(f"no verdict from {about['test']}: {fault}")
            self.done += 1
            self.collector.add({**about, **_EMPTY, "lab_error": fault})
            return
        last = error[1] if error else (report.longreprtext.strip().splitlines() or ["?"])[-1]
        self.bugs.append(f"{about['test']}: {last}")
        with (
            contextlib.suppress(OSError),
            (Path(self.writer.dir) / "harness-errors.txt").open("a") as file,
        ):
            file.write(f"{report.nodeid} ({report.when})\n{report.longreprtext}\n\n")

    def _rate(self) -> str:
        arcs, seconds = self.collector.arcs - self.before, time.monotonic() - self.begun
        if not arcs:
            return ""
        return f"  ({arcs:,} arcs, {arcs / seconds:,.0f}/s, {len(self.collector.signatures)} findings)"
