# SPDX-License-Identifier: Apache-2.0
"""Traffic engines on devices of the embedded lab: what they report as written is in memory."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.connect import HostConnection, inventory_of
from fixtures.rig import Rig
from fixtures.subject import Subject
from fixtures.traffic_script import TrafficScript
from harness.hosts.inventory import EMBEDDED, select
from harness.lab.embedded import EmbeddedLab
from harness.profiles import load_profile

pytestmark = pytest.mark.lab

ENGINES = {"nvme0": "nvme", "edu0": "edu", "ref": "vfiocert_ref", "edu-ref": "edu"}


def rig_of(lab: EmbeddedLab, device: str, out: Path) -> Rig:
    """A rig for a built-in device, or for the whole NVMe controller, which is not one of those."""
    inventory = inventory_of(None, EMBEDDED)
    if device != "nvme0":
        target = select(inventory, EMBEDDED, [device])[0]
    else:
        target = select(inventory, EMBEDDED, ["edu0"])[0]
        target = replace(
            target, device=target.device.model_copy(update={"id": device, "pci": "0000:02:00.0"})
        )
    profile = load_profile(target.device.profile)
    return Rig(device, profile, lambda: HostConnection(target, lab.name, "selftest", []), 1, out)


@pytest.mark.parametrize("device", ENGINES)
def test_an_engine_writes_what_it_says(embedded_lab: EmbeddedLab, device: str, tmp_path: Path) -> None:
    rig = rig_of(embedded_lab, device, tmp_path)
    try:
        assert rig.connection.capabilities["engine"] == ENGINES[device]
        subject = Subject(rig.connection.capabilities, rng=random.Random(1))
        pages = [0, 7, 3, 63]
        s = TrafficScript(subject)
        s.write_pages(pages)
        seen = s.seen()
        s.end_traffic()
        verdict, trace = rig.execute(s.to_json())
        assert not verdict.figures["commands_failed"]
        written = next(r for r in trace if r["i"] == seen)
        assert sorted(p for first, n in written["ranges"] for p in range(first, first + n)) == sorted(pages)
    finally:
        rig.drop()


def test_a_device_without_dma_has_no_engine(embedded_lab: EmbeddedLab, tmp_path: Path) -> None:
    rig = rig_of(embedded_lab, "ref-simple", tmp_path)
    try:
        assert rig.connection.capabilities["engine"] == ""
    finally:
        rig.drop()
