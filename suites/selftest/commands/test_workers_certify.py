# SPDX-License-Identifier: Apache-2.0
"""`certify -n 2`: whole devices to each worker; one that dies costs its test; Ctrl-C ends all."""

from __future__ import annotations

import os
import signal

import pytest

from suites.selftest.commands.certify_process import Certify, children, finished, gone, verdicts_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BOTH = ("--device", "mtty0", "--device", "mtty1", "-n", "2")


def workers(run):
    """Process ids of its xdist workers."""
    return [pid for pid, command in children(run.process.pid).items() if "import sys;exec" in command]


def test_two_workers_certify_two_devices(embedded_lab, tmp_path):
    """Steps: two devices, two workers.  Verify: same tests on both, each once, one conforming verdict."""
    with Certify(embedded_lab, tmp_path / "out", *BOTH) as run:
        assert run.status() == 0, run.text
    done = finished(tmp_path / "out")
    tests = [{test for device, test, _ in done if device == name} for name in ("mtty0", "mtty1")]
    assert tests[0] == tests[1]
    assert len(tests[0]) > 4
    assert len(done) == len(set(done)) == 2 * len(tests[0])
    assert verdicts_of(tmp_path / "out")[None, None] == "conforming"
    # Progress names every test of both, in whole lines, and pytest itself says nothing.
    begun = [line for line in run.lines if line.startswith("[")]
    assert len(begun) == len(done)
    assert "passed" not in run.text
    assert "gw0" not in run.text


def test_a_worker_that_dies_costs_one_test(embedded_lab, tmp_path):
    """Steps: kill a worker in its test.  Verify: that is inconclusive, every other test ran, status 3."""
    with Certify(embedded_lab, tmp_path / "out", *BOTH) as run:
        # Both connect and prepare the host, which takes them a while.
        run.wait_line(r"^\[1/")
        os.kill(workers(run)[0], signal.SIGKILL)
        status = run.status()
        assert status == 3, run.text
    done = finished(tmp_path / "out")
    lost = [(device, test) for device, test, error in done if error]
    assert len(lost) == 1, done
    assert "the worker process died" in run.text
    names = {test for _, test, _ in done}
    assert {(device, test) for device, test, _ in done} == {(d, t) for d in ("mtty0", "mtty1") for t in names}
    verdicts = verdicts_of(tmp_path / "out")
    assert verdicts[None, None] == "inconclusive"
    undecided = {device for (device, _), verdict in verdicts.items() if device and verdict == "inconclusive"}
    assert undecided == {lost[0][0]}
    assert "fail" not in verdicts.values()

    with Certify(embedded_lab, tmp_path / "out", *BOTH, "--resume") as again:
        assert again.status() == 0, again.text
    assert [d[:2] for d in finished(tmp_path / "out")[len(done) :]] == lost


def test_ctrl_c_ends_the_workers_and_keeps_what_was_finished(embedded_lab, tmp_path):
    """Steps: SIGINT to all, as a terminal does.  Verify: status 130, no worker left, no verdict."""
    with Certify(embedded_lab, tmp_path / "out", *BOTH) as run:
        run.wait_line(r"^\[4/")
        mine = workers(run)
        assert mine
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.status() == 130, run.text
        assert gone(mine)
    assert [error for *_, error in finished(tmp_path / "out") if not error]
    assert verdicts_of(tmp_path / "out")[None, None] == "inconclusive"
