# SPDX-License-Identifier: Apache-2.0
"""The lab-only test interface of iommufd: drivers/iommu/iommufd/iommufd_test.h (as of v7.2).

Only kernels with CONFIG_IOMMUFD_TEST have it.  The interface is not stable, so every use is probed.  Each
struct here is one arm of the union in `struct iommu_test_cmd`, with the common header before it.
"""

from __future__ import annotations

import ctypes

from .layout import nr, s32, u32, u64

IOMMU_TEST_CMD = nr(0x80 + 32)

MOCK_APERTURE_START = 1 << 24
MOCK_APERTURE_LAST = (1 << 31) - 1
MOCK_PAGE_SIZE = 2048
MOCK_HUGE_PAGE_SIZE = 512 * MOCK_PAGE_SIZE
MOCK_FLAGS_ACCESS_WRITE = 1 << 0
MOCK_ACCESS_RW_WRITE = 1 << 0
MOCK_ACCESS_RW_SLOW_PATH = 1 << 2
MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1 << 0
MOCK_FLAGS_DEVICE_NO_DIRTY = 1 << 0
MOCK_FLAGS_DEVICE_PASID = 1 << 2
MOCK_NESTED_DOMAIN_IOTLB_NUM = 4
MOCK_DEV_CACHE_NUM = 4
MOCK_PASID_WIDTH = 20
IOMMU_TEST_PASID_RESERVED = 1024
IOMMU_HW_INFO_TYPE_SELFTEST = 0xFEEDBEEF
IOMMU_HW_INFO_SELFTEST_REGVAL = 0xDEADBEEF
IOMMU_HWPT_DATA_SELFTEST = 0xDEAD
IOMMU_TEST_IOTLB_DEFAULT = 0xBADBEEF
IOMMU_TEST_DEV_CACHE_DEFAULT = 0xBADDAD
IOMMU_HWPT_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_TEST_INVALIDATE_FLAG_ALL = 1 << 0
IOMMU_VIOMMU_TYPE_SELFTEST = 0xDEADBEEF
IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_VEVENTQ_TYPE_SELFTEST = 0xBEEFBEEF
IOMMU_HW_QUEUE_TYPE_SELFTEST = 0xDEADBEEF
IOMMU_TEST_HW_QUEUE_MAX = 2

_HEAD = [("size", u32), ("op", u32), ("id", u32), ("__reserved", u32)]
_TOTAL_BYTES = 72  # size of the struct with its largest arm, `dirty`

_ARMS: dict[str, tuple[int, list[tuple[str, type]]]] = {
    "ADD_RESERVED": (1, [("start", u64), ("length", u64)]),
    "MOCK_DOMAIN": (2, [("out_stdev_id", u32), ("out_hwpt_id", u32), ("out_idev_id", u32)]),
    "MD_CHECK_MAP": (3, [("iova", u64), ("length", u64), ("uptr", u64)]),
    "MD_CHECK_REFS": (4, [("length", u64), ("uptr", u64), ("refs", u32)]),
    "CREATE_ACCESS": (5, [("out_access_fd", u32), ("flags", u32)]),
    "DESTROY_ACCESS_PAGES": (6, [("access_pages_id", u32)]),
    "ACCESS_PAGES": (
        7,
        [("flags", u32), ("out_access_pages_id", u32), ("iova", u64), ("length", u64), ("uptr", u64)],
    ),
    "ACCESS_RW": (8, [("iova", u64), ("length", u64), ("uptr", u64), ("flags", u32)]),
    "SET_TEMP_MEMORY_LIMIT": (9, [("limit", u32)]),
    "MOCK_DOMAIN_REPLACE": (10, [("pt_id", u32)]),
    "ACCESS_REPLACE_IOAS": (11, [("ioas_id", u32)]),
    "MOCK_DOMAIN_FLAGS": (
        12,
        [("out_stdev_id", u32), ("out_hwpt_id", u32), ("out_idev_id", u32), ("dev_flags", u32)],
    ),
    "DIRTY": (
        13,
        [("flags", u32), ("iova", u64), ("length", u64), ("page_size", u64), ("uptr", u64),
         ("out_nr_dirty", u64)],
    ),
    "MD_CHECK_IOTLB": (14, [("iotlb_id", u32), ("iotlb", u32)]),
    "TRIGGER_IOPF": (
        15,
        [("dev_id", u32), ("pasid", u32), ("grpid", u32), ("perm", u32), ("addr", u64)],
    ),
    "DEV_CHECK_CACHE": (16, [("cache_id", u32), ("cache", u32)]),
    "TRIGGER_VEVENT": (17, [("dev_id", u32)]),
    "PASID_ATTACH": (18, [("pasid", u32), ("pt_id", u32)]),
    "PASID_REPLACE": (19, [("pasid", u32), ("pt_id", u32)]),
    "PASID_DETACH": (20, [("pasid", u32)]),
    "PASID_CHECK_HWPT": (21, [("pasid", u32), ("hwpt_id", u32)]),
    "DMABUF_GET": (22, [("length", u32), ("open_flags", u32)]),
    "DMABUF_REVOKE": (23, [("dmabuf_fd", s32), ("revoked", u32)]),
}  # fmt: skip


def _struct(name: str, fields: list[tuple[str, type]]) -> type[ctypes.Structure]:
    """`struct iommu_test_cmd` with one arm of its union, padded to the full size of the union."""
    plain = type("_" + name, (ctypes.Structure,), {"_fields_": _HEAD + fields})
    last, kind = fields[-1]
    end = getattr(plain, last).offset + ctypes.sizeof(kind)
    fields = fields + [("_rest", ctypes.c_uint8 * (_TOTAL_BYTES - end))]
    return type("iommu_test_" + name.lower(), (ctypes.Structure,), {"_fields_": _HEAD + fields})


TEST_OPS: dict[str, tuple[int, type[ctypes.Structure]]] = {
    "IOMMU_TEST_OP_" + name: (number, _struct(name, fields)) for name, (number, fields) in _ARMS.items()
}
"""Operation of IOMMU_TEST_CMD -> (its number, its struct)."""
