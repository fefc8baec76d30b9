# SPDX-License-Identifier: Apache-2.0
"""Experiments on the address space: ranges, maps, unmaps, copies, files, and access through it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd
from harness.uapi.iommufd_test import MOCK_APERTURE_LAST, MOCK_APERTURE_START
from suites.iom.program import FIRST, PAGE, RW, Core

_TOP = (1 << 64) - 1
_READ, _WRITE = iommufd.IOMMU_IOAS_MAP_READABLE, iommufd.IOMMU_IOAS_MAP_WRITEABLE


def _ranges_hex(*pairs: tuple[int, int]) -> str:
    return "".join((a.to_bytes(8, "little") + b.to_bytes(8, "little")).hex() for a, b in pairs)


def _allow(core: Core, *pairs: tuple[int, int]) -> int:
    return core.io(
        "IOMMU_IOAS_ALLOW_IOVAS", {"ioas_id": "a", "num_iovas": len(pairs)},
        bufs={"allowed_iovas": _ranges_hex(*pairs)},
    )  # fmt: skip


def _attach(core: Core, subject: Subject) -> None:
    core.mock() if subject.has("mock") else core.device()


@experiment("IOM-020", "IOM-021", "IOM-022", "IOM-033", "IOM-034", own_open=True)
def ranges_are_full_at_first_and_narrowed_by_devices(subject: Subject) -> Iterator[Script]:
    """Steps: ask for the ranges of a new IOAS, of one with a device, and with arrays that are too small."""
    core = Core()
    fresh = core.ranges()
    core.is_("IOM-020", fresh, "num_iovas", 1, "there is one range")
    full = _ranges_hex((0, _TOP)).ljust(512, "0")
    core.is_("IOM-020", fresh, "buf_allowed_iovas", full, "it is the whole of 64 bits")
    core.script.is_one_of(
        "IOM-020",
        fresh,
        "out_iova_alignment",
        [1 << n for n in range(13)],
        "the alignment is a power of two of at most a page",
    )
    small = core.ranges(room=0)
    core.refused("IOM-021", small, "the array has no room", errno.EMSGSIZE)
    core.script.equals("IOM-021", small, "num_iovas", 1, "it says that there is one")
    _attach(core, subject)
    narrowed = core.ranges()
    core.script.succeeds("IOM-022", narrowed, "the ranges are told")
    if subject.has("mock"):
        aperture = _ranges_hex((MOCK_APERTURE_START, MOCK_APERTURE_LAST)).ljust(512, "0")
        core.is_("IOM-022", narrowed, "buf_allowed_iovas", aperture, "the ranges are the device's aperture")
        core.io("IOMMU_TEST_OP_ADD_RESERVED", {"id": "a", "start": FIRST + (1 << 20), "length": 1 << 20})
        core.refused("IOM-021", core.ranges(room=1), "the array has room for one of two", errno.EMSGSIZE)
        core.ranges()
    core.memory()
    for iova in (0, FIRST - PAGE, FIRST + (1 << 20), FIRST + (3 << 19), MOCK_APERTURE_LAST - PAGE + 1,
                 MOCK_APERTURE_LAST + 1, 1 << 40, 1 << 56, _TOP - 2 * PAGE + 1):  # fmt: skip
        core.map(iova, 2 * PAGE)
    for iova, length, off in ((512, PAGE, 0), (0, 512, 0), (0, PAGE, 512), (256, 256, 256), (1, PAGE, 0)):
        core.map(FIRST + (8 << 20) + iova, length, off=off)
    yield core.script


@experiment("IOM-023", "IOM-024", "IOM-025", "IOM-026", "IOM-027", "IOM-032", needs=("mock",), own_open=True)
def allowed_ranges_hold(subject: Subject) -> Iterator[Script]:
    """Verify: allowed ranges are not narrowed, limit the kernel's choice, and are replaced as a whole."""
    core = Core()
    core.memory()
    core.ok("IOM-023", _allow(core, (0, 1 << 20)), "it is within the full range")
    core.refused("IOM-023", core.mock(), "the device would narrow what is allowed")
    core.ok("IOM-026", _allow(core, (FIRST, FIRST + (1 << 20) - 1)), "another range is allowed instead")
    core.ok("IOM-026", core.mock(), "the old range does not hold any more")
    core.refused("IOM-024", _allow(core, (0, 1 << 20)), "it is wider than the ranges are")
    core.refused("IOM-024", _allow(core, (FIRST, FIRST + PAGE), (0, PAGE)), "one of two is wider")
    for bad in (((FIRST + PAGE, FIRST),), ((FIRST, FIRST + (1 << 20)), (FIRST + PAGE, FIRST + (2 << 20)))):
        core.refused("IOM-027", _allow(core, *bad), "the list means nothing")
    core.ranges()
    inside = [FIRST + n * PAGE for n in range(256)]
    for _ in range(8):
        index = core.map(None, 16 * PAGE)
        core.script.succeeds("IOM-025", index, "there is room for it")
        core.script.is_one_of("IOM-025", index, "iova", inside, "the address is within the allowed range")
    yield core.script
    core = Core()
    core.memory()
    _allow(core, (FIRST, FIRST + 4 * PAGE - 1))
    core.refused("IOM-025", core.map(None, 5 * PAGE), "there is no room within the allowed range")
    core.ok("IOM-026", _allow(core), "the list is empty again")
    core.ok("IOM-026", core.map(None, 5 * PAGE), "any address will do")
    yield core.script


