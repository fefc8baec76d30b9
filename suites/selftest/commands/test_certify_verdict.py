# SPDX-License-Identifier: Apache-2.0
"""The whole path on the kernel's own migratable device: the verdict is what reading its source says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.lab.embedded import EmbeddedLab
from harness.spec.clause import all_clauses

pytestmark = pytest.mark.lab

# samples/vfio-mdev/mtty.c, followed to the line in harness/profiles/mtty.py.
FAILS = {"DEV-015", "DEV-028", "DEV-030", "DIRTY-012", "DIRTY-039", "MIG-107"}
ADVISORIES = {
    "DEV-044", "DEV-060", "DEV-068", "DEV-100", "DEV-131", "DEV-132", "DEV-133",
    "DIRTY-016", "MIG-020", "MIG-078", "MIG-109", "MIG-110", "MIG-178",
}  # fmt: skip
KERNELS = {clause.id for clause in all_clauses() if clause.mainline and "lockdep" not in clause.needs}
UNTRIED = {"DEV-029", "DEV-031"}  # near reads already leak memory; far ones could crash the host
PROJECT = Path(__file__).resolve().parents[3]


def vfiocert(lab: EmbeddedLab, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VFIOCERT_LAB_NAME": lab.name, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "harness", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def run(embedded_lab: EmbeddedLab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certify of mtty0 at a small depth; the status says non-conforming."""
    out = tmp_path_factory.mktemp("certify") / "run"
    done = vfiocert(
        embedded_lab, "certify", "--device", "mtty0", "--out", str(out), "--seed", "7", "--depth", "4"
    )
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-4000:]
    return out


def test_the_verdict_on_mtty_is_what_its_source_says(run: Path) -> None:
    """Steps: certify. Verify: exactly the clauses that mtty.c breaks, all others decided."""
    device = json.loads((run / "run.json").read_text())["devices"][0]
    by_verdict: dict[str, set[str]] = {}
    for clause in device["clauses"]:
        by_verdict.setdefault(clause["verdict"], set()).add(clause["id"])
    assert by_verdict.get("fail") == FAILS
    assert by_verdict.get("advisory") == ADVISORIES
    assert by_verdict.get("kernel") == KERNELS
    assert by_verdict.get("inconclusive") == UNTRIED
    assert len(by_verdict["pass"]) >= 300


def test_the_run_says_what_was_typed(run: Path) -> None:
    assert json.loads((run / "run.json").read_text())["command"].startswith("vfiocert certify --device mtty0")


def test_every_cell_of_the_state_table_is_decided(run: Path) -> None:
    arcs = json.loads((run / "run.json").read_text())["devices"][0]["arcs"]
    assert len(arcs) == 64
    assert {a["verdict"] for a in arcs} <= {"reached", "refused", "not-applicable"}


def test_every_finding_is_explained_and_comes_back_by_replay(run: Path, embedded_lab: EmbeddedLab) -> None:
    clauses = json.loads((run / "run.json").read_text())["devices"][0]["clauses"]
    findings = {c["id"]: c["findings"][0] for c in clauses if c["findings"]}  # of some there are many
    assert findings.keys() == FAILS | ADVISORIES | KERNELS
    for clause in FAILS | ADVISORIES:
        finding = findings[clause]
        assert "cause" in finding["explanation"]
        again = vfiocert(embedded_lab, "replay", str(run / finding["replay"]), "--times", "2")
        assert again.returncode == 1, again.stdout + again.stderr
        assert f"{finding['clause']}: 2 of 2 runs" in again.stdout


def test_replay_of_a_program_that_conforms_finds_nothing(
    run: Path, embedded_lab: EmbeddedLab, tmp_path: Path
) -> None:
    """Steps: take the program of a finding, cut off what breaks the clause, replay it."""
    source = next((run / "findings").glob("*MIG-107*"))
    finding = json.loads(source.read_text())
    finding["program"]["threads"][0]["ops"] = finding["program"]["threads"][0]["ops"][:2]
    finding["program"]["claims"] = []
    whole = tmp_path / "conforms.json"
    whole.write_text(json.dumps(finding))
    assert vfiocert(embedded_lab, "replay", str(whole)).returncode == 0
