# SPDX-License-Identifier: Apache-2.0
"""A verdict says how much of the contract it speaks of, and a capability that is missing does not pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.collector import Collector
from fixtures.fakes.migration import CAPABILITIES
from harness.oracle.scope import FOUND_BY_TESTS, THEMES, applying, found_by_tests, unexercised
from harness.profiles import load_profile, profile_names
from harness.spec.capabilities import CAPABILITIES as KNOWN
from harness.spec.clause import all_clauses, by_id
from reports.models import DeviceResult
from reports.writer import RunWriter

CLAUSES = list(all_clauses())


def test_every_theme_names_clauses_that_exist() -> None:
    assert [i for _, _, _, ids in THEMES for i in ids if i not in by_id()] == []
    names = [name for name, _, _, _ in THEMES]
    assert [whole for _, whole, _, _ in THEMES if whole and whole not in names] == []


def test_a_device_that_does_not_migrate_says_so_once() -> None:
    said = unexercised(CLAUSES, {**CAPABILITIES, "migration": []})
    assert [line for line in said if "migrat" in line] == ["migration (PROBE said migration features: none)"]
    assert not any("fidelity" in line for line in said)


def test_a_device_whose_state_nobody_sees_is_not_exercised_in_it() -> None:
    blind = {**CAPABILITIES, "state_regions": False, "mutations": False, "engine": ""}
    assert any(line.startswith("fidelity of state (no profile") for line in unexercised(CLAUSES, blind))
    assert applying(CLAUSES, blind) < applying(CLAUSES, CAPABILITIES)


def test_what_a_run_has_checked_is_exercised() -> None:
    checked = {i: 1 for _, _, _, ids in THEMES for i in ids}
    assert unexercised(CLAUSES, CAPABILITIES, checked) == []
    assert (
        len(unexercised(CLAUSES, CAPABILITIES, {})) == 2
    )  # the wholes: their parts are not named beside them


def result(tmp_path: Path, kernel: str, capabilities: dict[str, Any], profile: str) -> DeviceResult:
    """The result of a device on which no test exercised anything."""
    writer = RunWriter(tmp_path / "run")
    collector = Collector(writer, CLAUSES)
    collector.facts["d"] = {"profile": profile, "kernel": kernel, "capabilities": capabilities}
    collector.finish(["d"])
    return writer.finish().devices[0]


@pytest.mark.parametrize(
    ("kernel", "expected"), [("6.12.1", True), ("7.2.12 #1 SMP", True), ("6.1.9", False)]
)
def test_an_expected_capability_that_is_missing_is_inconclusive(
    tmp_path: Path, kernel: str, expected: bool
) -> None:
    """Verify: pds migrates since 6.6; a VF that says it cannot is no conforming device there."""
    device = result(tmp_path, kernel, {"migration": []}, "pds_vfio_pci")
    one = next(c for c in device.clauses if c.id == "MIG-030")
    assert one.verdict == ("inconclusive" if expected else "not-applicable")
    assert ("pds_core" in one.reason) is expected


@pytest.mark.parametrize("name", profile_names())
def test_what_a_profile_expects_is_a_capability_with_the_step_that_makes_it_appear(name: str) -> None:
    profile = load_profile(name)
    assert profile.expects.keys() <= KNOWN.keys()
    assert bool(profile.expects) == bool(profile.appears)
    assert all(profile.expected(c, f"{since}.1") for c, since in profile.expects.items())


def test_what_only_a_run_can_show_is_not_told_as_impossible_before_it() -> None:
    """Verify: ERROR may be reached by a damaged stream; after a run that did not, it is told."""
    assert not any("ERROR" in line for line in unexercised(CLAUSES, CAPABILITIES))
    assert any("ERROR" in line for line in unexercised(CLAUSES, CAPABILITIES, {"MIG-002": 1}))


@pytest.mark.parametrize(
    ("checked", "found"),
    [
        ((), {"error_reached": False, "damage_accepted": True, "write_refused": True}),
        (("MIG-112",), {"error_reached": False, "damage_accepted": False, "write_refused": False}),
        (("MIG-114",), {"error_reached": False, "damage_accepted": True, "write_refused": False}),
        (("MIG-107", "MIG-112", "MIG-130"),
         {"error_reached": True, "damage_accepted": False, "write_refused": True}),
    ],
)  # fmt: skip
def test_what_a_run_has_found_follows_from_what_it_checked(
    checked: tuple[str, ...], found: dict[str, bool]
) -> None:
    assert found_by_tests(checked) == found
    assert found.keys() == FOUND_BY_TESTS.keys() <= KNOWN.keys()
