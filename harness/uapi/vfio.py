# SPDX-License-Identifier: Apache-2.0
"""Values, ioctl numbers and structs of include/uapi/linux/vfio.h, in the kernel's spelling (as of v7.2).

Left out: what is specific to s390 ccw, AP and POWER EEH/sPAPR.  A self-test compiles a C probe against the
kernel's header and compares every size, offset, value and number defined here.
"""

from __future__ import annotations

import ctypes

from .layout import nr, s32, u8, u16, u32, u64

VFIO_PCI_BAR0_REGION_INDEX = 0
VFIO_PCI_BAR1_REGION_INDEX = 1
VFIO_PCI_BAR2_REGION_INDEX = 2
VFIO_PCI_BAR3_REGION_INDEX = 3
VFIO_PCI_BAR4_REGION_INDEX = 4
VFIO_PCI_BAR5_REGION_INDEX = 5
VFIO_PCI_ROM_REGION_INDEX = 6
VFIO_PCI_CONFIG_REGION_INDEX = 7
VFIO_PCI_VGA_REGION_INDEX = 8
VFIO_PCI_NUM_REGIONS = 9
VFIO_PCI_INTX_IRQ_INDEX = 0
VFIO_PCI_MSI_IRQ_INDEX = 1
VFIO_PCI_MSIX_IRQ_INDEX = 2
VFIO_PCI_ERR_IRQ_INDEX = 3
VFIO_PCI_REQ_IRQ_INDEX = 4
VFIO_PCI_NUM_IRQS = 5
VFIO_DEVICE_STATE_ERROR = 0
VFIO_DEVICE_STATE_STOP = 1
VFIO_DEVICE_STATE_RUNNING = 2
VFIO_DEVICE_STATE_STOP_COPY = 3
VFIO_DEVICE_STATE_RESUMING = 4
VFIO_DEVICE_STATE_RUNNING_P2P = 5
VFIO_DEVICE_STATE_PRE_COPY = 6
VFIO_DEVICE_STATE_PRE_COPY_P2P = 7
VFIO_DEVICE_STATE_NR = 8
VFIO_API_VERSION = 0
VFIO_TYPE1_IOMMU = 1
VFIO_TYPE1v2_IOMMU = 3
VFIO_DMA_CC_IOMMU = 4
VFIO_NOIOMMU_IOMMU = 8
VFIO_UNMAP_ALL = 9
VFIO_UPDATE_VADDR = 10
VFIO_GROUP_FLAGS_VIABLE = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1
VFIO_DEVICE_FLAGS_RESET = 1 << 0
VFIO_DEVICE_FLAGS_PCI = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2
VFIO_DEVICE_FLAGS_AMBA = 1 << 3
VFIO_DEVICE_FLAGS_AP = 1 << 5
VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6
VFIO_DEVICE_FLAGS_CAPS = 1 << 7
VFIO_DEVICE_FLAGS_CDX = 1 << 8
VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1
VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2
VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3
VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4
VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5
VFIO_PCI_ATOMIC_COMP32 = 1 << 0
VFIO_PCI_ATOMIC_COMP64 = 1 << 1
VFIO_PCI_ATOMIC_COMP128 = 1 << 2
VFIO_REGION_INFO_FLAG_READ = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS = 1 << 3
VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1
VFIO_REGION_INFO_CAP_TYPE = 2
VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 1 << 31
VFIO_REGION_TYPE_PCI_VENDOR_MASK = 65535
VFIO_REGION_TYPE_GFX = 1
VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3
VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1
VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2
VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3
VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM = 1
VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD = 1
VFIO_REGION_SUBTYPE_GFX_EDID = 1
VFIO_DEVICE_GFX_LINK_STATE_UP = 1
VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2
VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED = 1
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3
VFIO_REGION_INFO_CAP_NVLINK2_SSATGT = 4
VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD = 5
VFIO_IRQ_INFO_EVENTFD = 1 << 0
VFIO_IRQ_INFO_MASKABLE = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED = 1 << 2
VFIO_IRQ_INFO_NORESIZE = 1 << 3
VFIO_IRQ_SET_DATA_NONE = 1 << 0
VFIO_IRQ_SET_DATA_BOOL = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2
VFIO_IRQ_SET_ACTION_MASK = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5
VFIO_IRQ_SET_DATA_TYPE_MASK = 7
VFIO_IRQ_SET_ACTION_TYPE_MASK = 56
VFIO_PCI_DEVID_OWNED = 0
VFIO_PCI_DEVID_NOT_OWNED = -1
VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1
VFIO_GFX_PLANE_TYPE_PROBE = 1 << 0
VFIO_GFX_PLANE_TYPE_DMABUF = 1 << 1
VFIO_GFX_PLANE_TYPE_REGION = 1 << 2
VFIO_DEVICE_IOEVENTFD_8 = 1 << 0
VFIO_DEVICE_IOEVENTFD_16 = 1 << 1
VFIO_DEVICE_IOEVENTFD_32 = 1 << 2
VFIO_DEVICE_IOEVENTFD_64 = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 15
VFIO_DEVICE_FEATURE_MASK = 65535
VFIO_DEVICE_FEATURE_GET = 1 << 16
VFIO_DEVICE_FEATURE_SET = 1 << 17
VFIO_DEVICE_FEATURE_PROBE = 1 << 18
VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0
VFIO_DEVICE_ATTACH_PASID = 1 << 0
VFIO_DEVICE_DETACH_PASID = 1 << 0
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0
VFIO_MIGRATION_STOP_COPY = 1 << 0
VFIO_MIGRATION_P2P = 1 << 1
VFIO_MIGRATION_PRE_COPY = 1 << 2
VFIO_DEVICE_FEATURE_MIGRATION = 1
VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2
VFIO_PRECOPY_INFO_REINIT = 1 << 0
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5
VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7
VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8
VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9
VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0
VFIO_DEVICE_FEATURE_SET_MASTER = 1
VFIO_DEVICE_FEATURE_BUS_MASTER = 10
VFIO_DEVICE_FEATURE_DMA_BUF = 11
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12
VFIO_IOMMU_INFO_PGSIZES = 1 << 0
VFIO_IOMMU_INFO_CAPS = 1 << 1
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1
VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3
VFIO_DMA_MAP_FLAG_READ = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR = 1 << 2
VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2
VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2

