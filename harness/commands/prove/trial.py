# SPDX-License-Identifier: Apache-2.0
"""One trial: run the suites on a device with one defect (or none), on a fresh lab, in a separate process.

Events are appended to a file, one JSON line each, so that those of a killed trial are kept:

    {"event": "fresh"}                                    the lab is as its snapshot: time counts from here
    {"event": "seen", "clause", "test", "s", "programs", "expected", "observed"}   the first of a clause
    {"event": "test", "test", "s", "programs", "lab_error", "undecided"}           a test has ended
    {"event": "open", "clause", "why"}                  no test checked it, though the device is one for it
    {"event": "finding", "finding"}         the short case, as the run records it (reports.models.Finding)
    {"event": "fault", "message", "bug"}                                           the lab failed, or we
    {"event": "end", "s", "tests", "planned", "why"}
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from fixtures.controller import CONTROLLER, ERROR, RESULT
from fixtures.plugin import TEST, WATCH, about_item
from fixtures.rig import Rig
from harness.commands.certification import suite_arguments
from harness.commands.prove.defects import Defect
from harness.errors import LabError, VfiocertError
from harness.hosts.inventory import EMBEDDED
from harness.lab.embedded import attach
from harness.oracle.judge import applicable
from harness.oracle.judgement import Violation
from harness.oracle.scope import found_by_tests
from harness.spec.clause import by_id

__all__ = ["DEPTH", "Job", "Mode", "run_trial"]

DEPTH = 5
"""What `certify` takes without --depth."""


Mode = Literal["catch", "named", "chapter", "all"]


@dataclass(frozen=True)
class Job:
    """A trial to run: `defect` on its device, or the golden `device`, with a seed.

    The tests that name the broken clause come first.  `mode` says when a trial ends once the clause is
    violated: at once (catch), after the quick ones of those tests (named), after the quick ones of its
    chapter (chapter), or after all tests, in the order of `certify` (all).  `seeding` is the plugin's
    `--defect` argument.
    """

    device: str
    seed: int
    defect: Defect | None = None
    mode: Mode = "named"
    seeding: tuple[str, ...] = ()
    limit_s: float = 60.0
    flavour: str = "plain"
    chapters: tuple[str, ...] = ()
    """The chapters that run; none: all of them."""
    clauses: tuple[str, ...] = ()
    """Patterns of the clauses that a run without a defect is about; none: all of them."""
    depth: int = DEPTH
    budget: str | None = None

    @property
    def name(self) -> str:
        """The name of the trial's files."""
        subject = self.defect.name if self.defect else f"golden-{self.device}"
        return f"{subject}-{self.seed}-{self.mode}-{self.flavour}"


