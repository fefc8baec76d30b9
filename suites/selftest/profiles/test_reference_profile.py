# SPDX-License-Identifier: Apache-2.0
"""The profile of the reference device against the register file that its driver is built with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.subject import Subject
from harness.hosts.inventory import EMBEDDED
from harness.hosts.inventory.load import embedded_devices
from harness.profiles import load_profile
from harness.profiles import vfiocert_ref as ref
from harness.spec.arcs import Mig, State, direct_arcs

SOURCE = Path(__file__).parents[3] / "fixtures" / "reference" / "mdev"
REGISTERS = {
    name: int(value, 0)
    for name, value in re.findall(
        r"^#define +REF_(\w+)\s+(0x[0-9a-f]+|\d+)\b", (SOURCE / "registers.h").read_text(), re.M
    )
}
REGIONS = [{"index": i, "size": n} for i, n in ((0, 0x4000), (2, 0x10000), (4, 0x1000), (7, 256))]


@pytest.mark.parametrize(
    "name",
    [
        "SCRATCH", "COUNTER", "DMA_IOVA", "DMA_LEN", "DMA_COUNT", "DMA_STRIDE", "DMA_SEED", "DMA_DELAY",
        "IRQ_PENDING", "IRQ_PERIOD", "BALLAST_SEED", "PRECOPY_INITIAL", "FAIL_ARC", "FAIL_ERRNO", "FAIL_MODE",
    ],
)  # fmt: skip
def test_profile_and_driver_have_a_register_at_the_same_place(name: str) -> None:
    assert getattr(ref, f"_{name}") == REGISTERS[name]


def test_the_ways_to_fail_have_the_drivers_numbers() -> None:
    assert (REGISTERS["FAIL_STAY"], REGISTERS["FAIL_ERROR"]) == (ref._FAIL_STAYS, ref._FAIL_ENTERS_ERROR)
    assert {s.name: int(s) for s in State if s != State.ERROR} == ref._STATES


@pytest.mark.parametrize("names", [["STOP_COPY"], ["STOP_COPY", "P2P"], ["STOP_COPY", "P2P", "PRE_COPY"]])
def test_only_arcs_that_the_device_has_are_made_to_fail(names: list[str]) -> None:
    profile = load_profile("vfiocert_ref")
    subject = Subject.of({"migration": names, "regions": REGIONS}, profile, 1)
    arcs = {(f.cur, f.new) for f in subject.failing}
    flags = Mig(sum(Mig[n] for n in names))
    assert arcs <= set(direct_arcs(flags))
    assert (State.STOP, State.STOP_COPY) in arcs
    assert {f.enters_error for f in subject.failing} == {False, True}


def test_a_device_without_migration_is_told_to_fail_nothing() -> None:
    subject = Subject.of({"migration": [], "regions": REGIONS[:1]}, load_profile("vfiocert_ref"), 1)
    assert list(subject.failing) == []


def test_every_type_of_the_driver_is_a_device_of_the_lab() -> None:
    types = set(re.findall(r'REF_TYPE\("(\w+)"', (SOURCE / "main.c").read_text()))
    known = {
        d.mdev.type.removeprefix("vfiocert_ref-")
        for d in embedded_devices(EMBEDDED)
        if d.mdev is not None and d.mdev.parent == "vfiocert_ref"
    }
    assert types == known
