# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of this chapter, and has its backends for random programs."""

from __future__ import annotations

from typing import Any

from harness.uapi import vfio
from suites.iom.program import PAGE, RW, Core

__all__ = ["INFO_BYTES", "Container", "Type1Backend", "legacy_flags"]

INFO_BYTES = 4096
"""Room for any capability chain."""
_V1, _V2 = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU


def legacy_flags(flags: int) -> int:
    """type1's READ and WRITE for iommufd's READABLE and WRITEABLE."""
    return flags >> 2 & 1 | flags & 2


class Container(Core):
    """A program with its own container: slots `g` (the device's group) and `c` (the container)."""

    def __init__(self, kind: int = _V2, *, group: bool = True, iommu: bool = True) -> None:
        super().__init__(ioas=False)
        self.script.op("open_container", out="c")
        if group:
            self.join("g", "c")
        if iommu:
            self.script.op("container_set_iommu", fd="c", type=kind)

    def join(self, group: str, container: str) -> int:
        """Open the device's group and set the container for it."""
        self.script.op("open_group", dev="dev0", out=group)
        return self.script.op("group_set_container", fd=group, container=container)

    def info(self, size: int = INFO_BYTES, fd: str = "c") -> int:
        """VFIO_IOMMU_GET_INFO; the model takes ranges and page sizes from the answer."""
        return self.io("VFIO_IOMMU_GET_INFO", {"argsz": size}, fd=fd)

    def dma_map(
        self, iova: int, size: int, memory: str = "m", off: int = 0, *, flags: int = 3, fd: str = "c",
        **spoilt: Any,
    ) -> int:  # fmt: skip
        """VFIO_IOMMU_MAP_DMA."""
        fields = {"flags": flags, "iova": iova, "size": size, **spoilt}
        return self.io("VFIO_IOMMU_MAP_DMA", fields, fd=fd, mems={"vaddr": [memory, off]})

    def dma_unmap(self, iova: int, size: int, *, flags: int = 0, fd: str = "c", **spoilt: Any) -> int:
        """VFIO_IOMMU_UNMAP_DMA without a bitmap."""
        fields = {"argsz": 24, "flags": flags, "iova": iova, "size": size, **spoilt}
        return self.io("VFIO_IOMMU_UNMAP_DMA", fields, fd=fd)

    def dirty(self, flags: int, **spoilt: Any) -> int:
        """VFIO_IOMMU_DIRTY_PAGES to start or stop."""
        return self.io("VFIO_IOMMU_DIRTY_PAGES", {"argsz": 8, "flags": flags, **spoilt}, fd="c")

    def bitmap(self, cmd: str, iova: int, size: int, flags: int, /, room: int = 0, **spoilt: Any) -> int:
        """Get the dirty bitmap of a range, by GET or with an unmap."""
        room = room or (size // PAGE + 63) // 64 * 8
        fields = {
            "flags": flags, "iova": iova, "size": size, "pgsize": PAGE, "bitmap_size": room, **spoilt,
        }  # fmt: skip
        return self.io(cmd, fields, fd="c", bufs={"data": room})


class Type1Backend:
    """A container of the device's group, for `suites.iom.random_space`."""

    copies = chooses = False
    top = False  # an emulated IOMMU reports no ranges, and older kernels lose a mapping that ends at 2^64

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def open(self, core: Core) -> None:
        """Append making the space; `core` is a `Container` that has no IOMMU yet."""
        core.script.op("container_set_iommu", fd="c", type=self._kind)
        core.io("VFIO_IOMMU_GET_INFO", {"argsz": INFO_BYTES}, fd="c")

    def map(self, core: Core, iova: int | None, length: int, off: int, flags: int = RW) -> int:
        """Append a map."""
        fields = {"flags": legacy_flags(flags), "iova": iova or 0, "size": length}
        return core.io("VFIO_IOMMU_MAP_DMA", fields, fd="c", mems={"vaddr": ["m", off]})

    def unmap(self, core: Core, iova: int, length: int) -> int:
        """Append an unmap."""
        return core.io("VFIO_IOMMU_UNMAP_DMA", {"argsz": 24, "iova": iova, "size": length}, fd="c")

    def unmap_all(self, core: Core) -> int:
        """Append an unmap of everything."""
        return core.io("VFIO_IOMMU_UNMAP_DMA", {"argsz": 24, "flags": 2}, fd="c")
