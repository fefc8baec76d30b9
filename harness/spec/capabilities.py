# SPDX-License-Identifier: Apache-2.0
"""What a device, its host or its profile can have: the names that clauses and experiments ask for.

Each is found out on the device or its host before the suites begin, and never concluded from a version.
A name that is not here is an error when the suite is loaded: a typo would be "not applicable" for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

__all__ = ["CAPABILITIES", "Capability", "unknown_names"]


@dataclass(frozen=True)
class Capability:
    """One thing to have.  `type` is that of its value, `source` what defines it, `probe` who finds it out."""

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
        ("data_size", "bool", f"{_FEATURE}_MIG_DATA_SIZE", "the size of a stream can be asked for"),
        ("precopy_info_v2", "bool", f"{_FEATURE}_MIG_PRECOPY_INFOv2", "PRECOPY_INFO can be asked for flags"),
        ("dma_logging_any", "bool", _LOG, "one of the three features of DMA logging is there"),
        ("dma_logging", "bool", _LOG, "all three features of DMA logging are there"),
        ("low_power", "bool", f"{_FEATURE}_LOW_POWER_ENTRY", "low power states can be entered"),
        ("dma_buf", "bool", f"{_FEATURE}_DMA_BUF", "regions can be exported as dma-bufs"),
        ("pci_vf_token", "bool", f"{_FEATURE}_PCI_VF_TOKEN", "the device takes a VF token"),
        ("reset", "bool", "vfio.h, VFIO_DEVICE_RESET", "VFIO_DEVICE_RESET succeeds"),
        ("reset_flag", "bool", "vfio.h, VFIO_DEVICE_FLAGS_RESET", "GET_INFO says that it can be reset"),
        ("debugfs_state", "bool", "Documentation/ABI/testing/debugfs-vfio", "debugfs shows the state"),
        ("stream_bytes", "int", f"{_FEATURE}_MIG_DATA_SIZE", "size of a stream, measured by a save"),
        ("engine", "str", "harness/engines", "name of the traffic engine, '' for none"),
        ("engine_begin", "bool", _ENGINE, "DMA that goes on while the program does"),
        ("engine_bytes", "bool", _ENGINE, "DMA of any length, at any byte"),
        ("engine_endless", "bool", _ENGINE, "DMA until it is stopped"),
        ("engine_interrupt", "bool", _ENGINE, "interrupts when asked for"),
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
        ("legacy", "bool", "Documentation/driver-api/vfio.rst", "a container takes the group, and gives the device"),
        ("shared_group", "bool", "labs.yaml, companions", "the run holds another device of the same group"),
        ("groups", "mapping", "sysfs, iommu_group", "IOMMU group of each device of the program"),
        ("names", "mapping", "sysfs", "name of each device of the program: PCI address, UUID"),
        ("cdev_name", "str", "sysfs, vfio-dev", "name of the cdev, '' for none"),
        ("sysfs", "str", "sysfs", "folder of the device"),
        ("mmap_region", "int", _REGION, "index, plus one, of a region whose first page can be mapped; 0: none"),
        ("hot_reset", "bool", "vfio.h, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", "a hot reset is described"),
        ("hot_reset_owned", "bool", "vfio.h, VFIO_DEVICE_PCI_HOT_RESET", "it affects only devices of the program"),
    ),
    "harness/probes/vf_token.py": (
        ("bind_token", "bool", "vfio.h, VFIO_DEVICE_BIND_TOKEN", "BIND takes a VF token"),
    ),
    "harness/probes/iommu.py": (
        ("mock", "str", "iommufd_test.h", "what stands in for the hardware, in words; absent for VFIO devices"),
        ("mock_dmabuf", "bool", "iommufd_test.h", "the mock takes dma-bufs"),
        ("physical_iommu", "bool", "iommufd.h, IOMMU_HWPT_ALLOC", "an I/O page table can be allocated for the device"),
        ("emulated_iommu", "bool", "iommufd.h, IOMMU_HWPT_ALLOC", "none can: the IOMMU is the driver's own"),
        ("hw_info", "bool", "iommufd.h, IOMMU_GET_HW_INFO", "the IOMMU describes itself"),
        ("hwpt_dirty", "bool", "iommufd.h, IOMMU_HW_CAP_DIRTY_TRACKING", "the IOMMU tracks dirty pages"),
        ("hwpt_refuses_dirty", "bool", "iommufd.h, IOMMU_HW_CAP_DIRTY_TRACKING", "a device without it is at hand"),
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
        ("no_update_vaddr", "bool", f"{_TYPE1}, VFIO_UPDATE_VADDR", "they cannot, and type1 is there"),
        ("type1_migration", "bool", "vfio.h, struct vfio_iommu_type1_info_cap_migration", "type1 keeps a dirty log"),
    ),
    "harness/probes/device.py": (
        ("pci_api", "bool", "vfio.h, VFIO_DEVICE_FLAGS_PCI", "it has the regions of a PCI device"),
        ("vfio_pci", "bool", "drivers/vfio/pci", "its configuration space is virtualised by vfio-pci-core"),
        ("physical_function", "bool", "PCI Base Specification, SR-IOV", "it is no virtual function"),
        ("config", "str", _PCI, "configuration space at the start, in hex"),
        ("pci_extended", "bool", _PCI, "there is an extended configuration space"),
        ("pci_msi", "int", _PCI, "offset of the MSI capability, 0: none"),
        ("pci_msix", "int", _PCI, "offset of the MSI-X capability, 0: none"),
        ("pci_pm", "int", _PCI, "offset of the power management capability, 0: none"),
        ("pci_flr", "int", _PCI, "offset of the PCI Express capability that has FLR, 0: none"),
        ("irq_intx", "int", _IRQ, "number of INTx interrupts"),
        ("irq_msi", "int", _IRQ, "number of MSI vectors"),
        ("irq_msix", "int", _IRQ, "number of MSI-X vectors"),
        ("any_irq", "int", _IRQ, "index, plus one, of the first that has interrupts; 0: none"),
        ("info_caps", "int", _REGION, "index, plus one, of a region with capabilities; 0: none"),
        ("sparse_mmap", "int", f"{_REGION}, VFIO_REGION_INFO_CAP_SPARSE_MMAP", "index, plus one, of such a region"),
        ("read_only_region", "int", f"{_REGION}, flags", "index, plus one, of such a region"),
        ("dma_buf_region", "int", f"{_FEATURE}_DMA_BUF", "index, plus one, of a region that can be exported"),
        ("ioeventfd", "bool", "vfio.h, VFIO_DEVICE_IOEVENTFD", "the ioctl is supported"),
        ("unmask_eventfd", "bool", "vfio.h, VFIO_DEVICE_SET_IRQS", "INTx can be unmasked by an eventfd"),
        ("gfx", "bool", _GFX, "it has planes"),
        ("gfx_region", "bool", _GFX, "planes that are a region"),
        ("gfx_dmabuf", "bool", _GFX, "planes that are dma-bufs"),
        ("plane_on", "mapping", _GFX, "registers that show a frame buffer, and none"),
        ("plane_region", "int", _GFX, "index, plus one, of the plane's region"),
        ("frame_buffer", "int", _GFX, "index, plus one, of the region that is the frame buffer"),
        ("gfx_edid", "int", "vfio.h, struct vfio_region_gfx_edid", "index, plus one, of the EDID's region"),
        ("edid_offset", "int", "vfio.h, struct vfio_region_gfx_edid", "where the EDID lies in it"),
        ("edid_max_size", "int", "vfio.h, struct vfio_region_gfx_edid", "room for the EDID"),
        ("uart", "bool", "PCI class code 07 00 02", "it says that it is a 16550"),
        ("scratch", "mapping", "the device's documentation", "a register that keeps what is written"),
        ("irq_source", "mapping", "the device's documentation", "registers that raise an interrupt"),
        ("intx_source", "mapping", "the device's documentation", "the same, where there is INTx"),
        ("msi_source", "mapping", "the device's documentation", "the same, where there is MSI"),
    ),
    "harness/hosts/provision.py": (
        ("noiommu", "bool", "Documentation/driver-api/vfio.rst, no-IOMMU", "the device has no IOMMU at all"),
        ("mmap_bar", "bool", _REGION, "a BAR of a physical IOMMU's device can be mapped"),
        ("config_ids", "str", _PCI, "vendor and device, as sysfs shows them"),
        ("vf_token_pair", "bool", f"{_FEATURE}_PCI_VF_TOKEN", "a VF, and its PF is a VFIO device of the run too"),
        ("group_pair", "bool", "Documentation/driver-api/vfio.rst", "both have a group node"),
    ),
    "fixtures/connect.py": (
        ("state_regions", "bool", "the device's profile", "migrated state can be seen in regions"),
        ("fault_injection", "bool", "/proc/self/fail-nth", "the kernel makes chosen allocations fail"),
        ("lockdep", "bool", "/proc/lockdep", "the kernel checks its locks"),
        ("pci", "bool", "labs.yaml", "it is a PCI device"),
        ("mdev", "bool", "labs.yaml", "it is a mediated device"),
        ("no_vf_token", "bool", f"{_FEATURE}_PCI_VF_TOKEN", "the device takes no VF token"),
        ("emulated", "bool", "drivers/vfio/group.c", "VFIO made its IOMMU group itself"),
        ("variant_profile", "bool", "the device's profile", "its driver names the ids it is for"),
        ("empty_region", "bool", _REGION, "a region is empty, at an offset of its own"),
        ("virtual_function", "bool", "sysfs, physfn", "it is a virtual function"),
    ),
    "fixtures/collector.py": (
        ("error_reached", "bool", "the run itself", "a test brought the device into ERROR"),
        ("damage_accepted", "bool", "the run itself", "the device took a stream that was damaged"),
    ),
}
# fmt: on

CAPABILITIES: Mapping[str, Capability] = {
    name: Capability(name, kind, source, probe, meaning)
    for probe, rows in _TABLE.items()
    for name, kind, source, meaning in rows
}


def unknown_names(names: Iterable[str]) -> str:
    """What is wrong with names that are no capabilities, in words; '' where all are."""
    for name in names:
        if name not in CAPABILITIES:
            close = get_close_matches(name, CAPABILITIES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            return f"'{name}' is no capability (harness/spec/capabilities.py){hint}"
    return ""
