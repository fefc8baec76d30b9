# SPDX-License-Identifier: Apache-2.0
"""Chapter IOM: iommufd, from include/uapi/linux/iommufd.h and Documentation/userspace-api/iommufd.rst.

Rules of iommufd's core do not depend on the device: they are tried on the kernel's own mock.  Only rules that
depend on the device are tried on VFIO devices too (`_device`).
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_H = "iommufd.h, "
_FORMAT = f"{_H}DOC: General ioctl format"
_RANGES = f"{_H}struct iommu_ioas_iova_ranges"
_ALLOW = f"{_H}struct iommu_ioas_allow_iovas"
_MAP = f"{_H}struct iommu_ioas_map"
_FILE = f"{_H}struct iommu_ioas_map_file"
_COPY = f"{_H}struct iommu_ioas_copy"
_UNMAP = f"{_H}struct iommu_ioas_unmap"
_OPTION = f"{_H}enum iommufd_option"
_PROCESS = f"{_H}struct iommu_ioas_change_process"
_HWPT = f"{_H}struct iommu_hwpt_alloc"
_INFO = f"{_H}struct iommu_hw_info"
_INV = f"{_H}struct iommu_hwpt_invalidate"
_FAULT = f"{_H}struct iommu_fault_alloc"
_PASID = f"{_H}enum iommufd_hwpt_alloc_flags, IOMMU_HWPT_ALLOC_PASID"
_VIOMMU = f"{_H}struct iommu_viommu_alloc"
_VDEV = f"{_H}struct iommu_vdevice_alloc"
_VEVENT = f"{_H}struct iommu_veventq_alloc"
_QUEUE = f"{_H}struct iommu_hw_queue_alloc"
_RST = "iommufd.rst, User Visible Objects"
_DATA = "iommufd.rst, Kernel Datastructure"
_SILENT = "the text is silent: "


def _c(id: str, level: Level, statement: str, source: str, *needs: str, since: str = "v6.2") -> Clause:
    """A rule of the core, tried on the mock."""
    return Clause(id, level, statement, source, ("mock", *needs), since, mock=True)


def _device(id: str, level: Level, statement: str, source: str, *needs: str, since: str = "v6.2") -> Clause:
    """A rule that is tried on every device, the mock included."""
    return Clause(id, level, statement, source, needs, since, mock=True)


CLAUSES: tuple[Clause, ...] = (
    # -- the format of all ioctls
    _c("IOM-001", "MUST", "an ioctl number that does not exist is ENOTTY", f"{_FORMAT}, ENOTTY"),
    _c("IOM-002", "MUST", "a structure too short for the ioctl is refused with EINVAL", f"{_FORMAT}, EINVAL"),
    _c(
        "IOM-003",
        "MUST",
        "a longer structure is taken where the rest is 0, and is E2BIG where it is not",
        f"{_FORMAT}, E2BIG",
    ),
    _c("IOM-004", "MUST", "flags that do not exist are refused", f"{_FORMAT}, EOPNOTSUPP"),
    _c("IOM-005", "MUST", "the id of nothing is refused", f"{_FORMAT}, ENOENT"),
    _c("IOM-006", "MUST", "the id of an object of another kind is refused", f"{_FORMAT}, EINVAL and ENOENT"),
    _c(
        "IOM-007",
        "MUST",
        "IOMMU_DESTROY destroys an object, whose id then is the id of nothing",
        f"{_H}struct iommu_destroy",
    ),
    _c(
        "IOM-008",
        "SHOULD",
        "an object that others use cannot be destroyed, and stays as it is",
        f"{_SILENT}EBUSY is what the kernel gives",
    ),
    _c("IOM-009", "MUST", "a pointer to no memory is EFAULT, and nothing is left behind", _FORMAT),
    _c(
        "IOM-010",
        "SHOULD",
        "a reserved field that must be 0 is refused where it is not",
        f"{_SILENT}`must be 0` does not say that the kernel looks; else it could never be used",
    ),
    _c(
        "IOM-011",
        "SHOULD",
        "refusals have the standard errno: EOPNOTSUPP for flags, ENOENT for ids",
        f"{_FORMAT}, a standard meaning for common errnos",
    ),
    _c(
        "IOM-012",
        "SHOULD",
        "what fails for want of memory leaves nothing behind, and succeeds when it is repeated",
        f"{_FORMAT}, ENOMEM; {_SILENT}that nothing is left behind goes without saying",
        "fault_injection",
    ),
    # -- ranges
    _device(
        "IOM-020", "MUST", "a fresh IOAS has the full range, and an alignment of at most a page", _RANGES
    ),
    _device(
        "IOM-021",
        "MUST",
        "too small an array of ranges is EMSGSIZE, and num_iovas says how many there are",
        _RANGES,
    ),
    _device("IOM-022", "MUST", "attaching a device can only narrow the ranges", _RANGES),
    _c(
        "IOM-023",
        "MUST",
        "where ranges have been allowed, a device that would narrow them is not attached",
        _ALLOW,
    ),
    _c("IOM-024", "MUST", "ranges wider than the present ones cannot be allowed", _ALLOW),
    _c("IOM-025", "MUST", "addresses are chosen within the allowed ranges only", _ALLOW),
    _c("IOM-026", "MUST", "a new list of allowed ranges replaces the whole of the old one", _ALLOW),
    _c(
        "IOM-027",
        "SHOULD",
        "allowed ranges that overlap or run backwards are refused",
        f"{_SILENT}such a list means nothing",
    ),
    # -- maps
    _device("IOM-030", "MUST", "a map at an unused address within the ranges succeeds, there", _MAP),
    _device("IOM-031", "MUST", "a map over anything mapped is refused: nothing is replaced", _MAP),
    _device(
        "IOM-032", "MUST", "an address that the kernel chooses is unused, within the ranges and aligned", _MAP
    ),
    _device("IOM-033", "MUST", "a map outside the ranges is refused", _RANGES, "physical_iommu"),
    _device("IOM-034", "MUST", "a map that out_iova_alignment forbids is refused", _RANGES),
    _device("IOM-035", "MUST", "a range that ends beyond 2^64 is refused", f"{_FORMAT}, EOVERFLOW"),
    _device(
        "IOM-036",
        "SHOULD",
        "a map of nothing, or neither readable nor writable, is refused",
        f"{_SILENT}it could serve no DMA",
    ),
    _c("IOM-037", "MUST", "what is read and written at an IOVA is the memory that is mapped there", _MAP),
    _c(
        "IOM-038",
        "MUST",
        "what a mapping does not allow, reading or writing, cannot be done through it",
        f"{_H}enum iommufd_ioas_map_flags",
    ),
    _device(
        "IOM-040", "MUST", "an unmap that covers whole mappings removes them and tells their bytes", _UNMAP
    ),
    _device("IOM-041", "MUST", "an unmap that would split or cut a mapping is refused", _UNMAP),
    _device("IOM-042", "MUST", "0 to U64_MAX unmaps everything", _UNMAP),
    _device("IOM-043", "MUST", "unmapping where nothing is mapped is ENOENT", f"{_FORMAT}, ENOENT"),
    _c("IOM-044", "MUST", "where nothing is mapped, or no more, nothing can be accessed", _UNMAP),
    _c(
        "IOM-045",
        "MUST",
        "an in-kernel user pins the pages that are mapped, and gives them up when they are unmapped",
        f"{_DATA}, In-kernel user",
    ),
    _device(
        "IOM-046",
        "MUST",
        "a device attached to an IOAS writes the memory that is mapped at an IOVA, and no other",
        _MAP,
        "engine",
    ),
    _device(
        "IOM-047",
        "MUST",
        "what is unmapped is not written again, also by a device that is writing",
        _UNMAP,
        "engine",
        "emulated_iommu",
    ),
    _c("IOM-049", "SHOULD", "a refused unmap unmaps nothing", f"{_SILENT}a refusal that does half is none"),
    _device("IOM-050", "MUST", "a copy of a mapping maps the same memory at its new place", _COPY),
    _device("IOM-051", "MUST", "a copy of what is not mapped is refused", f"{_FORMAT}, ENOENT"),
    _c(
        "IOM-052",
        "SHOULD",
        "a copy cannot be made writable where the mapping is not",
        f"{_SILENT}the memory may be read-only",
    ),
    _device(
        "IOM-060",
        "MUST",
        "a memfd can be mapped, whoever has it mapped or open later",
        _FILE,
        "map_file",
        since="v6.13",
    ),
    _c(
        "IOM-061",
        "MUST",
        "a file that is neither a memfd nor a supported dma-buf is refused",
        _FILE,
        "map_file",
        since="v6.13",
    ),
    _c("IOM-062", "MUST", "a dma-buf that is revoked cannot be mapped", _FILE, "mock_dmabuf", since="v6.19"),
    # -- options and processes
    _c("IOM-070", "MUST", "huge pages are an option of each IOAS, on unless switched off", _OPTION),
    _c(
        "IOM-071",
        "MUST",
        "the way of accounting is an option of the whole iommufd, by user unless changed",
        _OPTION,
    ),
    _c(
        "IOM-072",
        "SHOULD",
        "the way of accounting cannot change once there are objects",
        f"{_SILENT}what was charged one way could not be uncharged",
    ),
    _c("IOM-073", "MUST", "an option has no other values than those of the text", f"{_FORMAT}, EINVAL"),
    _c(
        "IOM-075",
        "MUST",
        "CHANGE_PROCESS is refused with EINVAL while memory is mapped by its address",
        _PROCESS,
        "change_process",
        since="v6.14",
    ),
    _c(
        "IOM-076",
        "MUST",
        "CHANGE_PROCESS moves the count of pinned memory to the process that asks",
        _PROCESS,
        "change_process",
        since="v6.14",
    ),
    _c(
        "IOM-077",
        "MUST",
        "CHANGE_PROCESS does so too where processes may lock any amount (CAP_IPC_LOCK)",
        f"{_PROCESS}, for every memory map",
        "change_process",
        since="v6.14",
    ),
    _device(
        "IOM-080",
        "MUST",
        "memory that is copied to several IOASs of an iommufd is pinned and counted once",
        f"{_DATA}, avoids multi-pinning and double accounting",
        "physical_iommu",
    ),
    _device(
        "IOM-081",
        "MUST",
        "what is unmapped, or goes with its iommufd, is not counted any more",
        _DATA,
        "physical_iommu",
    ),
    _c("IOM-082", "MUST", "more than RLIMIT_MEMLOCK cannot be pinned", f"{_OPTION}, RLIMIT_MODE"),
    _c("IOM-085", "MUST", "an iommufd passed by SCM_RIGHTS works in the process that gets it", _RST),
    # -- page tables
    _device(
        "IOM-100", "MUST", "a page table can be allocated for a device and an IOAS", _HWPT, "physical_iommu"
    ),
    _c(
        "IOM-101",
        "MUST",
        "a page table holds what its IOAS has mapped, before it and after it was made",
        _RST,
    ),
    _c("IOM-102", "MUST", "only a page table allocated as a nesting parent can be one", _RST, since="v6.7"),
    _c("IOM-103", "MUST", "data_type and data_len are given together or not at all", _HWPT, since="v6.7"),
    _c(
        "IOM-104",
        "MUST",
        "a nested page table takes the data of its type, and a device attaches to it",
        _HWPT,
        since="v6.7",
    ),
    _device(
        "IOM-105",
        "MUST",
        "flags that no page table has, and pairs that cannot be, are EOPNOTSUPP",
        f"{_FORMAT}, EOPNOTSUPP",
        "physical_iommu",
        since="v6.7",
    ),
    _c("IOM-106", "MUST", "a device moves from one page table to another without being detached", _RST),
    _c(
        "IOM-110",
        "MUST",
        "an invalidation is done entry by entry, and tells how many were done",
        _INV,
        since="v6.8",
    ),
    _c("IOM-111", "MUST", "an empty invalidation says whether its type is known", _INV, since="v6.8"),
    _c(
        "IOM-112",
        "SHOULD",
        "entries of no length, or nowhere, are refused",
        f"{_SILENT}they cannot be read",
        since="v6.8",
    ),
    _c(
        "IOM-120",
        "MUST",
        "a fault on a page table with a fault queue is read from the queue's fd as it happened",
        _FAULT,
        "fault_queue",
        since="v6.11",
    ),
    _c(
        "IOM-121",
        "MUST",
        "a fault is answered once, by its cookie",
        f"{_H}struct iommu_hwpt_page_response",
        "fault_queue",
        since="v6.11",
    ),
    _c(
        "IOM-122",
        "SHOULD",
        "reads and writes of the queue that are no whole messages are refused",
        f"{_SILENT}half a message means nothing",
        "fault_queue",
        since="v6.11",
    ),
    # -- pasid, hardware info
    _c(
        "IOM-130",
        "MUST",
        "a page table made for PASID is attached to a PASID, replaced and detached",
        _PASID,
        "max_pasid_log2",
        since="v6.15",
    ),
    _c(
        "IOM-131",
        "MUST",
        "a page table not made for PASID is not attached to one",
        _PASID,
        "max_pasid_log2",
        since="v6.15",
    ),
    _device(
        "IOM-135",
        "MUST",
        "GET_HW_INFO fills what the buffer holds, zeroes the rest, tells the true length",
        _INFO,
        "hw_info",
        since="v6.6",
    ),
    _device(
        "IOM-136",
        "MUST",
        "GET_HW_INFO answers without a buffer, and says what is not known for a type",
        _INFO,
        "hw_info",
        since="v6.6",
    ),
    # -- vIOMMU and what hangs on it
    _c(
        "IOM-140",
        "MUST",
        "a vIOMMU is made of a nesting parent, and of nothing else",
        _VIOMMU,
        "viommu",
        since="v6.13",
    ),
    _c(
        "IOM-141",
        "MUST",
        "what a vIOMMU tells of itself, its user data and its mmap, is the driver's",
        _VIOMMU,
        "viommu",
        since="v6.13",
    ),
    _c(
        "IOM-142",
        "MUST",
        "a virtual device stands for one device under one id of its vIOMMU",
        _VDEV,
        "viommu",
        since="v6.13",
    ),
    _c(
        "IOM-143",
        "MUST",
        "a vIOMMU invalidates the caches of its virtual devices, and of no others",
        _INV,
        "viommu",
        since="v6.13",
    ),
    _c(
        "IOM-144",
        "MUST",
        "nested page tables come from a vIOMMU as from its parent",
        _HWPT,
        "viommu",
        since="v6.13",
    ),
    _c(
        "IOM-150",
        "MUST",
        "events of a virtual device are read in order from the queue of their type",
        _VEVENT,
        "veventq",
        since="v6.15",
    ),
    _c(
        "IOM-151",
        "MUST",
        "a queue that overflows says that events are lost",
        f"{_H}struct iommufd_vevent_header",
        "veventq",
        since="v6.15",
    ),
    _c("IOM-152", "MUST", "a vIOMMU has one queue of each type", _VEVENT, "veventq", since="v6.15"),
    _c(
        "IOM-160",
        "MUST",
        "a hardware queue is made of memory that the nesting parent maps, and keeps it mapped",
        _QUEUE,
        "hw_queue",
        since="v6.17",
    ),
    _c(
        "IOM-161",
        "MUST",
        "hardware queues are made upwards and destroyed downwards where the driver says so",
        f"{_H}enum iommu_hw_queue_type",
        "hw_queue",
        since="v6.17",
    ),
)
