# SPDX-License-Identifier: Apache-2.0
"""Chapter DEV: device info, regions, configuration space, interrupts, reset, power, exported memory."""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_INFO = "vfio.h, VFIO_DEVICE_GET_INFO"
_CHAIN = "vfio.h, struct vfio_info_cap_header and the comment after it"
_REGION = "vfio.h, VFIO_DEVICE_GET_REGION_INFO"
_SPARSE = "vfio.h, struct vfio_region_info_cap_sparse_mmap"
_PCI = "vfio.h, 'The VFIO-PCI bus driver makes use of the following fixed region and IRQ index mapping'"
_IRQ = "vfio.h, VFIO_DEVICE_GET_IRQ_INFO"
_SET = "vfio.h, VFIO_DEVICE_SET_IRQS"
_VALID = "vfio.h, struct vfio_irq_set; drivers/vfio/vfio_main.c, vfio_set_irqs_validate_and_prepare()"
_IOEVENTFD = "vfio.h, VFIO_DEVICE_IOEVENTFD"
_LOW = "vfio.h, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY"
_WAKE = "vfio.h, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP"
_DMABUF = "vfio.h, VFIO_DEVICE_FEATURE_DMA_BUF"
_16550 = "include/uapi/linux/serial_reg.h; PC16550D data sheet, Registers"
_GFX = "vfio.h, VFIO_DEVICE_QUERY_GFX_PLANE"
_GFX_DMABUF = "vfio.h, VFIO_DEVICE_GET_GFX_DMABUF"
_EDID = "vfio.h, struct vfio_region_gfx_edid"
_SPEC = "PCI Local Bus Specification 3.0, chapter 6"
_CONFIG = "drivers/vfio/pci/vfio_pci_config.c"


def _c(
    id: str, statement: str, source: str, *needs: str, level: Level = "MUST", since: str = "v3.6"
) -> Clause:
    return Clause(id, level, statement, source, needs, since)


