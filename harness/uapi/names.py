# SPDX-License-Identifier: Apache-2.0
"""Names for numbers in messages and rendered programs: errno, migration states, ioctls by kind of fd."""

from __future__ import annotations

import errno as _errno

from . import iommufd, vfio

__all__ = ["IOCTLS", "MIG_STATE_NAMES", "errno_name", "errno_number", "ioctl_name", "mig_state_name"]

IOCTLS: dict[str, dict[str, int]] = dict(vfio.IOCTLS, **iommufd.IOCTLS)

MIG_STATE_NAMES: dict[int, str] = {
    number: name
    for number, name in (
        (vfio.VFIO_DEVICE_STATE_ERROR, "ERROR"),
        (vfio.VFIO_DEVICE_STATE_STOP, "STOP"),
        (vfio.VFIO_DEVICE_STATE_RUNNING, "RUNNING"),
        (vfio.VFIO_DEVICE_STATE_STOP_COPY, "STOP_COPY"),
        (vfio.VFIO_DEVICE_STATE_RESUMING, "RESUMING"),
        (vfio.VFIO_DEVICE_STATE_RUNNING_P2P, "RUNNING_P2P"),
        (vfio.VFIO_DEVICE_STATE_PRE_COPY, "PRE_COPY"),
        (vfio.VFIO_DEVICE_STATE_PRE_COPY_P2P, "PRE_COPY_P2P"),
    )
}


def errno_name(number: int) -> str:
    """Return `EINVAL` for 22, `errno 9999` where the number has no name."""
    return _errno.errorcode.get(number, "errno %d" % number)


def errno_number(name: str) -> int:
    """Return 22 for `EINVAL`; KeyError names the unknown one."""
    for number, known in _errno.errorcode.items():
        if known == name:
            return number
    raise KeyError("%r is not an errno name such as EINVAL" % name)


def mig_state_name(state: int) -> str:
    """Return the state's name without its prefix, `state N` for a value out of range."""
    return MIG_STATE_NAMES.get(state, "state %d" % state)


def ioctl_name(kind: str, number: int) -> str:
    """Return the name of `number` on a fd of `kind` (a key of `IOCTLS`)."""
    for name, known in IOCTLS.get(kind, {}).items():
        if known == number:
            return name
    return "ioctl 0x%x" % number
