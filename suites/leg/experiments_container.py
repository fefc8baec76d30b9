# SPDX-License-Identifier: Apache-2.0
"""Experiments on the container: types, info, maps, unmaps, updated addresses, the old dirty interface."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.uapi import vfio
from harness.uapi.layout import nr
from suites.iom.program import FIRST, PAGE
from suites.leg.program import INFO_BYTES, Container

_V1, _V2 = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU
_ALL, _DIRTY_FLAG, _VADDR = (
    vfio.VFIO_DMA_UNMAP_FLAG_ALL,
    vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    vfio.VFIO_DMA_UNMAP_FLAG_VADDR,
)
_START, _STOP, _GET = (
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
)
_MAP_VADDR = vfio.VFIO_DMA_MAP_FLAG_VADDR
_TOP = 1 << 64


@experiment(
    "LEG-001", "LEG-002", "LEG-003", "LEG-004", "LEG-005", "LEG-006", "LEG-007", needs=("type1v2",),
    own_open=True,
)  # fmt: skip
def types_and_extensions(subject: Subject) -> Iterator[Script]:
    """Steps: ask a container before it has a group, before it has a type, and after."""
    core = Container(group=False, iommu=False)
    script = core.script
    core.memory(pages=1)
    script.equals("LEG-001", script.op("api_version", fd="c"), "ret", 0, "the version is 0")
    for kind in (_V1, _V2):
        index = script.op("check_extension", fd="c", ext=kind)
        script.equals("LEG-002", index, "ret", 1, "the type is supported")
        core.refused("LEG-003", script.op("container_set_iommu", fd="c", type=kind), "there is no group")
    for unknown in (0x7777, 200, 0):
        index = script.op("check_extension", fd="c", ext=unknown)
        script.equals("LEG-002", index, "ret", 0, "there is no such extension")
    core.join("g", "c")
    core.refused("LEG-005", core.info(), "there is no type yet")
    core.refused("LEG-005", core.dma_map(FIRST, PAGE), "there is no type yet")
    core.refused("LEG-005", core.dma_unmap(FIRST, PAGE), "there is no type yet")
    for unknown in (0x7777, 2, 0):
        index = script.op("container_set_iommu", fd="c", type=unknown)
        core.refused("LEG-004", index, "the type is not supported")
    core.ok("LEG-004", script.op("container_set_iommu", fd="c", type=_V2), "the type is supported")
    core.refused("LEG-006", script.op("container_set_iommu", fd="c", type=_V1), "it has a type")
    for unknown in (0x90, 0xFE):
        index = script.op("ioctl", fd="c", nr=nr(unknown), buf="10" + "00" * 31)
        script.is_refused("LEG-007", index, errno.ENOTTY, expected="it is ENOTTY")
    core.ok("LEG-004", core.dma_map(FIRST, PAGE), "the type is set, and maps")
    yield script


@experiment("LEG-010", "LEG-011", "LEG-012", "LEG-013", "LEG-015", needs=("type1v2",), own_open=True)
def what_the_container_tells(subject: Subject) -> Iterator[Script]:
    """Steps: GET_INFO with buffers of every size, and its capabilities as maps come and go."""
    core = Container()
    script = core.script
    for size in (0, 8, 15):
        core.refused("LEG-010", core.info(size), "the fixed part does not fit", errno.EINVAL)
    whole = core.ok("LEG-011", core.info(), "it fits")
    script.is_one_of("LEG-011", whole, "flags", [1, 3], "page sizes are told")
    script.at_least("LEG-011", whole, "iova_pgsizes", PAGE, "there are some")
    needed = core.info(24)
    script.exceeds("LEG-012", needed, "argsz", 24, "more is needed").when((whole, "flags", "==", 3))
    script.at_most("LEG-012", needed, "argsz", INFO_BYTES, "all of it fitted").when((whole, "flags", "==", 3))
    for size in (16, 24, 32):
        small = core.ok("LEG-012", core.info(size), "it is no error")
        some = [(small, "flags", "==", 3), (whole, "flags", "==", 3)]
        script.equals("LEG-012", small, "argsz", Script.ref(needed, "argsz"), "the size needed").when(*some)
        if size >= 24:
            script.equals("LEG-012", small, "cap_offset", 0, "there is no chain").when(*some)
    script.equals("LEG-012", whole, "flags", 3, "there are capabilities, as this kernel's are").when(
        (whole, "cap_offset", "!=", 0)
    )
    script.at_least("LEG-013", whole, "cap_offset", 24, "the chain begins behind the structure").when(
        (whole, "flags", "==", 3)
    )
    script.at_most("LEG-013", whole, "argsz", INFO_BYTES, "the size told is at most that of the buffer")
    yield script


@experiment(
    "LEG-020", "LEG-021", "LEG-022", "LEG-023", "LEG-024", "LEG-025", "LEG-026", "LEG-027", "LEG-028",
    "LEG-030", "LEG-031", "LEG-032", "LEG-033", needs=("type1v2",), own_open=True,
)  # fmt: skip
def maps_and_unmaps(subject: Subject) -> Iterator[Script]:
    """Steps: maps over, beside and between others, with bad sizes, flags and addresses; then unmaps."""
    core = Container()
    script = core.script
    core.memory(pages=32)
    core.info()
    for number, pages in enumerate((1, 2, 16, 32)):
        core.dma_map(FIRST + number * (1 << 20), pages * PAGE)
    for iova, pages in ((0, 1), ((1 << 20) - PAGE, 2), ((1 << 20) + PAGE, 1), ((3 << 20) + 31 * PAGE, 1)):
        core.dma_map(FIRST + iova, pages * PAGE)
    for iova, size, off in ((512, PAGE, 0), (0, 512, 0), (0, PAGE, 512), (0, PAGE + 1, 0)):
        core.dma_map(FIRST + (8 << 20) + iova, size, off=off)
    # Only an IOMMU that reports its ranges says whether the last page can be mapped.
    last = _TOP - (2 if subject.has("physical_iommu") else 3) * PAGE
    for iova in (0, last, 1 << 62, 0xFEE00000):
        core.dma_map(iova, 2 * PAGE)
    core.dma_map(_TOP - PAGE, 2 * PAGE)
    core.dma_map(FIRST + (9 << 20), 0)
    core.dma_map(FIRST + (9 << 20), PAGE, flags=0)
    for bit in (3, 8, 31):
        core.refused("LEG-027", core.dma_map(FIRST + (9 << 20), PAGE, flags=3 | 1 << bit), "it is unknown")
        core.refused("LEG-027", core.dma_unmap(FIRST, PAGE, flags=1 << bit), "it is unknown")
    for size in (0, 8, 31):
        index = core.dma_map(FIRST + (9 << 20), PAGE, argsz=size)
        core.refused("LEG-026", index, "the fixed part does not fit", errno.EINVAL)
    for size in (0, 8, 23):
        index = core.dma_unmap(FIRST, PAGE, argsz=size)
        core.refused("LEG-026", index, "the fixed part does not fit", errno.EINVAL)
    if subject.has("physical_iommu"):
        index = core.dma_map(FIRST + (10 << 20), PAGE, vaddr=PAGE)
        core.refused("LEG-028", index, "it is no memory", errno.EFAULT)
        index = core.dma_unmap(FIRST + (10 << 20), PAGE)
        script.equals("LEG-028", index, "size", 0, "nothing is left").when(succeeded(index))
    core.dma_unmap(FIRST, PAGE)
    core.dma_unmap(FIRST, PAGE)
    core.dma_unmap(FIRST + (1 << 20), PAGE)
    core.dma_unmap(FIRST + (1 << 20) + PAGE, PAGE)
    core.dma_unmap(FIRST + (1 << 20) - PAGE, 4 * PAGE)
    core.dma_unmap(_TOP - PAGE, 2 * PAGE)
    core.dma_unmap(FIRST, 0)
    core.dma_map(FIRST, PAGE)
    if subject.has("unmap_all"):
        for iova, size in ((FIRST, 0), (0, PAGE), (0, _TOP - PAGE)):
            core.dma_unmap(iova, size, flags=_ALL)
        index = core.bitmap("VFIO_IOMMU_UNMAP_DMA", 0, 0, _ALL | _DIRTY_FLAG, room=8)
        core.refused("LEG-033", index, "it cannot be combined", errno.EINVAL)
        core.dma_unmap(0, 0, flags=_ALL)
        core.dma_unmap(0, 0, flags=_ALL)
    core.dma_map(FIRST, 2 * PAGE)
    yield script


@experiment("LEG-034", needs=("type1v2",), own_open=True)
def the_old_type1_unmaps_what_was_mapped(subject: Subject) -> Iterator[Script]:
    """Steps: with VFIO_TYPE1_IOMMU, unmap by the addresses that were mapped."""
    if not subject.has("type1"):
        return
    core = Container(_V1)
    core.memory(pages=16)
    core.info()
    for number in range(4):
        core.dma_map(FIRST + number * 4 * PAGE, 4 * PAGE, off=number * 4 * PAGE)
    for number in (1, 0, 3, 2):
        index = core.dma_unmap(FIRST + number * 4 * PAGE, 4 * PAGE)
        core.is_("LEG-034", core.ok("LEG-034", index, "it was mapped so"), "size", 4 * PAGE, "all of it")
    core.ok("LEG-034", core.dma_map(FIRST, 16 * PAGE), "the addresses are free")
    yield core.script


@experiment("LEG-014", needs=("type1v2",), own_open=True)
def dma_avail_counts_mappings(subject: Subject) -> Iterator[Script]:
    """Steps: read the capability chain before a map, after it, and after its unmap."""
    core = Container()
    core.memory(pages=4)
    first = core.info()
    core.dma_map(FIRST, PAGE)
    core.dma_map(FIRST + PAGE, PAGE, off=PAGE)
    second = core.info()
    core.dma_unmap(FIRST, 2 * PAGE)
    third = core.info()
    core.script.differs("LEG-014", first, "tail", Script.ref(second, "tail"), "two are taken")
    core.script.equals("LEG-014", third, "tail", Script.ref(first, "tail"), "they are given back")
    yield core.script


@experiment("LEG-040", "LEG-041", "LEG-042", needs=("type1v2",), own_open=True)
def addresses_set_anew(subject: Subject) -> Iterator[Script]:
    """Steps: invalidate and update virtual addresses; where that is not supported, it is refused."""
    core = Container()
    core.memory(pages=4)
    core.memory("n", pages=4)
    core.info()
    core.dma_map(FIRST, 2 * PAGE)
    core.dma_map(FIRST + 2 * PAGE, PAGE, off=2 * PAGE)
    if not subject.has("update_vaddr"):
        index = core.script.op("check_extension", fd="c", ext=vfio.VFIO_UPDATE_VADDR)
        core.script.equals("LEG-042", index, "ret", 0, "addresses cannot be updated")
        core.refused("LEG-042", core.dma_unmap(FIRST, 2 * PAGE, flags=_VADDR), "it cannot be done")
        core.ok("LEG-042", core.dma_unmap(FIRST, 2 * PAGE), "the mapping is as it was")
        yield core.script
        return
    early = core.dma_map(FIRST, 2 * PAGE, "n", flags=_MAP_VADDR)
    core.refused("LEG-041", early, "its address is valid", errno.EINVAL)
    done = core.ok("LEG-040", core.dma_unmap(FIRST, 2 * PAGE, flags=_VADDR), "it is invalidated")
    core.is_("LEG-040", done, "size", 2 * PAGE, "all of it")
    again = core.dma_unmap(FIRST, 2 * PAGE, flags=_VADDR)
    core.refused("LEG-041", again, "it is invalid already", errno.EINVAL)
    core.dma_unmap(FIRST, 2 * PAGE, flags=_VADDR)
    for iova, size, flags, number in (
        (FIRST, PAGE, _MAP_VADDR, errno.EINVAL),
        (FIRST + PAGE, PAGE, _MAP_VADDR, errno.EINVAL),
        (FIRST, 2 * PAGE, _MAP_VADDR | 3, errno.EINVAL),
        (FIRST + (1 << 20), PAGE, _MAP_VADDR, errno.ENOENT),
        (FIRST + 2 * PAGE, PAGE, _MAP_VADDR, errno.EINVAL),
    ):
        core.refused("LEG-041", core.dma_map(iova, size, "n", flags=flags), "it does not fit", number)
    core.ok("LEG-040", core.dma_map(FIRST, 2 * PAGE, "n", flags=_MAP_VADDR), "the address is set anew")
    core.ok("LEG-040", core.dma_unmap(0, 0, flags=_VADDR | _ALL), "all addresses are invalidated at once")
    index = core.bitmap("VFIO_IOMMU_UNMAP_DMA", FIRST, 2 * PAGE, _VADDR | _DIRTY_FLAG)
    core.refused("LEG-041", index, "it cannot be combined", errno.EINVAL)
    gone = core.dma_unmap(FIRST, 2 * PAGE)
    core.is_(
        "LEG-040", core.ok("LEG-040", gone, "it is unmapped all the same"), "size", 2 * PAGE, "all of it"
    )
    core.ok("LEG-040", core.dma_map(FIRST + 2 * PAGE, PAGE, "n", flags=_MAP_VADDR), "the other is set anew")
    yield core.script


@experiment(
    "LEG-026", "LEG-027", "LEG-050", "LEG-051", "LEG-052", "LEG-053", "LEG-054", "LEG-055", "LEG-056",
    needs=("type1v2",), own_open=True,
)  # fmt: skip
def the_old_dirty_interface(subject: Subject) -> Iterator[Script]:
    """Steps: start, get bitmaps of all mappings, get bitmaps with unmaps, stop; and all that is refused."""
    core = Container()
    script = core.script
    core.memory(pages=64)
    core.info()
    core.dma_map(FIRST, 4 * PAGE)
    for flags in (0, _START | _STOP, _START | _GET, _STOP | _GET, 7):
        core.refused("LEG-050", core.dirty(flags), "it is not one of them", errno.EINVAL)
    for bit in (3, 31):
        core.refused("LEG-027", core.dirty(1 << bit), "the flag is unknown", errno.EINVAL)
    core.refused("LEG-026", core.dirty(_START, argsz=4), "the fixed part does not fit", errno.EINVAL)
    get = "VFIO_IOMMU_DIRTY_PAGES"
    core.refused("LEG-051", core.bitmap(get, FIRST, 4 * PAGE, _GET), "nothing is logged", errno.EINVAL)
    index = core.bitmap("VFIO_IOMMU_UNMAP_DMA", FIRST, 4 * PAGE, _DIRTY_FLAG)
    core.refused("LEG-055", index, "nothing is logged", errno.EINVAL)
    core.ok("LEG-056", core.dirty(_START), "logging begins")
    core.ok("LEG-056", core.dirty(_START), "it goes on")
    core.dma_map(FIRST + (1 << 20), 40 * PAGE, off=8 * PAGE)
    for spoilt, what in (
        ({"pgsize": 2 * PAGE}, "the page size is not the smallest"),
        ({"pgsize": 512}, "the page size is smaller than the smallest"),
        ({"bitmap_size": 0}, "the bitmap has no size"),
        ({"size": 0}, "the range is empty"),
        ({"size": PAGE // 2}, "the range is no multiple of the page size"),
        ({"iova": FIRST + 512}, "the range is not aligned"),
        ({"argsz": 8}, "there is no range"),
        ({"argsz": 24}, "the range does not fit"),
        ({"bitmap_size": 1 << 40}, "the bitmap is larger than any can be"),
    ):
        index = core.bitmap(get, FIRST, 4 * PAGE, _GET, **spoilt)
        core.refused("LEG-053", index, what)
    small = core.bitmap(get, FIRST + (1 << 20), 40 * PAGE, _GET, bitmap_size=4)
    core.refused("LEG-053", small, "the bitmap is too small", errno.EINVAL)
    here = core.ok("LEG-053", core.bitmap(get, FIRST, 4 * PAGE, _GET), "all is as it must be")
    there = core.ok("LEG-056", core.bitmap(get, FIRST + (1 << 20), 40 * PAGE, _GET), "a later mapping")
    for one in (here, there):
        script.equals("LEG-054", one, "guard", True, "nothing around the bitmap is written")
    if subject.has("physical_iommu"):
        core.is_("LEG-052", here, "buf_data", "0f" + "00" * 7, "every mapped page may have been written")
        core.is_("LEG-052", there, "buf_data", "ff" * 5 + "00" * 3, "every mapped page may have been written")
    gone = core.ok("LEG-055", core.bitmap("VFIO_IOMMU_UNMAP_DMA", FIRST, 4 * PAGE, _DIRTY_FLAG), "logging")
    core.is_("LEG-055", gone, "size", 4 * PAGE, "it is unmapped")
    script.equals("LEG-054", gone, "guard", True, "nothing around the bitmap is written")
    if subject.has("physical_iommu"):
        core.is_("LEG-055", gone, "buf_data", "0f" + "00" * 7, "every page may have been written")
    index = core.bitmap("VFIO_IOMMU_UNMAP_DMA", FIRST + (1 << 20), 40 * PAGE, _DIRTY_FLAG, argsz=24)
    core.refused("LEG-055", index, "there is no bitmap", errno.EINVAL)
    core.ok("LEG-056", core.dirty(_STOP), "logging ends")
    core.ok("LEG-056", core.dirty(_STOP), "it has ended")
    index = core.bitmap(get, FIRST + (1 << 20), 40 * PAGE, _GET)
    core.refused("LEG-051", index, "nothing is logged any more", errno.EINVAL)
    yield script


@experiment("LEG-008", "LEG-060", needs=("type1v2",), own_open=True)
def pinned_memory_of_a_container(subject: Subject) -> Iterator[Script]:
    """Steps: map, unmap, remove the last group, close the container.  Verify: VmLck follows."""
    if not subject.has("physical_iommu"):
        return
    core = Container()
    script = core.script
    core.memory(pages=16)
    before = script.op("pinned_memory")
    core.dma_map(FIRST, 16 * PAGE)
    mapped = script.op("pinned_memory")
    old = Script.ref(before, "locked_kib")
    script.exceeds("LEG-060", mapped, "locked_kib", old, "it is pinned")
    core.dma_unmap(FIRST, 16 * PAGE)
    script.equals("LEG-060", script.op("pinned_memory"), "locked_kib", old, "it is pinned no more")
    core.dma_map(FIRST, 16 * PAGE)
    core.ok("LEG-008", script.op("group_unset_container", fd="g"), "the last group leaves")
    script.equals("LEG-008", script.op("pinned_memory"), "locked_kib", old, "it is pinned no more")
    core.refused("LEG-008", core.dma_map(FIRST, PAGE), "there is no type any more")
    core.ok("LEG-008", script.op("group_set_container", fd="g", container="c"), "it comes back")
    core.ok("LEG-008", script.op("container_set_iommu", fd="c", type=_V2), "the type is set again")
    core.ok("LEG-008", core.dma_map(FIRST, 16 * PAGE), "nothing is mapped there")
    for slot in ("g", "c"):
        script.op("close", fd=slot)
    script.equals("LEG-060", script.op("pinned_memory"), "locked_kib", old, "it is pinned no more")
    yield script
