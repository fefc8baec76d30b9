# SPDX-License-Identifier: Apache-2.0
"""Chapter LEG: the container, its type1 backends, and iommufd in their place.

The source is include/uapi/linux/vfio.h, "API for Type1 VFIO IOMMU" and the container's ioctls before it.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_H = "vfio.h, "
_EXT = f"{_H}VFIO_CHECK_EXTENSION"
_SET = f"{_H}VFIO_SET_IOMMU"
_INFO = f"{_H}VFIO_IOMMU_GET_INFO"
_CAPS = f"{_H}callers of INFO ioctls passing insufficiently sized buffers"
_MAP = f"{_H}VFIO_IOMMU_MAP_DMA"
_UNMAP = f"{_H}VFIO_IOMMU_UNMAP_DMA"
_VADDR = f"{_MAP}, VFIO_DMA_MAP_FLAG_VADDR"
_DIRTY = f"{_H}VFIO_IOMMU_DIRTY_PAGES"
_ARGSZ = f"{_H}always the caller's responsibility to indicate the size"
_COMPAT = "iommufd.h, struct iommu_vfio_ioas; iommufd.rst, VFIO and IOMMUFD"
_SILENT = "the text is silent: "
_MAINLINE_LOCKS = (
    "drivers/vfio/vfio_iommu_type1.c: vfio_notify_dma_unmap() calls drivers with device_list_lock held, and "
    "vfio_unpin_pages(), which it expects of them, takes iommu->lock; vfio_iommu_type1_register_device() "
    "takes the two the other way round"
)


def _c(id: str, level: Level, statement: str, source: str, *needs: str, since: str = "v3.6") -> Clause:
    return Clause(id, level, statement, source, ("type1v2", *needs), since)


def _compat(id: str, level: Level, statement: str, source: str = _COMPAT) -> Clause:
    return Clause(id, level, statement, source, ("iommufd_compat",), "v6.2", mock=True)


CLAUSES: tuple[Clause, ...] = (
    # -- the container
    _c("LEG-001", "MUST", "the API has version 0", f"{_H}VFIO_GET_API_VERSION"),
    _c("LEG-002", "MUST", "an extension is 0 where it is not supported, and positive where it is", _EXT),
    _c("LEG-003", "MUST", "the IOMMU can be set only once a group is in the container", _SET),
    _c("LEG-004", "MUST", "a type that CHECK_EXTENSION denies is refused, one that it affirms is set", _SET),
    _c("LEG-005", "MUST", "without an IOMMU type, the container maps nothing and tells nothing", _SET),
    _c(
        "LEG-006",
        "SHOULD",
        "the type is set once: it cannot be changed under what is mapped",
        f"{_SILENT}a second VFIO_SET_IOMMU would need a meaning for the mappings that are there",
    ),
    _c("LEG-007", "SHOULD", "an ioctl that does not exist is ENOTTY", f"{_SILENT}every ioctl of every file"),
    _c(
        "LEG-008",
        "MUST",
        "when the last group leaves the container, its mappings are gone and its memory is not pinned",
        "vfio.rst, Groups, Devices, and IOMMUs",
        "physical_iommu",
    ),
    # -- info
    _c("LEG-010", "MUST", "GET_INFO refuses an argsz too small for its fixed part", _ARGSZ),
    _c("LEG-011", "MUST", "GET_INFO says that page sizes are told, and tells some", _INFO),
    _c(
        "LEG-012",
        "MUST",
        "a buffer too small for the capabilities gives their flag, offset 0 and the size needed",
        _CAPS,
    ),
    _c(
        "LEG-013",
        "MUST",
        "the capability chain lies inside the buffer, and each of its ids is there once",
        _CAPS,
    ),
    _c(
        "LEG-014",
        "MUST",
        "DMA_AVAIL falls by one with each mapping and rises with each unmap",
        f"{_H}VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL",
        since="v5.10",
    ),
    _c(
        "LEG-015",
        "MUST",
        "the migration capability says which page sizes and how large a bitmap",
        f"{_H}VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION",
        "type1_migration",
        since="v5.8",
    ),
    # -- map
    _c("LEG-020", "MUST", "a map of unused, aligned addresses within the ranges succeeds", _MAP),
    _c(
        "LEG-021",
        "SHOULD",
        "a map over anything mapped is refused with EEXIST",
        f"{_SILENT}two memories cannot be at one address, and users rely on the refusal",
    ),
    _c(
        "LEG-022",
        "MUST",
        "a map outside the IOVA ranges is refused",
        f"{_H}VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE",
        "physical_iommu",
        since="v5.4",
    ),
    _c(
        "LEG-023",
        "MUST",
        "a map not aligned to a page size of the IOMMU is refused",
        f"{_INFO}, iova_pgsizes",
    ),
    _c(
        "LEG-024",
        "SHOULD",
        "a range that ends beyond 2^64 is refused",
        f"{_SILENT}there are no addresses behind the last",
    ),
    _c("LEG-025", "MUST", "a map needs READ or WRITE, and a size", f"{_MAP}, READ &/ WRITE required"),
    _c("LEG-026", "MUST", "an argsz too small is refused, in map and unmap", _ARGSZ),
    _c(
        "LEG-027",
        "SHOULD",
        "flags that do not exist are refused, in map, unmap and dirty pages",
        f"{_SILENT}flag bits indicate additional fields with valid data",
    ),
    _c(
        "LEG-028",
        "MUST",
        "memory that is not there cannot be mapped, and leaves nothing",
        _MAP,
        "physical_iommu",
    ),
    _c(
        "LEG-029",
        "SHOULD",
        "memory of the device that is mmap-ed can be mapped for DMA",
        f"{_SILENT}peer-to-peer needs it, and type1 has always done it",
        "physical_iommu",
        "mmap_bar",
    ),
    # -- unmap
    _c("LEG-030", "MUST", "an unmap that covers whole mappings removes them, and tells their size", _UNMAP),
    _c(
        "LEG-031",
        "SHOULD",
        "type1v2 refuses an unmap that would cut a mapping",
        f"{_UNMAP}, no guarantee that arbitrary unmaps succeed; refusal is what v2 is for",
    ),
    _c(
        "LEG-032",
        "MUST",
        "FLAG_ALL unmaps everything, and tells the size",
        f"{_UNMAP}, VFIO_DMA_UNMAP_FLAG_ALL",
        "unmap_all",
        since="v5.12",
    ),
    _c(
        "LEG-033",
        "MUST",
        "FLAG_ALL wants iova and size to be 0, and cannot be combined with the dirty bitmap",
        f"{_UNMAP}, VFIO_DMA_UNMAP_FLAG_ALL",
        "unmap_all",
        since="v5.12",
    ),
    _c(
        "LEG-034",
        "MUST",
        "type1 unmaps what was mapped, by the addresses it was mapped with",
        _UNMAP,
        "type1",
    ),
    # -- vaddr
    _c(
        "LEG-040",
        "MUST",
        "addresses in the process can be invalidated and set anew, and nothing else of a mapping",
        _VADDR,
        "update_vaddr",
        since="v5.12",
    ),
    _c(
        "LEG-041",
        "MUST",
        "VADDR needs iova and size of the mapping, no READ or WRITE, and an invalidated address",
        _VADDR,
        "update_vaddr",
        since="v5.12",
    ),
    _c(
        "LEG-042",
        "MUST",
        "where addresses cannot be updated, CHECK_EXTENSION says so and the flag is refused",
        f"{_H}VFIO_UPDATE_VADDR",
        "no_update_vaddr",
        since="v5.12",
    ),
    _c(
        "LEG-043",
        "MUST",
        "addresses can be set anew by another process, which then has the locked memory",
        f"{_VADDR}, the updated vaddr must address the same memory object",
        "update_vaddr",
        since="v6.2",
    ),
    # -- dirty pages
    _c("LEG-050", "MUST", "only one of START, STOP and GET may be asked for at a time", _DIRTY, since="v5.8"),
    _c("LEG-051", "MUST", "without logging, asking for the bitmap is an error", _DIRTY, since="v5.8"),
    _c(
        "LEG-052",
        "MUST",
        "while logging, what a device may write to is reported dirty",
        f"{_DIRTY}, dirtied or potentially dirtied",
        "physical_iommu",
        since="v5.8",
    ),
    _c(
        "LEG-053",
        "MUST",
        "the bitmap's page size is the smallest of the IOMMU, and its size and the argsz large enough",
        _DIRTY,
        since="v5.8",
    ),
    _c("LEG-054", "MUST", "nothing outside the bitmap is written", _DIRTY, since="v5.8"),
    _c(
        "LEG-055",
        "MUST",
        "an unmap can give the dirty bitmap of what it unmaps, while logging only",
        f"{_UNMAP}, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP",
        since="v5.8",
    ),
    _c(
        "LEG-056",
        "MUST",
        "START and STOP may be repeated, and mappings made meanwhile are logged",
        _DIRTY,
        since="v5.8",
    ),
    # -- accounting
    _c(
        "LEG-060",
        "MUST",
        "mapped memory is pinned, and not any more when it is unmapped or its container is closed",
        "vfio.rst, VFIO Usage Example",
        "physical_iommu",
    ),
    _c(
        "LEG-061",
        "SHOULD",
        "more than RLIMIT_MEMLOCK cannot be mapped, and a refused map locks nothing",
        f"{_SILENT}what is mapped is locked, and locked memory has a limit",
        "physical_iommu",
    ),
    _c(
        "LEG-062",
        "MUST",
        "a device whose group is in a container writes the memory that is mapped at an IOVA, and no other",
        _MAP,
        "engine",
    ),
    _c(
        "LEG-063",
        "MUST",
        "what is unmapped is not written again, also by a device that is writing",
        _UNMAP,
        "engine",
        "emulated_iommu",
    ),
    Clause(
        "LEG-064",
        "SHOULD",
        "a device that gives pages back when it is told of an UNMAP can do so without a deadlock",
        "drivers/vfio/vfio_iommu_type1.c, vfio_notify_dma_unmap(): 'The device is expected to call "
        "vfio_unpin_pages()'",
        ("type1v2", "engine_pinned", "lockdep"),
        "v6.0",
        mainline=_MAINLINE_LOCKS,
    ),
    # -- iommufd in its place
    _compat("LEG-080", "MUST", "an iommufd with an IOAS set maps as type1 does"),
    _compat("LEG-081", "MUST", "an iommufd unmaps as type1v2 does, all of it with FLAG_ALL"),
    _compat("LEG-082", "MUST", "an iommufd refuses a map over anything mapped"),
    _compat("LEG-083", "SHOULD", "an iommufd refuses an unmap that would cut a mapping, as type1v2 does"),
    _compat("LEG-084", "MUST", "an iommufd has the API version and the extensions of type1"),
    _compat(
        "LEG-085",
        "MUST",
        "IOMMU_VFIO_IOAS gets what was set, and an error where nothing is set or all cleared",
    ),
    _compat(
        "LEG-086", "MUST", "an iommufd without an IOAS for it has no IOMMU type to set and nothing to map"
    ),
    _compat(
        "LEG-087", "MUST", "what is mapped through the old interface is there in the IOAS, and the reverse"
    ),
    _compat(
        "LEG-088", "MUST", "an iommufd answers GET_INFO with page sizes and a capability chain as type1 does"
    ),
    _compat("LEG-089", "MUST", "type1 on an iommufd can unmap within a mapping, as the old type1 could"),
    _c(
        "LEG-090",
        "MUST",
        "a group takes an iommufd for its container, and an IOAS is there for it",
        f"{_COMPAT}, VFIO_GROUP_SET_CONTAINER",
        since="v6.2",
    ),
)
