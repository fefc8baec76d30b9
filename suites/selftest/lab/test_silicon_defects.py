# SPDX-License-Identifier: Apache-2.0
"""Defects seeded into the sources of untouched drivers: heads that can be read, and nothing else touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.prove.defects import parse_patch
from harness.hosts.inventory import embedded_devices
from harness.lab.silicon import SILICON, read_silicon
from harness.spec.clause import by_id

PATCHES = sorted(SILICON.glob("*/defects/*.patch"))


def parts(patch: Path) -> tuple[str, str]:
    """The head and the unified diff of a patch."""
    head, _, diff = patch.read_text(encoding="utf-8").partition("\n--- ")
    return head, f"--- {diff}"


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.stem)
def test_a_defect_says_what_it_breaks_and_where(patch):
    """Verify: its clause is one of the suite, its device is the one of the driver that it is in."""
    defect = parse_patch(patch.read_text(encoding="utf-8"), patch)
    silicon = read_silicon(patch.parent.parent)
    assert defect.clause in by_id()
    device = next(d for d in embedded_devices() if d.id == defect.device)
    assert device.profile == silicon.module
    assert defect.text


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.stem)
def test_a_defect_touches_nothing_but_its_driver(patch):
    """Verify: every file of the diff is in the driver's folder; a model that is broken proves nothing."""
    source = read_silicon(patch.parent.parent).source
    touched = [line.split()[1] for line in parts(patch)[1].splitlines() if line.startswith(("--- ", "+++ "))]
    assert touched
    assert all(name.split("/", 1)[1].startswith(f"{source}/") for name in touched)
