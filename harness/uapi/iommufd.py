# SPDX-License-Identifier: Apache-2.0
"""Values, ioctl numbers and structs of include/uapi/linux/iommufd.h, kernel spelling (as of v7.2)."""

from __future__ import annotations

import ctypes

from .layout import nr, s32, u8, u16, u32, u64

IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0
IOMMU_IOAS_MAP_WRITEABLE = 1 << 1
IOMMU_IOAS_MAP_READABLE = 1 << 2
IOMMU_OPTION_RLIMIT_MODE = 0
IOMMU_OPTION_HUGE_PAGES = 1
IOMMU_OPTION_OP_SET = 0
IOMMU_OPTION_OP_GET = 1
IOMMU_VFIO_IOAS_GET = 0
IOMMU_VFIO_IOAS_SET = 1
IOMMU_VFIO_IOAS_CLEAR = 2
IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0
IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1
IOMMU_HWPT_FAULT_ID_VALID = 1 << 2
IOMMU_HWPT_ALLOC_PASID = 1 << 3
IOMMU_VTD_S1_SRE = 1 << 0
IOMMU_VTD_S1_EAFE = 1 << 1
IOMMU_VTD_S1_WPE = 1 << 2
IOMMU_HWPT_DATA_NONE = 0
IOMMU_HWPT_DATA_VTD_S1 = 1
IOMMU_HWPT_DATA_ARM_SMMUV3 = 2
IOMMU_HWPT_DATA_AMD_GUEST = 3
IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1 << 0
IOMMU_HW_INFO_TYPE_NONE = 0
IOMMU_HW_INFO_TYPE_DEFAULT = 0
IOMMU_HW_INFO_TYPE_INTEL_VTD = 1
IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2
IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3
IOMMU_HW_INFO_TYPE_AMD = 4
IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0
IOMMU_HW_CAP_PCI_PASID_EXEC = 1 << 1
IOMMU_HW_CAP_PCI_PASID_PRIV = 1 << 2
IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 1 << 3
IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1 << 0
IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1
IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1
IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0
IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1
IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0
IOMMU_PGFAULT_FLAGS_PASID_VALID = 1 << 0
IOMMU_PGFAULT_FLAGS_LAST_PAGE = 1 << 1
IOMMU_PGFAULT_PERM_READ = 1 << 0
IOMMU_PGFAULT_PERM_WRITE = 1 << 1
IOMMU_PGFAULT_PERM_EXEC = 1 << 2
IOMMU_PGFAULT_PERM_PRIV = 1 << 3
IOMMUFD_PAGE_RESP_SUCCESS = 0
IOMMUFD_PAGE_RESP_INVALID = 1
IOMMU_VIOMMU_TYPE_DEFAULT = 0
IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1
IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2
IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1 << 0
IOMMU_VEVENTQ_TYPE_DEFAULT = 0
IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1
IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2
IOMMU_HW_QUEUE_TYPE_DEFAULT = 0
IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1

IOMMU_DESTROY = nr(0x80)
IOMMU_IOAS_ALLOC = nr(0x81)
IOMMU_IOAS_IOVA_RANGES = nr(0x84)
IOMMU_IOAS_ALLOW_IOVAS = nr(0x82)
IOMMU_IOAS_MAP = nr(0x85)
IOMMU_IOAS_MAP_FILE = nr(0x8F)
IOMMU_IOAS_COPY = nr(0x83)
IOMMU_IOAS_UNMAP = nr(0x86)
IOMMU_OPTION = nr(0x87)
IOMMU_VFIO_IOAS = nr(0x88)
IOMMU_HWPT_ALLOC = nr(0x89)
IOMMU_GET_HW_INFO = nr(0x8A)
IOMMU_HWPT_SET_DIRTY_TRACKING = nr(0x8B)
IOMMU_HWPT_GET_DIRTY_BITMAP = nr(0x8C)
IOMMU_HWPT_INVALIDATE = nr(0x8D)
IOMMU_FAULT_QUEUE_ALLOC = nr(0x8E)
IOMMU_VIOMMU_ALLOC = nr(0x90)
IOMMU_VDEVICE_ALLOC = nr(0x91)
IOMMU_IOAS_CHANGE_PROCESS = nr(0x92)
IOMMU_VEVENTQ_ALLOC = nr(0x93)
IOMMU_HW_QUEUE_ALLOC = nr(0x94)


class iommu_destroy(ctypes.Structure):
    _fields_ = [("size", u32), ("id", u32)]


class iommu_ioas_alloc(ctypes.Structure):
    _fields_ = [("size", u32), ("flags", u32), ("out_ioas_id", u32)]


