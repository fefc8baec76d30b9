# SPDX-License-Identifier: Apache-2.0
"""Chapter ACC: access, binding, and the exclusion of cdev against group."""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_BIND = "vfio.h, struct vfio_device_bind_iommufd"
_ATTACH = "vfio.h, struct vfio_device_attach_iommufd_pt"
_DETACH = "vfio.h, struct vfio_device_detach_iommufd_pt"
_CDEV = "Documentation/driver-api/vfio.rst, VFIO Device cdev"
_GROUPS = "Documentation/driver-api/vfio.rst, Groups, Devices, and IOMMUs"
_ARGSZ = "vfio.h, 'The IOCTL interface is designed for extensibility'"
_CORE = "drivers/vfio/group.c, vfio_device_block_group() and vfio_group_fops_open()"
_ONCE = "drivers/vfio/vfio_main.c, vfio_df_open(), comment"
_CLOSE = "vfio.h, VFIO_DEVICE_BIND_IOMMUFD: 'Unbind is automatically conducted when device fd is closed'"
_STATUS = "vfio.h, VFIO_GROUP_GET_STATUS"
_SET = "vfio.h, VFIO_GROUP_SET_CONTAINER"
_UNSET = "vfio.h, VFIO_GROUP_UNSET_CONTAINER"
_GET_FD = "vfio.h, VFIO_GROUP_GET_DEVICE_FD"
_SET_IOMMU = "vfio.h, VFIO_SET_IOMMU"
_RESET_INFO = "vfio.h, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"
_RESET = "vfio.h, VFIO_DEVICE_PCI_HOT_RESET"
_MAINLINE_GROUP = (
    "drivers/vfio/group.c: vfio_group_fops_release() says that device fds hold a reference of the group's "
    "file; vfio_group_use_container() takes it, and the path with an iommufd in its place does not"
)
_IOAS = "Documentation/userspace-api/iommufd.rst, IOMMUFD User Objects"
_TOKEN = "vfio.h, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN"


def _c(
    id: str,
    statement: str,
    source: str,
    *needs: str,
    level: Level = "MUST",
    since: str = "v6.6",
    untested: str = "",
    mainline: str = "",
) -> Clause:
    return Clause(id, level, statement, source, needs, since, untested, mainline=mainline)


