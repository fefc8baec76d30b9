# SPDX-License-Identifier: Apache-2.0
"""Experiments on in-kernel users that pin pages, the vIOMMU's mappable page, and failing allocations."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd
from harness.uapi.iommufd_test import (
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
    MOCK_FLAGS_ACCESS_WRITE,
)
from suites.iom.program import FIRST, PAGE, Core

_TOP = (1 << 64) - 1
_READ = iommufd.IOMMU_IOAS_MAP_READABLE
_PARENT = iommufd.IOMMU_HWPT_ALLOC_NEST_PARENT
_DEEPEST, _TRIES = 24, 10
"""The n-th allocation of an ioctl fails, for n below the first; the second is how many n are drawn."""
_LITTLE, _USUAL = 32, 65536
"""Bytes iommufd may use for its page lists: the first is so few that mappings are done in pieces."""


def _lists_of(core: Core, size: int) -> None:
    """Limit the memory for iommufd's page lists.  It applies to the whole kernel and must be set back."""
    core.io("IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT", {"limit": size})


def _pin(
    core: Core, access: str, iova: int, pages: int, off: int, *, write: bool = True, memory: str = "m"
) -> int:
    """Pin pages and compare them with the memory."""
    fields = {"flags": MOCK_FLAGS_ACCESS_WRITE if write else 0, "iova": iova, "length": pages * PAGE}
    return core.io(
        "IOMMU_TEST_OP_ACCESS_PAGES", fields, fds={"id": access}, mems={"uptr": [memory, off]},
        outs={"item": "out_access_pages_id"},
    )  # fmt: skip


def _unpin(core: Core, access: str, item: str | int) -> int:
    return core.io("IOMMU_TEST_OP_DESTROY_ACCESS_PAGES", {"access_pages_id": item}, fds={"id": access})


@experiment("IOM-007", "IOM-045", "IOM-101", needs=("mock",), own_open=True)
def in_kernel_users_pin_what_is_mapped(subject: Subject) -> Iterator[Script]:
    """Steps: pin with and without a page table, in two IOASes; unpin; unmap while pages are pinned."""
    for size in (_USUAL, _LITTLE):
        core = Core()
        _lists_of(core, size)
        _pinned_by_users(core)
        _lists_of(core, _USUAL)
        yield core.script


def _pinned_by_users(core: Core) -> None:
    core.memory(pages=32)
    core.ioas("b")
    core.access("acc", flags=MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES)
    core.access("acc2", "b", flags=MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES)
    core.map(FIRST, 16 * PAGE)
    core.map(FIRST + 16 * PAGE, 4 * PAGE, off=16 * PAGE, flags=_READ)
    core.copy(FIRST, 16 * PAGE, FIRST)
    core.ok("IOM-045", _pin(core, "acc", FIRST + PAGE, 3, PAGE), "it is mapped")
    core.ok("IOM-045", _pin(core, "acc", FIRST + 2 * PAGE, 6, 2 * PAGE), "some of it is pinned")
    core.ok("IOM-045", _unpin(core, "acc", "item"), "it is given back")
    core.refused("IOM-045", _unpin(core, "acc", "item"), "it has been given back")
    core.refused("IOM-045", _pin(core, "acc", FIRST, 2, 5 * PAGE), "other pages are mapped there")
    core.ok("IOM-045", _pin(core, "acc", FIRST + 14 * PAGE, 4, 14 * PAGE, write=False), "two mappings")
    core.refused("IOM-045", _pin(core, "acc", FIRST + 14 * PAGE, 4, 14 * PAGE), "one is not writable")
    core.refused("IOM-045", _pin(core, "acc", FIRST + 18 * PAGE, 4, 18 * PAGE, write=False), "it ends beyond")
    core.refused("IOM-045", _pin(core, "acc", FIRST + (1 << 20), 1, 0), "nothing is mapped there")
    core.ok("IOM-045", _pin(core, "acc2", FIRST + PAGE, 8, PAGE), "the copy is the same memory")
    core.mock()
    core.ok("IOM-101", core.check_map("hw", FIRST, 16 * PAGE), "a page table gets what is pinned")
    core.ok("IOM-045", _pin(core, "acc", FIRST + 8 * PAGE, 8, 8 * PAGE), "a page table has it")
    core.ok("IOM-007", core.destroy("std"), "the page table goes")
    core.ok("IOM-045", _pin(core, "acc", FIRST + 8 * PAGE, 4, 8 * PAGE), "it is pinned without one")
    core.ok("IOM-045", core.unmap(FIRST, 16 * PAGE), "its user gives up what it has pinned")
    core.refused("IOM-045", _unpin(core, "acc", "item"), "it has been taken back")
    core.refused("IOM-045", _pin(core, "acc", FIRST, 1, 0), "nothing is mapped there any more")
    core.ok("IOM-045", _pin(core, "acc2", FIRST + 4 * PAGE, 4, 4 * PAGE), "the copy is there still")
    core.io("IOMMU_TEST_OP_ACCESS_REPLACE_IOAS", {"ioas_id": "a"}, fds={"id": "acc2"})
    core.refused("IOM-045", _pin(core, "acc2", FIRST + 4 * PAGE, 4, 4 * PAGE), "it uses another IOAS now")
    core.ok("IOM-045", core.unmap(0, _TOP, "b"), "nobody holds it any more")
    core.script.op("close", fd="acc")
    core.ok("IOM-007", core.destroy("b"), "the IOAS goes with nobody in it")