@experiment(
    "IOM-030", "IOM-031", "IOM-032", "IOM-033", "IOM-034", "IOM-035", "IOM-036", "IOM-040", "IOM-041",
    "IOM-042", "IOM-043", own_open=True,
)  # fmt: skip
def maps_at_fixed_and_chosen_addresses(subject: Subject) -> Iterator[Script]:
    """Steps: maps of many sizes, over others and beside them, and invalid maps."""
    core = Core()
    _attach(core, subject)
    core.ranges()
    core.memory(pages=64)
    for number, pages in enumerate((1, 2, 3, 16, 64)):
        core.map(FIRST + number * (1 << 20), pages * PAGE)
    for iova, pages in ((0, 1), ((1 << 20) - PAGE, 2), ((1 << 20) + PAGE, 1), ((3 << 20) + 15 * PAGE, 4)):
        core.map(FIRST + iova, pages * PAGE)
    for _ in range(6):
        core.map(None, subject.rng.choice((1, 2, 8, 16)) * PAGE, off=subject.rng.randrange(32) * PAGE)
    core.map(_TOP - PAGE + 1, 2 * PAGE)
    core.map(FIRST + (30 << 20), 0)
    core.map(FIRST + (30 << 20), PAGE, flags=0)
    core.map(FIRST + (30 << 20), 1 << 63)
    core.unmap(FIRST, PAGE)
    core.unmap(FIRST, PAGE)
    core.unmap(FIRST + (1 << 20), PAGE)
    core.unmap(FIRST + (1 << 20) + PAGE, PAGE)
    core.unmap(FIRST + (1 << 20) - PAGE, 4 * PAGE)
    core.unmap(FIRST + (2 << 20), 3 << 20)
    core.unmap(_TOP - PAGE + 1, 2 * PAGE)
    core.unmap(FIRST, 0)
    core.map(FIRST, PAGE)
    core.unmap(0, _TOP)
    core.unmap(0, _TOP)
    core.map(FIRST, 2 * PAGE)
    yield core.script


