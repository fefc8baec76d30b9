# SPDX-License-Identifier: Apache-2.0
"""`vfiocert check` itself: what it passes on, when it gives up, and the table at its end."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.commands import check as module
from harness.commands.check import CHECKS, Check, CheckOutcome, run_check, summary_lines

ROOT = Path(__file__).resolve().parents[3]


def program(code: str, deadline_s: float = 30.0) -> Check:
    return Check("probe", "a test's own", ("-c", code), deadline_s)


def test_a_check_passes_on_its_output_and_passes(capfdbinary):
    outcome = run_check(program("print('one'); print('two')"))
    assert (outcome.status, outcome.why) == ("passed", "")
    assert b"one\ntwo\n" in capfdbinary.readouterr().out


def test_a_failing_check_fails_with_its_status():
    outcome = run_check(program("import sys; sys.exit(5)"))
    assert (outcome.status, outcome.why) == ("FAILED", "exit status 5")


def test_a_check_that_a_signal_ends_fails():
    assert run_check(program("import os; os.kill(os.getpid(), 9)")).status == "FAILED"


def ended(pid: int, deadline_s: float = 30.0) -> bool:
    """Whether the process is gone, or a zombie; a signal that was sent takes a moment on a busy machine."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if state.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_check_past_its_deadline_is_ended_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = run_check(program(outer, deadline_s=3.0))
    assert (outcome.status, outcome.why) == ("FAILED", "not done after 3 s")
    assert ended(int(pid.read_text()))


def test_a_silent_check_is_spoken_for(capfdbinary):
    run_check(program("import time; time.sleep(2.5)"), silence_s=1.0)
    assert b"... probe: still running after" in capfdbinary.readouterr().out


def test_the_closing_line_counts_and_stands_alone():
    one = CHECKS[0]
    lines = summary_lines([CheckOutcome(one, "passed"), CheckOutcome(one, "FAILED", "exit status 1", 2.0)])
    assert lines[-1] == "1 passed, 1 failed"
    lines = summary_lines([CheckOutcome(one, "passed", "", 1.0), CheckOutcome(one, "skipped", "--fast")])
    assert lines[-1] == "1 passed, 0 failed, 1 skipped"
    assert "--fast" in lines[1]


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(1)", 1)])
def test_the_status_of_the_command_is_that_of_its_checks(monkeypatch, capfdbinary, code, status):
    monkeypatch.setattr(module, "CHECKS", (program(code), program("pass")))
    assert module.check() == status
    last = capfdbinary.readouterr().out.decode().splitlines()[-1]
    assert re.fullmatch(r"\d+ passed, \d+ failed", last)


def test_fast_leaves_out_the_lab_and_says_so(monkeypatch, capfdbinary):
    needs_lab = Check("lab", "on the lab", ("-c", "raise SystemExit(1)"), 5, needs_lab=True)
    monkeypatch.setattr(module, "CHECKS", (program("pass"), needs_lab))
    assert module.check(fast=True) == 0
    assert re.search(rb"lab +skipped +--fast", capfdbinary.readouterr().out)


def test_the_paths_of_the_checks_exist():
    paths = [a.removeprefix("--ignore=") for c in CHECKS for a in c.argv if "suites/" in a]
    assert paths
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_names_are_unique_and_the_launcher_knows_which_need_the_lab():
    names = [c.name for c in CHECKS]
    assert len(set(names)) == len(names)
    # `check --only NAME` in the launcher: names that start so are those that need the lab's packages.
    assert [c.name for c in CHECKS if c.needs_lab != c.name.startswith(("lab", "certify"))] == []


def test_pytest_without_tests_is_a_failure(tmp_path):
    (tmp_path / "test_none.py").write_text("")
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    assert subprocess.run(argv, capture_output=True, timeout=60).returncode != 0
