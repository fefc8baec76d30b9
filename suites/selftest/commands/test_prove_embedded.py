# SPDX-License-Identifier: Apache-2.0
"""One defect from its patch to the matrix, in a lab of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.hosts.inventory.load import DEFAULT_FILE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NAME = "mig_fd_survives_exec"


def test_a_patched_core_is_caught_by_the_clause_it_breaks(tmp_path):
    """Steps: prove one defect of the core. Verify: status 0, caught by its clause, a short case."""
    out = tmp_path / "proof"
    done = subprocess.run(
        [sys.executable, "-m", "harness", "prove", "--defect", NAME, "--golden", "0", "-j", "1",
         "--seeds", "2", "--out", str(out)],
        cwd=DEFAULT_FILE.parent, env={**os.environ}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    proof = json.loads((out / "proof.json").read_text())
    (row,) = proof["defects"]
    assert (row["name"], row["verdict"], row["caught_seeds"]) == (NAME, "caught", [1, 2])
    assert row["caught_by"][0] == row["clause"] == "MIG-058"
    assert "SET STOP_COPY" in row["case"] or "SET PRE_COPY" in row["case"]
    assert row["programs"] >= 1
    assert NAME in (out / "proof.md").read_text()
    again = subprocess.run(
        [sys.executable, "-m", "harness", "prove", "--defect", NAME, "--golden", "0", "--out", str(out)],
        cwd=DEFAULT_FILE.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (again.returncode, "add --resume" in again.stderr) == (2, True)
