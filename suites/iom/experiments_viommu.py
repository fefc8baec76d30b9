# SPDX-License-Identifier: Apache-2.0
"""Experiments on fault queues and virtual IOMMUs, with their devices, event queues and hardware queues."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.uapi import iommufd
from harness.uapi.iommufd_test import (
    IOMMU_HW_QUEUE_TYPE_SELFTEST,
    IOMMU_TEST_DEV_CACHE_DEFAULT,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    IOMMU_VEVENTQ_TYPE_SELFTEST,
    IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_FLAGS_DEVICE_PASID,
)
from suites.iom.experiments_tables import nested
from suites.iom.program import FIRST, PAGE, Core

_PARENT, _FAULT_VALID = iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT, iommufd.IOMMU_HWPT_FAULT_ID_VALID
_LAST, _WITH_PASID = iommufd.IOMMU_PGFAULT_FLAGS_LAST_PAGE, iommufd.IOMMU_PGFAULT_FLAGS_PASID_VALID
_FAULT_BYTES, _NO_PASID = 40, 0


def _fault(dev: object, pasid: int, grpid: int, perm: int, addr: int) -> dict[str, object]:
    return {"dev_id": dev, "pasid": pasid, "grpid": grpid, "perm": perm, "addr": addr}


@experiment("IOM-007", "IOM-008", "IOM-120", "IOM-121", "IOM-122", needs=("mock",), own_open=True)
def faults_are_told_and_answered(subject: Subject) -> Iterator[Script]:
    """Verify: faults are read as they happened, and answered once, after they were read."""
    if not subject.has("fault_queue"):
        return
    core = Core()
    core.mock(flags=MOCK_FLAGS_DEVICE_PASID)
    made = core.io("IOMMU_FAULT_QUEUE_ALLOC", {}, outs={"q": "out_fault_id"}, out_fds={"qf": "out_fault_fd"})
    core.ok("IOM-120", made, "a fault queue")
    core.ok("IOM-120", core.hwpt("h", flags=_FAULT_VALID, fault_id="q"), "a page table with it")
    core.ok("IOM-120", core.replace("h"), "the device attaches to it")
    idle = core.script.op("poll", fd="qf", events=["IN", "OUT"], timeout_ms=0)
    core.is_("IOM-120", idle, "revents", ["OUT"], "nothing is there to be read")
    for number in range(3):
        core.io(
            "IOMMU_TEST_OP_TRIGGER_IOPF", _fault("dev", _NO_PASID, number, 1 + number, 0x1234000 + number)
        )
    ready = core.script.op("poll", fd="qf", events=["IN"], timeout_ms=2000)
    core.is_("IOM-120", ready, "revents", ["IN"], "a fault is there to be read")
    odd = core.script.op("read", fd="qf", n=_FAULT_BYTES + 1)
    core.refused("IOM-122", odd, "the length is of no whole messages")
    for number in range(3):
        got = core.script.op("read", fd="qf", n=_FAULT_BYTES, keep=f"k{number}")
        core.is_("IOM-120", got, "n", _FAULT_BYTES, "one fault is read")
        said = struct.pack("<IIIIIIQI", _LAST, 0, 0, number, 1 + number, 0, 0x1234000 + number, 0).hex()
        core.script.contains("IOM-120", got, "hex", said[24:], "it is the fault that happened").when(
            succeeded(got)
        )
        core.script.contains("IOM-120", got, "hex", said[:8], "its flags are those of a last page").when(
            succeeded(got)
        )
    empty = core.script.op("read", fd="qf", n=_FAULT_BYTES)
    core.is_("IOM-120", empty, "n", 0, "there is no other")
    for number in (2, 0, 1):
        core.script.op("bytes", out="cookie", from_=f"k{number}", off=36, n=4)
        core.script.op("bytes", out="code", hex="00000000" if number else "01000000")
        core.script.op("bytes", out="answer", concat=["cookie", "code"])
        done = core.script.op("write", fd="qf", from_="answer")
        core.is_("IOM-121", core.ok("IOM-121", done, "the fault is answered"), "n", 8, "all of it is taken")
        again = core.script.op("write", fd="qf", from_="answer")
        core.refused("IOM-121", again, "it has been answered", errno.EINVAL)
    for bad, what in (("00000000", "half an answer"), ("00" * 12, "an answer and a half")):
        core.refused("IOM-122", core.script.op("write", fd="qf", hex=bad), what)
    core.io("IOMMU_TEST_OP_TRIGGER_IOPF", _fault("dev", _NO_PASID, 9, 1, 0x5000))
    core.script.op("poll", fd="qf", events=["IN"], timeout_ms=2000)
    core.script.op("read", fd="qf", n=_FAULT_BYTES, keep="k9")
    core.script.op("bytes", out="cookie", from_="k9", off=36, n=4)
    core.script.op("bytes", out="code", hex="05000000")
    core.script.op("bytes", out="answer", concat=["cookie", "code"])
    core.refused("IOM-121", core.script.op("write", fd="qf", from_="answer"), "no such answer", errno.EINVAL)
    core.refused("IOM-008", core.destroy("q"), "a page table uses it", errno.EBUSY)
    core.ok("IOM-120", core.replace("a"), "the device leaves it, its faults unanswered")
    core.refused("IOM-121", core.script.op("write", fd="qf", hex="0100000000000000"), "nobody waits for it")
    core.ok("IOM-007", core.destroy("h"), "the page table is destroyed")
    core.script.op("close", fd="qf")
    core.ok("IOM-007", core.destroy("q"), "and then the queue")
    yield core.script


def _viommu(core: Core, slot: str = "vi", parent: str = "parent", **more: int) -> int:
    fields = {"dev_id": "dev", "hwpt_id": parent, "type": IOMMU_VIOMMU_TYPE_SELFTEST, **more}
    return core.io("IOMMU_VIOMMU_ALLOC", fields, outs={slot: "out_viommu_id"})


def _vdevice(core: Core, slot: str, virt_id: int, dev: str = "dev", viommu: str = "vi") -> int:
    fields = {"viommu_id": viommu, "dev_id": dev, "virt_id": virt_id}
    return core.io("IOMMU_VDEVICE_ALLOC", fields, outs={slot: "out_vdevice_id"})


def _cache(core: Core, dev: str, number: int, value: int) -> int:
    return core.io("IOMMU_TEST_OP_DEV_CHECK_CACHE", {"id": dev, "cache_id": number, "cache": value})


def _invalidate(core: Core, entries: list[tuple[int, int, int]], **spoilt: int) -> int:
    data = b"".join(struct.pack("<III", *entry) for entry in entries)
    fields = {
        "hwpt_id": "vi", "data_type": IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, "entry_len": 12,
        "entry_num": len(entries), **spoilt,
    }  # fmt: skip
    return core.io("IOMMU_HWPT_INVALIDATE", fields, bufs={"data_uptr": data.hex()} if data else {})


@experiment(
    "IOM-007", "IOM-008", "IOM-140", "IOM-141", "IOM-142", "IOM-143", "IOM-144", needs=("mock",),
    own_open=True,
)  # fmt: skip
def a_viommu_and_its_devices(subject: Subject) -> Iterator[Script]:
    """Steps: make a vIOMMU, devices in it and nested tables from it; invalidate caches; use its page."""
    if not subject.has("viommu"):
        return
    core = Core()
    core.mock()
    core.mock("2")
    core.hwpt("plain")
    core.hwpt("parent", flags=_PARENT)
    core.refused("IOM-140", _viommu(core, parent="plain"), "it is no nesting parent", errno.EINVAL)
    core.refused("IOM-140", _viommu(core, type=0), "the default type is reserved", errno.EOPNOTSUPP)
    core.refused("IOM-140", _viommu(core, type=0x77777777), "its type is unknown", errno.EOPNOTSUPP)
    core.ok("IOM-140", _viommu(core), "it is a nesting parent")
    core.refused("IOM-008", core.destroy("parent"), "the vIOMMU uses it", errno.EBUSY)
    core.ok("IOM-142", _vdevice(core, "v1", 0x99), "a virtual device")
    core.refused("IOM-142", _vdevice(core, "x1", 0x98), "the device has one", errno.EEXIST)
    core.refused("IOM-142", _vdevice(core, "x1", 0x99, "dev2"), "the id is taken", errno.EEXIST)
    core.ok("IOM-142", _vdevice(core, "v2", 0xAA, "dev2"), "another device, another id")
    core.is_("IOM-143", _invalidate(core, []), "entry_num", 0, "the type is known")
    core.refused("IOM-143", _invalidate(core, [(0, 0x99, 0)], data_type=0xDADBEEF), "the type is unknown")
    one = core.ok("IOM-143", _invalidate(core, [(0, 0x99, 1)]), "one cache of one device")
    core.is_("IOM-143", one, "entry_num", 1, "one was done")
    for dev, number, value in (("dev", 1, 0), ("dev", 0, IOMMU_TEST_DEV_CACHE_DEFAULT),
                               ("dev2", 1, IOMMU_TEST_DEV_CACHE_DEFAULT)):  # fmt: skip
        core.ok("IOM-143", _cache(core, dev, number, value), "that cache, and no other")
    core.refused("IOM-143", _invalidate(core, [(0, 0x55, 1)]), "no virtual device has that id")
    core.refused("IOM-143", _invalidate(core, [(0, 0x99, 7)]), "the device has no such cache")
    both = _invalidate(core, [(IOMMU_TEST_INVALIDATE_FLAG_ALL, 0xAA, 0), (0, 0x99, 2)])
    core.is_("IOM-143", core.ok("IOM-143", both, "two entries"), "entry_num", 2, "two were done")
    for number in range(4):
        core.ok("IOM-143", _cache(core, "dev2", number, 0), "all caches of that device")
    core.ok("IOM-144", nested(core, "n", "vi"), "a nested table from the vIOMMU")
    core.ok("IOM-144", core.replace("n"), "a device with a virtual one attaches to it")
    core.ok("IOM-142", core.destroy("v2"), "a virtual device is destroyed")
    core.refused("IOM-143", _invalidate(core, [(0, 0xAA, 0)]), "no virtual device has that id any more")
    core.refused("IOM-144", core.replace("n", "std2"), "a device without a virtual one does not")
    core.ok("IOM-142", _vdevice(core, "v3", 0xAA, "dev2"), "its id is free again")
    core.refused("IOM-008", core.destroy("vi"), "tables and devices use it", errno.EBUSY)
    core.replace("a")
    core.ok("IOM-142", core.destroy("std"), "a device goes, and its virtual one with it")
    core.refused("IOM-143", _invalidate(core, [(0, 0x99, 0)]), "no virtual device has that id any more")
    for slot in ("n", "v3", "vi", "parent"):
        core.ok("IOM-007", core.destroy(slot), f"{slot} is destroyed")
    yield core.script
    core = Core()
    core.mock()
    core.hwpt("parent", flags=_PARENT)
    fields = {
        "dev_id": "dev", "hwpt_id": "parent", "type": IOMMU_VIOMMU_TYPE_SELFTEST, "data_len": 24,
    }  # fmt: skip
    asked = struct.pack("<IIQQ", 0x12345678, 0, 0, 0).hex()
    made = core.io("IOMMU_VIOMMU_ALLOC", fields, bufs={"data_uptr": asked}, outs={"vi": "out_viommu_id"})
    core.ok("IOM-141", made, "a vIOMMU with user data")
    core.script.contains("IOM-141", made, "buf_data_uptr", "7856341278563412", "it comes back").when(
        succeeded(made)
    )
    # The first mmap offset that a driver gets is one page above 0.
    for off, n in ((0, PAGE), (1 << 30, PAGE)):
        index = core.script.op("mmap", out="w", fd="f", off=off, n=n)
        core.refused("IOM-141", index, "nobody told to map there")
    yield core.script


def _events(core: Core, depth: int = 4, kind: int = IOMMU_VEVENTQ_TYPE_SELFTEST) -> int:
    fields = {"viommu_id": "vi", "type": kind, "veventq_depth": depth}
    return core.io(
        "IOMMU_VEVENTQ_ALLOC", fields, outs={"q": "out_veventq_id"}, out_fds={"qf": "out_veventq_fd"}
    )


def _happened(flags: int, sequence: int, virt_id: int | None) -> str:
    event = struct.pack("<II", flags, sequence)
    return (event + (struct.pack("<I", virt_id) if virt_id is not None else b"")).hex()


@experiment("IOM-007", "IOM-008", "IOM-150", "IOM-151", "IOM-152", needs=("mock",), own_open=True)
def events_of_virtual_devices(subject: Subject) -> Iterator[Script]:
    """Verify: events come in order with a sequence number; lost events are marked."""
    if not subject.has("veventq"):
        return
    core = Core()
    core.mock()
    core.hwpt("parent", flags=_PARENT)
    _viommu(core)
    for depth, what in ((0, "no depth"), (0xFFFFFFFF, "too much depth")):
        core.refused("IOM-152", _events(core, depth), what, errno.EINVAL)
    core.refused("IOM-152", _events(core, kind=0), "the default type is reserved", errno.EOPNOTSUPP)
    core.ok("IOM-150", _events(core, 3), "a queue of three")
    core.refused("IOM-152", _events(core, 3), "there is one of this type", errno.EEXIST)
    early = core.io("IOMMU_TEST_OP_TRIGGER_VEVENT", {"dev_id": "dev"})
    core.refused("IOM-150", early, "the device is no virtual one yet")
    _vdevice(core, "v", 0x99)
    nested(core, "n", "vi")
    core.ok("IOM-150", core.replace("n"), "the device attaches through the vIOMMU")
    idle = core.script.op("poll", fd="qf", events=["IN", "OUT"], timeout_ms=0)
    core.is_("IOM-150", idle, "revents", [], "nothing is there")
    for _ in range(3):
        core.ok("IOM-150", core.io("IOMMU_TEST_OP_TRIGGER_VEVENT", {"dev_id": "dev"}), "an event")
    ready = core.script.op("poll", fd="qf", events=["IN"], timeout_ms=2000)
    core.is_("IOM-150", ready, "revents", ["IN"], "events are there")
    core.refused("IOM-150", core.script.op("read", fd="qf", n=4), "no header fits", errno.EINVAL)
    core.refused("IOM-150", core.script.op("read", fd="qf", n=9), "no event fits", errno.EINVAL)
    first = core.script.op("read", fd="qf", n=12)
    core.is_("IOM-150", first, "hex", _happened(0, 0, 0x99), "the first event")
    rest = core.script.op("read", fd="qf", n=64)
    core.is_("IOM-150", rest, "hex", _happened(0, 1, 0x99) + _happened(0, 2, 0x99), "the second and third")
    for _ in range(5):
        core.io("IOMMU_TEST_OP_TRIGGER_VEVENT", {"dev_id": "dev"})
    lost = core.script.op("read", fd="qf", n=256)
    three = "".join(_happened(0, 3 + n, 0x99) for n in range(3))
    mark = _happened(iommufd.IOMMU_VEVENTQ_FLAG_LOST_EVENTS, 7, None)
    core.is_("IOM-151", lost, "hex", three + mark, "three events, and a mark that some are lost")
    core.io("IOMMU_TEST_OP_TRIGGER_VEVENT", {"dev_id": "dev"})
    after = core.script.op("read", fd="qf", n=256)
    core.is_("IOM-151", after, "hex", _happened(0, 8, 0x99), "the sequence goes on behind the lost ones")
    core.refused("IOM-150", core.script.op("write", fd="qf", hex="00" * 8), "events are not written")
    core.io("IOMMU_TEST_OP_TRIGGER_VEVENT", {"dev_id": "dev"})
    core.refused("IOM-008", core.destroy("q"), "its fd is open", errno.EBUSY)
    core.script.op("close", fd="qf")
    core.ok("IOM-007", core.destroy("q"), "it is destroyed with an event in it")
    core.ok("IOM-152", _events(core, 1), "there can be another")
    yield core.script


def _queue(core: Core, slot: str, index: int, iova: int = FIRST, length: int = PAGE, **more: int) -> int:
    fields = {
        "viommu_id": "vi", "type": IOMMU_HW_QUEUE_TYPE_SELFTEST, "index": index,
        "nesting_parent_iova": iova, "length": length, **more,
    }  # fmt: skip
    return core.io("IOMMU_HW_QUEUE_ALLOC", fields, outs={slot: "out_hw_queue_id"})


@experiment("IOM-008", "IOM-160", "IOM-161", needs=("mock",), own_open=True)
def hardware_queues(subject: Subject) -> Iterator[Script]:
    """Verify: their memory stays mapped while they exist; they come and go in the driver's order."""
    if not subject.has("hw_queue"):
        return
    core = Core()
    core.mock()
    core.memory()
    core.hwpt("parent", flags=_PARENT)
    _viommu(core)
    core.refused("IOM-160", _queue(core, "x1", 0), "nothing is mapped there", errno.ENOENT)
    core.map(FIRST, PAGE)
    core.map(FIRST + (1 << 20), PAGE, off=PAGE)
    core.refused("IOM-160", _queue(core, "x1", 0, length=0), "it has no length", errno.EINVAL)
    core.refused("IOM-160", _queue(core, "x1", 0, iova=(1 << 64) - PAGE, length=2 * PAGE), "it ends beyond",
                 errno.EOVERFLOW)  # fmt: skip
    core.refused("IOM-160", _queue(core, "x1", 0, type=0), "the default type is reserved", errno.EOPNOTSUPP)
    core.refused("IOM-160", _queue(core, "x1", 0, type=5), "its type is unknown", errno.EOPNOTSUPP)
    core.refused("IOM-161", _queue(core, "x1", 1), "the queue below it is not there", errno.EIO)
    core.refused("IOM-161", _queue(core, "x1", 7), "there are not so many", errno.EINVAL)
    core.ok("IOM-160", _queue(core, "q0", 0, length=2048), "its memory is mapped")
    core.refused("IOM-161", _queue(core, "x1", 0), "it is there already", errno.EEXIST)
    core.ok("IOM-161", _queue(core, "q1", 1, FIRST + (1 << 20)), "the queue below it is there")
    core.refused("IOM-161", core.destroy("q0"), "the queue above it is there", errno.EBUSY)
    core.refused("IOM-008", core.destroy("vi"), "its queues use it", errno.EBUSY)
    gone = core.io("IOMMU_IOAS_UNMAP", {"ioas_id": "a", "iova": FIRST, "length": PAGE, "size": 24})
    core.refused("IOM-160", gone, "a queue's memory stays mapped", errno.EBUSY)
    for slot in ("q1", "q0"):
        core.ok("IOM-161", core.destroy(slot), "downwards")
    core.ok("IOM-160", core.unmap(FIRST, PAGE), "its memory is free again")
    yield core.script
