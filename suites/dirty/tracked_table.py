# SPDX-License-Identifier: Apache-2.0
"""A page table with dirty tracking, and what dirties its pages: the mock, or a traffic engine.

Guarantees of a `Dirtier`:

* `open` makes the slots `f` (iommufd), `a` (IOAS), `dev` (device id), `h` (the page table, attached to the
  device, tracking off) and `m`, memory of `MEMORY_BYTES`;
* `write` dirties every page that it names, if the page is mapped and tracked, before the next operation;
* IOVAs from `first_iova` on are usable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from harness.program.script import Script
from harness.uapi import iommufd
from harness.uapi.iommufd_test import MOCK_APERTURE_START, MOCK_PAGE_SIZE

__all__ = ["MEMORY_BYTES", "RW_FIXED", "Dirtier", "MockDirtier", "TrackedTable", "iommu"]

MEMORY_BYTES = 1 << 20
RW_FIXED = (
    iommufd.IOMMU_IOAS_MAP_FIXED_IOVA | iommufd.IOMMU_IOAS_MAP_WRITEABLE | iommufd.IOMMU_IOAS_MAP_READABLE
)


def iommu(script: Script, cmd: str, fields: Mapping[str, Any] | None = None, /, **more: Any) -> int:
    """Append an ioctl on the iommufd `f` with `fields` of its struct; `more` as in the operation `iommu`."""
    return script.op("iommu", **{"fd": "f", "cmd": cmd, "set": dict(fields or {}), **more})


class Dirtier(Protocol):
    """What dirties pages; the module says what it guarantees."""

    first_iova: int
    own: bool
    """Whether a program opens the device itself."""

    def open(self, script: Script, *, huge: bool = True, memory: Mapping[str, Any] | None = None) -> None:
        """Append the operations that make the slots."""

    def write(self, script: Script, iovas: Iterable[int]) -> None:
        """Append dirtying the page of each of these addresses."""


class MockDirtier:
    """Iommufd's mock: IOMMU_TEST_OP_DIRTY sets the dirty bit of an entry as hardware would."""

    first_iova = MOCK_APERTURE_START
    own = False

    def open(self, script: Script, *, huge: bool = True, memory: Mapping[str, Any] | None = None) -> None:
        """Append the operations that make the slots."""
        script.op("open_iommufd", out="f")
        script.op("ioas_alloc", fd="f", out="a")
        if not huge:
            option = {"option_id": iommufd.IOMMU_OPTION_HUGE_PAGES, "op": iommufd.IOMMU_OPTION_OP_SET}
            iommu(script, "IOMMU_OPTION", {**option, "object_id": "a", "val64": 0})
        outs = {"std": "out_stdev_id", "dev": "out_idev_id"}
        iommu(script, "IOMMU_TEST_OP_MOCK_DOMAIN", {"id": "a"}, outs=outs)
        self.table(script, "h")
        iommu(script, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE", {"id": "std", "pt_id": "h"})
        script.op("mmap", **{"out": "m", "n": MEMORY_BYTES, **(memory or {"align": MEMORY_BYTES})})

    @staticmethod
    def table(script: Script, slot: str, flags: int = iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING) -> int:
        """Append allocating another page table of the IOAS; returns the index."""
        fields = {"dev_id": "dev", "pt_id": "a", "flags": flags}
        return iommu(script, "IOMMU_HWPT_ALLOC", fields, outs={slot: "out_hwpt_id"})

    def write(self, script: Script, iovas: Iterable[int], table: str = "h") -> None:
        """Append dirtying the page of each of these addresses."""
        pages = sorted({iova // MOCK_PAGE_SIZE for iova in iovas})
        if not pages:
            return
        first, count = pages[0], pages[-1] - pages[0] + 1
        bits = sum(1 << (page - first) for page in pages)
        iommu(
            script, "IOMMU_TEST_OP_DIRTY",
            {"id": table, "iova": first * MOCK_PAGE_SIZE, "length": count * MOCK_PAGE_SIZE,
             "page_size": MOCK_PAGE_SIZE},
            bufs={"uptr": bits.to_bytes((count + 63) // 64 * 8, "little").hex()},
        )  # fmt: skip


class TrackedTable:
    """A script with a tracked page table, with the operations of this chapter's experiments."""

    def __init__(
        self, dirtier: Dirtier, *, on: bool = True, huge: bool = True, memory: Mapping[str, Any] | None = None
    ) -> None:
        self.script, self.dirtier = Script(fresh=False, hangs="DIRTY-128"), dirtier
        dirtier.open(self.script, huge=huge, memory=memory)
        if on:
            self.track(True)

    def at(self, offset: int) -> int:
        """The IOVA at `offset` from the first usable one."""
        return self.dirtier.first_iova + offset

    def track(self, on: bool, table: str = "h") -> int:
        """Switch tracking on or off."""
        return iommu(self.script, "IOMMU_HWPT_SET_DIRTY_TRACKING", {"hwpt_id": table, "flags": int(on)})

    def map(self, offset: int, length: int, memory: int = 0) -> int:
        """Map `length` bytes of the memory, starting at its offset `memory`."""
        return iommu(
            self.script, "IOMMU_IOAS_MAP",
            {"flags": RW_FIXED, "ioas_id": "a", "length": length, "iova": self.at(offset)},
            mems={"user_va": ["m", memory]},
        )  # fmt: skip

    def unmap(self, offset: int, length: int) -> int:
        """Unmap a range."""
        fields = {"ioas_id": "a", "iova": self.at(offset), "length": length}
        return iommu(self.script, "IOMMU_IOAS_UNMAP", fields)

    def write(self, *offsets: int) -> None:
        """Dirty the pages at these offsets."""
        self.dirtier.write(self.script, [self.at(offset) for offset in offsets])

    def report(
        self, offset: int, length: int, page: int = 4096, *, keep: bool = False, preset: str = "",
        at: int = 0, table: str = "h", **spoilt: Any,
    ) -> int:  # fmt: skip
        """Get the bitmap of a range into a buffer that holds `preset`, at offset `at` of a page."""
        count = -(-length // page) if page else 64
        size = (count + 63) // 64 * 8
        fields = {
            "hwpt_id": table, "flags": int(keep), "iova": self.at(offset), "length": length,
            "page_size": page,
        }  # fmt: skip
        return iommu(
            self.script, "IOMMU_HWPT_GET_DIRTY_BITMAP", {**fields, **spoilt},
            bufs={"data": preset.ljust(2 * size, "0") if preset else size}, at={"data": at},
        )  # fmt: skip
