# SPDX-License-Identifier: Apache-2.0
"""Capabilities of a device, its host or its profile: the names that clauses and experiments may need.

Each is probed on the device or its host before the suites begin, and never concluded from a version.  A name
that is not in the table is an error when the suite is loaded: otherwise a typo would make a clause "not
applicable" without notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

__all__ = ["CAPABILITIES", "Capability", "unknown_names"]


@dataclass(frozen=True)
class Capability:
    """One capability: type of its value, source that defines it, file that probes it, meaning in words."""

    name: str
    type: str
    source: str
    probe: str
    meaning: str


_FEATURE = "vfio.h, VFIO_DEVICE_FEATURE"
_FLAGS = "vfio.h, struct vfio_device_feature_migration"
_LOG = "vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, STOP, REPORT"
_REGION = "vfio.h, struct vfio_region_info"
_IRQ = "vfio.h, struct vfio_irq_info"
_PCI = "PCI Base Specification, configuration space"
_TYPE1 = "vfio.h, VFIO_CHECK_EXTENSION"
_GFX = "vfio.h, VFIO_DEVICE_QUERY_GFX_PLANE"
_ENGINE = "harness/engines: what the device's traffic engine can do"
# fmt: off
_TABLE: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    "harness/probes/features.py": (
        ("flags", "int", "vfio.h, struct vfio_device_info", "flags of VFIO_DEVICE_GET_INFO"),
        ("num_regions", "int", "vfio.h, struct vfio_device_info", "number of region indices"),
        ("num_irqs", "int", "vfio.h, struct vfio_device_info", "number of interrupt indices"),
        ("regions", "list", _REGION, "the info of each region"),
        ("irqs", "list", _IRQ, "the info of each interrupt index"),
        ("migration", "list", _FLAGS, "names of the declared migration features"),
        ("migration_probed", "bool", f"{_FEATURE}_MIGRATION", "PROBE says that the device migrates"),
        ("data_size", "bool", f"{_FEATURE}_MIG_DATA_SIZE", "the device estimates the size of its stream"),
        ("precopy_info_v2", "bool", f"{_FEATURE}_MIG_PRECOPY_INFOv2", "PRECOPY_INFO has flags after an opt-in"),
        ("dma_logging_any", "bool", _LOG, "at least one of the three DMA logging features is there"),
        ("dma_logging", "bool", _LOG, "all three DMA logging features are there"),
        ("low_power", "bool", f"{_FEATURE}_LOW_POWER_ENTRY", "low power states can be entered"),
        ("dma_buf", "bool", f"{_FEATURE}_DMA_BUF", "regions can be exported as dma-bufs"),
        ("pci_vf_token", "bool", f"{_FEATURE}_PCI_VF_TOKEN", "the device takes a VF token"),
        ("reset", "bool", "vfio.h, VFIO_DEVICE_RESET", "VFIO_DEVICE_RESET succeeds"),
        ("reset_flag", "bool", "vfio.h, VFIO_DEVICE_FLAGS_RESET", "GET_INFO says that the device can be reset"),
        ("debugfs_state", "bool", "Documentation/ABI/testing/debugfs-vfio", "debugfs shows the state"),
        ("stream_bytes", "int", f"{_FEATURE}_MIG_DATA_SIZE", "size of a stream, measured by a save"),
        ("engine", "str", "harness/engines", "name of the traffic engine, '' for none"),
        ("engine_begin", "bool", _ENGINE, "DMA that continues while the program goes on"),
        ("engine_bytes", "bool", _ENGINE, "DMA of any length, at any byte"),
        ("engine_endless", "bool", _ENGINE, "DMA until it is stopped"),
        ("engine_interrupt", "bool", _ENGINE, "interrupts on request"),
        ("engine_p2p", "bool", _ENGINE, "DMA that counts as peer-to-peer"),
        ("engine_pinned", "bool", _ENGINE, "DMA to pages that the driver has pinned"),
        ("engine_quiesces", "bool", _ENGINE, "DMA that a STOP has to end"),
        ("engine_read", "bool", _ENGINE, "DMA from memory"),
        ("engine_timer", "bool", _ENGINE, "interrupts by a timer"),
    ),
    "harness/oracle/judge.py": (
        ("p2p", "bool", _FLAGS, "VFIO_MIGRATION_P2P is declared"),
        ("pre_copy", "bool", _FLAGS, "VFIO_MIGRATION_PRE_COPY is declared"),
        ("lacks_optional_state", "bool", _FLAGS, "P2P or PRE_COPY is not declared"),
    ),
    "harness/probes/access.py": (
        ("group", "bool", "Documentation/driver-api/vfio.rst", "the device's IOMMU group has a node"),
        ("legacy", "bool", "Documentation/driver-api/vfio.rst",
         "a container takes the group, and the group gives the device"),
        ("shared_group", "bool", "labs.yaml, companions", "the run holds another device of the same group"),
        ("groups", "mapping", "sysfs, iommu_group", "IOMMU group of each device of the program"),
        ("names", "mapping", "sysfs", "name of each device of the program: PCI address, UUID"),
        ("cdev_name", "str", "sysfs, vfio-dev", "name of the cdev, '' for none"),
        ("sysfs", "str", "sysfs", "folder of the device"),
        ("mmap_region", "int", _REGION, "index, plus one, of a region whose first page can be mapped; 0: none"),
        ("hot_reset", "bool", "vfio.h, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", "HOT_RESET_INFO describes a hot reset"),
        ("hot_reset_owned", "bool", "vfio.h, VFIO_DEVICE_PCI_HOT_RESET",
         "a hot reset affects only devices of the program"),
    ),
    "harness/probes/vf_token.py": (
        ("bind_token", "bool", "vfio.h, VFIO_DEVICE_BIND_TOKEN", "BIND takes a VF token"),
    ),
    "harness/probes/iommu.py": (
        ("mock", "str", "iommufd_test.h", "what stands in for the hardware, in words; absent for VFIO devices"),
        ("mock_dmabuf", "bool", "iommufd_test.h", "the mock takes dma-bufs"),
        ("physical_iommu", "bool", "iommufd.h, IOMMU_HWPT_ALLOC", "an I/O page table can be allocated for the device"),
        ("emulated_iommu", "bool", "iommufd.h, IOMMU_HWPT_ALLOC",
         "no I/O page table can be allocated: the driver emulates the IOMMU"),
        ("hw_info", "bool", "iommufd.h, IOMMU_GET_HW_INFO", "the IOMMU describes itself"),
        ("hwpt_dirty", "bool", "iommufd.h, IOMMU_HW_CAP_DIRTY_TRACKING", "the IOMMU tracks dirty pages"),
        ("hwpt_refuses_dirty", "bool", "iommufd.h, IOMMU_HW_CAP_DIRTY_TRACKING",
         "a device without dirty tracking is available"),
        ("max_pasid_log2", "int", "iommufd.h, struct iommu_hw_info", "width of PASIDs, 0 for none"),
        ("hugepages", "bool", "hugetlbpage.rst", "a huge page of memory is free"),
        ("iommufd_compat", "bool", "iommufd.h, IOMMU_VFIO_IOAS", "the iommufd answers type1's ioctls"),
        ("map_file", "bool", "iommufd.h, IOMMU_IOAS_MAP_FILE", "the ioctl exists"),
        ("change_process", "bool", "iommufd.h, IOMMU_IOAS_CHANGE_PROCESS", "the ioctl exists"),
        ("fault_queue", "bool", "iommufd.h, IOMMU_FAULT_QUEUE_ALLOC", "the ioctl exists"),
        ("viommu", "bool", "iommufd.h, IOMMU_VIOMMU_ALLOC", "the ioctl exists"),
        ("veventq", "bool", "iommufd.h, IOMMU_VEVENTQ_ALLOC", "the ioctl exists"),
        ("hw_queue", "bool", "iommufd.h, IOMMU_HW_QUEUE_ALLOC", "the ioctl exists"),
        ("type1", "bool", f"{_TYPE1}, VFIO_TYPE1_IOMMU", "the container offers type1"),
        ("type1v2", "bool", f"{_TYPE1}, VFIO_TYPE1v2_IOMMU", "the container offers type1v2"),
        ("unmap_all", "bool", f"{_TYPE1}, VFIO_UNMAP_ALL", "everything can be unmapped at once"),
        ("update_vaddr", "bool", f"{_TYPE1}, VFIO_UPDATE_VADDR", "addresses of mappings can be changed"),
        ("no_update_vaddr", "bool", f"{_TYPE1}, VFIO_UPDATE_VADDR",
         "type1 is there, but addresses of mappings cannot be changed"),
        ("type1_migration", "bool", "vfio.h, struct vfio_iommu_type1_info_cap_migration", "type1 keeps a dirty log"),
    ),
    "harness/probes/device.py": (
        ("pci_api", "bool", "vfio.h, VFIO_DEVICE_FLAGS_PCI", "the device has the regions of a PCI device"),
        ("vfio_pci", "bool", "drivers/vfio/pci", "vfio-pci-core virtualises the configuration space"),
        ("physical_function", "bool", "PCI Base Specification, SR-IOV", "the device is not a virtual function"),
        ("config", "str", _PCI, "configuration space at the start, in hex"),
        ("pci_extended", "bool", _PCI, "there is an extended configuration space"),
        ("pci_msi", "int", _PCI, "offset of the MSI capability, 0: none"),
        ("pci_msix", "int", _PCI, "offset of the MSI-X capability, 0: none"),
        ("pci_pm", "int", _PCI, "offset of the power management capability, 0: none"),
        ("pci_flr", "int", _PCI, "offset of the PCI Express capability that has FLR, 0: none"),
        ("irq_intx", "int", _IRQ, "number of INTx interrupts"),
        ("irq_msi", "int", _IRQ, "number of MSI vectors"),
        ("irq_msix", "int", _IRQ, "number of MSI-X vectors"),
        ("any_irq", "int", _IRQ, "index, plus one, of the first IRQ index that has interrupts; 0: none"),
        ("info_caps", "int", _REGION, "index, plus one, of a region with capabilities; 0: none"),
        ("sparse_mmap", "int", f"{_REGION}, VFIO_REGION_INFO_CAP_SPARSE_MMAP",
         "index, plus one, of a region with a sparse mmap; 0: none"),
        ("read_only_region", "int", f"{_REGION}, flags", "index, plus one, of a read-only region; 0: none"),
        ("dma_buf_region", "int", f"{_FEATURE}_DMA_BUF", "index, plus one, of a region that can be exported; 0: none"),
        ("ioeventfd", "bool", "vfio.h, VFIO_DEVICE_IOEVENTFD", "the ioctl is supported"),
        ("unmask_eventfd", "bool", "vfio.h, VFIO_DEVICE_SET_IRQS", "INTx can be unmasked by an eventfd"),
        ("gfx", "bool", _GFX, "the device has planes"),
        ("gfx_region", "bool", _GFX, "the device shows planes in a region"),
        ("gfx_dmabuf", "bool", _GFX, "the device shows planes as dma-bufs"),
        ("plane_on", "mapping", _GFX, "register writes that switch the frame buffer on and off"),
        ("plane_region", "int", _GFX, "index, plus one, of the plane's region"),
        ("frame_buffer", "int", _GFX, "index, plus one, of the region with the frame buffer"),
        ("gfx_edid", "int", "vfio.h, struct vfio_region_gfx_edid", "index, plus one, of the EDID's region"),
        ("edid_offset", "int", "vfio.h, struct vfio_region_gfx_edid", "offset of the EDID in its region"),
        ("edid_max_size", "int", "vfio.h, struct vfio_region_gfx_edid", "largest size of the EDID in bytes"),
        ("uart", "bool", "PCI class code 07 00 02", "the class code says that the device is a 16550"),
        ("scratch", "mapping", "the device's documentation", "a register that keeps what is written"),
        ("irq_source", "mapping", "the device's documentation", "registers that raise an interrupt"),
        ("intx_source", "mapping", "the device's documentation", "the same registers, if the device has INTx"),
        ("msi_source", "mapping", "the device's documentation", "the same registers, if the device has MSI"),
    ),
    "harness/hosts/provision.py": (
        ("noiommu", "bool", "Documentation/driver-api/vfio.rst, no-IOMMU", "the device has no IOMMU at all"),
        ("mmap_bar", "bool", _REGION, "a BAR of at least four pages can be mapped"),
        ("config_ids", "str", _PCI, "vendor and device id, as sysfs shows them"),
        ("vf_token_pair", "bool", f"{_FEATURE}_PCI_VF_TOKEN",
         "the device is a VF, and its PF is a VFIO device of the run too"),
        ("group_pair", "bool", "Documentation/driver-api/vfio.rst", "VF and PF both have a group node"),
    ),
    "fixtures/connect.py": (
        ("state_regions", "bool", "the device's profile",
         "the profile names regions of the device that show migrated state"),
        ("fault_injection", "bool", "/proc/self/fail-nth", "the kernel can make chosen allocations fail"),
        ("lockdep", "bool", "/proc/lockdep", "the kernel checks its locking"),
        ("pci", "bool", "labs.yaml", "the device is a PCI device"),
        ("mdev", "bool", "labs.yaml", "the device is a mediated device"),
        ("no_vf_token", "bool", f"{_FEATURE}_PCI_VF_TOKEN", "the device takes no VF token"),
        ("emulated", "bool", "drivers/vfio/group.c", "VFIO created the device's IOMMU group itself"),
        ("variant_profile", "bool", "the device's profile", "the profile names the PCI ids of its driver"),
        ("empty_region", "bool", _REGION, "a region has size 0 and an offset of its own"),
        ("virtual_function", "bool", "sysfs, physfn", "the device is a virtual function"),
    ),
    "fixtures/collector.py": (
        ("error_reached", "bool", "the run itself", "a test brought the device into ERROR"),
        ("write_refused", "bool", "the run itself", "the device refused a write of a damaged stream"),
        ("damage_accepted", "bool", "the run itself", "the device accepted a damaged stream"),
    ),
}
# fmt: on

CAPABILITIES: Mapping[str, Capability] = {
    name: Capability(name, kind, source, probe, meaning)
    for probe, rows in _TABLE.items()
    for name, kind, source, meaning in rows
}


def unknown_names(names: Iterable[str]) -> str:
    """An error message for the first name that is not a capability; '' if all are."""
    for name in names:
        if name not in CAPABILITIES:
            close = get_close_matches(name, CAPABILITIES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            return f"'{name}' is no capability (harness/spec/capabilities.py){hint}"
    return ""