VFIO_GET_API_VERSION = nr(100 + 0)
VFIO_CHECK_EXTENSION = nr(100 + 1)
VFIO_SET_IOMMU = nr(100 + 2)
VFIO_GROUP_GET_STATUS = nr(100 + 3)
VFIO_GROUP_SET_CONTAINER = nr(100 + 4)
VFIO_GROUP_UNSET_CONTAINER = nr(100 + 5)
VFIO_GROUP_GET_DEVICE_FD = nr(100 + 6)
VFIO_DEVICE_GET_INFO = nr(100 + 7)
VFIO_DEVICE_GET_REGION_INFO = nr(100 + 8)
VFIO_DEVICE_GET_IRQ_INFO = nr(100 + 9)
VFIO_DEVICE_SET_IRQS = nr(100 + 10)
VFIO_DEVICE_RESET = nr(100 + 11)
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = nr(100 + 12)
VFIO_DEVICE_PCI_HOT_RESET = nr(100 + 13)
VFIO_DEVICE_QUERY_GFX_PLANE = nr(100 + 14)
VFIO_DEVICE_GET_GFX_DMABUF = nr(100 + 15)
VFIO_DEVICE_IOEVENTFD = nr(100 + 16)
VFIO_DEVICE_FEATURE = nr(100 + 17)
VFIO_DEVICE_BIND_IOMMUFD = nr(100 + 18)
VFIO_DEVICE_ATTACH_IOMMUFD_PT = nr(100 + 19)
VFIO_DEVICE_DETACH_IOMMUFD_PT = nr(100 + 20)
VFIO_MIG_GET_PRECOPY_INFO = nr(100 + 21)
VFIO_IOMMU_GET_INFO = nr(100 + 12)
VFIO_IOMMU_MAP_DMA = nr(100 + 13)
VFIO_IOMMU_UNMAP_DMA = nr(100 + 14)
VFIO_IOMMU_ENABLE = nr(100 + 15)
VFIO_IOMMU_DISABLE = nr(100 + 16)
VFIO_IOMMU_DIRTY_PAGES = nr(100 + 17)


class vfio_info_cap_header(ctypes.Structure):
    _fields_ = [("id", u16), ("version", u16), ("next", u32)]


class vfio_group_status(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32)]


class vfio_device_info(ctypes.Structure):
    _fields_ = [
        ("argsz", u32),
        ("flags", u32),
        ("num_regions", u32),
        ("num_irqs", u32),
        ("cap_offset", u32),
        ("pad", u32),
    ]


class vfio_device_info_cap_pci_atomic_comp(ctypes.Structure):
    _fields_ = [("header", vfio_info_cap_header), ("flags", u32), ("reserved", u32)]


class vfio_region_info(ctypes.Structure):
    _fields_ = [
        ("argsz", u32),
        ("flags", u32),
        ("index", u32),
        ("cap_offset", u32),
        ("size", u64),
        ("offset", u64),
    ]


class vfio_region_sparse_mmap_area(ctypes.Structure):
    _fields_ = [("offset", u64), ("size", u64)]


class vfio_region_info_cap_sparse_mmap(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("nr_areas", u32),
        ("reserved", u32),
        ("areas", vfio_region_sparse_mmap_area * 0),
    ]


