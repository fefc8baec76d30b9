# SPDX-License-Identifier: Apache-2.0
"""A slow device, good and bad, in a lab: the good one is accused of nothing, the bad one by its clause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.hosts.inventory.load import DEFAULT_FILE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def vfiocert(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *args], cwd=DEFAULT_FILE.parent, env={**os.environ},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip


def test_a_device_of_slow_arcs_conforms(tmp_path: Path) -> None:
    """Steps: certify arcs of 50 ms, every cell and short sequences.  Verify: nothing failed or undecided."""
    out = tmp_path / "run"
    done = vfiocert(
        "certify", "--device", "ref-arc-50ms", "--depth", "1", "--search-time", "5s", "--seed", "1",
        "--clause", "MIG-03*", "--clause", "MIG-161", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (device,) = json.loads((out / "run.json").read_text())["devices"]
    verdicts = {clause["verdict"] for clause in device["clauses"]}
    assert "pass" in verdicts
    assert not verdicts & {"fail", "advisory", "inconclusive"}
    assert device["counts"]["arcs"] > 500


def test_a_slow_device_that_is_wrong_is_caught(tmp_path: Path) -> None:
    """Steps: the same device with a forgotten arc.  Verify: status 0, caught by the clause that it breaks."""
    out = tmp_path / "proof"
    done = vfiocert(
        "prove", "--defect", "arc_stop_copy_stop-on-ref-arc-50ms", "--golden", "0", "-j", "1",
        "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((out / "proof.json").read_text())["defects"]
    assert (row["verdict"], row["clause"], row["device"]) == ("caught", "MIG-031", "ref-arc-50ms")
