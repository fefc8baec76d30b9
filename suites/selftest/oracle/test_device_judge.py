# SPDX-License-Identifier: Apache-2.0
"""Chapter DEV without a lab: the judge of device info finds each fault, and programs are well formed."""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Any

import pytest

from fixtures.experiment import experiments_in
from fixtures.subject import Subject
from harness.agent.validation import check_program
from harness.oracle.device import judge_device
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from harness.probes.device import capability_offsets
from harness.profiles import load_profile
from suites.dev import (
    experiments_config,
    experiments_gfx,
    experiments_irqs,
    experiments_regions,
    experiments_rest,
    experiments_uart,
)
from suites.dev.program import Bench


def judged(op: str, **fields: Any) -> set[str]:
    out = Judgement()
    record = {"t": "main", "i": 0, "op": op, "errno": 0, **fields}
    judge_device({"threads": [{"name": "main", "ops": [[op, {}]]}]}, [record], out)
    return {v.clause for v in out.violations}


def chain(*caps: tuple[int, int, bytes]) -> str:
    return b"".join(struct.pack("=HHI", cap, 1, following) + rest for cap, following, rest in caps).hex()


def sparse(count: int, *areas: tuple[int, int], following: int = 0) -> str:
    rest = struct.pack("=II", count, 0) + b"".join(struct.pack("=QQ", *area) for area in areas)
    return chain((1, following, rest))


DEVICE = {"flags": 3, "num_regions": 9, "num_irqs": 5, "cap_offset": 0, "caps_hex": ""}
REGION = {"flags": 7, "size": 0x4000, "cap_offset": 0, "caps_hex": ""}
CAPPED = {**REGION, "flags": 15, "cap_offset": 32}


@pytest.mark.parametrize(
    "fields, clause",
    [
        ({}, None),
        ({"flags": 0x80}, "DEV-003"),
        ({"flags": 1}, "DEV-003"),
        ({"flags": 6}, "DEV-003"),
        ({"flags": 0x402}, "DEV-003"),
        ({"num_regions": 8}, "DEV-004"),
        ({"flags": 0x83}, "DEV-005"),
        ({"cap_offset": 24, "caps_hex": "0100010000000000"}, "DEV-005"),
        ({"flags": 0x83, "cap_offset": 24, "caps_hex": "0100010018000000"}, "DEV-005"),
        ({"flags": 0x83, "cap_offset": 8, "caps_hex": "0100010000000000"}, "DEV-005"),
        ({"flags": 0x83, "cap_offset": 24, "caps_hex": "0100010000000000"}, None),
    ],
)
def test_a_wrong_device_info_is_found(fields: dict[str, Any], clause: str | None) -> None:
    assert (
        clause in judged("device_info", **{**DEVICE, **fields})
        if clause
        else not judged("device_info", **{**DEVICE, **fields})
    )


@pytest.mark.parametrize(
    "fields, clause",
    [
        (REGION, None),
        ({**REGION, "flags": 0x17}, "DEV-013"),
        ({**CAPPED, "caps_hex": sparse(1, (0x1000, 0x3000))}, None),
        ({**CAPPED, "caps_hex": sparse(2, (0, 0x1000), (0x2000, 0x1000))}, None),
        ({**CAPPED, "caps_hex": sparse(1, (0x1000, 0x4000))}, "DEV-017"),
        ({**CAPPED, "caps_hex": sparse(1, (0x800, 0x1000))}, "DEV-017"),
        ({**CAPPED, "caps_hex": sparse(1, (0, 0))}, "DEV-017"),
        ({**CAPPED, "caps_hex": sparse(2, (0, 0x2000), (0x1000, 0x1000))}, "DEV-017"),
        ({**CAPPED, "caps_hex": sparse(3, (0, 0x1000))}, "DEV-017"),
        ({**CAPPED, "caps_hex": sparse(1, (0, 0x1000), following=4096)}, "DEV-005"),
    ],
)
def test_a_wrong_region_info_is_found(fields: dict[str, Any], clause: str | None) -> None:
    assert judged("region_info", **fields) == ({clause} if clause else set())


@pytest.mark.parametrize("flags, wrong", [(7, False), (9, False), (4, True), (5, True), (0x11, True)])
def test_a_wrong_irq_info_is_found(flags: int, wrong: bool) -> None:
    assert judged("irq_info", flags=flags, count=1) == ({"DEV-063"} if wrong else set())


def test_a_list_of_capabilities_is_read_as_far_as_it_goes() -> None:
    config = bytearray(256)
    config[6], config[0x34] = 0x10, 0x40
    config[0x40:0x42] = bytes([0x05, 0x60])
    config[0x60:0x62] = bytes([0x11, 0x40])
    assert capability_offsets(bytes(config)) == {0x05: 0x40, 0x11: 0x60}
    config[6] = 0
    assert capability_offsets(bytes(config)) == {}
    assert capability_offsets(b"") == {}


