# SPDX-License-Identifier: Apache-2.0
"""Experiments on what holds for every ioctl of iommufd: sizes, flags, reserved fields, ids, pointers."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd
from harness.uapi.layout import nr
from suites.iom.program import FIRST, NOTHING, PAGE, RW_FIXED, Core

_UNKNOWN_BITS = (5, 15, 31)
_SIZES = {
    "IOMMU_DESTROY": 8, "IOMMU_IOAS_ALLOC": 12, "IOMMU_IOAS_IOVA_RANGES": 32, "IOMMU_IOAS_ALLOW_IOVAS": 24,
    "IOMMU_IOAS_MAP": 40, "IOMMU_IOAS_MAP_FILE": 40, "IOMMU_IOAS_COPY": 40, "IOMMU_IOAS_UNMAP": 24,
    "IOMMU_OPTION": 24, "IOMMU_VFIO_IOAS": 12, "IOMMU_HWPT_ALLOC": 48, "IOMMU_GET_HW_INFO": 40,
    "IOMMU_HWPT_SET_DIRTY_TRACKING": 16, "IOMMU_HWPT_GET_DIRTY_BITMAP": 48, "IOMMU_HWPT_INVALIDATE": 32,
    "IOMMU_FAULT_QUEUE_ALLOC": 16, "IOMMU_VIOMMU_ALLOC": 40, "IOMMU_VDEVICE_ALLOC": 24,
    "IOMMU_IOAS_CHANGE_PROCESS": 8, "IOMMU_VEVENTQ_ALLOC": 32, "IOMMU_HW_QUEUE_ALLOC": 40,
}  # fmt: skip
_FLAGS: dict[str, dict[str, Any]] = {
    "IOMMU_IOAS_ALLOC": {},
    "IOMMU_IOAS_MAP": {"ioas_id": "a", "iova": FIRST, "length": PAGE, "flags": RW_FIXED},
    "IOMMU_IOAS_MAP_FILE": {"ioas_id": "a", "iova": FIRST, "length": PAGE, "flags": RW_FIXED},
    "IOMMU_IOAS_COPY": {"src_ioas_id": "a", "dst_ioas_id": "a", "length": PAGE, "flags": RW_FIXED},
    "IOMMU_HWPT_ALLOC": {"dev_id": "dev", "pt_id": "a"},
    "IOMMU_GET_HW_INFO": {"dev_id": "dev"},
    "IOMMU_FAULT_QUEUE_ALLOC": {},
    "IOMMU_VIOMMU_ALLOC": {"dev_id": "dev", "hwpt_id": "parent", "type": 0xDEADBEEF},
    "IOMMU_VEVENTQ_ALLOC": {"viommu_id": "vi", "type": 0xBEEFBEEF, "veventq_depth": 4},
    "IOMMU_HW_QUEUE_ALLOC": {"viommu_id": "vi", "type": 0xDEADBEEF, "length": PAGE},
}
_RESERVED: dict[str, dict[str, Any]] = {
    "IOMMU_IOAS_IOVA_RANGES": {"ioas_id": "a"},
    "IOMMU_IOAS_ALLOW_IOVAS": {"ioas_id": "a"},
    "IOMMU_IOAS_MAP": {"ioas_id": "a", "iova": FIRST, "length": PAGE, "flags": RW_FIXED},
    "IOMMU_OPTION": {"option_id": 1, "op": 1, "object_id": "a"},
    "IOMMU_VFIO_IOAS": {"ioas_id": "a", "op": 1},
    "IOMMU_HWPT_ALLOC": {"dev_id": "dev", "pt_id": "a"},
    "IOMMU_HWPT_INVALIDATE": {"hwpt_id": "vi", "data_type": 0xDEADBEEF},
    "IOMMU_VIOMMU_ALLOC": {"dev_id": "dev", "hwpt_id": "parent", "type": 0xDEADBEEF},
    "IOMMU_IOAS_CHANGE_PROCESS": {},
    "IOMMU_VEVENTQ_ALLOC": {"viommu_id": "vi", "type": 0xBEEFBEEF, "veventq_depth": 4},
}
_IDS: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
    # ioctl, the field that takes the id, the others, slots of objects of another kind
    ("IOMMU_DESTROY", "id", {}, ()),
    ("IOMMU_IOAS_IOVA_RANGES", "ioas_id", {}, ("dev", "parent")),
    ("IOMMU_IOAS_ALLOW_IOVAS", "ioas_id", {}, ("dev", "parent")),
    ("IOMMU_IOAS_MAP", "ioas_id", {"iova": FIRST, "length": PAGE, "flags": RW_FIXED}, ("dev", "parent")),
    ("IOMMU_IOAS_UNMAP", "ioas_id", {"iova": FIRST, "length": PAGE}, ("dev", "parent")),
    ("IOMMU_IOAS_COPY", "src_ioas_id", {"dst_ioas_id": "a", "length": PAGE, "flags": RW_FIXED}, ("dev",)),
    ("IOMMU_IOAS_COPY", "dst_ioas_id",
     {"src_ioas_id": "a", "src_iova": FIRST + (1 << 20), "length": PAGE, "flags": RW_FIXED}, ("dev",)),
    ("IOMMU_OPTION", "object_id", {"option_id": 1, "op": 1}, ("dev",)),
    ("IOMMU_VFIO_IOAS", "ioas_id", {"op": 1}, ("dev",)),
    ("IOMMU_HWPT_ALLOC", "dev_id", {"pt_id": "a"}, ("a", "parent")),
    ("IOMMU_HWPT_ALLOC", "pt_id", {"dev_id": "dev"}, ("dev", "fault")),
    ("IOMMU_GET_HW_INFO", "dev_id", {}, ("a", "parent")),
    ("IOMMU_HWPT_INVALIDATE", "hwpt_id", {}, ("a", "parent")),
    ("IOMMU_VIOMMU_ALLOC", "dev_id", {"hwpt_id": "parent", "type": 0xDEADBEEF}, ("a",)),
    ("IOMMU_VIOMMU_ALLOC", "hwpt_id", {"dev_id": "dev", "type": 0xDEADBEEF}, ("a", "dev")),
    ("IOMMU_VDEVICE_ALLOC", "dev_id", {"viommu_id": "vi", "virt_id": 7}, ("a",)),
    ("IOMMU_VDEVICE_ALLOC", "viommu_id", {"dev_id": "dev", "virt_id": 7}, ("a", "parent")),
    ("IOMMU_VEVENTQ_ALLOC", "viommu_id", {"type": 0xBEEFBEEF, "veventq_depth": 4}, ("a",)),
    ("IOMMU_HW_QUEUE_ALLOC", "viommu_id", {"type": 0xDEADBEEF, "length": PAGE}, ("a",)),
)  # fmt: skip


def _everything() -> Core:
    """Make one object of each kind: `a`, `dev`, `parent` (a nesting parent), `vi`, `fault`, and a mapping."""
    core = Core()
    core.mock()
    core.memory(pages=1)
    core.map(FIRST + (1 << 20), PAGE)
    core.hwpt("parent", flags=iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT)
    fields = {"dev_id": "dev", "hwpt_id": "parent", "type": 0xDEADBEEF}
    core.io("IOMMU_VIOMMU_ALLOC", fields, outs={"vi": "out_viommu_id"})
    core.io("IOMMU_FAULT_QUEUE_ALLOC", {}, outs={"fault": "out_fault_id"}, out_fds={"ff": "out_fault_fd"})
    core.script.op("memfd", out="file", size=PAGE)
    return core


def _memory_of(cmd: str) -> dict[str, Any]:
    """The pointers and fds that an ioctl needs."""
    if cmd == "IOMMU_IOAS_MAP":
        return {"mems": {"user_va": ["m", 0]}}
    return {"fds": {"fd": "file"}} if cmd == "IOMMU_IOAS_MAP_FILE" else {}


@experiment("IOM-001", "IOM-002", "IOM-003", needs=("mock",), own_open=True)
def sizes_of_structures(subject: Subject) -> Iterator[Script]:
    """Steps: structs that are too short, longer with zeroes, and longer with other data."""
    core = _everything()
    for unknown in (0x95, 0xA5, 0x7F, 0xFF, 0x00):
        index = core.script.op("ioctl", fd="f", nr=nr(unknown), buf="10" + "00" * 63)
        core.refused("IOM-001", index, "it does not exist", 0)
        core.script.is_refused("IOM-001", index, errno.ENOTTY, expected="it is ENOTTY")
    for cmd, size in _SIZES.items():
        for short in (0, 4):
            core.refused("IOM-002", core.io(cmd, {"size": short}), "the structure is too short", errno.EINVAL)
        long = core.io(cmd, {"size": size + 8}, tail="0000000001000000")
        core.refused("IOM-003", long, "something unknown is not 0", errno.E2BIG)
    for extra in (8, 64, PAGE):
        index = core.io("IOMMU_IOAS_ALLOC", {"size": 12 + extra})
        core.ok("IOM-003", index, "what is unknown is 0")
        fields = {"size": 24 + extra, "ioas_id": "a", "iova": FIRST, "length": PAGE}
        index = core.io("IOMMU_IOAS_UNMAP", fields)
        core.refused("IOM-003", index, "what is unknown is 0, and nothing mapped", errno.ENOENT)
    yield core.script


@experiment("IOM-004", "IOM-010", "IOM-011", needs=("mock",), own_open=True)
def flags_and_reserved_fields(subject: Subject) -> Iterator[Script]:
    """Steps: unknown flags and non-zero reserved fields, in each ioctl that has them."""
    core = _everything()
    for cmd, fields in _FLAGS.items():
        for bit in _UNKNOWN_BITS:
            index = core.io(cmd, {**fields, "flags": fields.get("flags", 0) | 1 << bit}, **_memory_of(cmd))
            core.refused("IOM-004", index, "a flag is unknown", errno.EOPNOTSUPP, "IOM-011")
    for cmd, fields in _RESERVED.items():
        index = core.io(cmd, {**fields, "__reserved": 1}, **_memory_of(cmd))
        core.refused("IOM-010", index, f"{cmd} has a reserved field that is not 0")
    yield core.script


@experiment("IOM-005", "IOM-006", "IOM-011", needs=("mock",), own_open=True)
def ids_of_nothing_and_of_the_wrong_thing(subject: Subject) -> Iterator[Script]:
    """Steps: in each id field, an id that does not exist and ids of objects of other kinds."""
    core = _everything()
    for cmd, field, others, wrong in _IDS:
        index = core.io(cmd, {**others, field: NOTHING}, **_memory_of(cmd))
        core.refused("IOM-005", index, f"no object has {field}", errno.ENOENT, "IOM-011")
        for slot in wrong:
            index = core.io(cmd, {**others, field: slot}, **_memory_of(cmd))
            core.refused("IOM-006", index, f"{field} is of another kind")
    yield core.script


@experiment("IOM-007", "IOM-008", "IOM-009", needs=("mock",), own_open=True)
def destruction(subject: Subject) -> Iterator[Script]:
    """Verify: an object can be destroyed once, and not while others use it."""
    core = _everything()
    core.ioas("b")
    core.hwpt("h")
    for slot in ("b", "h", "vi", "fault"):
        if slot == "fault":
            core.script.op("close", fd="ff")
        core.ok("IOM-007", core.destroy(slot), "it is destroyed")
        core.refused("IOM-007", core.destroy(slot), "it exists no more", errno.ENOENT)
    yield core.script
    core = _everything()
    nested = core.hwpt("n", pt="parent", data_type=0xDEAD, data_len=8, data_uptr=0)
    core.refused("IOM-009", nested, "its data is nowhere", errno.EFAULT)
    for slot in ("a", "parent"):
        core.refused("IOM-008", core.destroy(slot), "others use it", errno.EBUSY)
    core.ok("IOM-008", core.ranges(), "it is as it was")
    yield core.script


@experiment("IOM-009", needs=("mock",), own_open=True)
def pointers_to_nowhere(subject: Subject) -> Iterator[Script]:
    """Steps: arrays and data at invalid addresses."""
    core = _everything()
    nowhere = 8
    for cmd, fields in (
        ("IOMMU_IOAS_IOVA_RANGES", {"ioas_id": "a", "num_iovas": 4, "allowed_iovas": nowhere}),
        ("IOMMU_IOAS_ALLOW_IOVAS", {"ioas_id": "a", "num_iovas": 4, "allowed_iovas": nowhere}),
        ("IOMMU_GET_HW_INFO", {"dev_id": "dev", "data_len": 64, "data_uptr": nowhere}),
    ):
        core.refused("IOM-009", core.io(cmd, fields), "the pointer is of no memory", errno.EFAULT)
    for number in (iommufd.IOMMU_IOAS_ALLOC, iommufd.IOMMU_IOAS_IOVA_RANGES, iommufd.IOMMU_GET_HW_INFO):
        index = core.script.op("ioctl", fd="f", nr=number, arg=nowhere)
        core.refused("IOM-009", index, "the structure is no memory", errno.EFAULT)
    index = core.map(FIRST, PAGE, user_va=PAGE)
    core.refused("IOM-009", index, "what is to be mapped is no memory", errno.EFAULT)
    core.refused("IOM-009", core.unmap(FIRST, PAGE), "nothing is left mapped", errno.ENOENT)
    core.ok("IOM-009", core.map(FIRST, PAGE), "nothing is left behind")
    yield core.script