@experiment("IOM-041", "IOM-049", needs=("mock",), own_open=True)
def a_refused_unmap_unmaps_nothing(subject: Subject) -> Iterator[Script]:
    """Steps: an unmap that covers whole mappings and ends inside another."""
    core = Core()
    core.memory()
    core.map(FIRST, PAGE)
    core.map(FIRST + PAGE, 2 * PAGE)
    core.refused("IOM-041", core.unmap(FIRST, 2 * PAGE), "it would cut the second mapping")
    left = core.unmap(0, _TOP)
    core.is_("IOM-049", left, "length", 3 * PAGE, "all three pages are still mapped")
    yield core.script


@experiment("IOM-037", "IOM-038", "IOM-044", needs=("mock",), own_open=True)
def what_is_mapped_is_what_is_accessed(subject: Subject) -> Iterator[Script]:
    """Steps: read and write through an access object, across mappings, outside them, against flags."""
    for attached in (False, True):
        core = Core()
        if attached:
            core.mock()
        core.memory()
        core.memory("w", pages=4)
        core.access("acc")
        core.map(FIRST, 4 * PAGE, off=4 * PAGE)
        core.map(FIRST + 4 * PAGE, 2 * PAGE, "w", PAGE)
        core.map(FIRST + 8 * PAGE, PAGE, flags=_READ)
        core.map(FIRST + 9 * PAGE, PAGE, off=PAGE, flags=_WRITE)
        for slow in (False, True):
            core.rw("acc", FIRST, 64, slow=slow)
            core.rw("acc", FIRST + 3 * PAGE - 32, 64, slow=slow)
            core.rw("acc", FIRST + 4 * PAGE - 100, 4096, slow=slow)
            core.rw("acc", FIRST, 6 * PAGE, slow=slow)
            core.rw("acc", FIRST + 17, 4, "aabbccdd", slow=slow)
            core.rw("acc", FIRST + 4 * PAGE - 2, 4, "11223344", slow=slow)
            core.rw("acc", FIRST, 5 * PAGE, slow=slow)
        for iova, length in ((5 * PAGE, 2 * PAGE), (6 * PAGE, 4), (7 * PAGE + 4095, 2), (10 * PAGE, 1)):
            core.rw("acc", FIRST + iova, length)
        core.rw("acc", FIRST + 8 * PAGE, 16)
        core.rw("acc", FIRST + 8 * PAGE, 4, "01020304")
        core.rw("acc", FIRST + 9 * PAGE, 4, "01020304")
        core.rw("acc", FIRST + 9 * PAGE, 16)
        core.unmap(FIRST, 4 * PAGE)
        core.rw("acc", FIRST, 4)
        core.rw("acc", FIRST + 4 * PAGE, 64)
        core.map(FIRST, PAGE, "w")
        core.rw("acc", FIRST, 64)
        yield core.script


@experiment("IOM-050", "IOM-051", "IOM-052", own_open=True)
def copies_share_what_they_copy(subject: Subject) -> Iterator[Script]:
    """Steps: copy a mapping to another IOAS and address, unmap the first.  Verify: the same memory stays."""
    core = Core()
    core.ioas("b")
    core.memory()
    if subject.has("mock"):
        core.mock()
    else:
        core.device()
    core.ranges("a")
    core.ranges("b")
    core.map(FIRST, 4 * PAGE)
    core.map(FIRST + (1 << 20), PAGE, off=8 * PAGE, flags=_READ)
    core.copy(FIRST, 4 * PAGE, FIRST + (2 << 20))
    core.copy(FIRST, 4 * PAGE, FIRST + (2 << 20))
    core.copy(FIRST, 4 * PAGE, FIRST + (4 << 20), to="a")
    core.copy(FIRST, 4 * PAGE, None)
    core.copy(FIRST + (1 << 20), PAGE, FIRST, flags=_READ)
    core.copy(FIRST + (8 << 20), PAGE, FIRST + (9 << 20))
    index = core.copy(FIRST + (1 << 20), PAGE, FIRST + (6 << 20), flags=RW)
    core.refused("IOM-052", index, "the mapping is not writable", errno.EPERM)
    if subject.has("mock"):
        core.access("acc", "b")
        core.rw("acc", FIRST + (2 << 20), 4 * PAGE)
    core.unmap(FIRST, 4 * PAGE)
    if subject.has("mock"):
        core.rw("acc", FIRST, 16)
        core.rw("acc", FIRST + (2 << 20), 4 * PAGE)
    core.unmap(FIRST + (2 << 20), 4 * PAGE, "b")
    core.unmap(0, _TOP, "b")
    yield core.script


