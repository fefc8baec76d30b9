# SPDX-License-Identifier: Apache-2.0
"""Chapter DIRTY, the IOMMU's part: IOMMU_HWPT_SET_DIRTY_TRACKING and IOMMU_HWPT_GET_DIRTY_BITMAP.

The source is include/uapi/linux/iommufd.h.  Where that text is silent, and a rule rests on the kernel's own
comments or on common use, the level is SHOULD and the source says so.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_GET = "iommufd.h, struct iommu_hwpt_get_dirty_bitmap"
_SET = "iommufd.h, struct iommu_hwpt_set_dirty_tracking"
_ALLOC = "iommufd.h, enum iommufd_hwpt_alloc_flags, IOMMU_HWPT_ALLOC_DIRTY_TRACKING"
_CAP = "iommufd.h, enum iommufd_hw_capabilities, IOMMU_HW_CAP_DIRTY_TRACKING"
_FORMAT = "iommufd.h, DOC: General ioctl format"
_SILENT = "the text is silent: "


def _c(id: str, level: Level, statement: str, source: str, *needs: str, since: str = "v6.7") -> Clause:
    return Clause(id, level, statement, source, needs or ("hwpt_dirty",), since, mock=True)


CLAUSES: tuple[Clause, ...] = (
    # -- having it
    _c(
        "DIRTY-100", "MUST",
        "where the IOMMU declares dirty tracking, a page table with it can be allocated and attached", _CAP,
    ),
    _c(
        "DIRTY-101", "MUST",
        "a device whose IOMMU does not declare dirty tracking gets no page table with it",
        f"{_CAP}, available only if declared", "hwpt_refuses_dirty",
    ),
    _c(
        "DIRTY-102", "MUST",
        "a device without dirty tracking cannot be attached to a page table that has it",
        f"{_ALLOC}, enforced on device attachment", "mock",
    ),
    _c(
        "DIRTY-103", "MUST", "tracking can be switched on and off, again and again, also to what it is", _SET,
    ),
    _c(
        "DIRTY-104", "SHOULD", "a page table allocated without the flag refuses to be tracked and to report",
        f"{_SILENT}a refusal is what tells the caller that there is no tracking; EOPNOTSUPP by {_FORMAT}",
        "physical_iommu",
    ),
    # -- what a report says
    _c(
        "DIRTY-110", "MUST",
        "every page that was written since tracking began or its last clearing report is reported", _GET,
    ),
    _c(
        "DIRTY-111", "SHOULD", "in a mapping that nobody wrote to, no page is reported",
        f"{_SILENT}the bitmap has `the dirty IOVAs`; a page too many costs time and loses nothing",
    ),
    _c(
        "DIRTY-112", "MUST", "a report clears: what was not written since is not reported again",
        f"{_GET}, it will also by default clear any dirty bit metadata",
    ),
    _c(
        "DIRTY-113", "MUST", "a report with NO_CLEAR clears nothing: the same is reported again",
        "iommufd.h, enum iommufd_hwpt_get_dirty_bitmap_flags, NO_CLEAR",
    ),
    _c(
        "DIRTY-114", "MUST", "a report of one range leaves what is dirty in other mappings",
        f"{_GET}, for a given IOVA range",
    ),
    _c(
        "DIRTY-115", "SHOULD",
        "a clearing report of part of a mapping does not lose what is dirty in the rest of it",
        f"{_SILENT}dirty bits are cleared `in the IOPTE`, whose size the caller does not know",
    ),
    _c(
        "DIRTY-116", "MUST", "a report sets bits and never clears one that the caller had set",
        f"{_GET}, bitmap where to set the dirty bits",
    ),
    _c(
        "DIRTY-117", "MUST", "a report writes no bit outside its range, neither in the bitmap nor around it",
        f"{_GET}, iova, length and page_size are the bitmap's",
    ),
    _c(
        "DIRTY-118", "MUST", "a bitmap may start at any address that suits a u64, and cross pages",
        f"{_GET}, data is an array of u64",
    ),
    _c(
        "DIRTY-119", "MUST", "each bit stands for page_size: larger bits are set where any part is dirty",
        f"{_GET}, page_size",
    ),
    _c(
        "DIRTY-120", "MUST", "page tables of one IOAS have dirty bits of their own", f"{_GET}, hwpt_id",
        "mock",
    ),
    _c(
        "DIRTY-121", "SHOULD", "tracking begins clean: what was dirty before it was switched on is gone",
        f"{_SILENT}`ensure a clean snapshot`, drivers/iommu/iommufd/io_pagetable.c, iopt_set_dirty_tracking",
    ),
    _c(
        "DIRTY-122", "MUST", "a mapping made while tracking is on is tracked", f"{_SET}, of the page table",
    ),
    _c(
        "DIRTY-123", "SHOULD", "a new mapping is clean, whatever was mapped at its address before",
        f"{_SILENT}dirty bits are metadata of an IOPTE, and an unmapped one is gone",
    ),
    _c(
        "DIRTY-126", "MUST",
        "a report that succeeds has every dirty page of its range, also behind addresses nobody mapped",
        f"{_GET}, walk the page tables for a given IOVA range",
    ),
    _c(
        "DIRTY-127", "SHOULD", "a report whose bitmap cannot be written fails, and loses nothing",
        f"{_SILENT}success says that the dirty pages are in the bitmap",
    ),
    _c(
        "DIRTY-128", "MUST", "a report comes back, wherever in an entry its range begins and ends",
        f"{_GET}, a given IOVA range",
    ),
    # -- what is refused
    _c(
        "DIRTY-130", "MUST", "unknown flags and a reserved field that is not 0 are refused with EOPNOTSUPP",
        f"{_FORMAT}, EOPNOTSUPP; {_GET}, flags and __reserved",
    ),
    _c(
        "DIRTY-131", "SHOULD", "IOMMU_HWPT_SET_DIRTY_TRACKING refuses a reserved field that is not 0",
        f"{_SET}, __reserved: must be 0; {_SILENT}it does not say that the kernel looks",
    ),
    _c(
        "DIRTY-132", "MUST", "the id of nothing is ENOENT, that of an object that is no page table an error",
        f"{_FORMAT}, ENOENT",
    ),
    _c(
        "DIRTY-133", "MUST", "a range that ends beyond 2^64 is refused with EOVERFLOW",
        f"{_FORMAT}, EOVERFLOW",
    ),
    _c(
        "DIRTY-134", "SHOULD", "a page_size of 0, or that iova or length are no multiple of, is refused",
        f"{_SILENT}the bits of such a report would stand for nothing",
    ),
    _c(
        "DIRTY-135", "SHOULD", "a page_size that is no power of two is refused, or each bit stands for it",
        f"{_GET}, the bitmap bits each represent a page_size",
    ),
)  # fmt: skip