# fmt: off
_DEVICE = (
    _c("DEV-001", "GET_INFO succeeds, with any argsz from the struct's first four fields on", _INFO),
    _c("DEV-002", "GET_INFO with a shorter argsz is refused", _INFO),
    _c("DEV-003", "GET_INFO names one kind of bus and sets no undefined flag", _INFO),
    _c("DEV-004", "a PCI device has the nine regions of the fixed mapping", _PCI, "pci_api"),
    _c("DEV-005", "a chain of capabilities stays in the buffer, ends, and is there exactly with the CAPS flag",
       _CHAIN),
    _c("DEV-006", "with an argsz too small for the chain, cap_offset is 0, argsz what is needed, and nothing fails",
       _CHAIN, "info_caps"),
)
_REGIONS = (
    _c("DEV-010", "GET_REGION_INFO succeeds for each index of the fixed mapping up to the configuration space", _PCI,
       "pci_api"),
    _c("DEV-011", "GET_REGION_INFO for an index from num_regions on is refused", _REGION),
    _c("DEV-012", "GET_REGION_INFO with an argsz shorter than the struct is refused", _REGION),
    _c("DEV-013", "GET_REGION_INFO sets no undefined flag",
       _REGION),
    _c("DEV-014", "regions do not overlap in the device fd", f"{_REGION}: 'Region offset from start of device fd'"),
    _c("DEV-015", "the configuration space has 256 or 4096 bytes and can be read and written", f"{_PCI}; {_SPEC}.1",
       "pci_api"),
    _c("DEV-016", "the info of regions and interrupts is the same whenever it is asked for", _REGION),
    _c("DEV-017", "areas of a sparse mmap capability lie in their region, aligned to pages, apart from each other",
       _SPARSE, "sparse_mmap"),
    _c("DEV-018", "what a region says can be mapped can be mapped", f"{_REGION}, VFIO_REGION_INFO_FLAG_MMAP",
       "mmap_region"),
    _c("DEV-019", "a region without the MMAP flag cannot be mapped", f"{_REGION}, VFIO_REGION_INFO_FLAG_MMAP"),
    _c("DEV-020", "a mapping does not reach beyond its region", f"{_REGION}, size", "mmap_region"),
)
_ACCESS = (
    _c("DEV-025", "a region with the READ flag can be read", f"{_REGION}, VFIO_REGION_INFO_FLAG_READ"),
    _c("DEV-026", "a region without the WRITE flag cannot be written", f"{_REGION}, VFIO_REGION_INFO_FLAG_WRITE",
       "read_only_region"),
    _c("DEV-028", "a read at or beyond the end of a region gives no data, one across the end no more than is inside",
       f"{_REGION}, size"),
    _c("DEV-029", "a write at or beyond the end of a region is refused", f"{_REGION}, size"),
    _c("DEV-030", "a region of size zero gives no data and takes none", f"{_REGION}: 'unimplemented'",
       "empty_region"),
    _c("DEV-031", "there is nothing to read or write where no region is", _REGION),
    _c("DEV-032", "read, write and mmap of a region reach the same place", _REGION, "mmap_region"),
    _c("DEV-033", "what is written to a register that keeps its value is read back", _REGION, "scratch"),
    _c("DEV-034", "a read gives nothing but what the device or the kernel defined", "read(2)", "uart",
       level="SHOULD"),
)
_CONFIG_SPACE = (
    _c("DEV-040", "vendor, device, class, revision and header type cannot be changed", _SPEC, "pci_api"),
    _c("DEV-041", "an address register answers all ones with the size of its region and its type", f"{_SPEC}.2.5.1",
       "pci_api"),
    _c("DEV-042", "the address register of a region of size zero answers all ones with zero",
       f"{_SPEC}.2.5.1", "pci_api"),
    _c("DEV-043", "an address register keeps the address that is written to it", f"{_SPEC}.2.5.1", "pci_api",
       level="SHOULD"),
    _c("DEV-044", "enables of memory, bus mastering and INTx in the command register read as they are written",
       f"{_SPEC}.2.2", "pci_api", level="SHOULD"),
    _c("DEV-045", "memory that is disabled in the command register gives no data, and its mappings fault",
       f"{_CONFIG}, vfio_basic_config_write()", "physical_function", level="SHOULD"),
    _c("DEV-046", "the list of capabilities is there exactly with its status bit, stays in its place, and ends",
       _SPEC,
       "pci_api"),
    _c("DEV-047", "the list of extended capabilities ends", "PCI Express Base Specification, 7.9.3", "pci_extended"),
    _c("DEV-048", "reads of one, two and four bytes of the configuration space agree", _SPEC, "pci_api"),
    _c("DEV-049", "the interrupt pin is there exactly where INTx is", f"{_PCI}; {_CONFIG}",
       "pci_api", level="SHOULD"),
    _c("DEV-050", "the vectors of the MSI capability are those of the MSI index", f"{_PCI}; {_CONFIG}", "pci_msi"),
    _c("DEV-051", "the vectors of the MSI-X capability are those of the MSI-X index",
       f"{_PCI}; {_CONFIG}", "pci_msix"),
    _c("DEV-052", "a device in D3hot by its power management capability gives no data from memory, and comes back",
       f"{_CONFIG}, vfio_pm_config_write()", "pci_pm", level="SHOULD"),
    _c("DEV-053", "a function level reset by the PCI Express capability leaves the device usable",
       f"{_CONFIG}, vfio_exp_config_write()", "pci_flr", level="SHOULD"),
    _c("DEV-054", "the interrupt line register keeps what is written to it", f"{_SPEC}.2.4",
       "pci_api", level="SHOULD"),
    _c("DEV-055", "no write of whatever value to the configuration space takes the device away from its user",
       _CONFIG, "pci_api"),
)
_INTERRUPTS = (
    _c("DEV-060", "GET_IRQ_INFO succeeds for INTx, MSI and MSI-X, with count 0 for what is not there", _PCI,
       "pci_api",
       level="SHOULD"),
    _c("DEV-061", "GET_IRQ_INFO for an index from num_irqs on is refused", _IRQ),
    _c("DEV-062", "GET_IRQ_INFO with an argsz shorter than the struct is refused", _IRQ),
    _c("DEV-063", "GET_IRQ_INFO sets no undefined flag, and AUTOMASKED only with MASKABLE", _IRQ),
    _c("DEV-064", "SET_IRQS with an argsz shorter than the struct and its data is refused", _VALID, "any_irq"),
    _c("DEV-065", "SET_IRQS for an index from num_irqs on is refused", _VALID),
    _c("DEV-066", "SET_IRQS with an undefined flag is refused", _VALID, "any_irq"),
    _c("DEV-067", "SET_IRQS with no kind of data, or with several, is refused", _VALID, "any_irq"),
    _c("DEV-068", "SET_IRQS with no action, or with several, is refused",
       f"{_SET}: 'the specified action'", "any_irq",
       level="SHOULD"),
    _c("DEV-069", "SET_IRQS for subindexes from count on is refused", _VALID, "any_irq"),
    _c("DEV-070", "SET_IRQS with something that is no eventfd is refused", f"{_SET}: 'the provided __s32 eventfd'",
       "any_irq"),
    _c("DEV-071", "an eventfd can be set as trigger of each subindex of an index with the EVENTFD flag",
       _SET, "any_irq"),
    _c("DEV-072", "DATA_NONE with TRIGGER signals the eventfds of the range, and no other",
       f"{_SET}: 'loopback testing'",
       "any_irq"),
    _c("DEV-073", "DATA_BOOL with TRIGGER signals the eventfds that are marked, and no other",
       f"{_SET}: 'loopback testing'", "any_irq"),
    _c("DEV-074", "-1 takes the eventfd of a subindex away", f"{_SET}: 'A value of -1'", "any_irq"),
    _c("DEV-075", "DATA_NONE with TRIGGER and count 0 disables an index, and it can be enabled again",
       f"{_SET}: 'the index can be disabled as a whole'", "any_irq"),
    _c("DEV-076", "an eventfd that replaces another is signalled in its stead", _SET, "any_irq"),
    _c("DEV-077", "interrupts go on when the user closes the eventfd's descriptor", _SET, "any_irq"),
    _c("DEV-078", "MASK and UNMASK are refused for an index without the MASKABLE flag",
       f"{_IRQ}, MASKABLE", "irq_msi",
       level="SHOULD"),
    _c("DEV-079", "MASK and UNMASK with DATA_NONE and DATA_BOOL succeed for an enabled index with the MASKABLE flag",
       f"{_IRQ}, MASKABLE", "irq_intx"),
    _c("DEV-080", "after an interrupt and an UNMASK the next one is signalled", f"{_IRQ}, AUTOMASKED", "irq_intx"),
    _c("DEV-081", "MASK and UNMASK of an index that is not enabled are refused", _SET, "irq_intx", level="SHOULD"),
)
_LINE = (
    _c("DEV-085", "an asserted INTx line signals its eventfd once, and is masked then", f"{_IRQ}, AUTOMASKED",
       "intx_source"),
    _c("DEV-086", "UNMASK signals again while the line is asserted, and does not when it is not",
       f"{_IRQ}, AUTOMASKED",
       "intx_source"),
    _c("DEV-087", "a masked INTx is not signalled until UNMASK", f"{_SET}, ACTION_MASK", "intx_source"),
    _c("DEV-088", "an eventfd for UNMASK unmasks the line when it is written",
       f"{_SET}: 'user->kernel signaling (irqfds)'", "intx_source", "unmask_eventfd"),
    _c("DEV-089", "INTx disable in the command register keeps the line from being signalled until it is cleared",
       _SPEC,
       "intx_source", "vfio_pci", level="SHOULD"),
    _c("DEV-090", "an MSI or MSI-X of the device signals the eventfd of its vector", _SET, "msi_source"),
    _c("DEV-091", "no interrupt comes after the index was disabled", f"{_SET}: 'disabled as a whole'", "irq_source"),
)
_REST = (
    _c("DEV-100", "VFIO_DEVICE_RESET succeeds exactly where the device says so", "vfio.h, VFIO_DEVICE_FLAGS_RESET",
       level="SHOULD"),
    _c("DEV-101", "after a reset the device is accessible as before", "vfio.h, VFIO_DEVICE_RESET", "reset"),
    _c("DEV-105", "an ioeventfd performs its write when it is signalled", _IOEVENTFD, "ioeventfd", "scratch"),
    _c("DEV-106", "an ioeventfd that was taken away performs no write", _IOEVENTFD, "ioeventfd", "scratch"),
    _c("DEV-107", "IOEVENTFD with no width, several, an undefined flag or an argsz too short is refused",
       _IOEVENTFD,
       "ioeventfd"),
    _c("DEV-108", "IOEVENTFD beyond a region, or for the table of MSI-X, is refused", _IOEVENTFD, "ioeventfd"),
    _c("DEV-109", "taking away an ioeventfd that is not there, or something that is no eventfd, is refused",
       _IOEVENTFD,
       "ioeventfd"),
    _c("DEV-115", "LOW_POWER_ENTRY and LOW_POWER_EXIT succeed, and in between the device can be used", _LOW,
       "low_power", since="v6.1"),
    _c("DEV-116", "mappings give no access between LOW_POWER_ENTRY and LOW_POWER_EXIT", _LOW, "low_power",
       "mmap_region", since="v6.1"),
    _c("DEV-117", "LOW_POWER_ENTRY_WITH_WAKEUP takes an eventfd, and nothing else",
       _WAKE, "low_power", since="v6.1"),
    _c("DEV-120", "a dma-buf of a part of a region is given as an fd", _DMABUF, "dma_buf_region", since="v6.19"),
    _c("DEV-121", "DMA_BUF with flags, without ranges, or with ranges outside the region or not aligned is refused",
       _DMABUF, "dma_buf_region", since="v6.19"),
)
_UART = (
    _c("DEV-130", "scratch, line control, modem control and interrupt enable of a 16550 keep what is written",
       _16550, "uart", level="SHOULD"),
    _c("DEV-131", "with DLAB set, a 16550 shows its divisor latch, which keeps what is written, and nothing else",
       _16550, "uart", level="SHOULD"),
    _c("DEV-132", "a 16550 in loopback receives what it sends, in order, and says when there is something", _16550,
       "uart", level="SHOULD"),
    _c("DEV-133", "a 16550 says that its FIFO overran, and keeps what was in it", _16550, "uart", level="SHOULD"),
    _c("DEV-134", "a 16550 interrupts for each source that is enabled, and identifies it",
       _16550, "uart", "irq_intx", level="SHOULD"),
    _c("DEV-135", "a 16550 does not interrupt for what is not enabled", _16550, "uart", "irq_intx", level="SHOULD"),
)
_DISPLAY = (
    _c("DEV-140", "a probe for a type of planes succeeds, or is EINVAL where there is none of the type", _GFX,
       "gfx", since="v4.16"),
    _c("DEV-141", "QUERY_GFX_PLANE with flags that are no one type of planes is EINVAL",
       f"{_GFX}: 'Others are invalid and return -EINVAL'", "gfx", since="v4.16"),
    _c("DEV-142", "QUERY_GFX_PLANE with an argsz shorter than the struct is refused", _GFX, "gfx", since="v4.16"),
    _c("DEV-143", "QUERY_GFX_PLANE describes a plane, or tells by zeroes that it is disabled, and succeeds",
       f"{_GFX}, note 1", "gfx", since="v4.16"),
    _c("DEV-144", "the region of a plane is there, and holds the plane", f"{_GFX}, region_index and size",
       "gfx_region", since="v4.16"),
    _c("DEV-145", "where there is no hotspot, x_hot and y_hot are 0xFFFFFFFF", f"{_GFX}, note 2", "gfx",
       level="SHOULD", since="v4.16"),
    _c("DEV-146", "GET_GFX_DMABUF gives a new dma-buf for the id of a plane", _GFX_DMABUF, "gfx_dmabuf", "plane_on",
       since="v4.16"),
    _c("DEV-147", "GET_GFX_DMABUF is refused for an id that no plane has", _GFX_DMABUF, "gfx_dmabuf", "plane_on",
       since="v4.16"),
    _c("DEV-148", "the dma-buf of a plane is its frame buffer", f"{_GFX_DMABUF}: 'an exposed guest framebuffer'",
       "gfx_dmabuf", "plane_on", since="v4.16"),
    _c("DEV-150", "the EDID's place lies in its region, behind the fields",
       f"{_EDID}, @edid_offset, @edid_max_size", "gfx_edid", since="v4.20"),
    _c("DEV-151", "EDID, its size and the state of the link are what was written",
       f"{_EDID}, 'EDID update protocol'", "gfx_edid", since="v4.20"),
    _c("DEV-152", "place and greatest size of the EDID and the greatest resolution cannot be written",
       f"{_EDID}: 'readonly'", "gfx_edid", since="v4.20"),
    _c("DEV-153", "the EDID's size does not become greater than its greatest size", f"{_EDID}, @edid_max_size",
       "gfx_edid", level="SHOULD", since="v4.20"),
)
# fmt: on

CLAUSES = (
    *_DEVICE, *_REGIONS, *_ACCESS, *_CONFIG_SPACE, *_INTERRUPTS, *_LINE, *_REST, *_UART, *_DISPLAY,
)  # fmt: skip