class iommu_iova_range(ctypes.Structure):
    _fields_ = [("start", u64), ("last", u64)]


class iommu_ioas_iova_ranges(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("ioas_id", u32),
        ("num_iovas", u32),
        ("__reserved", u32),
        ("allowed_iovas", u64),
        ("out_iova_alignment", u64),
    ]


class iommu_ioas_allow_iovas(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("ioas_id", u32),
        ("num_iovas", u32),
        ("__reserved", u32),
        ("allowed_iovas", u64),
    ]


class iommu_ioas_map(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("ioas_id", u32),
        ("__reserved", u32),
        ("user_va", u64),
        ("length", u64),
        ("iova", u64),
    ]


class iommu_ioas_map_file(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("ioas_id", u32),
        ("fd", s32),
        ("start", u64),
        ("length", u64),
        ("iova", u64),
    ]


class iommu_ioas_copy(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("dst_ioas_id", u32),
        ("src_ioas_id", u32),
        ("length", u64),
        ("dst_iova", u64),
        ("src_iova", u64),
    ]


class iommu_ioas_unmap(ctypes.Structure):
    _fields_ = [("size", u32), ("ioas_id", u32), ("iova", u64), ("length", u64)]


class iommu_option(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("option_id", u32),
        ("op", u16),
        ("__reserved", u16),
        ("object_id", u32),
        ("val64", u64),
    ]


class iommu_vfio_ioas(ctypes.Structure):
    _fields_ = [("size", u32), ("ioas_id", u32), ("op", u16), ("__reserved", u16)]


class iommu_hwpt_vtd_s1(ctypes.Structure):
    _fields_ = [("flags", u64), ("pgtbl_addr", u64), ("addr_width", u32), ("__reserved", u32)]


class iommu_hwpt_arm_smmuv3(ctypes.Structure):
    _fields_ = [("ste", u64 * 2)]


class iommu_hwpt_amd_guest(ctypes.Structure):
    _fields_ = [("dte", u64 * 4)]


class iommu_hwpt_alloc(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("dev_id", u32),
        ("pt_id", u32),
        ("out_hwpt_id", u32),
        ("__reserved", u32),
        ("data_type", u32),
        ("data_len", u32),
        ("data_uptr", u64),
        ("fault_id", u32),
        ("__reserved2", u32),
    ]


class iommu_hw_info_vtd(ctypes.Structure):
    _fields_ = [("flags", u32), ("__reserved", u32), ("cap_reg", u64), ("ecap_reg", u64)]


class iommu_hw_info_arm_smmuv3(ctypes.Structure):
    _fields_ = [("flags", u32), ("__reserved", u32), ("idr", u32 * 6), ("iidr", u32), ("aidr", u32)]


class iommu_hw_info_tegra241_cmdqv(ctypes.Structure):
    _fields_ = [("flags", u32), ("version", u8), ("log2vcmdqs", u8), ("log2vsids", u8), ("__reserved", u8)]


class iommu_hw_info_amd(ctypes.Structure):
    _fields_ = [("efr", u64), ("efr2", u64)]


class _iommu_hw_info_u(ctypes.Union):
    _fields_ = [("in_data_type", u32), ("out_data_type", u32)]


class iommu_hw_info(ctypes.Structure):
    _anonymous_ = ("_u",)
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("dev_id", u32),
        ("data_len", u32),
        ("data_uptr", u64),
        ("_u", _iommu_hw_info_u),
        ("out_max_pasid_log2", u8),
        ("__reserved", u8 * 3),
        ("out_capabilities", u64),
    ]


class iommu_hwpt_set_dirty_tracking(ctypes.Structure):
    _fields_ = [("size", u32), ("flags", u32), ("hwpt_id", u32), ("__reserved", u32)]


class iommu_hwpt_get_dirty_bitmap(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("hwpt_id", u32),
        ("flags", u32),
        ("__reserved", u32),
        ("iova", u64),
        ("length", u64),
        ("page_size", u64),
        ("data", u64),
    ]


class iommu_hwpt_vtd_s1_invalidate(ctypes.Structure):
    _fields_ = [("addr", u64), ("npages", u64), ("flags", u32), ("__reserved", u32)]


class iommu_viommu_arm_smmuv3_invalidate(ctypes.Structure):
    _fields_ = [("cmd", u64 * 2)]


class iommu_hwpt_invalidate(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("hwpt_id", u32),
        ("data_uptr", u64),
        ("data_type", u32),
        ("entry_len", u32),
        ("entry_num", u32),
        ("__reserved", u32),
    ]