class vfio_region_info_cap_type(ctypes.Structure):
    _fields_ = [("header", vfio_info_cap_header), ("type", u32), ("subtype", u32)]


class vfio_region_gfx_edid(ctypes.Structure):
    _fields_ = [
        ("edid_offset", u32),
        ("edid_max_size", u32),
        ("edid_size", u32),
        ("max_xres", u32),
        ("max_yres", u32),
        ("link_state", u32),
    ]


class vfio_device_migration_info(ctypes.Structure):
    _fields_ = [
        ("device_state", u32),
        ("reserved", u32),
        ("pending_bytes", u64),
        ("data_offset", u64),
        ("data_size", u64),
    ]


class vfio_region_info_cap_nvlink2_ssatgt(ctypes.Structure):
    _fields_ = [("header", vfio_info_cap_header), ("tgt", u64)]


class vfio_region_info_cap_nvlink2_lnkspd(ctypes.Structure):
    _fields_ = [("header", vfio_info_cap_header), ("link_speed", u32), ("__pad", u32)]


class vfio_irq_info(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("index", u32), ("count", u32)]


class vfio_irq_set(ctypes.Structure):
    _fields_ = [
        ("argsz", u32),
        ("flags", u32),
        ("index", u32),
        ("start", u32),
        ("count", u32),
        ("data", u8 * 0),
    ]


class _vfio_pci_dependent_device_u(ctypes.Union):
    _fields_ = [("group_id", u32), ("devid", u32)]


class vfio_pci_dependent_device(ctypes.Structure):
    _anonymous_ = ("_u",)
    _fields_ = [("_u", _vfio_pci_dependent_device_u), ("segment", u16), ("bus", u8), ("devfn", u8)]


class vfio_pci_hot_reset_info(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("count", u32), ("devices", vfio_pci_dependent_device * 0)]


class vfio_pci_hot_reset(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("count", u32), ("group_fds", s32 * 0)]


class _vfio_device_gfx_plane_info_u(ctypes.Union):
    _fields_ = [("region_index", u32), ("dmabuf_id", u32)]


class vfio_device_gfx_plane_info(ctypes.Structure):
    _anonymous_ = ("_u",)
    _fields_ = [
        ("argsz", u32),
        ("flags", u32),
        ("drm_plane_type", u32),
        ("drm_format", u32),
        ("drm_format_mod", u64),
        ("width", u32),
        ("height", u32),
        ("stride", u32),
        ("size", u32),
        ("x_pos", u32),
        ("y_pos", u32),
        ("x_hot", u32),
        ("y_hot", u32),
        ("_u", _vfio_device_gfx_plane_info_u),
        ("reserved", u32),
    ]


class vfio_device_ioeventfd(ctypes.Structure):
    _fields_ = [
        ("argsz", u32),
        ("flags", u32),
        ("offset", u64),
        ("data", u64),
        ("fd", s32),
        ("reserved", u32),
    ]


class vfio_device_feature(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("data", u8 * 0)]


class vfio_device_bind_iommufd(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("iommufd", s32), ("out_devid", u32), ("token_uuid_ptr", u64)]


class vfio_device_attach_iommufd_pt(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("pt_id", u32), ("pasid", u32)]


class vfio_device_detach_iommufd_pt(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("pasid", u32)]


class vfio_device_feature_migration(ctypes.Structure):
    _fields_ = [("flags", u64)]


class vfio_device_feature_mig_state(ctypes.Structure):
    _fields_ = [("device_state", u32), ("data_fd", s32)]


class vfio_precopy_info(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("initial_bytes", u64), ("dirty_bytes", u64)]


class vfio_device_low_power_entry_with_wakeup(ctypes.Structure):
    _fields_ = [("wakeup_eventfd", s32), ("reserved", u32)]


class vfio_device_feature_dma_logging_control(ctypes.Structure):
    _fields_ = [("page_size", u64), ("num_ranges", u32), ("__reserved", u32), ("ranges", u64)]


class vfio_device_feature_dma_logging_range(ctypes.Structure):
    _fields_ = [("iova", u64), ("length", u64)]


class vfio_device_feature_dma_logging_report(ctypes.Structure):
    _fields_ = [("iova", u64), ("length", u64), ("page_size", u64), ("bitmap", u64)]


class vfio_device_feature_mig_data_size(ctypes.Structure):
    _fields_ = [("stop_copy_length", u64)]


class vfio_device_feature_bus_master(ctypes.Structure):
    _fields_ = [("op", u32)]


class vfio_region_dma_range(ctypes.Structure):
    _fields_ = [("offset", u64), ("length", u64)]


