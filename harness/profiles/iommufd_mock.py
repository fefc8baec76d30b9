# SPDX-License-Identifier: Apache-2.0
"""iommufd's own mock: not a VFIO device, but page tables, devices and faults in software.

It exists in kernels with CONFIG_IOMMUFD_TEST, and is used where no hardware has dirty tracking, nesting,
PASID or a vIOMMU.  It shows how iommufd's core behaves, not how any IOMMU does.
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
            "contiguous entry, but record_dirty() reports only the part of it in the range"
        ),
        "DIRTY-117": (
            "record_dirty() of drivers/iommu/generic_pt/iommu_pt.h uses the length of the whole entry even "
            "if the range begins or ends inside it; iova_bitmap_set() does not stop at the end of the bitmap"
        ),
        "DIRTY-126": (
            "iommu_read_and_clear_dirty() of drivers/iommu/iommufd/io_pagetable.c drops the result of "
            "iova_bitmap_for_each(); the walk had ended at the hole with EINVAL"
        ),
        "DIRTY-127": (
            "iova_bitmap_set() cannot fail, and iommu_read_and_clear_dirty() would drop the error: dirty "
            "bits are cleared and not reported"
        ),
        "DIRTY-128": (
            "record_dirty() of drivers/iommu/generic_pt/iommu_pt.h gets a length of 0 for a range that "
            "begins at the last item of a contiguous entry, and iova_bitmap_set() of 0 bytes never returns"
        ),
        "DIRTY-131": "iommufd_hwpt_set_dirty_tracking() does not check __reserved",
        "IOM-010": "iommufd_viommu_alloc_ioctl() does not check __reserved",
        "IOM-011": "iommufd_hwpt_alloc() returns EINVAL for a pt_id that does not exist",
        "IOM-049": (
            "iopt_unmap_iova_range() of drivers/iommu/iommufd/io_pagetable.c unmaps one mapping after "
            "the other and stops at the first that it would have to cut"
        ),
        "IOM-077": (
            "need_charge_update() of drivers/iommu/iommufd/ioas.c skips pages of a process with CAP_IPC_LOCK "
            "(IOPT_PAGES_ACCOUNT_NONE), but change_mm() moves them to the new process, whose pinned_vm then "
            "falls below 0"
        ),
        "DIRTY-135": "iova_bitmap_alloc() takes __ffs(page_size) for its size: 12288 counts as 4096",
    },
)
