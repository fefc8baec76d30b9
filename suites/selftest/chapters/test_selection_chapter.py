# SPDX-License-Identifier: Apache-2.0
"""Chapter SEL on a kernel in memory: one that keeps every rule, and each rule broken."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.rig import Rig
from harness.hosts.driver_choice import choose, parse_aliases
from harness.profiles import load_profile
from suites.sel import experiments_selection
from suites.sel.matching import NO_DRIVER, Matching, Move, random_moves

ALIASES = """\
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* edu_vfio_pci
alias pci:v00001234d000011E8sv*sd*bc*sc*i* edu
"""
MODALIAS = "pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00"
PLAIN = "alias pci:v00001234d000011E8sv*sd*bc*sc*i* edu_vfio_pci\n"


class Kernel:
    """The driver core and two VFIO drivers, as the agent's methods show them; `broken` names rules."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.override: str | None = "edu-vfio"
        self.driver: str | None = "edu-vfio"
        self.parent = "nvme"
        self.drivers = {"edu-vfio": "edu_vfio_pci", "vfio-pci": "vfio_pci", "edu": "edu"}

    def call(self, method: str, **params: Any) -> Any:
        if method == "describe_device":
            if params["device"].get("pci") == "pf":
                return {"driver": self.parent}
            return {"driver": self.driver, "physfn": "pf", "modalias": MODALIAS, "path": "/sys/x"}
        if method == "load_module":
            empty = self.broken == "SEL-010" and params["name"] == "edu_vfio_pci"
            return {"drivers": [] if empty else [d for d, m in self.drivers.items() if m == params["name"]]}
        if method == "rebind":
            return self.rebind(params["override"], params["steps"])
        return {"seq": 1, "records": [], "lost": False, "next": 1, "taint": 0}

    def rebind(self, override: str, steps: list[str]) -> dict[str, Any]:
        if override or self.broken != "SEL-016":
            self.override = override or None
        if self.broken == "SEL-013":
            self.driver = None
        seen = [self.shown("override")]
        for step in steps:
            if step == "unbind" and self.broken != "SEL-014":
                self.driver = None
                if self.broken == "SEL-020":
                    self.parent = "none"
            elif step == "probe" and self.driver is None:
                self.driver = self.matched()
            seen.append(self.shown(step))
        return {"seen": seen}

    def matched(self) -> str | None:
        if self.override is None:
            return "edu-vfio" if self.broken in ("SEL-017", "new_id") else "edu"
        if self.broken == "SEL-018" and self.override == "vfio-pci":
            return None
        if self.broken == "SEL-011" and self.override == "edu-vfio":
            return "vfio-pci"
        if self.broken == "SEL-015" and self.override == NO_DRIVER:
            return "edu"
        if self.broken == "SEL-019" and self.override == "vfio-pci":
            self.broken = "SEL-019 second"
        elif self.broken == "SEL-019 second":
            return "edu"
        return self.override if self.override in self.drivers else None

    def shown(self, step: str) -> dict[str, Any]:
        node = self.driver in ("edu-vfio", "vfio-pci") and self.broken != "SEL-012"
        return {
            "step": step, "driver": self.driver, "override": self.override,
            "module": self.drivers.get(self.driver or ""), "vfio_name": "vfio0" if node else None,
        }  # fmt: skip


class Connection:
    """What the chapter needs of a connection."""

    def __init__(self, kernel: Kernel) -> None:
        self.agent = kernel
        self.fault = ""
        self.capabilities: Mapping[str, Any] = {"pci": True, "virtual_function": True}
        self.device: Mapping[str, str] = {}
        self.ready = SimpleNamespace(wire={"pci": "0000:00:05.0"})

    def close(self) -> None:
        """Nothing to close."""

    def recover(self) -> None:
        """Nothing to recover."""

    def console(self) -> list[str]:
        """There is no console."""
        return []


def broken_clauses(
    kernel: Kernel, tmp_path: Path, aliases: str = ALIASES, seed: int = 1
) -> tuple[set[str], Rig]:
    """The clauses that the chapter's bindings find broken on this kernel."""
    rig = Rig("dev", load_profile("vfio_pci"), lambda: Connection(kernel), seed, tmp_path)
    with rig.test("t"):
        table = parse_aliases(aliases)
        experiments_selection._bindings(rig, choose(MODALIAS, table), table)
    return {violation.clause for violation in rig.total.violations}, rig


def test_a_kernel_that_keeps_the_rules(tmp_path: Path) -> None:
    """No clause is broken, each is checked, for many seeds."""
    for seed in range(20):
        broken, rig = broken_clauses(Kernel(), tmp_path, seed=seed)
        assert not broken
    assert set(rig.total.checked) >= {f"SEL-{n:03d}" for n in range(10, 21)}


@pytest.mark.parametrize("clause", [f"SEL-{n:03d}" for n in (10, 11, 12, 13, 14, 15, 16, 18, 19, 20)])
def test_each_broken_rule_is_caught_by_its_clause(clause: str, tmp_path: Path) -> None:
    """One rule broken, in a kernel that keeps the others."""
    caught = set()
    for seed in range(5):
        caught |= broken_clauses(Kernel(clause), tmp_path, seed=seed)[0]
    assert clause in caught


def test_a_variant_driver_with_plain_ids_is_caught(tmp_path: Path) -> None:
    """PCI_DEVICE() where PCI_DRIVER_OVERRIDE_DEVICE_VFIO() was meant: its alias is the evidence."""
    assert "SEL-017" in broken_clauses(Kernel("SEL-017"), tmp_path, ALIASES + PLAIN)[0]


def test_an_id_given_at_run_time_is_no_fault(tmp_path: Path) -> None:
    """After new_id a driver may take a device without an override, so the clause cannot be decided."""
    broken, rig = broken_clauses(Kernel("new_id"), tmp_path)
    assert "SEL-017" not in broken
    assert "new_id" in rig.undecided["SEL-017"]


def test_the_model_of_matching() -> None:
    """Bound stays bound; unbound goes where the override says."""
    model = Matching("a", frozenset(["a", "b"]), native="n")
    assert [d for _, d, _ in model.apply(Move("b", ("probe", "unbind", "probe")))] == ["a", "a", None, "b"]
    assert [d for _, d, _ in model.apply(Move("", ("unbind", "probe")))] == ["b", None, "n"]
    assert [d for _, d, _ in model.apply(Move(NO_DRIVER, ("probe", "unbind", "probe")))] == [
        "n",
        "n",
        None,
        None,
    ]
    assert len(random_moves(random.Random(1), ["a"], 9)) == 9