class vfio_device_feature_dma_buf(ctypes.Structure):
    _fields_ = [
        ("region_index", u32),
        ("open_flags", u32),
        ("flags", u32),
        ("nr_ranges", u32),
        ("dma_ranges", vfio_region_dma_range * 0),
    ]


class vfio_iommu_type1_info(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("iova_pgsizes", u64), ("cap_offset", u32), ("pad", u32)]


class vfio_iova_range(ctypes.Structure):
    _fields_ = [("start", u64), ("end", u64)]


class vfio_iommu_type1_info_cap_iova_range(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("nr_iovas", u32),
        ("reserved", u32),
        ("iova_ranges", vfio_iova_range * 0),
    ]


class vfio_iommu_type1_info_cap_migration(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("flags", u32),
        ("pgsize_bitmap", u64),
        ("max_dirty_bitmap_size", u64),
    ]


class vfio_iommu_type1_info_dma_avail(ctypes.Structure):
    _fields_ = [("header", vfio_info_cap_header), ("avail", u32)]


class vfio_iommu_type1_dma_map(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("vaddr", u64), ("iova", u64), ("size", u64)]


class vfio_bitmap(ctypes.Structure):
    _fields_ = [("pgsize", u64), ("size", u64), ("data", u64)]


class vfio_iommu_type1_dma_unmap(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("iova", u64), ("size", u64), ("data", u8 * 0)]


class vfio_iommu_type1_dirty_bitmap(ctypes.Structure):
    _fields_ = [("argsz", u32), ("flags", u32), ("data", u8 * 0)]


class vfio_iommu_type1_dirty_bitmap_get(ctypes.Structure):
    _fields_ = [("iova", u64), ("size", u64), ("bitmap", vfio_bitmap)]


# The same number means different things on different kinds of fd, so a number is looked up by kind.
IOCTLS: dict[str, dict[str, int]] = {
    "container": {
        "VFIO_GET_API_VERSION": VFIO_GET_API_VERSION,
        "VFIO_CHECK_EXTENSION": VFIO_CHECK_EXTENSION,
        "VFIO_SET_IOMMU": VFIO_SET_IOMMU,
        "VFIO_IOMMU_GET_INFO": VFIO_IOMMU_GET_INFO,
        "VFIO_IOMMU_MAP_DMA": VFIO_IOMMU_MAP_DMA,
        "VFIO_IOMMU_UNMAP_DMA": VFIO_IOMMU_UNMAP_DMA,
        "VFIO_IOMMU_ENABLE": VFIO_IOMMU_ENABLE,
        "VFIO_IOMMU_DISABLE": VFIO_IOMMU_DISABLE,
        "VFIO_IOMMU_DIRTY_PAGES": VFIO_IOMMU_DIRTY_PAGES,
    },
    "group": {
        "VFIO_GROUP_GET_STATUS": VFIO_GROUP_GET_STATUS,
        "VFIO_GROUP_SET_CONTAINER": VFIO_GROUP_SET_CONTAINER,
        "VFIO_GROUP_UNSET_CONTAINER": VFIO_GROUP_UNSET_CONTAINER,
        "VFIO_GROUP_GET_DEVICE_FD": VFIO_GROUP_GET_DEVICE_FD,
    },
    "device": {
        "VFIO_DEVICE_GET_INFO": VFIO_DEVICE_GET_INFO,
        "VFIO_DEVICE_GET_REGION_INFO": VFIO_DEVICE_GET_REGION_INFO,
        "VFIO_DEVICE_GET_IRQ_INFO": VFIO_DEVICE_GET_IRQ_INFO,
        "VFIO_DEVICE_SET_IRQS": VFIO_DEVICE_SET_IRQS,
        "VFIO_DEVICE_RESET": VFIO_DEVICE_RESET,
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO": VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
        "VFIO_DEVICE_PCI_HOT_RESET": VFIO_DEVICE_PCI_HOT_RESET,
        "VFIO_DEVICE_QUERY_GFX_PLANE": VFIO_DEVICE_QUERY_GFX_PLANE,
        "VFIO_DEVICE_GET_GFX_DMABUF": VFIO_DEVICE_GET_GFX_DMABUF,
        "VFIO_DEVICE_IOEVENTFD": VFIO_DEVICE_IOEVENTFD,
        "VFIO_DEVICE_FEATURE": VFIO_DEVICE_FEATURE,
        "VFIO_DEVICE_BIND_IOMMUFD": VFIO_DEVICE_BIND_IOMMUFD,
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT": VFIO_DEVICE_ATTACH_IOMMUFD_PT,
        "VFIO_DEVICE_DETACH_IOMMUFD_PT": VFIO_DEVICE_DETACH_IOMMUFD_PT,
    },
    "migration": {
        "VFIO_MIG_GET_PRECOPY_INFO": VFIO_MIG_GET_PRECOPY_INFO,
    },
}