class iommu_hwpt_pgfault(ctypes.Structure):
    _fields_ = [
        ("flags", u32),
        ("dev_id", u32),
        ("pasid", u32),
        ("grpid", u32),
        ("perm", u32),
        ("__reserved", u32),
        ("addr", u64),
        ("length", u32),
        ("cookie", u32),
    ]


class iommu_hwpt_page_response(ctypes.Structure):
    _fields_ = [("cookie", u32), ("code", u32)]


class iommu_fault_alloc(ctypes.Structure):
    _fields_ = [("size", u32), ("flags", u32), ("out_fault_id", u32), ("out_fault_fd", u32)]


class iommu_viommu_tegra241_cmdqv(ctypes.Structure):
    _fields_ = [("out_vintf_mmap_offset", u64), ("out_vintf_mmap_length", u64)]


class iommu_viommu_alloc(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("type", u32),
        ("dev_id", u32),
        ("hwpt_id", u32),
        ("out_viommu_id", u32),
        ("data_len", u32),
        ("__reserved", u32),
        ("data_uptr", u64),
    ]


class iommu_vdevice_alloc(ctypes.Structure):
    _fields_ = [("size", u32), ("viommu_id", u32), ("dev_id", u32), ("out_vdevice_id", u32), ("virt_id", u64)]


class iommu_ioas_change_process(ctypes.Structure):
    _fields_ = [("size", u32), ("__reserved", u32)]


class iommufd_vevent_header(ctypes.Structure):
    _fields_ = [("flags", u32), ("sequence", u32)]


class iommu_vevent_arm_smmuv3(ctypes.Structure):
    _fields_ = [("evt", u64 * 4)]


class iommu_vevent_tegra241_cmdqv(ctypes.Structure):
    _fields_ = [("lvcmdq_err_map", u64 * 2)]


class iommu_veventq_alloc(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("viommu_id", u32),
        ("type", u32),
        ("veventq_depth", u32),
        ("out_veventq_id", u32),
        ("out_veventq_fd", u32),
        ("__reserved", u32),
    ]


class iommu_hw_queue_alloc(ctypes.Structure):
    _fields_ = [
        ("size", u32),
        ("flags", u32),
        ("viommu_id", u32),
        ("type", u32),
        ("index", u32),
        ("out_hw_queue_id", u32),
        ("nesting_parent_iova", u64),
        ("length", u64),
    ]


# The same number means different things on different kinds of fd, so a number is looked up by kind.
IOCTLS: dict[str, dict[str, int]] = {
    "iommufd": {
        "IOMMU_DESTROY": IOMMU_DESTROY,
        "IOMMU_IOAS_ALLOC": IOMMU_IOAS_ALLOC,
        "IOMMU_IOAS_IOVA_RANGES": IOMMU_IOAS_IOVA_RANGES,
        "IOMMU_IOAS_ALLOW_IOVAS": IOMMU_IOAS_ALLOW_IOVAS,
        "IOMMU_IOAS_MAP": IOMMU_IOAS_MAP,
        "IOMMU_IOAS_MAP_FILE": IOMMU_IOAS_MAP_FILE,
        "IOMMU_IOAS_COPY": IOMMU_IOAS_COPY,
        "IOMMU_IOAS_UNMAP": IOMMU_IOAS_UNMAP,
        "IOMMU_OPTION": IOMMU_OPTION,
        "IOMMU_VFIO_IOAS": IOMMU_VFIO_IOAS,
        "IOMMU_HWPT_ALLOC": IOMMU_HWPT_ALLOC,
        "IOMMU_GET_HW_INFO": IOMMU_GET_HW_INFO,
        "IOMMU_HWPT_SET_DIRTY_TRACKING": IOMMU_HWPT_SET_DIRTY_TRACKING,
        "IOMMU_HWPT_GET_DIRTY_BITMAP": IOMMU_HWPT_GET_DIRTY_BITMAP,
        "IOMMU_HWPT_INVALIDATE": IOMMU_HWPT_INVALIDATE,
        "IOMMU_FAULT_QUEUE_ALLOC": IOMMU_FAULT_QUEUE_ALLOC,
        "IOMMU_VIOMMU_ALLOC": IOMMU_VIOMMU_ALLOC,
        "IOMMU_VDEVICE_ALLOC": IOMMU_VDEVICE_ALLOC,
        "IOMMU_IOAS_CHANGE_PROCESS": IOMMU_IOAS_CHANGE_PROCESS,
        "IOMMU_VEVENTQ_ALLOC": IOMMU_VEVENTQ_ALLOC,
        "IOMMU_HW_QUEUE_ALLOC": IOMMU_HW_QUEUE_ALLOC,
    },
}