@experiment("IOM-030", "IOM-031", "IOM-037", "IOM-060", "IOM-061", "IOM-062", own_open=True)
def files_are_mapped_by_what_they_hold(subject: Subject) -> Iterator[Script]:
    """Steps: map parts of a memfd, then close it; files that cannot be mapped; a dma-buf that is revoked."""
    if not subject.has("map_file"):
        return
    core = Core()
    _attach(core, subject)
    core.ranges()
    core.script.op("memfd", out="file", size=16 * PAGE)
    content = b"".join(bytes([n, 0x33]) * (PAGE // 2) for n in range(16))
    core.script.op("pwrite", fd="file", off=0, hex=content.hex())
    core.ok("IOM-060", core.map_file("file", FIRST, 8 * PAGE, 2 * PAGE), "it is a memfd")
    core.ok("IOM-060", core.map_file("file", FIRST + (1 << 20), PAGE), "it is a memfd, again")
    core.map_file("file", FIRST + PAGE, PAGE)
    core.map_file("file", None, 4 * PAGE, PAGE)
    if subject.has("mock"):
        core.access("acc")
        core.rw("acc", FIRST, 8 * PAGE)
        core.rw("acc", FIRST + PAGE, 4, "01020304")
    core.script.op("close", fd="file")
    if subject.has("mock"):
        core.rw("acc", FIRST, 8 * PAGE)
        core.rw("acc", FIRST + (1 << 20), PAGE)
        core.script.op("pipe", out=["r", "w"])
        core.script.op("open", path="/proc/self/status", out="proc")
        core.script.op("eventfd", out="e")
        for slot in ("r", "proc", "e", "f"):
            core.refused("IOM-061", core.map_file(slot, FIRST + (4 << 20), PAGE), "it is no memfd")
        core.refused("IOM-061", core.map_file("acc", FIRST + (4 << 20), PAGE), "it is no memfd")
    core.unmap(0, _TOP)
    yield core.script
    if subject.has("mock_dmabuf"):
        yield _dma_buf()


def _dma_buf() -> Script:
    core = Core()
    core.mock()
    core.ranges()
    flags = {"length": 4 * PAGE, "open_flags": 2}
    core.io("IOMMU_TEST_OP_DMABUF_GET", flags, out_fds={"buf": "ret"})
    core.ok("IOM-062", core.map_file("buf", FIRST, 4 * PAGE), "it is a dma-buf that this kernel supports")
    core.ok("IOM-062", core.map_file("buf", FIRST + (1 << 20), 2 * PAGE, PAGE), "a part of it is mapped")
    core.hwpt("late")
    core.refused("IOM-062", core.map_file("buf", FIRST + (2 << 20), 8 * PAGE), "it is longer than that")
    core.io("IOMMU_TEST_OP_DMABUF_REVOKE", {"revoked": 1}, fds={"dmabuf_fd": "buf"})
    core.refused("IOM-062", core.map_file("buf", FIRST + (3 << 20), PAGE), "it is revoked", errno.ENODEV)
    core.io("IOMMU_TEST_OP_DMABUF_REVOKE", {"revoked": 0}, fds={"dmabuf_fd": "buf"})
    core.ok("IOM-062", core.map_file("buf", FIRST + (3 << 20), PAGE), "it is revoked no more")
    core.unmap(FIRST, 4 * PAGE)
    core.script.op("close", fd="buf")
    core.unmap(0, _TOP)
    return core.script
