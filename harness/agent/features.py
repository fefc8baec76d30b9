# SPDX-License-Identifier: Apache-2.0
"""VFIO_DEVICE_FEATURE and its payload in one struct; the kernel's header declares them separately."""

from __future__ import annotations

import ctypes

from harness.uapi import vfio

__all__ = ["DataSizeRequest", "FdRequest", "StateRequest"]


class StateRequest(ctypes.Structure):
    """MIG_DEVICE_STATE."""

    _anonymous_ = ("feature", "payload")
    _fields_ = [("feature", vfio.vfio_device_feature), ("payload", vfio.vfio_device_feature_mig_state)]


class DataSizeRequest(ctypes.Structure):
    """MIG_DATA_SIZE."""

    _anonymous_ = ("feature", "payload")
    _fields_ = [("feature", vfio.vfio_device_feature), ("payload", vfio.vfio_device_feature_mig_data_size)]


class FdRequest(ctypes.Structure):
    """A feature that takes an eventfd: LOW_POWER_ENTRY_WITH_WAKEUP."""

    _anonymous_ = ("feature", "payload")
    _fields_ = [
        ("feature", vfio.vfio_device_feature),
        ("payload", vfio.vfio_device_low_power_entry_with_wakeup),
    ]
