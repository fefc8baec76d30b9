# SPDX-License-Identifier: Apache-2.0
"""True findings that every device shows: they are the kernel's own, and no false alarm on a golden device."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["KNOWN_OF_THE_CORE", "NOT_GOLDEN"]

_GROUP = (
    "drivers/vfio/group.c, vfio_group_fops_release() says that device fds hold a reference of the group's "
    "file; vfio_group_use_container() takes it, and the path with an iommufd in its place does not"
)
KNOWN_OF_THE_CORE: Mapping[str, str] = {"ACC-074": _GROUP, "ACC-075": _GROUP}
"""Clause -> the cause, as read in Linux 7.2."""

NOT_GOLDEN: Mapping[str, str] = {
    "mtty0": "the kernel's sample driver, which breaks rules of its own",
    "mtty1": "the kernel's sample driver, which breaks rules of its own",
    "mdpy0": "the kernel's sample driver, which breaks rules of its own",
    "iommufd-mock": "the kernel's mock, tried for itself and without defects of ours",
}
"""Devices that are no proof against false alarms; what they break without a defect catches nothing."""