# fmt: off
_BEFORE_BIND = (
    _c("ACC-001", "the cdev of a device that nobody uses can be opened", _CDEV),
    _c("ACC-002", "the cdev can be opened also while the device or its group is in use: opening it claims nothing",
       _CDEV, level="SHOULD"),
    _c("ACC-003", "before BIND, every ioctl on a cdev fd but BIND itself is refused", _BIND),
    _c("ACC-004", "before BIND, a cdev fd can be neither read nor written nor mapped", _BIND),
)
_BINDING = (
    _c("ACC-005", "BIND of a device that nobody uses to an iommufd succeeds", _BIND),
    _c("ACC-006", "BIND gives a device id, which is greater than zero", f"{_BIND}, @out_devid; {_RESET_INFO}"),
    _c("ACC-007", "after BIND the device is fully accessible", _CDEV),
    _c("ACC-008", "a cdev fd that is bound cannot be bound again, to whichever iommufd",
       "drivers/vfio/device_cdev.c, vfio_df_ioctl_bind_iommufd(), comment"),
    _c("ACC-009", "while a device is bound through one cdev fd, BIND on any other cdev fd of it is refused", _ONCE),
    _c("ACC-010", "a refused attempt to open, bind or set does not touch the access of who holds the device",
       _CDEV),
    _c("ACC-011", "BIND to an open fd that is no iommufd is refused", f"{_BIND}, @iommufd"),
    _c("ACC-012", "BIND to a number that is no open fd is refused", f"{_BIND}, @iommufd"),
    _c("ACC-013", "a refused BIND leaves nothing behind: the same fd can be bound afterwards", _BIND),
    _c("ACC-014", "BIND with an argsz that has no room for out_devid is refused", f"{_BIND}, @argsz"),
    _c("ACC-015", "BIND with an undefined flag is refused", f"{_BIND}, @flags"),
    _c("ACC-016", "BIND with a larger argsz, the rest of the struct being zero, succeeds", _ARGSZ, level="SHOULD",
       since="v7.0"),
    _c("ACC-017", "BIND on a device fd that a group gave is refused", f"{_BIND}: 'Only allowed on cdev fds'",
       "legacy"),
    _c("ACC-018", "ATTACH and DETACH on a device fd that a group gave are refused",
       f"{_ATTACH}: 'only allowed on cdev fds'", "legacy"),
    _c("ACC-019", "two devices bound to one iommufd have different ids", f"{_BIND}, @out_devid", "shared_group"),
    _c("ACC-021", "a BIND whose answer cannot be written fails, and the device is not bound",
       f"{_BIND}, @out_devid"),
    _c("ACC-020", "the binding lasts until the device fd is closed: closing the iommufd does not end it", _CLOSE),
)
_ATTACHING = (
    _c("ACC-025", "a bound device can be attached to an IOAS of its iommufd", _ATTACH),
    _c("ACC-026", "ATTACH returns the id of the IOAS, or that of a hwpt", f"{_ATTACH}, @pt_id"),
    _c("ACC-027", "ATTACH of an attached device to another IOAS succeeds and replaces the old one", _ATTACH),
    _c("ACC-028", "after a replacement the old IOAS is free and the new one is in use", _ATTACH),
    _c("ACC-029", "ATTACH to an id that does not exist in the bound iommufd is refused", f"{_ATTACH}, @pt_id"),
    _c("ACC-030", "ATTACH to an object that is no address space is refused", f"{_ATTACH}, @pt_id"),
    _c("ACC-031", "a refused ATTACH leaves the device attached where it was", _ATTACH),
    _c("ACC-032", "an IOAS that a device is attached to cannot be destroyed", _IOAS),
    _c("ACC-033", "DETACH of an attached device succeeds, and then its IOAS is free", _DETACH),
    _c("ACC-034", "closing the device fd undoes the attachment", f"{_ATTACH}: 'or device fd close'"),
    _c("ACC-035", "ATTACH and DETACH with an argsz shorter than the struct are refused", f"{_ATTACH}, @argsz"),
    _c("ACC-036", "ATTACH and DETACH with an undefined flag are refused", f"{_ATTACH}, @flags"),
    _c("ACC-037", "ATTACH and DETACH that announce a PASID in a struct without room for one are refused",
       f"{_ATTACH}, @pasid", since="v6.15"),
    _c("ACC-041", "an ATTACH whose answer cannot be written fails, and nothing is attached",
       f"{_ATTACH}, @pt_id"),
    _c("ACC-039", "a device that was detached can be attached again", _DETACH),
)
_EXCLUSION = (
    _c("ACC-050", "while a device is bound by cdev its group cannot be opened", _CORE, "group"),
    _c("ACC-051", "while any device of a group is bound by cdev the group cannot be opened", _CORE, "shared_group"),
    _c("ACC-052", "while the group is open, with or without container, its device cannot be bound by cdev", _CORE,
       "group"),
    _c("ACC-053", "while the group is open none of its devices can be bound by cdev", _CORE, "shared_group"),
    _c("ACC-054", "a group that is open cannot be opened again",
       "drivers/vfio/group.c, vfio_group_fops_open(), comment", "group"),
    _c("ACC-055", "the group of devices that nobody uses can be opened, cdev fds without BIND notwithstanding",
       _CORE, "group"),
    _c("ACC-056", "devices of one group can be bound to the same iommufd", f"{_CDEV}: one DMA owner",
       "shared_group"),
    _c("ACC-057", "devices of one group cannot be bound to different iommufds", _CDEV, "shared_group"),
)
_REFERENCES = (
    _c("ACC-060", "a device stays in use while a dup of the fd is open", _CLOSE),
    _c("ACC-061", "a device stays in use while a forked process has the fd", _CLOSE),
    _c("ACC-062", "a device stays in use while a process has the fd by SCM_RIGHTS", _CLOSE),
    _c("ACC-063", "a device stays in use while its fd is under way in a socket", _CLOSE),
    _c("ACC-064", "a device stays in use by a process that kept the fd over exec", _CLOSE),
    _c("ACC-065", "the close of the last fd frees the device", _CLOSE),
    _c("ACC-066", "the death of its last holder by SIGKILL frees the device", _CLOSE),
    _c("ACC-067", "the exit of its last holder frees the device", _CLOSE),
    _c("ACC-068", "exec with a close-on-exec fd frees the device", _CLOSE),
    _c("ACC-069", "an fd under way in a socket frees the device when the socket goes", _CLOSE),
    _c("ACC-070", "when everybody has let go, whatever happened before, the device is free again", _CDEV),
    _c("ACC-071", "claims made at the same time end as if they had been made in some order", _CORE),
    _c("ACC-072", "of several who claim a free device at the same time, one gets it", _CORE),
    _c("ACC-073", "a group stays in use while a device fd that it gave is open, its own fd being closed",
       "drivers/vfio/group.c, vfio_group_fops_release(), comment", "legacy"),
    _c("ACC-074", "the same where an iommufd stands in for the container",
       "drivers/vfio/group.c, vfio_group_fops_release(), comment", "group", level="SHOULD", mainline=_MAINLINE_GROUP),
    _c("ACC-075", "UNSET_CONTAINER is refused while device fds of a group are open, an iommufd being the container",
       f"{_UNSET}: 'All device file descriptors must be released prior'", "group", level="SHOULD",
       mainline=_MAINLINE_GROUP),
    _c("ACC-076", "a device stays in use while a mapping of one of its regions exists", _CLOSE, "mmap_region"),
)
_GROUP = (
    _c("ACC-080", "GET_STATUS is always available, and shows VIABLE where nobody else has a device of the group",
       _STATUS, "group"),
    _c("ACC-081", "GET_STATUS with an argsz that has no room for flags is refused", _STATUS, "group"),
    _c("ACC-082", "GET_STATUS shows CONTAINER_SET from SET_CONTAINER to UNSET_CONTAINER, and at no other time",
       _STATUS, "group"),
    _c("ACC-083", "SET_CONTAINER of a group without container to an empty container succeeds", _SET, "legacy"),
    _c("ACC-084", "SET_CONTAINER of a group that has a container is refused",
       f"{_SET}: 'Groups may only belong to a single container'", "legacy"),
    _c("ACC-085", "SET_CONTAINER to an fd that is no container is refused", _SET, "group"),
    _c("ACC-086", "UNSET_CONTAINER of a group without container is refused", _UNSET, "group"),
    _c("ACC-087", "UNSET_CONTAINER is refused while device fds of the group are open", _UNSET, "legacy"),
    _c("ACC-088", "UNSET_CONTAINER without open device fds succeeds, and the group takes a container again", _UNSET,
       "legacy"),
    _c("ACC-089", "SET_IOMMU of a container without group is refused", _SET_IOMMU, "legacy"),
    _c("ACC-090", "SET_IOMMU to a type that no driver supports is refused", _SET_IOMMU, "legacy"),
    _c("ACC-091", "SET_IOMMU of a container with a group to a supported type succeeds", _SET_IOMMU, "legacy"),
    _c("ACC-092", "SET_IOMMU of a container that has an IOMMU is refused",
       "drivers/vfio/container.c, vfio_ioctl_set_iommu(), comment", "legacy"),
    _c("ACC-093", "GET_DEVICE_FD is refused until the group has a container with an IOMMU", _GET_FD, "group"),
    _c("ACC-094", "GET_DEVICE_FD is refused for a name that no device of the group has", _GET_FD, "legacy"),
    _c("ACC-095", "GET_DEVICE_FD with the name of a device of the group gives an fd by which it is accessible",
       _GET_FD, "legacy"),
    _c("ACC-097", "GET_DEVICE_FD can be used several times for one device", _ONCE, "legacy", level="SHOULD"),
    _c("ACC-098", "container, group and device can be closed in any order",
       "drivers/vfio/container.c, 'Container objects', comment", "legacy"),
    _c("ACC-099", "GET_API_VERSION gives VFIO_API_VERSION, which is 0", "vfio.h, VFIO_GET_API_VERSION", "legacy"),
    _c("ACC-100", "CHECK_EXTENSION gives 0 for what is not supported, a positive number for what is",
       "vfio.h, VFIO_CHECK_EXTENSION", "legacy"),
    _c("ACC-101", "a request that is not defined for a group is refused", "vfio.h, IOCTLs for GROUP", "group"),
    _c("ACC-102", "before SET_IOMMU a container refuses all but the version and the extensions", _GROUPS,
       "legacy"),
    _c("ACC-103", "removing the last group takes the container back to its initial state", _UNSET, "legacy"),
    _c("ACC-104", "an iommufd can stand in for a container",
       "Documentation/driver-api/vfio.rst, IOMMUFD and vfio_iommu_type1", "group", level="SHOULD"),
)
_HOT_RESET = (
    _c("ACC-110", "HOT_RESET_INFO with a buffer too small fails with ENOSPC", _RESET_INFO, "hot_reset"),
    _c("ACC-111", "HOT_RESET_INFO names the calling device", _RESET_INFO, "hot_reset"),
    _c("ACC-112", "called on a cdev fd, HOT_RESET_INFO sets DEV_ID and gives the device's own id", _RESET_INFO,
       "hot_reset", since="v6.6"),
    _c("ACC-113", "called on a cdev fd, DEV_ID_OWNED is set exactly where every affected device is owned",
       _RESET_INFO, "hot_reset", since="v6.6"),
    _c("ACC-114", "called on a device fd of a group, HOT_RESET_INFO gives group ids and sets no flag", _RESET_INFO,
       "hot_reset", "legacy"),
    _c("ACC-115", "HOT_RESET on a cdev fd with an empty array succeeds where DEV_ID_OWNED is set", _RESET,
       "hot_reset_owned"),
    _c("ACC-116", "HOT_RESET on a cdev fd with group fds is refused", _RESET, "hot_reset"),
    _c("ACC-117", "HOT_RESET on a device fd of a group succeeds with the group fds of all affected devices",
       _RESET, "hot_reset_owned", "legacy"),
    _c("ACC-118", "HOT_RESET on a device fd of a group without group fds is refused", _RESET, "hot_reset",
       "legacy"),
    _c("ACC-119", "HOT_RESET with fds that are no groups is refused", _RESET, "hot_reset", "legacy"),
    _c("ACC-120", "HOT_RESET_INFO and HOT_RESET with undefined flags, or an argsz shorter than what they say, are "
       "refused", _RESET, "hot_reset"),
    _c("ACC-121", "in a cdev fd's HOT_RESET_INFO another device of the group that is not open is OWNED (0)",
       _RESET_INFO, "hot_reset", "shared_group"),
)
_NAMES = (
    _c("ACC-130", "sysfs names the device's cdev: vfio-dev/vfioN/dev has the number of /dev/vfio/devices/vfioN",
       "Documentation/driver-api/vfio.rst, Device cdev Example", "cdev_name"),
    _c("ACC-131", "where fdinfo of a device fd names a sysfs path, it is the device's",
       "Documentation/filesystems/proc.rst, VFIO Device files", "sysfs", since="v6.17"),
)
_SHORT = (
    _c("ACC-160", "a step on the way to a device that fails for want of memory leaves nothing behind: repeated, it "
       "succeeds, and so does what comes after it",
       "ioctl(2), open(2), ENOMEM; left unsaid by vfio.h: that nothing is left behind goes without saying",
       "fault_injection", level="SHOULD"),
)

CLAUSES = (
    *_BEFORE_BIND, *_BINDING, *_ATTACHING, *_EXCLUSION, *_REFERENCES, *_GROUP, *_HOT_RESET, *_NAMES, *_SHORT,
)
