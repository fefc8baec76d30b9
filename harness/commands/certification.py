# SPDX-License-Identifier: Apache-2.0
"""How `certify` runs pytest: its arguments, and our progress instead of pytest's output."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from fixtures.controller import CONTROLLER, Controller, chapters
from harness import PROJECT
from harness.errors import HarnessError, VfiocertError
from harness.progress import Progress
from reports.models import Run
from reports.writer import ALLURE

__all__ = ["Outcome", "run_pytest", "suite_arguments"]

_RESTARTS_A_DEVICE = 500
"""Each death of a worker costs one test; this is more than the tests of a device."""


def suite_arguments(
    devices: Sequence[str],
    out: Path,
    *,
    lab: str,
    depth: int,
    budget: str | None,
    search_time: str | None = None,
    seed: int | None,
    allure: bool = False,
    only: Sequence[str] = (),
) -> list[str]:
    """The arguments of pytest to run every chapter (or `only` these) on devices, with records in `out`.

    `allure`: write results for Allure to `out` too.  Without `--clean-alluredir`: the folder of a new run is
    empty anyway, and a worker that xdist restarts would delete what others wrote.
    """
    results = [f"--alluredir={(out / ALLURE).resolve()}"] if allure else ["-p", "no:allure_pytest"]
    args = [
        *(str(c) for c in chapters() if not only or c.name in only),
        f"--rootdir={PROJECT}", "-c", str(PROJECT / "pyproject.toml"),
        "-p", "no:cacheprovider", *results, "--capture=no",
        "--lab", lab, "--depth", str(depth),
        "--out", str(out.resolve()),
    ]  # fmt: skip
    args += ["--budget", budget] if budget else []
    args += ["--search-time", search_time] if search_time else []
    args += ["--vfiocert-seed", str(seed)] if seed is not None else []
    for device in devices:
        args += ["--device", device]
    return args


@dataclass
class Outcome:
    """The run as written, the bugs of the suite that it hit, and the signal that interrupted it, if any."""

    run: Run
    bugs: list[str] = field(default_factory=list)
    interrupted: signal.Signals | None = None


def run_pytest(args: list[str], workers: int, devices: int, progress: Progress) -> Outcome:
    """Run pytest with these arguments and return the outcome.  Ctrl-C keeps what was finished.

    Raises the error that stopped the run before its first test or kept its records from being written;
    KeyboardInterrupt or SystemExit if a signal came before the first test.
    """
    if workers > 1:
        restarts = _RESTARTS_A_DEVICE * devices + workers
        args = [*args, "-n", str(workers), f"--max-worker-restart={restarts}"]
    quiet = _Quiet(progress)
    # pytest treats SystemExit as a failed test and goes on.
    before = signal.signal(signal.SIGTERM, quiet.terminate)
    try:
        status = pytest.main(args, plugins=[quiet])
    finally:
        signal.signal(signal.SIGTERM, before)
    controller = quiet.controller
    if controller is not None and controller.fault is not None:
        raise controller.fault
    if controller is not None and controller.run is None and controller.interrupted:
        # Interrupted before the first test (building a kernel, starting a lab): there is no run to keep.
        raise KeyboardInterrupt if quiet.signal == signal.SIGINT else SystemExit(128 + quiet.signal)
    if controller is None or controller.run is None:
        raise HarnessError(f"pytest ended with status {int(status)} and kept no run")
    return Outcome(controller.run, controller.bugs, quiet.signal if controller.interrupted else None)


class _Quiet:
    """The plugin that replaces pytest's terminal output by our progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.controller: Controller | None = None
        self.signal = signal.SIGINT
        """The signal that an interruption came from."""

    def terminate(self, _number: int, _frame: FrameType | None) -> NoReturn:
        """Handle SIGTERM like Ctrl-C."""
        self.signal = signal.SIGTERM
        raise KeyboardInterrupt

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> bool | None:
        """Silence pytest for our own errors, which `run_pytest` raises and the command prints in one line."""
        return True if isinstance(excinfo.value, VfiocertError) else None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Find the controller, and remove pytest's reporters."""
        plugin: Any = config.pluginmanager.get_plugin(CONTROLLER)
        if plugin is not None:
            self.controller = plugin
            plugin.progress = self.progress
        for name in ("terminaldistreporter", "terminalreporter"):
            reporter = config.pluginmanager.getplugin(name)
            if reporter is not None:
                config.pluginmanager.unregister(reporter)
        # xdist has its own reporter, made before or after this.
        distributed = config.pluginmanager.getplugin("dsession")
        if distributed is not None:
            distributed.terminal = None