@experiment("IOM-141", needs=("mock",), own_open=True)
def the_page_of_a_viommu(subject: Subject) -> Iterator[Script]:
    """Verify: it can be mapped at the offset that the kernel gives, only whole, and stays while mapped."""
    if not subject.has("hw_queue"):  # a vIOMMU's mmap was added with hardware queues
        return
    core = Core()
    core.mock()
    core.hwpt("parent", flags=_PARENT)
    fields = {"dev_id": "dev", "hwpt_id": "parent", "type": IOMMU_VIOMMU_TYPE_SELFTEST, "data_len": 24}
    made = core.io(
        "IOMMU_VIOMMU_ALLOC", fields, bufs={"data_uptr": struct.pack("<IIQQ", 0x12345678, 0, 0, 0).hex()},
        outs={"vi": "out_viommu_id", "place": "buf_data_uptr[8:16]"},
    )  # fmt: skip
    core.ok("IOM-141", made, "a vIOMMU with a page of its own")
    for size in (PAGE, 4 * PAGE):
        index = core.script.op("mmap", out="w", fd="f", n=size, off_from="place")
        core.refused("IOM-141", index, "its length is another")
    whole = core.script.op("mmap", out="w", fd="f", n=2 * PAGE, off_from="place")
    core.ok("IOM-141", whole, "it is mapped")
    told = core.script.op("mem_read", mem="w", n=4, width=4)
    core.is_("IOM-141", told, "hex", "78563412", "what was given is in it")
    core.refused("IOM-141", core.destroy("vi"), "its page is mapped", errno.EBUSY)
    core.script.op("munmap", mem="w")
    core.ok("IOM-141", core.destroy("vi"), "its page is mapped no more")
    yield core.script


@experiment("IOM-012", needs=("mock",), own_open=True)
def operations_short_of_memory(subject: Subject) -> Iterator[Script]:
    """Steps: make allocations of each ioctl fail, one at a time.  Verify: repeated, the ioctl succeeds."""
    if not subject.has("fault_injection"):
        return
    for prepare, cmd, fields, more in _CASES:
        if cmd in _LATE and not subject.has(_LATE[cmd]):
            continue
        for number, nth in enumerate(sorted({1, *subject.rng.sample(range(2, _DEEPEST), _TRIES - 1)})):
            core = Core()
            _lists_of(core, _LITTLE if number % 2 else _USUAL)
            core.mock()
            core.memory()
            prepare(core)
            first = core.io(cmd, fields, nth=nth, **more)
            again = core.io(cmd, fields, **more)
            core.ok("IOM-012", again, "it succeeds when it is repeated", ((first, "errno", "!=", 0),))
            _lists_of(core, _USUAL)
            yield core.script