def config_space() -> bytes:
    config = bytearray(4096)
    struct.pack_into("<IHH", config, 0, 0x11E81234, 0, 0x10)
    struct.pack_into("<I", config, 0x10, 0xFE000000)
    config[0x34], config[0x3D] = 0x40, 1
    config[0x40:0x44] = bytes([0x01, 0x50, 3, 0])
    config[0x50:0x54] = bytes([0x05, 0x60, 0x80, 0])
    config[0x60:0x6C] = bytes([0x11, 0x70, 3, 0, 0, 8, 0, 0, 0, 12, 0, 0])
    config[0x70:0x78] = bytes([0x10, 0, 2, 0, 0, 0, 0, 0x10])
    struct.pack_into("<I", config, 0x100, 0x00010001)
    return bytes(config)


def everything() -> dict[str, Any]:
    regions = [
        {"index": n, "flags": 0, "size": 0, "offset": n << 40, "caps_hex": ""} for n in range(9)
    ]  # fmt: skip
    regions[0].update(flags=15, size=0x100000, caps_hex=sparse(1, (0x1000, 0x1000)))
    regions[2].update(flags=7, size=0x10000)
    regions[6].update(flags=1, size=0x1000)
    regions[7].update(flags=3, size=4096)
    source = {"region": 0, "raise": [0x60, "01000000"], "ack": [0x64, "01000000"]}
    return {
        "flags": 3, "num_regions": 9, "num_irqs": 5, "regions": regions, "pci_api": True, "vfio_pci": True,
        "physical_function": True, "reset": True, "reset_flag": True, "config": config_space().hex(),
        "irqs": [{"index": n, "flags": 9 if n else 7, "count": 4 if n == 2 else 1} for n in (0, 1, 2, 4)],
        "irq_intx": 1, "irq_msi": 1, "irq_msix": 4, "any_irq": 1, "mmap_region": 1, "pci_pm": 0x40,
        "pci_msi": 0x50, "pci_msix": 0x60, "pci_exp": 0x70, "pci_flr": 0x70, "pci_extended": True,
        "ioeventfd": True, "unmask_eventfd": True, "uart": True, "low_power": True, "dma_buf_region": 1,
        "scratch": {"region": 0, "off": 4, "inverted": True}, "irq_source": source, "intx_source": source,
        "msi_source": source, "info_caps": 1, "sparse_mmap": 1, "read_only_region": 7, "physical_iommu": True,
    }  # fmt: skip


def programs(capabilities: dict[str, Any]) -> list[tuple[str, Bench]]:
    subject = Subject.of(capabilities, load_profile("generic"), 1)
    return [
        (experiment.__name__, program)
        for experiment in experiments_in(
            experiments_config,
            experiments_irqs,
            experiments_rest,
            experiments_regions,
            experiments_uart,
            experiments_gfx,
        )
        for program in _all_of(experiment(subject))
    ]


def _all_of(made: Any) -> list[Bench]:
    assert isinstance(made, Generator)
    found: list[Bench] = []
    program = next(made, None)
    while program is not None:
        found.append(program)
        try:
            program = made.send(Judgement())
        except StopIteration:
            break
    return found


def test_every_program_is_well_formed() -> None:
    made = programs(everything())
    assert len(made) > 30
    for name, program in made:
        threads = program.to_json()["threads"]
        wrong = check_program({"threads": threads, "devices": {"dev0": {}}})
        assert wrong is None, (name, wrong)


def test_a_device_without_anything_is_asked_for_little() -> None:
    bare = {"flags": 4, "num_regions": 1, "num_irqs": 0, "regions": [], "irqs": []}
    for _, program in programs(bare):
        threads = program.to_json()["threads"]
        assert check_program({"threads": threads, "devices": {"dev0": {}}}) is None


def test_each_claim_can_fail() -> None:
    """A device that answers everything with the wrong outcome breaks each clause that a claim holds."""
    named: set[str] = set()
    broken: set[str] = set()
    for _, program in programs(everything()):
        made = program.to_json()
        named |= {claim["clause"] for claim in made["claims"]}
        for number in (0, 22):
            trace = [
                {"t": "main", "i": i, "op": op, "errno": number, "ret": 4 if not number else -1, "n": 3,
                 "hex": "beef" * (i % 7 + 1), "size": 3, "offset": 0, "flags": 64, "caps_hex": "",
                 "count": 77, "argsz": 1, "cap_offset": 5}
                for i, (op, _) in enumerate(made["threads"][0]["ops"])
            ]  # fmt: skip
            plain = {key: value for key, value in made.items() if key != "judge"}
            verdict = judge({}, {**plain, "judge": "none"}, trace)
            broken |= {v.clause for v in verdict.violations}
    # Claims with a condition on other records, which such a device does not meet.
    conditional = {"DEV-032", "DEV-034", "DEV-048"}
    assert named - broken <= conditional
