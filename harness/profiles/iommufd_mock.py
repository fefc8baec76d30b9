# SPDX-License-Identifier: Apache-2.0
"""iommufd's own mock: no VFIO device, but page tables, devices and faults made of software.

It exists in kernels with CONFIG_IOMMUFD_TEST, and stands in where no hardware has dirty tracking, nesting,
PASID or a vIOMMU.  What it shows is how iommufd's core behaves, not how any IOMMU does.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="iommufd_mock",
    driver="",
    description="iommufd's own mock stands in for the hardware (CONFIG_IOMMUFD_TEST)",
    source="drivers/iommu/iommufd/selftest.c",
    does_dma=False,
    op_limit_s=20.0,
    explanations={
        "DIRTY-110": (
            "record_dirty() of drivers/iommu/generic_pt/iommu_pt.h counts a contiguous entry up to its "
            "last item (log2_set_mod_max_t() is inclusive) and not past it: the last item is never reported"
        ),
        "DIRTY-115": (
            "amdv1pt_entry_make_write_clean() of drivers/iommu/generic_pt/fmt/amdv1.h cleans the whole "
            "contiguous entry, of which record_dirty() reports what lies in the range"
        ),
        "DIRTY-117": (
            "record_dirty() of drivers/iommu/generic_pt/iommu_pt.h takes the length of the whole entry also "
            "where the range begins or ends inside it; iova_bitmap_set() does not stop at the bitmap's end"
        ),
        "DIRTY-126": (
            "iommu_read_and_clear_dirty() of drivers/iommu/iommufd/io_pagetable.c drops what "
            "iova_bitmap_for_each() returns; the walk had ended at the hole with EINVAL"
        ),
        "DIRTY-127": (
            "iova_bitmap_set() cannot fail, and iommu_read_and_clear_dirty() would drop the error: dirty "
            "bits are cleared and reported to nobody"
        ),
        "DIRTY-128": (
            "record_dirty() of drivers/iommu/generic_pt/iommu_pt.h gets a length of 0 for a range that "
            "begins at the last item of a contiguous entry, and iova_bitmap_set() of 0 bytes does not end"
        ),
        "DIRTY-131": "iommufd_hwpt_set_dirty_tracking() does not look at __reserved",
        "IOM-010": "iommufd_viommu_alloc_ioctl() does not look at __reserved",
        "IOM-011": "iommufd_hwpt_alloc() says EINVAL for a pt_id that does not exist",
        "IOM-049": (
            "iopt_unmap_iova_range() of drivers/iommu/iommufd/io_pagetable.c unmaps one after the other "
            "and stops at the one that it would have to cut"
        ),
        "IOM-077": (
            "need_charge_update() of drivers/iommu/iommufd/ioas.c skips pages of a process with CAP_IPC_LOCK "
            "(IOPT_PAGES_ACCOUNT_NONE), which change_mm() gives to the new one: its pinned_vm falls below 0"
        ),
        "DIRTY-135": "iova_bitmap_alloc() takes __ffs(page_size) for its size: 12288 counts as 4096",
    },
)
