# SPDX-License-Identifier: Apache-2.0
"""Experiments on dirty tracking in the IOMMU's page tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.uapi import iommufd
from harness.uapi.iommufd_test import MOCK_FLAGS_DEVICE_NO_DIRTY
from suites.dirty.tracked_table import MEMORY_BYTES, MockDirtier, TrackedTable, iommu

_DIRTY = iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
_NO_DIRTY_DEVICE = MOCK_FLAGS_DEVICE_NO_DIRTY
_EFAULT, _EINVAL, _ENOENT, _EOVERFLOW, _EOPNOTSUPP = 14, 22, 2, 75, 95
_SIZES = (2048, 4096, 8192, 65536, 1 << 20)
_HUGE_MEMORY = {"flags": ["SHARED", "ANONYMOUS", "HUGETLB"]}


@experiment("DIRTY-100", "DIRTY-103", own_open=True)
def a_table_with_tracking_is_allocated_attached_and_switched(subject: Subject) -> Iterator[Script]:
    """Steps: allocate and attach a page table with dirty tracking, switch tracking on and off."""
    if not subject.has("mock"):
        return
    script, dirtier = Script(fresh=False), MockDirtier()
    dirtier.open(script)
    table = TrackedTable(dirtier)
    ops = table.script.to_json()["threads"][0]["ops"]
    for index, (name, args) in enumerate(ops):
        if name == "iommu" and args["cmd"] in ("IOMMU_HWPT_ALLOC", "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE"):
            table.script.succeeds("DIRTY-100", index, "it is allocated and attached")
    for on in (True, True, False, False, True, False, True):
        table.script.succeeds("DIRTY-103", table.track(on), "tracking is switched")
    yield table.script


@experiment("DIRTY-101", "DIRTY-102", own_open=True)
def a_device_without_tracking_gets_no_tracked_table(subject: Subject) -> Iterator[Script]:
    """Verify: it gets none by allocating one, nor by attaching to another device's."""
    script = Script(fresh=False)
    if subject.has("mock"):
        MockDirtier().open(script)
        outs = {"std2": "out_stdev_id", "dev2": "out_idev_id"}
        fields = {"id": "a", "dev_flags": _NO_DIRTY_DEVICE}
        iommu(script, "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS", fields, outs=outs)
        refused = iommu(script, "IOMMU_HWPT_ALLOC", {"dev_id": "dev2", "pt_id": "a", "flags": _DIRTY})
        attached = iommu(script, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE", {"id": "std2", "pt_id": "h"})
        script.is_refused("DIRTY-102", attached, expected="the attachment is refused")
    elif subject.has("hwpt_refuses_dirty"):
        _bound(script)
        refused = iommu(script, "IOMMU_HWPT_ALLOC", {"dev_id": "dev", "pt_id": "a", "flags": _DIRTY})
    else:
        return
    script.is_refused("DIRTY-101", refused, _EOPNOTSUPP, expected="the allocation is EOPNOTSUPP")
    yield script


def _bound(script: Script) -> None:
    """Append binding the VFIO device itself to an iommufd: slots `f`, `a`, `dev`."""
    script.op("open_iommufd", out="f")
    script.op("ioas_alloc", fd="f", out="a")
    script.op("open_cdev", dev="dev0", out="x")
    script.op("bind", fd="x", iommufd="f", out="dev")


@experiment("DIRTY-104", own_open=True)
def a_table_without_the_flag_is_not_tracked(subject: Subject) -> Iterator[Script]:
    """A table allocated without IOMMU_HWPT_ALLOC_DIRTY_TRACKING refuses both ioctls."""
    if not subject.has("physical_iommu"):
        return
    script = Script(fresh=False)
    if subject.has("mock"):
        MockDirtier().open(script)
    else:
        _bound(script)
    MockDirtier.table(script, "plain", flags=0)
    track = iommu(script, "IOMMU_HWPT_SET_DIRTY_TRACKING", {"hwpt_id": "plain", "flags": 1})
    script.is_refused("DIRTY-104", track, _EOPNOTSUPP, expected="switching it on is EOPNOTSUPP")
    fields = {"hwpt_id": "plain", "iova": 1 << 24, "length": 4096, "page_size": 4096}
    report = iommu(script, "IOMMU_HWPT_GET_DIRTY_BITMAP", fields, bufs={"data": 8})
    script.is_refused("DIRTY-104", report, _EOPNOTSUPP, expected="a report is EOPNOTSUPP")
    yield script


@experiment(
    "DIRTY-110", "DIRTY-111", "DIRTY-112", "DIRTY-113", "DIRTY-116", "DIRTY-117", "DIRTY-119",
    own_open=True,
)  # fmt: skip
def what_was_written_is_reported_and_cleared(subject: Subject) -> Iterator[Script]:
    """Steps: at every page size, report with NO_CLEAR twice, then report and clear, then report again."""
    for huge in (True, False):
        for page in _SIZES:
            table = TrackedTable(MockDirtier(), huge=huge)
            table.map(0, MEMORY_BYTES)
            offsets = [subject.rng.randrange(0, MEMORY_BYTES, 2048) for _ in range(12)]
            table.write(0, MEMORY_BYTES - 2048, *offsets)
            table.report(0, MEMORY_BYTES, page, keep=True)
            table.report(0, MEMORY_BYTES, page, keep=True)
            table.report(0, MEMORY_BYTES, page)
            table.report(0, MEMORY_BYTES, page)
            table.write(subject.rng.choice(offsets))
            table.report(0, MEMORY_BYTES, page, keep=True)
            table.report(0, MEMORY_BYTES, page)
            yield table.script


@experiment("DIRTY-110", "DIRTY-116", "DIRTY-117", "DIRTY-118", own_open=True)
def a_bitmap_may_lie_anywhere_and_hold_anything(subject: Subject) -> Iterator[Script]:
    """Steps: bitmaps of many lengths at odd offsets, across pages, some with bits already set."""
    table = TrackedTable(MockDirtier(), huge=False)
    table.map(0, MEMORY_BYTES)
    for at in (0, 8, 64, 2040, 4064, 4088):
        offsets = [subject.rng.randrange(0, MEMORY_BYTES, 4096) for _ in range(8)]
        first = subject.rng.randrange(0, MEMORY_BYTES // 2, 4096)
        length = subject.rng.randrange(4096, MEMORY_BYTES // 2, 4096)
        preset = subject.rng.randbytes(subject.rng.randrange(0, length // 4096 // 8 + 1)).hex()
        table.write(first, first + length - 4096, *offsets)
        table.report(first, length, keep=True, at=at)
        table.report(first, length, keep=subject.rng.random() < 0.5, at=at, preset=preset)
    yield table.script


@experiment("DIRTY-110", "DIRTY-114", "DIRTY-115", own_open=True)
def one_range_leaves_the_others(subject: Subject) -> Iterator[Script]:
    """Verify: pages of other mappings stay dirty; pages of the same mapping outside the range should too."""
    for huge in (True, False):
        table = TrackedTable(MockDirtier(), huge=huge)
        for number in range(4):
            table.map(number * 131072, 65536, number * 65536)
            table.write(number * 131072, number * 131072 + 61440, number * 131072 + 32768)
        table.report(131072, 65536)
        table.report(131072 * 3, 65536)
        table.report(0, 65536, keep=True)
        table.report(0, 32768)
        table.report(0, 65536)
        table.report(131072 * 2, 65536)
        yield table.script


@experiment("DIRTY-128", own_open=True)
def a_report_may_begin_and_end_anywhere(subject: Subject) -> Iterator[Script]:
    """Steps: ranges that begin and end at the smallest page size, inside any page-table entry."""
    table = TrackedTable(MockDirtier())
    table.map(0, 65536)
    table.write(*range(0, 65536, 2048))
    for first in range(0, 65536, 2048):
        table.report(first, 2048, 2048, keep=True)
    for first in range(0, 65536, 2048):
        table.report(first, 65536 - first, 2048, keep=True)
    yield table.script


@experiment("DIRTY-110", "DIRTY-115", "DIRTY-117", own_open=True)
def entries_larger_than_the_range(subject: Subject) -> Iterator[Script]:
    """Steps: on huge pages, report ranges that begin and end inside an entry."""
    if not subject.has("hugepages"):
        return
    for mapped in (1 << 20, 2 << 20):
        table = TrackedTable(MockDirtier(), memory={**_HUGE_MEMORY, "n": 2 << 20})
        table.map(0, mapped)
        table.write(8192, 65536)
        table.report(0, mapped, 2048, keep=True)
        table.report(8192, 4096, keep=True)
        table.report(4096, 131072, keep=True)
        table.report(131072, 4096)
        table.report(0, mapped)
        yield table.script


@experiment("DIRTY-121", "DIRTY-122", "DIRTY-123", own_open=True)
def tracking_begins_clean_and_sees_new_mappings(subject: Subject) -> Iterator[Script]:
    """Verify: switching tracking on, or mapping again, starts clean; a mapping made meanwhile is tracked."""
    table = TrackedTable(MockDirtier())
    table.map(0, 65536)
    table.write(0, 4096, 61440)
    table.track(False)
    table.track(True)
    table.report(0, 65536, keep=True)
    table.write(8192)
    table.report(0, 65536, keep=True)
    table.map(131072, 65536, 65536)
    table.write(131072 + 4096)
    table.report(131072, 65536, keep=True)
    table.unmap(131072, 65536)
    table.map(131072, 65536, 65536)
    table.report(131072, 65536, keep=True)
    yield table.script


@experiment("DIRTY-120", own_open=True)
def tables_of_one_space_have_bits_of_their_own(subject: Subject) -> Iterator[Script]:
    """Verify: a write through one device's table is not dirty in another table, nor cleared there."""
    if not subject.has("mock"):
        return
    table = TrackedTable(MockDirtier(), huge=False)
    MockDirtier.table(table.script, "h2")
    table.track(True, "h2")
    table.map(0, 8192)
    table.write(0)
    other = table.report(0, 8192, table="h2")
    table.script.equals("DIRTY-120", other, "buf_data", "00" * 8, "the other table has nothing dirty")
    mine = table.report(0, 8192)
    table.script.equals("DIRTY-120", mine, "buf_data", "01" + "00" * 7, "its own table has the page")
    yield table.script


@experiment("DIRTY-126", own_open=True)
def addresses_nobody_mapped_hide_nothing(subject: Subject) -> Iterator[Script]:
    """Steps: report ranges with holes before, between and after mappings."""
    table = TrackedTable(MockDirtier())
    table.map(8192, 8192)
    table.map(32768, 8192, 8192)
    table.write(8192, 32768, 36864)
    table.report(8192, 32768, keep=True)
    table.report(0, 65536, keep=True)
    table.report(8192, 8192, keep=True)
    table.report(32768, 8192)
    yield table.script


@experiment("DIRTY-127", own_open=True)
def a_bitmap_that_cannot_be_written_loses_nothing(subject: Subject) -> Iterator[Script]:
    """Steps: report into an invalid address, then report again.  Verify: refused, then all pages."""
    table = TrackedTable(MockDirtier(), huge=False)
    table.map(0, 4096)
    table.write(0)
    refused = table.report(0, 4096, data=4096)
    table.script.is_refused("DIRTY-127", refused, _EFAULT, expected="the report is EFAULT")
    again = table.report(0, 4096)
    table.script.equals("DIRTY-127", again, "buf_data", "01" + "00" * 7, "the page is reported next time")
    yield table.script


@experiment("DIRTY-130", "DIRTY-131", "DIRTY-132", "DIRTY-133", "DIRTY-134", "DIRTY-135", own_open=True)
def bad_arguments_of_tracking(subject: Subject) -> Iterator[Script]:
    """Steps: invalid flags, reserved fields, ids, ranges and page sizes.  Verify: each is refused."""
    table = TrackedTable(MockDirtier(), huge=False)
    script = table.script
    table.map(0, 65536)
    table.write(20480)

    def refused(clause: str, errno: int, **spoilt: Any) -> None:
        length, page = int(spoilt.pop("length", 65536)), int(spoilt.pop("page", 4096))
        index = table.report(int(spoilt.pop("offset", 0)), length, page, **spoilt)
        script.is_refused(clause, index, errno, expected=f"the report is {errno}: {_NAMES[errno]}")

    for bit in (1, 2, 15, 31):
        refused("DIRTY-130", _EOPNOTSUPP, flags=1 << bit)
        fields = {"hwpt_id": "h", "flags": 1 << bit}
        index = iommu(script, "IOMMU_HWPT_SET_DIRTY_TRACKING", fields)
        script.is_refused("DIRTY-130", index, _EOPNOTSUPP, expected="an unknown flag is EOPNOTSUPP")
    refused("DIRTY-130", _EOPNOTSUPP, __reserved=1)
    index = iommu(script, "IOMMU_HWPT_SET_DIRTY_TRACKING", {"hwpt_id": "h", "flags": 1, "__reserved": 1})
    script.is_refused("DIRTY-131", index, expected="it is refused")
    refused("DIRTY-132", _ENOENT, hwpt_id=0x7FFFFFF0)
    for wrong in ("a", "dev"):
        index = table.report(0, 65536, hwpt_id=wrong)
        script.is_refused("DIRTY-132", index, _ENOENT, _EINVAL, expected="it is ENOENT or EINVAL")
        index = iommu(script, "IOMMU_HWPT_SET_DIRTY_TRACKING", {"hwpt_id": wrong, "flags": 1})
        script.is_refused("DIRTY-132", index, _ENOENT, _EINVAL, expected="it is ENOENT or EINVAL")
    refused("DIRTY-133", _EOVERFLOW, iova=(1 << 64) - 4096, length=65536)
    refused("DIRTY-134", _EINVAL, page=0)
    refused("DIRTY-134", _EINVAL, iova=table.at(0) + 1024)
    refused("DIRTY-134", _EINVAL, offset=4096, length=65536, page=65536)
    refused("DIRTY-134", _EINVAL, length=4096, page=8192)
    index = table.report(0, 49152, 12288, keep=True)
    script.is_refused("DIRTY-135", index, _EINVAL, expected="it is EINVAL").when((index, "errno", "!=", 0))
    script.equals(
        "DIRTY-135", index, "buf_data", "02" + "00" * 7, "the bit of the page's 12288 bytes is set"
    ).when(succeeded(index))
    yield script


_NAMES = {_EFAULT: "EFAULT", _EINVAL: "EINVAL", _ENOENT: "ENOENT", _EOVERFLOW: "EOVERFLOW",
          _EOPNOTSUPP: "EOPNOTSUPP"}  # fmt: skip