class Trial:
    """The pytest plugin of a trial, and its `Watch`."""

    def __init__(self, job: Job, say: Callable[..., None], begun: float) -> None:
        self.job, self.say, self.begun = job, say, begun
        self.rig: Rig | None = None
        self.seen_clauses: set[str] = set()
        self.programs = 0
        self.tests = self.planned = 0
        self._test = ""
        self._shrunk = False
        self._named: set[str] = set()
        self._checked: set[str] = set()

    def elapsed(self) -> float:
        """Seconds since the lab was fresh."""
        return time.monotonic() - self.begun

    # -- fixtures.findings.Watch
    def seen(self, violation: Violation) -> None:
        """Note the first violation of each clause."""
        if violation.clause in self.seen_clauses:
            return
        self.seen_clauses.add(violation.clause)
        self.say(
            "seen", clause=violation.clause, test=self._test, s=round(self.elapsed(), 3),
            programs=self.programs + (self.rig.programs if self.rig else 0),
            expected=str(violation.expected)[:300], observed=str(violation.observed)[:300],
        )  # fmt: skip
        if self.job.mode == "catch" and self._is_broken(violation.clause):
            self.finish("caught")

    def keeps(self, violation: Violation) -> bool:
        """Keep one finding of the broken clause, which is evidence enough; of a golden device, keep all."""
        if self.job.defect is None:
            return True
        return self._is_broken(violation.clause) and not self._shrunk

    def shrinks(self, violation: Violation) -> bool:
        """Shrink only the case that the matrix shows."""
        self._shrunk = True
        return self.job.mode != "catch"

    def _is_broken(self, clause: str) -> bool:
        return self.job.defect is not None and clause == self.job.defect.clause

    def finish(self, why: str) -> None:
        """End the process at once: the lab goes back to its snapshot, so there is nothing to undo."""
        self.say("end", s=round(self.elapsed(), 3), tests=self.tests, planned=self.planned, why=why)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    # -- pytest hooks
    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Turn off terminal output."""
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            config.pluginmanager.unregister(reporter)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests for the clause first, then those of its chapter, then the order of `certify`."""
        self.planned = len(items)
        defect = self.job.defect
        if defect is None or self.job.mode == "all":
            return

        def place(item: pytest.Item) -> tuple[bool, bool, bool]:
            return not self._names_it(item), not _is_quick(item), not self._is_near(item)

        items.sort(key=place)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Once the clause is violated, end the trial after the tests that its mode asks for."""
        defect, mode = self.job.defect, self.job.mode
        if defect is None or mode == "all" or defect.clause not in self.seen_clauses:
            return
        wanted = self._is_near(item) if mode == "chapter" else self._names_it(item)
        if not wanted or not _is_quick(item):
            self.finish("caught")

    def _names_it(self, item: pytest.Item) -> bool:
        defect = self.job.defect
        return defect is not None and defect.clause in _about(item).get("named", ())

    def _is_near(self, item: pytest.Item) -> bool:
        defect = self.job.defect
        return defect is not None and item.path.parent.name == defect.clause.partition("-")[0].lower()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note which test runs now."""
        self._test = nodeid.rpartition("::")[2]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the result of a test; past the limit, it is the last test."""
        if report.when == "setup" and report.failed:
            self._failed(report)
        if report.when != "call" and not (report.when == "setup" and report.skipped):
            return
        self.tests += 1
        found = dict(report.user_properties).get(RESULT)
        if found is None:
            if report.failed:
                self._failed(report)
            return
        record = json.loads(str(found))
        self.programs += int(record["programs"])
        self._named.update(record["named"])
        self._checked.update(clause for clause, count in record["checked"].items() if count)
        self.say(
            "test", test=record["test"], s=round(self.elapsed(), 3), programs=self.programs,
            lab_error=record["lab_error"][:500], undecided=record["undecided"],
        )  # fmt: skip
        for finding in record["findings"]:
            if self.job.defect is None or self._is_broken(finding["clause"]):
                self.say("finding", finding=finding)
        if self.elapsed() > self.job.limit_s:
            self.finish("limit")

    def say_open(self) -> None:
        """Note the clauses that tests named and none checked, though the device has what they are about."""
        if self.rig is None or not self.rig.facts:
            return
        known = {**self.rig.facts["capabilities"], **found_by_tests(self._checked)}
        clauses = by_id()
        for clause in sorted(self._named - self._checked - self.seen_clauses):
            if not clauses[clause].untested and not applicable(clauses[clause], known):
                self.say("open", clause=clause, why="no test exercised it")

    def _failed(self, report: pytest.TestReport) -> None:
        error = json.loads(str(dict(report.user_properties).get(ERROR, "null")))
        lines = report.longreprtext.strip().splitlines() or ["?"]
        self.say("fault", message=(error[1] if error else lines[-1])[:500], bug=not error)


def _is_quick(item: pytest.Item) -> bool:
    """Whether a test is quick: an experiment, not a search."""
    about = about_item(item)
    return about is not None and not about.search


def _about(item: pytest.Item) -> dict[str, Any]:
    about = dict(item.user_properties).get(TEST)
    return dict(json.loads(str(about))) if about else {}


def run_trial(job: Job, lab_name: str, folder: Path) -> None:
    """Bring the lab back from its snapshot and try the device; all events go to a file in `folder`.

    Call it in a forked child: it ends the process.
    """
    with (folder / "events.jsonl").open("a", buffering=1) as file:

        def say(event: str, **values: Any) -> None:
            file.write(json.dumps({"event": event, **values}) + "\n")

        try:
            attach(lab_name).reset()
            say("fresh")
            trial = Trial(job, say, time.monotonic())
            args = suite_arguments(
                [job.device],
                folder,
                lab=EMBEDDED,
                depth=job.depth,
                budget=job.budget,
                seed=job.seed,
                only=job.chapters,
            )
            args += ["--lab-name", lab_name, "-p", "no:xdist", "-p", f"no:{CONTROLLER}"]
            for pattern in job.clauses:
                args += ["--clause", pattern]
            for seeding in job.seeding:
                args += ["--defect", seeding]
            plugin = _Named(trial)
            status = pytest.main(args, plugins=[plugin])
            if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
                say("fault", message=f"pytest ended with status {int(status)}", bug=True)
            trial.say_open()
            trial.finish("done")
        except LabError as error:
            say("fault", message=str(error)[:500], bug=False)
        except VfiocertError as error:
            say("fault", message=str(error)[:500], bug=True)
        except BaseException:  # the process ends here in any case
            traceback.print_exc()
            say("fault", message=traceback.format_exc().strip().splitlines()[-1][:500], bug=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class _Named:
    """Registers a trial under the name by which the rig finds its watcher."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Register the trial as a plugin."""
        config.pluginmanager.register(self.trial, WATCH)
