# SPDX-License-Identifier: Apache-2.0
"""A controller killed at any point: its lab ends, and `--resume` gives the result of an undisturbed run."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from harness.lab.embedded import list_labs
from suites.selftest.commands.certify_process import Certify, finished, verdicts_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def undisturbed(embedded_lab, tmp_path_factory):
    """Verdicts and tests of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with Certify(embedded_lab, out) as run:
        assert run.status() == 0, run.text
    return verdicts_of(out), finished(out)


def test_resume_after_two_kills_gives_the_undisturbed_verdict(embedded_lab, tmp_path, undisturbed):
    """Steps: kill -9 twice, resume twice.  Verify: no finished test runs twice, verdicts are the same."""
    out = tmp_path / "out"
    for pattern, more in ((r"^\[3/", ()), (r"^\[2/", ("--resume",))):
        with Certify(embedded_lab, out, *more) as run:
            run.wait_line(pattern)
            run.process.kill()
            run.process.wait(30)
        assert not (out / "run.json").exists()
    before = finished(out)
    assert before
    with Certify(embedded_lab, out, "--resume") as run:
        assert run.status() == 0, run.text
    after = finished(out)
    assert after[: len(before)] == before
    assert set(Counter(after).values()) == {1}
    verdicts, tests = undisturbed
    assert sorted(after) == sorted(tests)
    assert verdicts_of(out) == verdicts


def test_resume_of_a_finished_run_runs_nothing(embedded_lab, tmp_path):
    """Steps: a short run, then --resume.  Verify: same status, no test ran."""
    out = tmp_path / "out"
    for more in ((), ("--resume",)):
        with Certify(embedded_lab, out, *more, clauses=("MIG-008",)) as run:
            assert run.status() == 0, run.text
    assert not [line for line in run.lines if line.startswith("[")]
    assert len(finished(out)) == len(set(finished(out)))


def test_a_record_torn_by_a_kill_runs_again(embedded_lab, tmp_path):
    """Steps: cut the journal of tests in its last line.  Verify: that test alone runs again, once."""
    out = tmp_path / "out"
    with Certify(embedded_lab, out, clauses=("MIG-00*",)) as run:
        assert run.status() == 0, run.text
    done = finished(out)
    journal = out / "tests.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) - 40])
    for expected in (1, 0):
        with Certify(embedded_lab, out, "--resume", clauses=("MIG-00*",)) as run:
            assert run.status() == 0, run.text
        assert len([line for line in run.lines if line.startswith("[")]) == expected
    assert finished(out) == done


def test_the_lab_of_a_killed_controller_goes_away(tmp_path):
    """Steps: kill -9 a certify that owns its lab.  Verify: within the idle limit no such lab is left."""
    with Certify(None, tmp_path / "out", clauses=("MIG-008",)) as run:
        name = run.wait_line(r"starting lab '([^']+)'", 400)[1]
        run.wait_line(r"^\[1/", 200)
        run.process.kill()
        run.process.wait(30)
    end = time.monotonic() + 120
    while any(lab.name == name for lab in list_labs()):
        assert time.monotonic() < end, f"lab {name} is still there"
        time.sleep(1)
    assert re.fullmatch(r"run-[0-9a-f]{8}", name)
