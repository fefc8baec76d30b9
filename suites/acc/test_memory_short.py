# SPDX-License-Identifier: Apache-2.0
"""Each way to a device, with one allocation of one of its system calls failing (/proc/thread-self/fail-nth).

What failed has left nothing behind: repeated, it succeeds, and so does what comes after it.  That the device
is free again shows in the next program, which takes the other way to it.

The first open of a PCI device is left out: it has the firmware's methods interpreted (pci_enable_device()),
and ACPICA does not survive a failed allocation (7.2.12: acpi_ut_update_object_reference() faults at a later
close), which says nothing of VFIO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fixtures.plugin import Case
from fixtures.rig import Rig
from harness.script import Script
from suites.mig.subject import Subject

__all__ = ["programs"]

_Step = tuple[str, dict[str, Any]]
_DEEPEST, _DRAWN = 40, 5
_TYPE1V2 = 3
_FIRST_OPEN = ("bind", "group_get_device_fd")
_PAGE, _IOVA = 4096, 0x100_0000
_MAP = {"flags": 3, "iova": _IOVA, "size": 4 * _PAGE}
_MEMORY: _Step = ("mmap", {"out": "m", "n": 4 * _PAGE, "align": _PAGE})
_CDEV: tuple[_Step, ...] = (
    ("open_iommufd", {"out": "i"}),
    ("ioas_alloc", {"fd": "i", "out": "ioas"}),
    ("open_cdev", {"dev": "dev0", "out": "d"}),
    ("bind", {"fd": "d", "iommufd": "i"}),
    ("attach", {"fd": "d", "pt": "ioas"}),
    ("region_info", {"fd": "d", "index": 0}),
    ("detach", {"fd": "d"}),
)
_GROUP: tuple[_Step, ...] = (
    ("open_container", {"out": "c"}),
    ("open_group", {"dev": "dev0", "out": "g"}),
    ("group_set_container", {"fd": "g", "container": "c"}),
    ("container_set_iommu", {"fd": "c", "type": _TYPE1V2}),
    ("group_get_device_fd", {"fd": "g", "dev": "dev0", "out": "d"}),
    ("iommu", {"cmd": "VFIO_IOMMU_MAP_DMA", "fd": "c", "set": _MAP, "mems": {"vaddr": ["m", 0]}}),
    ("iommu", {"cmd": "VFIO_IOMMU_GET_INFO", "fd": "c", "set": {"argsz": 4096}}),
)
_COMPAT: tuple[_Step, ...] = (
    ("open_iommufd", {"out": "c"}),
    ("open_group", {"dev": "dev0", "out": "g"}),
    ("group_set_container", {"fd": "g", "container": "c"}),
    ("container_set_iommu", {"fd": "c", "type": _TYPE1V2}),
    ("group_get_device_fd", {"fd": "g", "dev": "dev0", "out": "d"}),
)


def programs(subject: Subject) -> Iterator[Script]:
    """A program for each step of each way and some of its allocations, which the seed chooses."""
    ways = [_CDEV]
    if subject.has("group"):
        ways.append(_COMPAT)
    if subject.has("legacy") and subject.has("type1v2"):
        ways.append(_GROUP)
    left_out = _FIRST_OPEN if subject.has("pci") else ()
    drawn = [(way, n) for way in ways for n in range(len(way)) if way[n][0] not in left_out]
    for nth in sorted({1, *subject.rng.sample(range(2, _DEEPEST), _DRAWN)}):
        for way, number in drawn:
            yield _program(way, number, nth)


def _program(way: tuple[_Step, ...], number: int, nth: int) -> Script:
    s = Script(fresh=False, faults=True)
    s.op(_MEMORY[0], **_MEMORY[1])
    for place, (name, args) in enumerate(way):
        if place != number:
            index = s.op(name, **args)
            words = "it succeeds after what was repeated" if place > number else "nothing is left of others"
            s.claim("ACC-160", index, "errno", "==", 0, words)
            continue
        s.op("open", path="/proc/thread-self/fail-nth", flags=["O_RDWR"], out="nth")
        s.op("write", fd="nth", hex=str(nth).encode().hex())
        first = s.op(name, **args)
        s.op("pwrite", fd="nth", off=0, hex=b"0".hex())
        again = s.op(name, **args)
        s.claim(
            "ACC-160", again, "errno", "==", 0, "it succeeds when it is repeated", [(first, "errno", "!=", 0)]
        )
    return s


def test_each_step_short_of_memory(rig: Rig, case: Case) -> None:
    """Clauses: ACC-160."""

    def body() -> None:
        if not rig.capabilities.get("fault_injection"):
            return
        for script in programs(rig.subject("each step short of memory")):
            rig.run(script.to_json(), own=True)

    case.run(body)
