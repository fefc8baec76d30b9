# SPDX-License-Identifier: Apache-2.0
"""Chapter EMU: devices without an IOMMU of their own.

There are three ways to use such a device: an *emulated* IOMMU (mdevs: the driver itself does the device's DMA,
through the address space of its user), *no-IOMMU* mode (nothing protects the host, and the kernel is tainted),
and UIO, which is not VFIO at all.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_EMULATED = "drivers/vfio/iommufd.c, 'The emulated standard ops mean that vfio_device is going to use'"
_REGISTER = "drivers/vfio/vfio_main.c, vfio_register_emulated_iommu_dev()"
_ATTACH = "vfio.h, struct vfio_device_attach_iommufd_pt"
_RANGES = "iommufd.h, struct iommu_ioas_iova_ranges; Documentation/userspace-api/iommufd.rst"
_MDEV = "Documentation/driver-api/vfio-mediated-device.rst"
_NOIOMMU = "drivers/vfio/vfio_main.c, enable_unsafe_noiommu_mode"
_NOIOMMU_GROUP = "drivers/vfio/group.c, vfio_group_find_or_alloc(), comment"
_NOIOMMU_EXT = "vfio.h, VFIO_NOIOMMU_IOMMU, comment"
_MIX = "drivers/vfio/container.c, 'Only noiommu containers can use vfio-noiommu', comment"
_UIO = "Documentation/driver-api/uio-howto.rst"
_CDEV = "Documentation/driver-api/vfio.rst, VFIO Device cdev"


_MAINLINE_NO_GROUP = (
    "drivers/vfio/group.c: vfio_create_group() that fails puts a group which still has its iommu_group, and "
    "vfio_group_release() warns of that; the reference of the iommu_group is lost, too"
)


def _emulated(id: str, level: Level, statement: str, source: str, *needs: str, mainline: str = "") -> Clause:
    return Clause(id, level, statement, source, ("emulated", *needs), "v6.2", mainline=mainline)


def _noiommu(id: str, statement: str, source: str, level: Level = "MUST") -> Clause:
    return Clause(id, level, statement, source, ("noiommu",), "v4.5")


# fmt: off
CLAUSES: tuple[Clause, ...] = (
    # -- an emulated IOMMU
    _emulated("EMU-001", "MUST", "an emulated device can be bound to an iommufd", _EMULATED),
    _emulated("EMU-002", "MUST", "an emulated device can be attached to an IOAS, and ATTACH returns it", _ATTACH),
    _emulated("EMU-003", "MUST", "attaching an emulated device does not narrow the ranges of its IOAS", _RANGES),
    _emulated("EMU-004", "SHOULD", "an emulated device has no I/O page table: HWPT_ALLOC is refused", _EMULATED),
    _emulated("EMU-005", "MUST", "giving an emulated device to a user does not taint the kernel", _NOIOMMU_GROUP),
    _emulated("EMU-006", "MUST", "the group of an emulated device is called N, not noiommu-N", _REGISTER),
    _emulated("EMU-007", "MUST", "a container with an emulated device takes type1 and not VFIO_NOIOMMU_IOMMU", _MIX,
              "legacy"),
    _emulated("EMU-008", "MUST", "no privilege but access to its nodes is needed for an emulated device", _REGISTER),
    _emulated("EMU-009", "MUST", "before an address space is attached, the regions of a bound device work", _CDEV,
              "state_regions"),
    _emulated("EMU-010", "MUST", "what the device wrote to memory stays when the memory is unmapped: UNMAP succeeds",
              "include/linux/vfio.h, struct vfio_device_ops, @dma_unmap", "engine"),
    _emulated("EMU-011", "MUST", "after UNMAP the device reaches the memory no more",
              "include/linux/vfio.h, struct vfio_device_ops, @dma_unmap", "engine"),
    _emulated("EMU-012", "MUST", "memory mapped again at the same IOVA is reached as the new one",
              "include/linux/vfio.h, struct vfio_device_ops, @dma_unmap", "engine"),
    _emulated("EMU-013", "MUST", "after DETACH the device reaches no memory", _EMULATED, "engine"),
    _emulated("EMU-014", "MUST", "after another IOAS is attached, the device reaches that one alone", _ATTACH,
              "engine"),
    _emulated("EMU-020", "MUST", "the type's device_api is the kind of device that GET_INFO shows", _MDEV, "mdev"),
    _emulated("EMU-021", "MUST", "creating a device with a UUID that exists is refused",
              "drivers/vfio/mdev/mdev_core.c, mdev_device_create()", "mdev"),
    _emulated("EMU-022", "SHOULD", "a device that cannot be made for want of memory leaves nothing behind: it can "
              "be made again", f"{_MDEV}, create; that nothing is left behind goes without saying",
              "mdev", "fault_injection"),
    _emulated("EMU-023", "SHOULD", "a device that cannot be made for want of memory is an error, and the kernel "
              "has nothing to report", f"{_MDEV}, create; errors of the user's context are errno",
              "mdev", "fault_injection", mainline=_MAINLINE_NO_GROUP),
    # -- no-IOMMU mode
    _noiommu("EMU-040", "without enable_unsafe_noiommu_mode a device without IOMMU is refused", _NOIOMMU),
    _noiommu("EMU-041", "with it the device gets a group called noiommu-N, and no cdev",
             "drivers/vfio/group.c, vfio_create_group(); drivers/vfio/vfio.h, vfio_device_add()"),
    _noiommu("EMU-042", "binding the device taints the kernel (TAINT_USER)", _NOIOMMU_GROUP),
    _noiommu("EMU-043", "its container offers VFIO_NOIOMMU_IOMMU and no type1", _MIX),
    _noiommu("EMU-044", "its container takes VFIO_NOIOMMU_IOMMU and refuses type1", _MIX),
    _noiommu("EMU-045", "the device fd works: info, and config space with the device's ids", _NOIOMMU_EXT),
    _noiommu("EMU-046", "there is no DMA mapping: MAP_DMA and GET_INFO of the container are refused", _NOIOMMU_EXT),
    _noiommu("EMU-047", "without CAP_SYS_RAWIO the group cannot be opened", _NOIOMMU),
    _noiommu("EMU-048", "without CAP_SYS_RAWIO an open group gets no container",
             "drivers/vfio/container.c, vfio_container_attach_group()"),
    _noiommu("EMU-049", "without CAP_SYS_RAWIO the container gets no VFIO_NOIOMMU_IOMMU",
             "drivers/vfio/container.c, vfio_noiommu_open()"),
    _noiommu("EMU-050", "an iommufd that stands in for the container gives the device",
             "drivers/vfio/group.c, vfio_group_ioctl_set_container()"),
    _noiommu("EMU-051", "an iommufd with a compatibility IOAS is refused: its user expects translation",
             "drivers/vfio/group.c, vfio_df_group_open(), comment"),
    _noiommu("EMU-052", "when everything is closed the group can be opened again",
             "drivers/vfio/group.c, vfio_group_fops_open()"),
    # -- UIO, the contrast
    _noiommu("EMU-060", "bound to uio_pci_generic the device has a UIO node and no VFIO node",
             "drivers/uio/uio_pci_generic.c, probe()"),
    _noiommu("EMU-061", "a UIO node knows no ioctl of VFIO: no eventfd interrupts, no reset, no DMA mapping", _UIO),
    _noiommu("EMU-062", "binding a device to uio_pci_generic does not taint the kernel: nothing is promised",
             "drivers/uio/uio_pci_generic.c, comment in release()", "SHOULD"),
    _noiommu("EMU-063", "closing the UIO node turns the device's bus mastering off",
             "drivers/uio/uio_pci_generic.c, release()"),
)
# fmt: on
