# SPDX-License-Identifier: Apache-2.0
"""Names of ioctls: one number means different things on different kinds of fd."""

from __future__ import annotations

import pytest

from harness.uapi import iommufd, names, vfio


def constants(module):
    """Values and ioctl numbers the module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int) and name.startswith(("VFIO_", "IOMMU"))
    }


def test_a_number_is_ambiguous_only_between_kinds_of_fd():
    for kind, table in names.IOCTLS.items():
        assert len(set(table.values())) == len(table), kind
    shared = names.IOCTLS["device"]["VFIO_DEVICE_FEATURE"]
    assert names.ioctl_name("device", shared) == "VFIO_DEVICE_FEATURE"
    assert names.ioctl_name("container", shared) == "VFIO_IOMMU_DIRTY_PAGES"
    assert names.ioctl_name("migration", names.IOCTLS["migration"]["VFIO_MIG_GET_PRECOPY_INFO"]) == (
        "VFIO_MIG_GET_PRECOPY_INFO"
    )


def test_every_ioctl_is_in_the_table_of_a_kind():
    listed = {name for table in names.IOCTLS.values() for name in table}
    # An ioctl number is the one constant with the type byte above a command from 0x64 on.
    known = constants(vfio) | constants(iommufd)
    numbers = {name for name, value in known.items() if value >> 8 == ord(";") and value & 0xFF >= 0x64}
    assert numbers == listed


def test_names_of_errors_and_states():
    assert names.errno_name(22) == "EINVAL"
    assert names.errno_name(9999) == "errno 9999"
    assert names.errno_number("EINVAL") == 22
    with pytest.raises(KeyError, match="EBOGUS"):
        names.errno_number("EBOGUS")
    assert names.mig_state_name(7) == "PRE_COPY_P2P"
    assert names.mig_state_name(99) == "state 99"
    assert names.ioctl_name("device", 1) == "ioctl 0x1"
