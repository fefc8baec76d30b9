# SPDX-License-Identifier: Apache-2.0
"""Experiments on page tables: allocation, moving devices, nesting, invalidation, PASID, hardware info."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd
from harness.uapi.iommufd_test import (
    IOMMU_HW_INFO_SELFTEST_REGVAL,
    IOMMU_HW_INFO_TYPE_SELFTEST,
    IOMMU_HWPT_DATA_SELFTEST,
    IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    IOMMU_TEST_IOTLB_DEFAULT,
    MOCK_FLAGS_DEVICE_PASID,
)
from suites.iom.program import FIRST, NOTHING, PAGE, Core

__all__ = ["NESTED", "nested"]

_PARENT, _FAULT_VALID = iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT, iommufd.IOMMU_HWPT_FAULT_ID_VALID
_PASID = iommufd.IOMMU_HWPT_ALLOC_PASID
NESTED = {"data_type": IOMMU_HWPT_DATA_SELFTEST, "data_len": 8}
_IOTLB = struct.pack("<II", IOMMU_TEST_IOTLB_DEFAULT, 0).hex()


def nested(
    core: Core, slot: str, parent: str = "parent", dev: str = "dev", flags: int = 0, **more: int
) -> int:
    """Allocate a user-managed page table of the mock on a parent or a vIOMMU."""
    fields = {"dev_id": dev, "pt_id": parent, "flags": flags, **NESTED, **more}
    return core.io("IOMMU_HWPT_ALLOC", fields, outs={slot: "out_hwpt_id"}, bufs={"data_uptr": _IOTLB})


def _iotlb(core: Core, table: str, number: int, value: int) -> int:
    return core.io("IOMMU_TEST_OP_MD_CHECK_IOTLB", {"id": table, "iotlb_id": number, "iotlb": value})


@experiment("IOM-100", "IOM-101", "IOM-106", own_open=True)
def tables_hold_what_their_space_maps(subject: Subject) -> Iterator[Script]:
    """Steps: allocate tables before and after maps; move devices; change the space under a device."""
    core = Core()
    if not subject.has("mock"):
        if subject.has("physical_iommu"):
            core.device(attach=False)
            core.ok("IOM-100", core.hwpt("h"), "a page table for the device")
            index = core.script.op("attach", fd="x", pt="h")
            core.ok("IOM-100", index, "the device attaches to it")
            core.script.op("detach", fd="x")
            core.ok("IOM-100", core.destroy("h"), "it is destroyed after the device has left it")
            yield core.script
        return
    core.memory(pages=64)
    core.ioas("b")
    core.mock()
    core.map(FIRST, 4 * PAGE)
    core.ok("IOM-100", core.hwpt("h"), "a page table for the device and the IOAS")
    core.map(FIRST + (1 << 20), 32 * PAGE, off=PAGE)
    for table in ("hw", "h"):
        core.ok("IOM-101", core.check_map(table, FIRST, 4 * PAGE), "it maps what was mapped before")
        index = core.check_map(table, FIRST + (1 << 20), 32 * PAGE, off=PAGE)
        core.ok("IOM-101", index, "it maps what is mapped after")
        core.refused("IOM-101", core.check_map(table, FIRST, PAGE, off=PAGE), "other memory is not there")
    for target in ("h", "a", "b", "h", "h"):
        core.ok("IOM-106", core.replace(target), f"the device moves to {target}")
    core.refused("IOM-106", core.replace("dev"), "a device is no page table")
    core.unmap(FIRST, 4 * PAGE)
    core.refused("IOM-101", core.check_map("h", FIRST, PAGE), "what is unmapped is gone")
    core.mock("2")
    core.hwpt("g", "b", "dev2")
    core.ok("IOM-106", core.replace("g", "std2"), "a second device has a table of another space")
    core.ok("IOM-100", core.destroy("std"), "a device goes, and its table with it")
    core.ok("IOM-101", core.check_map("h", FIRST + (1 << 20), 4 * PAGE, off=PAGE), "the table is there still")
    yield core.script


@experiment("IOM-102", "IOM-103", "IOM-104", "IOM-105", own_open=True)
def flags_of_tables(subject: Subject) -> Iterator[Script]:
    """Steps: unknown or conflicting flags, data without a type, a type without data."""
    if not subject.has("physical_iommu"):
        return
    core = Core()
    if subject.has("mock"):
        core.mock()
    else:
        core.device(attach=False)
    for bit in (4, 5, 16, 31):
        core.refused("IOM-105", core.hwpt("x1", flags=1 << bit), "the flag is unknown", errno.EOPNOTSUPP)
    core.io("IOMMU_FAULT_QUEUE_ALLOC", {}, outs={"fault": "out_fault_id"}, out_fds={"ff": "out_fault_fd"})
    index = core.hwpt("x1", flags=_PARENT | _FAULT_VALID, fault_id="fault")
    core.refused("IOM-105", index, "a nesting parent has no fault queue", errno.EOPNOTSUPP)
    if subject.has("mock"):
        core.refused("IOM-103", core.hwpt("x1", data_len=8), "a length without a type", errno.EINVAL)
        index = core.hwpt("x1", data_type=IOMMU_HWPT_DATA_SELFTEST)
        core.refused("IOM-103", index, "a type without a length", errno.EINVAL)
        core.hwpt("plain")
        core.refused("IOM-102", nested(core, "x1", "plain"), "it is no nesting parent", errno.EINVAL)
        core.refused("IOM-102", nested(core, "x1", "hw"), "an automatic table is no parent", errno.EINVAL)
        core.hwpt("parent", flags=_PARENT)
        for flag in (_PARENT, iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 1 << 7):
            index = nested(core, "x1", flags=flag)
            core.refused("IOM-105", index, "a nested table has no such flag", errno.EOPNOTSUPP)
        core.refused("IOM-104", nested(core, "x1", data_type=0xDEAE), "its type is unknown")
        core.refused("IOM-104", nested(core, "x1", data_len=2), "its data is too short", errno.EINVAL)
        index = core.hwpt("x1", flags=_FAULT_VALID, fault_id=NOTHING)
        core.refused("IOM-105", index, "the fault queue does not exist")
    yield core.script


@experiment(
    "IOM-007", "IOM-008", "IOM-102", "IOM-104", "IOM-106", "IOM-110", "IOM-111", "IOM-112", needs=("mock",),
    own_open=True,
)  # fmt: skip
def nesting_and_invalidation(subject: Subject) -> Iterator[Script]:
    """Steps: attach nested tables of one parent in turn; invalidate single entries and whole caches."""
    core = Core()
    core.mock()
    core.ok("IOM-102", core.hwpt("parent", flags=_PARENT), "a nesting parent")
    for slot in ("n1", "n2"):
        core.ok("IOM-104", nested(core, slot), "a nested table on it")
        for entry in range(4):
            core.ok("IOM-104", _iotlb(core, slot, entry, IOMMU_TEST_IOTLB_DEFAULT), "its data has been taken")
    core.refused("IOM-102", nested(core, "x1", "n1"), "a nested table is no parent", errno.EINVAL)
    core.refused("IOM-008", core.destroy("parent"), "nested tables use it", errno.EBUSY)
    core.refused("IOM-112", _invalidate(core, "n1", [(0, 0)], entry_len=0), "no length", errno.EINVAL)
    core.refused("IOM-112", _invalidate(core, "n1", [(0, 0)], data_uptr=0), "entries nowhere", errno.EINVAL)
    core.is_("IOM-111", _invalidate(core, "n1", []), "entry_num", 0, "the type is known")
    core.refused("IOM-111", _invalidate(core, "n1", [], data_type=0xDADBEEF), "the type is unknown")
    done = core.ok("IOM-110", _invalidate(core, "n1", [(0, 1)]), "one entry")
    core.is_("IOM-110", done, "entry_num", 1, "one was done")
    for entry, value in ((0, IOMMU_TEST_IOTLB_DEFAULT), (1, 0), (2, IOMMU_TEST_IOTLB_DEFAULT)):
        core.ok("IOM-110", _iotlb(core, "n1", entry, value), "that one, and no other")
    core.ok("IOM-110", _iotlb(core, "n2", 1, IOMMU_TEST_IOTLB_DEFAULT), "nothing of another table")
    half = _invalidate(core, "n1", [(0, 0), (0, 9), (0, 2)])
    core.refused("IOM-110", half, "the second of three is wrong")
    core.script.equals("IOM-110", half, "entry_num", 1, "one was done")
    core.ok("IOM-110", _iotlb(core, "n1", 2, IOMMU_TEST_IOTLB_DEFAULT), "what follows it was not")
    wrong = _invalidate(core, "n1", [(8, 2)])
    core.refused("IOM-110", wrong, "its flag is unknown")
    core.script.equals("IOM-110", wrong, "entry_num", 0, "none was done")
    whole = _invalidate(core, "n2", [(IOMMU_TEST_INVALIDATE_FLAG_ALL, 0)])
    core.is_("IOM-110", whole, "entry_num", 1, "one was done")
    for entry in range(4):
        core.ok("IOM-110", _iotlb(core, "n2", entry, 0), "all entries of the table")
    for slot in ("n1", "n2", "parent", "n1"):
        core.ok("IOM-106", core.replace(slot), f"the device moves to {slot}")
    core.refused("IOM-008", core.destroy("n1"), "a device uses it", errno.EBUSY)
    core.replace("a")
    for slot in ("n1", "n2", "parent"):
        core.ok("IOM-007", core.destroy(slot), f"{slot} is destroyed")
    yield core.script


def _invalidate(core: Core, table: str, entries: list[tuple[int, int]], **spoilt: int) -> int:
    data = b"".join(struct.pack("<II", *entry) for entry in entries)
    fields = {
        "hwpt_id": table, "data_type": IOMMU_HWPT_INVALIDATE_DATA_SELFTEST, "entry_len": 8,
        "entry_num": len(entries), **spoilt,
    }  # fmt: skip
    return core.io("IOMMU_HWPT_INVALIDATE", fields, bufs={"data_uptr": data.hex()} if data else {})


@experiment("IOM-007", "IOM-130", "IOM-131", needs=("mock",), own_open=True)
def pasids(subject: Subject) -> Iterator[Script]:
    """Steps: attach, replace and detach PASIDs, on a device that supports them and on one that does not."""
    if not subject.has("mock") or not subject.has("max_pasid_log2"):
        return
    core = Core()
    core.mock(flags=MOCK_FLAGS_DEVICE_PASID)
    core.mock("2")

    def on(op: str, pasid: int, table: str | int = 0, std: str = "std") -> int:
        fields = {"id": std, "pasid": pasid, **({"pt_id": table} if table else {})}
        return core.io(f"IOMMU_TEST_OP_PASID_{op}", fields)

    def holds(pasid: int, table: str | int) -> int:
        return core.io("IOMMU_TEST_OP_PASID_CHECK_HWPT", {"id": "std", "pasid": pasid, "hwpt_id": table})

    core.hwpt("plain")
    core.ok("IOM-130", core.hwpt("base", flags=_PASID), "a table for PASID")
    core.hwpt("p1", flags=_PASID)
    core.hwpt("p2", flags=_PASID)
    core.ok("IOM-130", core.replace("base"), "the device itself has a table for PASID")
    core.refused("IOM-131", on("ATTACH", 100, "plain"), "the table is not for PASID")
    core.ok("IOM-130", on("ATTACH", 100, "p1"), "the PASID gets a table")
    core.ok("IOM-130", holds(100, "p1"), "it has that table")
    core.ok("IOM-130", holds(101, 0), "its neighbour has none")
    core.refused("IOM-130", on("ATTACH", 100, "p2"), "it has a table already")
    core.ok("IOM-130", holds(100, "p1"), "it has its table still")
    core.refused("IOM-131", on("REPLACE", 100, "plain"), "the table is not for PASID")
    core.ok("IOM-130", on("REPLACE", 100, "p2"), "its table is replaced")
    core.ok("IOM-130", holds(100, "p2"), "it has the new table")
    core.refused("IOM-130", on("REPLACE", 200, "p2"), "there is nothing to replace", errno.EINVAL)
    core.refused("IOM-131", core.replace("plain"), "the device itself would have a table not for PASID")
    core.ok("IOM-130", on("ATTACH", 1024, "p1"), "another PASID")
    core.refused("IOM-130", on("REPLACE", 1024, "p2"), "the mock fails on purpose", errno.ENOMEM)
    core.ok("IOM-130", holds(1024, "p1"), "it has its old table back")
    core.ok("IOM-130", on("DETACH", 100), "it gives its table up")
    core.ok("IOM-130", holds(100, 0), "it has none")
    core.ok("IOM-007", core.destroy("p2"), "nobody uses the table any more")
    core.ok("IOM-130", on("DETACH", 1024), "it gives its table up")
    core.refused("IOM-130", on("ATTACH", 1 << 20, "p1"), "wider than the device has", errno.EINVAL)
    core.refused("IOM-130", on("ATTACH", 5, "p1", "std2"), "the device has no PASID")
    yield core.script


@experiment("IOM-135", "IOM-136", own_open=True)
def hardware_information(subject: Subject) -> Iterator[Script]:
    """Steps: GET_HW_INFO with larger, smaller and no buffers, and with wrong types."""
    if not subject.has("hw_info"):
        return
    core = Core()
    if subject.has("mock"):
        core.mock()
    else:
        core.device(attach=False)

    def ask(size: int, **fields: int) -> int:
        more: dict[str, Any] = {"bufs": {"data_uptr": "ee" * size}} if size else {}
        return core.io("IOMMU_GET_HW_INFO", {"dev_id": "dev", "data_len": size, **fields}, **more)

    none = core.ok("IOM-136", ask(0), "no buffer is needed")
    large = core.ok("IOM-135", ask(256), "the buffer is larger than what is known")
    small = core.ok("IOM-135", ask(4), "the buffer is smaller")
    for other in (large, small):
        core.is_("IOM-135", other, "data_len", Script.ref(none, "data_len"), "the length is that of the data")
        core.is_("IOM-135", other, "out_data_type", Script.ref(none, "out_data_type"), "the type is the same")
    core.script.equals("IOM-135", large, "guard", True, "nothing around the buffer is written")
    core.script.equals("IOM-135", small, "guard", True, "nothing behind the buffer is written")
    core.script.lacks("IOM-135", large, "buf_data_uptr", "(ee)+$", "the rest is zeroed")
    if subject.has("mock"):
        core.is_("IOM-136", none, "out_data_type", IOMMU_HW_INFO_TYPE_SELFTEST, "the driver's type")
        data = struct.pack("<II", 0, IOMMU_HW_INFO_SELFTEST_REGVAL)
        core.is_("IOM-135", large, "buf_data_uptr", data.hex().ljust(512, "0"), "what the driver knows")
        core.is_("IOM-135", small, "buf_data_uptr", data[:4].hex(), "the beginning of it")
    core.refused("IOM-136", ask(0, flags=1, in_data_type=0x12345), "the type is unknown", errno.EOPNOTSUPP)
    core.ok("IOM-136", ask(0, flags=0, in_data_type=0x12345), "without the flag any type is the default",
            ((none, "errno", "==", 0),))  # fmt: skip
    core.refused("IOM-136", core.io("IOMMU_GET_HW_INFO", {"dev_id": "dev", "data_len": 8}), "it is nowhere")
    yield core.script
