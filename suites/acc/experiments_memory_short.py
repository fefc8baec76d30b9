# SPDX-License-Identifier: Apache-2.0
"""Each way to open a device, with one allocation of one system call failing (/proc/thread-self/fail-nth).

A failed call must leave nothing behind: repeated, it succeeds, and so do the calls after it.  That the device
is free again shows in the next program, which opens it another way.

The first open of a PCI device is left out: pci_enable_device() runs ACPI methods of the firmware, and ACPICA
does not survive a failed allocation (7.2.12: acpi_ut_update_object_reference() faults at a later close),
which says nothing about VFIO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import vfio

_Step = tuple[str, dict[str, Any]]
_DEEPEST = 24
"""How many allocations of each step are made to fail, one at a time."""
_TYPE1V2 = vfio.VFIO_TYPE1v2_IOMMU
_FIRST_OPEN = ("bind", "group_get_device_fd")
_PAGE, _IOVA = 4096, 0x100_0000
_MAP = {"flags": 3, "iova": _IOVA, "size": 4 * _PAGE}
_UNMAP = {"flags": 0, "iova": _IOVA, "size": 4 * _PAGE}
_MEMORY: _Step = ("mmap", {"out": "m", "n": 4 * _PAGE, "align": _PAGE})
_Way = tuple[tuple[_Step, tuple[_Step, ...]], ...]
_AGAIN: tuple[_Step, ...] = (("close", {"fd": "d"}), ("open_cdev", {"dev": "dev0", "out": "d"}))
_OUT: tuple[_Step, ...] = (
    ("group_unset_container", {"fd": "g"}), ("group_set_container", {"fd": "g", "container": "c"}),
)  # fmt: skip
_CDEV: _Way = (
    (("open_iommufd", {"out": "i"}), (("close", {"fd": "i"}),)),
    (("ioas_alloc", {"fd": "i", "out": "ioas"}), ()),
    (("open_cdev", {"dev": "dev0", "out": "d"}), (("close", {"fd": "d"}),)),
    (("bind", {"fd": "d", "iommufd": "i"}), _AGAIN),
    (("attach", {"fd": "d", "pt": "ioas"}), (("detach", {"fd": "d"}),)),
    (("region_info", {"fd": "d", "index": 0}), ()),
    (("detach", {"fd": "d"}), (("attach", {"fd": "d", "pt": "ioas"}),)),
)
_COMPAT: _Way = (
    (("open_iommufd", {"out": "c"}), (("close", {"fd": "c"}),)),
    (("open_group", {"dev": "dev0", "out": "g"}), (("close", {"fd": "g"}),)),
    (("group_set_container", {"fd": "g", "container": "c"}), (("group_unset_container", {"fd": "g"}),)),
    (("container_set_iommu", {"fd": "c", "type": _TYPE1V2}), ()),
    (("group_get_device_fd", {"fd": "g", "dev": "dev0", "out": "d"}), (("close", {"fd": "d"}),)),
)
_GROUP: _Way = (
    (("open_container", {"out": "c"}), (("close", {"fd": "c"}),)),
    *_COMPAT[1:3],
    (("container_set_iommu", {"fd": "c", "type": _TYPE1V2}), _OUT),
    _COMPAT[4],
    (("iommu", {"cmd": "VFIO_IOMMU_MAP_DMA", "fd": "c", "set": _MAP, "mems": {"vaddr": ["m", 0]}}),
     (("iommu", {"cmd": "VFIO_IOMMU_UNMAP_DMA", "fd": "c", "set": {**_UNMAP, "argsz": 24}}),)),
    (("iommu", {"cmd": "VFIO_IOMMU_GET_INFO", "fd": "c", "set": {"argsz": 4096}}), ()),
)  # fmt: skip
"""Steps, each with the operations that undo it."""


@experiment("ACC-160", needs=("fault_injection",), own_open=True)
def each_step_short_of_memory(subject: Subject) -> Iterator[Script]:
    """Steps: make each step of each way fail once.  Verify: it succeeds when repeated, as do later steps."""
    ways = [_CDEV]
    if subject.has("group"):
        ways.append(_COMPAT)
    if subject.has("legacy") and subject.has("type1v2"):
        ways.append(_GROUP)
    left_out = _FIRST_OPEN if subject.has("pci") else ()
    for way in ways:
        for number, ((name, _), _) in enumerate(way):
            if name not in left_out:
                yield _program(way, number)


def _program(way: _Way, number: int) -> Script:
    s = Script(fresh=False, faults=True)
    s.op(_MEMORY[0], **_MEMORY[1])
    s.op("open", path="/proc/thread-self/fail-nth", flags=["O_RDWR"], out="nth")
    for place, ((name, args), back) in enumerate(way):
        if place == number:
            for nth in range(1, _DEEPEST + 1):
                s.op("pwrite", fd="nth", off=0, hex=str(nth).encode().hex())
                first = s.op(name, **args)
                s.op("pwrite", fd="nth", off=0, hex=b"0".hex())
                failed = [(first, "errno", "!=", 0)]
                again = s.op(name, **args)
                s.succeeds("ACC-160", again, "it succeeds when it is repeated").when(*failed)
                for undo, undone in back:
                    s.op(undo, **undone)
            if not back:
                continue
        index = s.op(name, **args)
        words = "it succeeds after what was repeated" if place >= number else "nothing is left of others"
        s.succeeds("ACC-160", index, words)
    return s
