# SPDX-License-Identifier: Apache-2.0
"""The scheduler of `certify -n`: real xdist workers, tests that kill theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fixtures.workers import DeviceScheduling, device_of

PROJECT = Path(__file__).resolve().parents[3]

CONFTEST = """
import json, os, pathlib, pytest
from fixtures.workers import DeviceScheduling

DEVICES = ["a", "a-b", "c"]
LOG = pathlib.Path(__file__).with_name("log")

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return DeviceScheduling(DEVICES, 2)

@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    return request.param

def pytest_runtest_logreport(report):
    if not hasattr(report, "node"):
        return  # in the worker
    if report.when in ("call", "???"):
        worker = report.node.gateway.id
        with LOG.open("a") as file:
            file.write(json.dumps([report.nodeid.partition("::")[2], report.outcome, worker]) + "\\n")
"""
TESTS = """
import os, pytest

@pytest.mark.parametrize("n", range(4))
def test_it(device, n):
    if f"{device}{n}" in os.environ["KILLS"].split():
        os.kill(os.getpid(), 9)
"""


def distributed(folder, kills):
    """Outcome and worker of every test, by its name, and pytest's exit status."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--max-worker-restart=20",
         f"--rootdir={folder}", "-c", os.devnull, str(folder)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "KILLS": kills}, cwd=folder, timeout=120,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "INTERNALERROR" not in ended.stdout
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()], ended.returncode


@pytest.mark.parametrize("kills", ["a3 a-b3 c3", "a0 a1 a2 a3 c1"])
def test_every_test_is_reported_once_whichever_workers_die(tmp_path, kills):
    """Steps: tests that kill their worker: the last, all of a device.  Verify: they fail, others pass."""
    log, status = distributed(tmp_path, kills)
    assert Counter(name for name, *_ in log) == Counter(
        f"test_it[{device}-{n}]" for device in ("a", "a-b", "c") for n in range(4)
    )
    failed = {name for name, outcome, _ in log if outcome == "failed"}
    # "a-b3" is the test 3 of device a-b: the device ends where the number begins.
    assert failed == {f"test_it[{kill[:-1]}-{kill[-1]}]" for kill in kills.split()}
    assert status == (1 if kills else 0)


def test_a_device_stays_in_one_worker(tmp_path):
    """Steps: three devices, two workers, nothing dies.  Verify: each device's tests ran in one worker."""
    log, _ = distributed(tmp_path, "")
    workers = {(device_of(name, ["a", "a-b", "c"]), worker) for name, _, worker in log}
    assert len(workers) == 3
    assert len({worker for _, worker in workers}) == 2


@pytest.mark.parametrize(
    "nodeid,device",
    [
        ("m.py::test_x[cx7]", "cx7"),
        ("m.py::test_x[cx7-vf0]", "cx7-vf0"),
        ("m.py::test_x[cx7-vf0-some_experiment]", "cx7-vf0"),
        ("m.py::test_x[cx7-some_experiment]", "cx7"),
        ("m.py::test_x[cx70]", ""),
        ("m.py::test_x", ""),
    ],
)
def test_the_device_of_a_test_is_the_longest_that_fits(nodeid, device):
    assert device_of(nodeid, ["cx7", "cx7-vf0"]) == device


def test_nothing_to_run_is_finished():
    scheduling = DeviceScheduling(["a"], 1)
    node = type("Node", (), {"shutting_down": False})()
    scheduling.add_node(node)
    assert not scheduling.tests_finished
    scheduling.add_node_collection(node, [])
    scheduling.schedule()
    assert scheduling.tests_finished