def _nothing(core: Core) -> None:
    """Prepare nothing: a device and memory are all that is needed."""


def _mapped(core: Core) -> None:
    core.map(FIRST, 16 * PAGE)
    core.ioas("b")
    core.mock("2", "b")


def _nesting(core: Core) -> None:
    core.map(FIRST, 2 * PAGE)
    core.hwpt("parent", flags=_PARENT)
    fields = {"dev_id": "dev", "hwpt_id": "parent", "type": IOMMU_VIOMMU_TYPE_SELFTEST}
    core.io("IOMMU_VIOMMU_ALLOC", fields, outs={"vi": "out_viommu_id"})


def _file(core: Core) -> None:
    core.script.op("memfd", out="file", size=16 * PAGE)


def _pinning(core: Core) -> None:
    core.map(FIRST, 16 * PAGE)
    core.access("acc", flags=MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES)


_LATE = {
    "IOMMU_IOAS_MAP_FILE": "map_file", "IOMMU_VIOMMU_ALLOC": "viommu", "IOMMU_VDEVICE_ALLOC": "viommu",
    "IOMMU_VEVENTQ_ALLOC": "veventq", "IOMMU_HW_QUEUE_ALLOC": "hw_queue",
    "IOMMU_FAULT_QUEUE_ALLOC": "fault_queue",
}  # fmt: skip
_MEMORY: dict[str, Any] = {"mems": {"user_va": ["m", 0]}}
_CASES: tuple[tuple[Callable[[Core], None], str, dict[str, Any], dict[str, Any]], ...] = (
    (_nothing, "IOMMU_IOAS_ALLOC", {}, {}),
    (_nothing, "IOMMU_IOAS_MAP", {"flags": 7, "ioas_id": "a", "length": 16 * PAGE, "iova": FIRST}, _MEMORY),
    (_file, "IOMMU_IOAS_MAP_FILE", {"flags": 7, "ioas_id": "a", "length": 16 * PAGE, "iova": FIRST},
     {"fds": {"fd": "file"}}),
    (_mapped, "IOMMU_IOAS_COPY",
     {"flags": 7, "dst_ioas_id": "b", "src_ioas_id": "a", "length": 16 * PAGE, "src_iova": FIRST,
      "dst_iova": FIRST}, {}),
    (_mapped, "IOMMU_HWPT_ALLOC", {"dev_id": "dev", "pt_id": "a"}, {}),
    (_mapped, "IOMMU_TEST_OP_MOCK_DOMAIN", {"id": "a"}, {}),
    (_mapped, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE", {"id": "std", "pt_id": "b"}, {}),
    (_nothing, "IOMMU_FAULT_QUEUE_ALLOC", {}, {}),
    (_nesting, "IOMMU_VIOMMU_ALLOC",
     {"dev_id": "dev", "hwpt_id": "parent", "type": IOMMU_VIOMMU_TYPE_SELFTEST}, {}),
    (_nesting, "IOMMU_VDEVICE_ALLOC", {"viommu_id": "vi", "dev_id": "dev", "virt_id": 9}, {}),
    (_nesting, "IOMMU_VEVENTQ_ALLOC", {"viommu_id": "vi", "type": 0xBEEFBEEF, "veventq_depth": 4}, {}),
    (_nesting, "IOMMU_HW_QUEUE_ALLOC",
     {"viommu_id": "vi", "type": 0xDEADBEEF, "index": 0, "nesting_parent_iova": FIRST, "length": PAGE}, {}),
    (_pinning, "IOMMU_TEST_OP_ACCESS_PAGES", {"flags": 1, "iova": FIRST, "length": 8 * PAGE},
     {"fds": {"id": "acc"}, "mems": {"uptr": ["m", 0]}}),
)  # fmt: skip
