# SPDX-License-Identifier: Apache-2.0
"""Experiments on device memory, the memory limit, another process, and bitmaps of odd mappings."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import vfio
from suites.iom.program import FIRST, PAGE
from suites.leg.program import Container

_VADDR, _MAP_VADDR = vfio.VFIO_DMA_UNMAP_FLAG_VADDR, vfio.VFIO_DMA_MAP_FLAG_VADDR
_START, _GET = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
_CAP_IPC_LOCK = 14
_MMAP = vfio.VFIO_REGION_INFO_FLAG_MMAP


@experiment("LEG-029", needs=("type1v2",), own_open=True)
def memory_of_the_device_itself(subject: Subject) -> Iterator[Script]:
    """Steps: map an mmap-ed region for DMA, as for peer-to-peer."""
    regions = [r for r in subject.capabilities.get("regions") or () if r["flags"] & _MMAP]
    large = [r for r in regions if r["index"] < 6 and r["size"] >= 4 * PAGE]
    if not subject.has("physical_iommu") or not large:
        return
    core = Container()
    script = core.script
    core.info()
    script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    # Turn memory decoding on: access to a region that does not decode faults.
    script.op("region_write", fd="d", region=vfio.VFIO_PCI_CONFIG_REGION_INDEX, off=4, hex="0200")
    index = script.op("mmap", out="bar", n=4 * PAGE, fd="d", region=large[0]["index"])
    there = ((index, "errno", "==", 0),)
    core.ok("LEG-029", core.dma_map(FIRST, 4 * PAGE, "bar"), "it is mapped", there)
    core.ok("LEG-029", core.dma_map(FIRST + (1 << 20), PAGE, "bar", PAGE), "a part of it again", there)
    gone = core.dma_unmap(FIRST, 4 * PAGE)
    done = [*there, (gone, "errno", "==", 0)]
    core.script.equals("LEG-029", gone, "size", 4 * PAGE, "it is unmapped").when(*done)
    yield script


def _in(core: Container, name: str, /, **args: object) -> int:
    return core.script.op("act", actor="p", do=[name, args])


@experiment("LEG-061", needs=("type1v2",), own_open=True)
def the_limit_of_locked_memory_holds(subject: Subject) -> Iterator[Script]:
    """Steps: map with a small RLIMIT_MEMLOCK and no CAP_IPC_LOCK."""
    if not subject.has("physical_iommu"):
        return
    core = Container()
    core.script.op("fork", actor="p")
    _in(core, "drop_capability", caps=[_CAP_IPC_LOCK])
    _in(core, "rlimit_memlock", bytes=8 * PAGE)
    _in(core, "mmap", out="m", n=32 * PAGE)

    def mapped(iova: int, size: int) -> int:
        fields = {"flags": 3, "iova": iova, "size": size}
        return _in(core, "iommu", fd="c", cmd="VFIO_IOMMU_MAP_DMA", set=fields, mems={"vaddr": ["m", 0]})

    core.refused("LEG-061", mapped(FIRST, 32 * PAGE), "it is more than may be locked", errno.ENOMEM)
    core.ok("LEG-061", mapped(FIRST, 4 * PAGE), "it is less, and nothing is left of the other")
    core.ok("LEG-061", core.dma_unmap(FIRST, 4 * PAGE), "it is unmapped")
    core.ok("LEG-061", mapped(FIRST, 4 * PAGE), "it is locked no more, so it can be again")
    yield core.script


@experiment("LEG-043", needs=("type1v2",), own_open=True)
def another_process_takes_the_addresses_over(subject: Subject) -> Iterator[Script]:
    """Steps: invalidate addresses in one process, update them in another that maps the same file."""
    if not subject.has("update_vaddr"):
        return
    core = Container()
    script = core.script
    core.info()
    script.op("memfd", out="file", size=16 * PAGE)
    script.op("mmap", out="m", n=16 * PAGE, fd="file")
    before = script.op("pinned_memory")
    core.dma_map(FIRST, 16 * PAGE)
    script.op("fork", actor="p")
    theirs = _in(core, "pinned_memory")
    _in(core, "mmap", out="n", n=16 * PAGE, fd="file")
    core.dma_unmap(FIRST, 16 * PAGE, flags=_VADDR)
    fields = {"flags": _MAP_VADDR, "iova": FIRST, "size": 16 * PAGE}
    moved = _in(core, "iommu", fd="c", cmd="VFIO_IOMMU_MAP_DMA", set=fields, mems={"vaddr": ["n", 0]})
    core.ok("LEG-043", moved, "the same memory, at an address of another process")
    here, there = script.op("pinned_memory"), _in(core, "pinned_memory")
    done = [(moved, "errno", "==", 0)]
    old = Script.ref(before, "locked_kib")
    script.equals("LEG-043", here, "locked_kib", old, "it is locked here no more").when(*done)
    new = Script.ref(theirs, "locked_kib")
    script.exceeds("LEG-043", there, "locked_kib", new, "it is locked there").when(*done)
    index = core.dma_unmap(FIRST, 16 * PAGE)
    core.is_("LEG-043", core.ok("LEG-043", index, "anybody unmaps it"), "size", 16 * PAGE, "all of it")
    yield script


@experiment("LEG-052", "LEG-053", "LEG-054", needs=("type1v2",), own_open=True)
def bitmaps_of_mappings_that_do_not_fit_bytes(subject: Subject) -> Iterator[Script]:
    """Steps: get one bitmap, which begins before mappings of 3, 5 and 7 pages with holes between them."""
    core = Container()
    core.memory(pages=16)
    core.info()
    core.dirty(_START)
    for first, count in ((2, 3), (5, 5), (13, 7)):
        core.dma_map(FIRST + first * PAGE, count * PAGE)
    index = core.bitmap("VFIO_IOMMU_DIRTY_PAGES", FIRST, 24 * PAGE, _GET)
    core.ok("LEG-053", index, "all is as it must be")
    core.script.equals("LEG-054", index, "guard", True, "nothing around the bitmap is written")
    if subject.has("physical_iommu"):
        bits = sum(((1 << count) - 1) << first for first, count in ((2, 3), (5, 5), (13, 7)))
        core.is_("LEG-052", index, "buf_data", bits.to_bytes(8, "little").hex(), "what is mapped, no more")
    cut = core.bitmap("VFIO_IOMMU_DIRTY_PAGES", FIRST + 3 * PAGE, 8 * PAGE, _GET)
    core.refused("LEG-053", cut, "the range begins inside a mapping", errno.EINVAL)
    yield core.script
